"""Maximum likelihood and REML for a likelihood approximation: quasi-Newton steps with the exact gradient, as pure
functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError, shown
from jaxnlme.estimators.core.base import AbstractEstimator, check_beta_integrable
from jaxnlme.estimators.core.objective import Evaluation, evaluate
from jaxnlme.estimators.core.settings import RUN_SETTINGS
from jaxnlme.estimators.marginal.minimiser_state import (
    MaximumLikelihoodState,
    blank_state,
    score_metric,
    with_longer_steps,
    without_flat_entries,
)
from jaxnlme.estimators.marginal.settings import SEARCH
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.integrals import Gaussian
from jaxnlme.likelihood.lindstrom_bates import Linearised
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import number_to_array, xp
from jaxnlme.numerics.bfgs import BFGS
from jaxnlme.typing import Vector

if TYPE_CHECKING:
    from jaxnlme.binding.model import NLMEModel
    from jaxnlme.data.grouped import GroupedData
    from jaxnlme.estimators.core.plan import Plan
    from jaxnlme.results.record import FitRecord


@final
class MaximumLikelihood(AbstractEstimator):
    """Maximises one likelihood approximation over the unfixed parameters.

    **Fields:** `method`: the likelihood approximation; `max_iterations`; `tolerance`: the maximisation ends when the
    predicted gain of a further step is below it, in log-likelihood units. All numbers are traced.

    The pure functions (`init`, `trial`, `update`, `step`, `terminate`) are called by a host loop in `fit`, or by
    `minimise`, a `lax.while_loop` that batches under vmap.

    **Example:**

    ```python
    jn.fit(model, data, jn.MaximumLikelihood(jn.FOCEI(), max_iterations=200))
    ```
    """

    method: LikelihoodApproximation
    max_iterations: Any = eqx.field(default=RUN_SETTINGS.max_iterations, converter=number_to_array)
    tolerance: Any = eqx.field(default=RUN_SETTINGS.tolerance, converter=number_to_array)

    def __check_init__(self):
        if not isinstance(self.method, (LikelihoodApproximation, Linearised)):
            raise OptionError(
                f"MaximumLikelihood takes a likelihood approximation, such as jn.FOCEI(); "
                f"received {shown(self.method)}."
            )

    def run(self, model: NLMEModel, data: GroupedData, plan: Plan) -> FitRecord:
        from jaxnlme.estimators.marginal.pipeline import run

        return run(model, data, self, plan)

    def evaluate(self, problem: Problem, template: Params, x: Vector, modes: Any) -> Evaluation:
        """The objective at `x` (n,), mode searches starting from `modes` (groups, random)."""
        return evaluate(problem, self.method, template, x, modes)

    def init(
        self, density: Density, template: Params, x: Vector, first: Evaluation, free: Vector
    ) -> MaximumLikelihoodState:
        """The state at a first point `x` (n,).

        **Arguments:** `first`: the evaluation there; `free` (n,) bool: entries of x that may move.
        """
        xnp = xp(x)
        dense = first.outer.shape[0]
        beta = template.beta.shape[0]
        # Entries in the user's units (beta, the off-diagonal of a factor) may move by their own size, or by so many of
        # their standard errors; entries on log scales by SEARCH.largest_log_step, a factor of e^2.
        size = xnp.abs(x[:dense])
        least = xnp.where(
            size > 0.0,
            SEARCH.least_information / xnp.where(size > 0.0, size, 1.0) ** 2,
            SEARCH.least_information_of_zero,
        )
        largest = xnp.maximum(size, SEARCH.largest_step_in_se / xnp.sqrt(xnp.maximum(xnp.diagonal(first.outer), least)))
        in_user_units = [*range(beta), *(beta + k for _, _, column in density.covariance.log_scales for k in column)]
        in_units = np.isin(np.arange(x.shape[0]), np.array(in_user_units, int))
        largest = xnp.concatenate([largest, xnp.ones(x.shape[0] - dense)])
        largest = xnp.clip(largest, 1.0 / SEARCH.largest_change, SEARCH.largest_change)
        longest = xnp.where(in_units, largest, SEARCH.largest_log_step)
        minimiser = BFGS(free, longest)
        inverse = score_metric(first, minimiser)
        state = minimiser.init(x, first.value, first.gradient, inverse)
        enough = first.counted >= SEARCH.groups_per_parameter * first.outer.shape[0]
        apart = without_flat_entries(state, minimiser, first)
        state = jax.tree.map(lambda new, old: xnp.where(enough, new, old), apart, state)
        squares = xnp.diagonal(first.outer)
        return MaximumLikelihoodState(state, minimiser, first.modes, first.log_likelihood, squares)

    def trial(self, state: MaximumLikelihoodState) -> Vector:
        """The point (n,) to evaluate next, mode searches starting from `state.modes`."""
        return state.minimiser.trial(state.bfgs)

    def update(
        self, state: MaximumLikelihoodState, result: Evaluation, many_groups: bool = True
    ) -> MaximumLikelihoodState:
        """The state after the evaluation `result` at `trial(state)`.

        **Arguments:** `many_groups` (static): there may be SEARCH.groups_per_parameter groups for each parameter (the
        program for fewer is shorter).
        **Returns:** the new state.
        """
        xnp = xp(state.bfgs.x)
        bfgs, accept = state.minimiser.update(state.bfgs, result.value, result.gradient)
        minimiser = with_longer_steps(state, accept)
        if many_groups:
            # Far from the maximum, the scores of many groups give a better Hessian than the steps so far.
            metric = score_metric(result, minimiser)
            renewed = minimiser.with_inverse(bfgs, metric)
            enough = result.counted >= SEARCH.groups_per_parameter * result.outer.shape[0]
            use = accept & enough & (renewed.decrement > SEARCH.renew_above) & (bfgs.iterations <= SEARCH.renew_steps)
            bfgs = jax.tree.map(lambda new, old: xnp.where(use, new, old), renewed, bfgs)
            # The squares of the scores of few groups are no measure of the information of an entry.
            apart = without_flat_entries(bfgs, minimiser, result)
            bfgs = jax.tree.map(lambda new, old: xnp.where(accept & enough, new, old), apart, bfgs)
        return MaximumLikelihoodState(
            bfgs,
            minimiser,
            jax.tree.map(lambda new, old: xnp.where(accept, new, old), result.modes, state.modes),
            xnp.where(accept, result.log_likelihood, state.log_likelihood),
            xnp.where(accept, xnp.diagonal(result.outer), state.squares),
        )

    def step(self, problem: Problem, template: Params, state: MaximumLikelihoodState) -> MaximumLikelihoodState:
        """The state after one more evaluation."""
        result = self.evaluate(problem, template, self.trial(state), state.modes)
        groups, p = result.scores.shape
        return self.update(state, result, groups >= SEARCH.groups_per_parameter * p)

    def terminate(self, state: MaximumLikelihoodState) -> Any:
        """True if the minimisation has ended: predicted gain below the tolerance, no descent, or no steps remaining."""
        xnp = xp(state.bfgs.x)
        bfgs = state.bfgs
        over = (bfgs.decrement < self.tolerance) | bfgs.stalled | (bfgs.iterations >= self.max_iterations)
        return (
            over
            | ~xnp.isfinite(bfgs.value)
            | (bfgs.evaluations >= SEARCH.evaluations_per_iteration * self.max_iterations)
        )

    def minimise(
        self, problem: Problem, template: Params, x: Vector, modes: Any, free: Vector
    ) -> MaximumLikelihoodState:
        """The whole minimisation from `x` (n,) and `modes` (groups, random), a pure loop; `free` (n,): may move."""
        dense = template.pack().shape[0]

        def step(carry: tuple[Any, MaximumLikelihoodState]) -> tuple[Any, MaximumLikelihoodState]:
            # The first evaluation is made by the same piece of the program as all others, which halves it.
            begun, state = carry
            point = jnp.where(begun, self.trial(state), x)
            result = self.evaluate(problem, template, point, state.modes)
            first = self.init(problem.density, template, x, result, free)
            later = self.update(state, result, result.scores.shape[0] >= SEARCH.groups_per_parameter * dense)
            return jnp.ones((), bool), jax.tree.map(lambda a, b: jnp.where(begun, b, a), first, later)

        carry = (jnp.zeros((), bool), jax.tree.map(jnp.asarray, blank_state(x.shape[0], dense, modes)))
        return jax.lax.while_loop(lambda carry: ~carry[0] | ~self.terminate(carry[1]), step, carry)[1]


@final
class REML(AbstractEstimator):
    """Maximises the restricted likelihood of a likelihood approximation over the unfixed covariance and error
    parameters; beta maximises the unrestricted likelihood at these.

    **Fields:** as of `MaximumLikelihood`.
    """

    method: LikelihoodApproximation
    max_iterations: Any = eqx.field(default=RUN_SETTINGS.max_iterations, converter=number_to_array)
    tolerance: Any = eqx.field(default=RUN_SETTINGS.tolerance, converter=number_to_array)

    @property
    def restricted(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return f"{self.method.name}, restricted"

    def run(self, model: NLMEModel, data: GroupedData, plan: Plan) -> FitRecord:
        from jaxnlme.estimators.marginal.pipeline import run
        from jaxnlme.estimators.marginal.reml import restricted_session

        return run(model, data, self, plan, restricted_session)

    def check(self, binding: Binding) -> None:
        """Check that the restricted likelihood is defined.

        **Raises:** OptionError for likelihoods by quadrature or by draws, for a free block of weights, for priors on
        beta, and if no beta is free.
        """
        super().check(binding)
        if not isinstance(self.method.integral, Gaussian):
            raise OptionError(
                "restricted=True integrates the fixed effects out by Laplace's method, as 'fo', 'foce', 'focei' and "
                f"'laplace' do the random effects; received {self.method.name}."
            )
        if binding.start.free is not None:
            raise OptionError(
                "restricted=True integrates the fixed effects out, and this model has a free block of weights beside "
                "them; fit it without restricted=True."
            )
        check_beta_integrable(binding, "restricted=True")


def restrict(estimator: AbstractEstimator) -> AbstractEstimator:
    """The REML estimator with the approximation and limits of `estimator`.

    **Raises:** OptionError for estimators without a restricted form.
    """
    if isinstance(estimator, MaximumLikelihood):
        return REML(estimator.method, estimator.max_iterations, estimator.tolerance)
    if not estimator.restricted:
        raise OptionError(
            "restricted=True goes with 'fo', 'foce', 'focei' and 'laplace'; the restricted form of 'lme' is 'relme'. "
            f"Received {estimator.name}."
        )
    return estimator
