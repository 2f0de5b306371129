"""The compiled part of the vectorised minimiser: passes over the slots, each one evaluation of every slot's objective.

The program contains one evaluation of the objective: first evaluations and those of line searches differ only in how
the result is used.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.errors import Status
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.estimators.marginal.minimiser_state import MaximumLikelihoodState, blank_state
from jaxnlme.estimators.marginal.settings import SEARCH
from jaxnlme.model.params import Params
from jaxnlme.refits.settings import BATCH
from jaxnlme.typing import PyTree


class BatchState(eqx.Module):
    """State of the slots, a leading axis of slots in every leaf.

    **Fields:** `state` of the minimisations; `running`; `first_evaluation`: the evaluation in progress is the first of
    a job; `pauses`: how often the evaluation in progress was continued in a next pass, and `modes` reached by then;
    `n_failed_modes` and `full_log_likelihood` at the current point, as in Outcomes.
    """

    state: MaximumLikelihoodState
    running: Any
    first_evaluation: Any
    pauses: Any
    modes: Any
    n_failed_modes: Any
    full_log_likelihood: Any


def advance(
    estimator: MaximumLikelihood,
    shared: Problem,
    template: Params,
    inverse_hessians: Any,
    modes: Any,
    overlay: Problem,
    x: Any,
    free: Any,
    hessian_index: Any,
    refilled: Any,
    batch: BatchState,
    bounds: Any,
) -> tuple[BatchState, Any]:
    """At most bounds[0] passes over the slots, fewer as soon as bounds[1] slots have ended; the slots in `refilled`
    (slots,) bool start a job.

    **Arguments:** `estimator`, `shared`, `template`, `inverse_hessians`, `modes`: common to all slots, as in `_Passes`;
    `overlay`, `x`, `free`, `hessian_index`: of the jobs in the slots, as in `Jobs`; `batch`: the state of the slots.
    **Returns:** the state of the slots, and the number of passes.
    """
    dense = template.pack().shape[0]
    many = shared.n_groups >= SEARCH.groups_per_parameter * dense
    mode_steps = estimator.method.search.steps
    interruptible = eqx.tree_at(
        lambda e: e.method.search.steps, estimator, jnp.minimum(mode_steps, BATCH.mode_steps_per_pass)
    )
    passes = _Passes(
        estimator, interruptible, shared, template, inverse_hessians, modes, overlay, x, free, hessian_index, many
    )
    batch = eqx.tree_at(
        lambda b: (b.running, b.first_evaluation), batch, (batch.running | refilled, batch.first_evaluation | refilled)
    )
    running_at_start = jnp.sum(batch.running)

    def proceed(carry):
        batch, count = carry
        running = jnp.sum(batch.running)
        return (running > 0) & (count < bounds[0]) & (running_at_start - running < bounds[1])

    def one_pass(carry):
        batch, count = carry
        return passes.next(batch), count + 1

    return jax.lax.while_loop(proceed, one_pass, (batch, jnp.zeros((), int)))


@dataclasses.dataclass(frozen=True, eq=False)
class _Passes:
    """Arguments that the passes of one call have in common, while the program is traced.

    **Fields:** `estimator`; `interruptible`, the same with as many steps of the mode searches as one pass has;
    `problem`, `template`; `inverse_hessians` (k, n, n), initial ones, NaN for those from the groups' scores; `modes`
    (groups, random), where the first mode searches start; `overlay`, `x` (slots, n), `free` (slots, n) bool and
    `hessian_index` (slots,) of the jobs in the slots, as in `Jobs`; `many`: there are many groups for each parameter
    (see `SearchSettings.groups_per_parameter`).
    """

    estimator: MaximumLikelihood
    interruptible: MaximumLikelihood
    problem: Problem
    template: Params
    inverse_hessians: Any
    modes: Any
    overlay: Problem
    x: Any
    free: Any
    hessian_index: Any
    many: bool

    def next(self, batch: BatchState) -> BatchState:
        """The state after one pass: every slot's objective evaluated once, and its minimisation advanced."""
        state = batch.state
        trial = select(batch.running, jax.vmap(self.estimator.trial)(state), state.bfgs.x)
        at = select(batch.first_evaluation, self.x, trial)
        start = select(batch.first_evaluation, jnp.broadcast_to(self.modes, state.modes.shape), state.modes)
        start = select(batch.pauses > 0, batch.modes, start)
        result, n_failed_modes, full_log_likelihood, slow = jax.vmap(self._evaluate)(self.overlay, at, start)
        mode_steps, per_pass = self.estimator.method.search.steps, BATCH.mode_steps_per_pass
        more_steps = (batch.pauses < BATCH.max_pauses) & ((batch.pauses + 1) * per_pass < mode_steps)
        pause = batch.running & slow & more_steps
        evaluated = batch.running & ~pause
        first = batch.first_evaluation & evaluated
        state = self._updated(state, at, result, evaluated, first)
        accepted = first | (evaluated & (state.bfgs.iterations > batch.state.bfgs.iterations))
        ended = self._ended(state, accepted)
        n_failed_modes, full_log_likelihood = select(
            accepted, (n_failed_modes, full_log_likelihood), (batch.n_failed_modes, batch.full_log_likelihood)
        )
        return BatchState(
            state=state,
            running=batch.running & ~(ended & evaluated),
            first_evaluation=batch.first_evaluation & pause,
            pauses=jnp.where(pause, batch.pauses + 1, 0),
            modes=result.modes,
            n_failed_modes=n_failed_modes,
            full_log_likelihood=full_log_likelihood,
        )

    def _evaluate(self, overlay: Problem, at: Any, start: Any) -> tuple[Any, Any, Any, Any]:
        """The objective of one slot at `at` (n,), with mode searches from `start` (groups, random).

        **Returns:** the evaluation, the number of groups whose mode was not found, the log-likelihood with the weights
        of the common problem, and true where a mode search needs further steps and still makes progress.
        """
        full_weights = self.problem.weights
        problem = eqx.combine(overlay, self.problem)
        result = self.interruptible.evaluate(problem, self.template, at, start)
        mode_found = (result.status == Status.ok) | (result.status == Status.no_observations)
        n_failed_modes = jnp.sum(~mode_found & (problem.weights != 0))
        full_log_likelihood = jnp.sum(jnp.where(full_weights == 0, 0.0, full_weights * result.values))
        full_log_likelihood = jnp.where(jnp.any(~mode_found & (full_weights != 0)), jnp.nan, full_log_likelihood)
        slow = jnp.any((result.status == Status.mode_not_found) & (problem.weights != 0))
        slow &= jnp.any(jnp.abs(jnp.nan_to_num(result.modes - start)) > BATCH.least_mode_move)
        return result, n_failed_modes, full_log_likelihood, slow

    def _updated(
        self, state: MaximumLikelihoodState, at: Any, result: Any, evaluated: Any, first: Any
    ) -> MaximumLikelihoodState:
        """The minimisations after the evaluations `result` at `at` (slots, n): a step where a slot was `evaluated`
        (slots,) bool, a start where that was the `first` evaluation of its job (slots,) bool."""
        updated = jax.vmap(lambda state, result: self.estimator.update(state, result, self.many))(state, result)
        updated = select(evaluated, updated, state)
        return jax.lax.cond(
            jnp.any(first),
            lambda: select(first, jax.vmap(self._started)(at, result, self.free, self.hessian_index), updated),
            lambda: updated,
        )

    def _started(self, at: Any, result: Any, free: Any, hessian_index: Any) -> MaximumLikelihoodState:
        """The minimisation of one slot at its starting point `at` (n,), with its initial inverse Hessian."""
        inverse_hessian = self.inverse_hessians[hessian_index]
        state = self.estimator.init(self.problem.density, self.template, at, result, free)
        with_inverse = state.minimiser.with_inverse(state.bfgs, inverse_hessian)
        use = jnp.all(jnp.isfinite(inverse_hessian))
        bfgs = jax.tree.map(lambda new, old: jnp.where(use, new, old), with_inverse, state.bfgs)
        return eqx.tree_at(lambda s: s.bfgs, state, bfgs)

    def _ended(self, state: MaximumLikelihoodState, accepted: Any) -> Any:
        """True (slots,) for minimisations that end: by the estimator's rule, by rounding, or after too many
        evaluations; `accepted` (slots,) bool: the step was accepted."""
        ended = jax.vmap(self.estimator.terminate)(state) | (~accepted & (state.bfgs.decrement < BATCH.rounding_gain))
        ended |= state.bfgs.evaluations >= BATCH.evaluations_per_iteration * self.estimator.max_iterations
        return ended


def select(mask: Any, yes: PyTree, no: PyTree) -> PyTree:
    """For each slot `yes` where `mask` (slots,) bool, else `no`."""

    def per_leaf(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(per_leaf, yes, no)


def empty_slots(width: int, n: int, dense: int, modes: tuple[int, ...]) -> BatchState:
    """The state of `width` slots without a job (numpy), of `n` entries, `dense` without the free block; `modes`: the
    shape (groups, random)."""

    def zeros(*shape: int, dtype: Any = float) -> Any:
        return np.zeros((width, *shape), dtype)

    state = blank_state(n, dense, zeros(*modes), (width,))
    return BatchState(
        state=state,
        running=zeros(dtype=bool),
        first_evaluation=zeros(dtype=bool),
        pauses=zeros(dtype=int),
        modes=zeros(*modes),
        n_failed_modes=zeros(dtype=int),
        full_log_likelihood=zeros(),
    )
