"""Maximisation of one objective on the host: the iterations, callbacks, checkpoints and Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.errors import Status
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.callbacks import NO_INNER, Callback, Callbacks, InnerStage, Iteration
from jaxnlme.estimators.core.objective import Evaluation, GroupValues
from jaxnlme.estimators.marginal.checkpoint import MarginalCheckpoint, RunState
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint, Evaluations
from jaxnlme.estimators.marginal.method import MaximumLikelihood, MaximumLikelihoodState
from jaxnlme.estimators.marginal.settings import CRITERIA
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params


class Session(Evaluations):
    """An estimation in progress: evaluations through one compiled program, the minimisation, and the history of both.

    After every method, `x` (n,) is the best point and `best` the EvaluatedPoint there.

    **Arguments:** `binding`; `estimator`; `params`: the start; `callbacks`; `placed`: the groups on their devices;
    `checkpoint`: resumed from if it holds a state, and written.

    **Attributes:** beside those of `Evaluations`: `history`; `iterations`; `interrupted`: True after Ctrl-C; `stopped`:
    True after a callback asked for it; `zeroed`, `freed`: packed indices of variances set to zero, and of those freed
    again (see `boundary`); `metric`: inverse Hessian (n, n) for the next minimisation, None if none is known.
    """

    # Names of the procedure and of its inner minimiser in the records that callbacks receive.
    procedure, inner_procedure = "LAP", "PLM"

    def __init__(
        self,
        binding: Binding,
        estimator: AbstractEstimator,
        params: Params,
        callbacks: Sequence[Callback],
        placed: PlacedProblem,
        checkpoint: MarginalCheckpoint | None = None,
    ):
        super().__init__(binding, estimator, params, placed)
        self.callbacks = Callbacks(callbacks, placed.processes)
        self.history: list[dict[str, float]] = []
        self.started = time.perf_counter()
        self.iterations = 0
        self.modes_not_reproduced = np.zeros(binding.data.n_groups, bool)
        self.interrupted = False
        self.stopped = False
        self.metric: np.ndarray | None = None
        self.zeroed: set[int] = set()
        self.freed: set[int] = set()
        self.checkpoint = checkpoint
        run_state = None if checkpoint is None else checkpoint.run_state
        self.resumed = run_state is not None
        modes = self.zero_modes() if run_state is None else self._restore(run_state)
        self.best = self.evaluate(self.x, modes)
        self.x = self.best.x

    @property
    def restricted(self) -> bool:
        """True if beta is integrated out of the likelihood (REML)."""
        return self.estimator.restricted

    @property
    def objective_failures(self) -> list[str]:
        """Sentences on problems of the best point that only some objectives have; none here."""
        return []

    @property
    def halted(self) -> bool:
        """True if the user, or a callback, asked to stop."""
        return self.interrupted or self.stopped

    def move(self, point: EvaluatedPoint) -> None:
        """Make `point` the best point; a new minimisation starts from it."""
        self.x, self.best, self.state = point.x, point, None

    def minimise(self) -> None:
        """Iterate until the estimator terminates or a callback stops it, keeping the best point so far."""
        remaining = max(int(self.estimator.max_iterations) - self.iterations, 0)
        method, tolerance = self.estimator.method, self.estimator.tolerance
        state = self.state if self.resumed else None
        self.resumed = False
        if state is not None:
            # Resumed: the minimiser counts its iterations before the checkpoint, too.
            estimator = MaximumLikelihood(method, remaining + int(state.bfgs.iterations), tolerance)
            trial, over = _resume(estimator, state)
        else:
            estimator = MaximumLikelihood(method, remaining, tolerance)
            first = Evaluation(self.best.sums, GroupValues())
            start = (self.binding.density, self.template, self.x, first, self.free)
            state, trial, over = _init(estimator, *start, self.metric)
            self.metric = None
            self._accept(state, self.best)
        if not self.history:
            self._record_iteration()
        self._iterate(estimator, state, trial, over)

    def _iterate(self, estimator: MaximumLikelihood, state: MaximumLikelihoodState, trial: Any, over: Any) -> None:
        """The iterations of `minimise`."""
        tries = 0
        while not (bool(over) or self.stopped or self.ends_early(state, tries)):
            if not tries:
                self.notify_inner(self.inner_procedure, "init", 0)
            tries += 1
            result = self.evaluate_notifying(np.asarray(trial), self.best.modes)
            before = int(state.bfgs.iterations)
            state, trial, over = _update(estimator, state, Evaluation(result.sums, GroupValues()), self.many_groups)
            self.notify_inner(self.inner_procedure, "iter", tries, result, result.x)
            if int(state.bfgs.iterations) > before:
                self.iterations += 1
                self._accept(state, result)
                self.notify_inner(self.inner_procedure, "done", tries)
                self._record_iteration()
                tries = 0

    def ends_early(self, state: MaximumLikelihoodState, rejected: int) -> bool:
        """True if `minimise` is to end before the estimator terminates; `rejected`: points refused in a row."""
        return False

    def stopping_criterion(self, matrix: np.ndarray | None, active: np.ndarray, decrement: float) -> tuple[bool, str]:
        """The criterion by which the best point counts as converged.

        **Arguments:** `matrix` (active, active): the information, None if it was not asked for; `active`: packed
        indices; `decrement`: the predicted gain of a further step.
        **Returns:** True if the criterion is met, and a clause with the value and its limit.
        """
        clause = (
            f"a further step is expected to gain {decrement:.1e} log-likelihood units (limit {CRITERIA.max_gain:g})"
        )
        return decrement < CRITERIA.max_gain, clause

    def evaluate_notifying(self, x: np.ndarray, modes: Sequence[Any]) -> EvaluatedPoint:
        """`evaluate`, with the mode search in steps of a few evaluations if a callback has `every_stage`."""
        if not self.callbacks.every_stage or not self.estimator.method.at_mode:
            return self.evaluate(x, modes)
        self.notify_inner("PNLS", "init", 0)
        limit, k, done, steps = int(self.estimator.method.search.steps), 0, False, 2
        while not done:
            k += 1
            outcome = self.evaluate(x, modes, steps)
            # A search shortens steps that are too long: if it took none, the next search gets more evaluations.
            unchanged = np.array_equal(self.placed.collect(outcome.modes), self.placed.collect(modes))
            steps, modes = min(2 * steps if self.processes.all(unchanged) else 2, limit), outcome.modes
            self.notify_inner("PNLS", "iter", k, outcome, x)
            done = self.processes.all(not (outcome.local_groups.status == Status.mode_not_found).any())
            done |= self.stopped or k == limit
        self.notify_inner("PNLS", "done", k, outcome, x)
        return outcome

    @property
    def out_of_iterations(self) -> bool:
        """True if the iterations allowed were used up before the minimiser terminated."""
        if self.state is None or self.iterations < int(self.estimator.max_iterations):
            return False
        return not float(self.state.bfgs.decrement) < float(self.estimator.tolerance)

    def _accept(self, state: MaximumLikelihoodState, point: EvaluatedPoint) -> None:
        """Make `point`, with the minimiser's `state` there, the best point."""
        self.best, self.x = point, point.x
        self.state = eqx.tree_at(lambda s: s.bfgs.x, state, point.x)

    def _record_iteration(self) -> None:
        """Append an iteration to the history, call the callbacks, and write the checkpoint if one is due."""
        entry = self._entry("iter" if self.history else "init")
        self.history.append(
            {
                name: getattr(entry, name)
                for name in ("iteration", "evaluations", "log_likelihood", "expected_gain", "seconds")
            }
        )
        self.stopped = self.stopped or self.callbacks.notify(entry)
        if self.checkpoint is not None and self.checkpoint.due():
            self.processes.run_collectively(self.save)

    def notify_inner(
        self, procedure: str, state: str, iteration: int, outcome: EvaluatedPoint | None = None, x: Any = None
    ) -> None:
        """Call the callbacks with a stage of an inner minimiser, at `x` (n,) with its `outcome` (None: the best)."""
        if self.callbacks.every_stage and not self.stopped:
            entry = self._entry("iter" if self.history else "init", InnerStage(procedure, state, iteration), outcome, x)
            self.stopped = self.callbacks.notify(entry)

    def notify_end(self) -> None:
        """Call the callbacks with the end of the fit."""
        if self.callbacks.every_stage:
            self.callbacks.notify(self._entry("done"))

    def _entry(
        self, state: str, inner: InnerStage = NO_INNER, outcome: EvaluatedPoint | None = None, x: Any = None
    ) -> Iteration:
        """The argument of the callbacks."""
        gain = float("nan") if self.state is None else float(self.state.bfgs.decrement)
        return Iteration(
            self.iterations,
            self.evaluations,
            float((self.best if outcome is None else outcome).sums.log_likelihood),
            gain,
            time.perf_counter() - self.started,
            self.params(x),
            self.binding,
            self.procedure,
            state,
            inner,
        )

    def save(self, finished: bool = False) -> None:
        """Write the checkpoint, if there is one."""
        if self.checkpoint is None:
            return
        at_best = self.state is not None and np.array_equal(np.asarray(self.state.bfgs.x), self.x)
        run_state = RunState(
            self.x,
            self.placed.collect(self.best.modes),
            self.free,
            self.state if at_best else None,
            sorted(self.zeroed),
            sorted(self.freed),
            self.iterations,
            self.evaluations,
            time.perf_counter() - self.started,
            self.history,
            finished,
        )
        self.checkpoint.write(run_state)

    def _restore(self, run_state: RunState) -> list[Any]:
        """Restore the state of a checkpoint; the modes from which to evaluate its point."""
        self.x, self.free, self.state = run_state.x, run_state.free, run_state.state
        self.zeroed, self.freed = set(run_state.zeroed), set(run_state.freed)
        self.iterations, self.evaluations = run_state.iterations, run_state.evaluations
        self.history = list(run_state.history)
        self.started -= run_state.seconds
        return self.modes_from(run_state.modes)


# The steps of the minimiser itself are numpy on the host: a few numbers, and nothing to compile. Values that are not
# finite are checked there, not warned of.


@np.errstate(all="ignore")
def _init(
    estimator: MaximumLikelihood,
    density: Density,
    template: Params,
    x: np.ndarray,
    first: Evaluation,
    free: np.ndarray,
    metric: np.ndarray | None,
) -> tuple[MaximumLikelihoodState, Any, Any]:
    """The state at the first point, with the inverse Hessian `metric` if given; the next trial point; whether it
    ends."""
    state = estimator.init(density, template, x, first, free)
    if metric is not None:
        state = eqx.tree_at(lambda s: s.bfgs, state, state.minimiser.with_inverse(state.bfgs, metric))
    return state, estimator.trial(state), estimator.terminate(state)


@np.errstate(all="ignore")
def _update(
    estimator: MaximumLikelihood, state: MaximumLikelihoodState, result: Evaluation, many_groups: bool
) -> tuple[MaximumLikelihoodState, Any, Any]:
    """The state after `result`, the next trial point, and whether the minimisation ends."""
    state = estimator.update(state, result, many_groups)
    return state, estimator.trial(state), estimator.terminate(state)


@np.errstate(all="ignore")
def _resume(estimator: MaximumLikelihood, state: MaximumLikelihoodState) -> tuple[Any, Any]:
    """The next trial point of a resumed `state`, and whether the minimisation ends."""
    return estimator.trial(state), estimator.terminate(state)
