"""One estimation on the host: the compiled objective, the iterations, callbacks, progress, Ctrl-C."""

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
from jaxnlme.estimators.core.callbacks import NO_INNER, Callback, Callbacks, Inner, Iteration
from jaxnlme.estimators.core.checkpoint import Checkpoint, RunState
from jaxnlme.estimators.core.objective import Evaluation, Groups
from jaxnlme.estimators.marginal.evaluations import Evaluations, Outcome
from jaxnlme.estimators.marginal.method import MaximumLikelihood, MaximumLikelihoodState
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params

# Predicted gain (log-likelihood units) below which an estimate counts as the maximum.
CONVERGED = 1e-6


class Session(Evaluations):
    """Drives a Marginal estimator: evaluations through one compiled program, minimisation, and the record of both.

    After every method, `x` (n,) is the best point, `best` its Evaluation, `modes` its modes. `interrupted` is set by
    Ctrl-C, `stopped` by a callback.
    """

    procedure, minimiser = "LAP", "PLM"

    def __init__(
        self,
        binding: Binding,
        estimator: AbstractEstimator,
        params: Params,
        callbacks: Sequence[Callback],
        placed: PlacedProblem,
        checkpoint: Checkpoint | None = None,
    ):
        super().__init__(binding, estimator, params, placed)
        self.callbacks = Callbacks(callbacks, placed.processes)
        self.history: list[dict[str, float]] = []
        self.started = time.perf_counter()
        self.iterations = 0
        self.not_found_again = np.zeros(binding.data.n_groups, bool)
        self.interrupted = False
        self.stopped = False
        # An inverse Hessian (n, n) for the next minimisation to begin with, where one is known.
        self.metric: np.ndarray | None = None
        # What `finish` knows of variances at zero, by packed index: set to zero, and freed again.
        self.zeroed: set[int] = set()
        self.kept: set[int] = set()
        self.checkpoint = checkpoint
        run_state = None if checkpoint is None else checkpoint.run_state
        self.resumed = run_state is not None
        modes = self.zero_modes() if run_state is None else self._restore(run_state)
        self.best = self.evaluate(self.x, modes)
        self.x = self.best.x

    @property
    def restricted(self) -> bool:
        """Whether beta is integrated out of the likelihood."""
        return self.estimator.restricted

    @property
    def objective_failures(self) -> list[str]:
        """Sentences on what is wrong with the best point beside what every fit is asked; none here."""
        return []

    @property
    def halted(self) -> bool:
        """Whether the user asked to stop."""
        return self.interrupted or self.stopped

    def move(self, result: Outcome) -> None:
        """Makes an evaluated point the best one; a new minimisation starts from it."""
        self.x, self.best, self.state = result.x, result, None

    def minimise(self) -> None:
        """Iterates until the estimator terminates or a callback stops it, keeping the best point on the way."""
        left = max(int(self.estimator.max_iterations) - self.iterations, 0)
        method, tolerance = self.estimator.method, self.estimator.tolerance
        state = self.state if self.resumed else None
        self.resumed = False
        if state is not None:
            # A step further than where the file was written.
            estimator = MaximumLikelihood(method, left + int(state.bfgs.iterations), tolerance)
            trial, over = _look(estimator, state)
        else:
            estimator = MaximumLikelihood(method, left, tolerance)
            first = Evaluation(self.best.sums, Groups())
            start = (self.binding.density, self.template, self.x, first, self.free)
            state, trial, over = _init(estimator, *start, self.metric)
            self.metric = None
            self._take(state, self.best)
        if not self.history:
            self._report()
        self._descend(estimator, state, trial, over)

    def _descend(self, estimator: MaximumLikelihood, state: MaximumLikelihoodState, trial: Any, over: Any) -> None:
        """The iterations of `minimise`."""
        tries = 0
        while not (bool(over) or self.stopped or self.leaving(state, tries)):
            if not tries:
                self.notify_inner(self.minimiser, "init", 0)
            tries += 1
            result = self.searched(np.asarray(trial), self.best.modes)
            before = int(state.bfgs.iterations)
            state, trial, over = _tell(estimator, state, Evaluation(result.sums, Groups()), self.many)
            self.notify_inner(self.minimiser, "iter", tries, result, result.x)
            if int(state.bfgs.iterations) > before:
                self.iterations += 1
                self._take(state, result)
                self.notify_inner(self.minimiser, "done", tries)
                self._report()
                tries = 0

    def leaving(self, state: MaximumLikelihoodState, rejected: int) -> bool:
        """Whether `minimise` has done what it can, after so many rejected points."""
        return False

    def closeness(self, matrix: np.ndarray | None, active: np.ndarray, decrement: float) -> tuple[bool, str]:
        """Whether the end is close enough to count as converged, and how close it is, in words.

        **Arguments:** `matrix` (active, active), the information, None where it was not asked for; `decrement`, the
        predicted gain of a further step.
        """
        words = f"a further step is expected to gain {decrement:.1e} log-likelihood units (limit {CONVERGED:g})"
        return decrement < CONVERGED, words

    def searched(self, x: np.ndarray, modes: Sequence[Any]) -> Outcome:
        """`evaluate`, the search of the modes one step at a time where a callback wants to see it."""
        if not self.callbacks.every_stage or not self.estimator.method.at_mode:
            return self.evaluate(x, modes)
        self.notify_inner("PNLS", "init", 0)
        most, k, found, steps = int(self.estimator.method.search.steps), 0, False, 2
        while not found:
            k += 1
            outcome = self.evaluate(x, modes, steps)
            # A step that was too long is shortened within a search: where none was taken, the next search is longer.
            still = np.array_equal(self.placed.own(outcome.modes), self.placed.own(modes))
            steps, modes = min(2 * steps if self.processes.all(still) else 2, most), outcome.modes
            self.notify_inner("PNLS", "iter", k, outcome, x)
            found = self.processes.all(not (outcome.own.status == Status.mode_not_found).any())
            found |= self.stopped or k == most
        self.notify_inner("PNLS", "done", k, outcome, x)
        return outcome

    @property
    def exhausted(self) -> bool:
        """Whether the iterations allowed were used up before the minimiser was done."""
        if self.state is None or self.iterations < int(self.estimator.max_iterations):
            return False
        return not float(self.state.bfgs.decrement) < float(self.estimator.tolerance)

    def _take(self, state: MaximumLikelihoodState, result: Outcome) -> None:
        self.best, self.x = result, result.x
        self.state = eqx.tree_at(lambda s: s.bfgs.x, state, result.x)

    def _report(self) -> None:
        entry = self._entry("iter" if self.history else "init")
        self.history.append(
            {
                name: getattr(entry, name)
                for name in ("iteration", "evaluations", "log_likelihood", "expected_gain", "seconds")
            }
        )
        self.stopped = self.stopped or self.callbacks.notify(entry)
        if self.checkpoint is not None and self.checkpoint.due():
            self.processes.together(self.save)

    def notify_inner(self, procedure: str, state: str, iteration: int, outcome: Outcome | None = None, x: Any = None):
        """Tells of an inner minimiser, at the point `x` (n,) where `outcome` was found (None: the best)."""
        if self.callbacks.every_stage and not self.stopped:
            entry = self._entry("iter" if self.history else "init", Inner(procedure, state, iteration), outcome, x)
            self.stopped = self.callbacks.notify(entry)

    def notify_end(self) -> None:
        """Tells that the fit has ended."""
        if self.callbacks.every_stage:
            self.callbacks.notify(self._entry("done"))

    def _entry(self, state: str, inner: Inner = NO_INNER, outcome: Outcome | None = None, x: Any = None) -> Iteration:
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
        """Writes the checkpoint, where there is one."""
        if self.checkpoint is None:
            return
        ours = self.state is not None and np.array_equal(np.asarray(self.state.bfgs.x), self.x)
        run_state = RunState(
            self.x,
            self.placed.own(self.best.modes),
            self.free,
            self.state if ours else None,
            sorted(self.zeroed),
            sorted(self.kept),
            self.iterations,
            self.evaluations,
            time.perf_counter() - self.started,
            self.history,
            finished,
        )
        self.checkpoint.write(run_state)

    def _restore(self, run_state: RunState) -> list[Any]:
        """Goes back to where a checkpoint stands; the modes to evaluate its point from."""
        self.x, self.free, self.state = run_state.x, run_state.free, run_state.state
        self.zeroed, self.kept = set(run_state.zeroed), set(run_state.kept)
        self.iterations, self.evaluations = run_state.iterations, run_state.evaluations
        self.history = list(run_state.history)
        self.started -= run_state.seconds
        return self.modes_from(run_state.modes)


# The minimiser's own steps are numpy on the host: a handful of numbers, and nothing to compile. What is not finite is
# looked at there, not warned of.


@np.errstate(all="ignore")
def _init(
    estimator: MaximumLikelihood,
    density: Density,
    template: Params,
    x: np.ndarray,
    first: Evaluation,
    free: np.ndarray,
    metric: np.ndarray | None,
):
    state = estimator.init(density, template, x, first, free)
    if metric is not None:
        state = eqx.tree_at(lambda s: s.bfgs, state, state.minimiser.renew(state.bfgs, metric))
    return state, estimator.trial(state), estimator.terminate(state)


@np.errstate(all="ignore")
def _tell(estimator: MaximumLikelihood, state: MaximumLikelihoodState, result: Evaluation, many: bool):
    state = estimator.tell(state, result, many)
    return state, estimator.trial(state), estimator.terminate(state)


@np.errstate(all="ignore")
def _look(estimator: MaximumLikelihood, state: MaximumLikelihoodState):
    return estimator.trial(state), estimator.terminate(state)
