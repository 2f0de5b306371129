"""One estimation in progress on the host: the best point, the history, callbacks, checkpoint and Ctrl-C."""

from __future__ import annotations

import abc
import functools
import time
from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import numpy as np

from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.callbacks import NO_INNER, Callback, Callbacks, InnerStage, Iteration
from jaxnlme.estimators.marginal.checkpoint import MarginalCheckpoint, RunState
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint
from jaxnlme.estimators.marginal.minimiser_state import MaximumLikelihoodState
from jaxnlme.estimators.marginal.mode_starts import Designs, designs_of, starts_at_same_parameters
from jaxnlme.estimators.marginal.objective import AbstractObjective
from jaxnlme.estimators.marginal.settings import DIFFERENCES
from jaxnlme.model.params import Params


class AbstractSearch(abc.ABC):
    """A way to minimise the objective of a session."""

    @abc.abstractmethod
    def minimise(self, session: Session) -> None:
        """Iterate from the session's point until the search ends or the session is halted."""

    @abc.abstractmethod
    def resumable(self, session: Session) -> bool:
        """True if a resumed fit may continue with the session's minimiser state."""


@final
class Session:
    """An estimation in progress: an objective, a search for its minimum, and the history of both.

    After every method, `best` is the best EvaluatedPoint, and `x` (n,) its point.

    **Arguments:** `objective`; `search`; `estimator`: its limits are those of the search; `callbacks`; `checkpoint`:
    resumed from if it holds a state, and written.

    **Attributes:** `state` of the minimiser at the best point, None if the point is not the minimiser's; `free`
    (n,) bool: entries that may move; `n_dense`: length of the dense vector (without the free block); `history`;
    `iterations`; `interrupted`: True after Ctrl-C; `stopped`: True after a callback asked for it; `zeroed`,
    `freed`: packed indices of variances set to zero, and of those freed again (see `boundary`); `metric`: inverse
    Hessian (n, n) for the next minimisation, None if none is known; `modes_not_found_again`, `modes_exchanged`
    (groups,) bool, and `second_modes` (groups,): of the last search of the modes, see `modes`; `restarted`: packed
    indices of residual parameters that were set to their start (see `limits`), `held_at_start`: True while they are
    held there.
    """

    def __init__(
        self,
        objective: AbstractObjective,
        search: AbstractSearch,
        estimator: AbstractEstimator,
        callbacks: Sequence[Callback],
        checkpoint: MarginalCheckpoint | None = None,
    ):
        self.objective, self.search, self.estimator = objective, search, estimator
        evaluator = objective.evaluator
        self.binding, self.placed, self.n_dense = evaluator.binding, evaluator.placed, evaluator.n_dense
        self.processes = self.placed.processes
        self.free = np.concatenate([~self.binding.fixed, np.ones(len(evaluator.start) - self.n_dense, bool)])
        self.state: MaximumLikelihoodState | None = None
        self.metric: np.ndarray | None = None
        self.callbacks = Callbacks(callbacks, self.processes)
        self.history: list[dict[str, float]] = []
        self.started = time.perf_counter()
        self.iterations = 0
        self.modes_not_found_again = np.zeros(self.binding.data.n_groups, bool)
        self.modes_exchanged = self.modes_not_found_again
        self.second_modes = np.full(self.binding.data.n_groups, np.inf)
        self.interrupted = False
        self.stopped = False
        self.zeroed: set[int] = set()
        self.freed: set[int] = set()
        self.restarted: set[int] = set()
        self.held_at_start = False
        self.checkpoint = checkpoint
        run_state = None if checkpoint is None else checkpoint.run_state
        self.resumed = run_state is not None
        x, modes = (evaluator.start, evaluator.zero_modes()) if run_state is None else self._restore(run_state)
        self.best = objective.evaluate(x, modes, None)

    @property
    def x(self) -> np.ndarray:
        """The best point (n,)."""
        return self.best.x

    @property
    def evaluations(self) -> int:
        """Number of evaluations so far."""
        return self.objective.evaluator.count

    @property
    def halted(self) -> bool:
        """True if the user, or a callback, asked to stop."""
        return self.interrupted or self.stopped

    @property
    def approximate_se(self) -> np.ndarray:
        """Approximate standard errors (n,) by the inverse Hessian of the minimiser; ones where there is none."""
        if self.state is None:
            return np.ones(len(self.x))
        se = np.sqrt(np.maximum(np.diag(np.asarray(self.state.bfgs.inverse)), 0.0))
        return np.minimum(se, DIFFERENCES.largest_se * np.asarray(self.state.minimiser.max_change))

    @property
    def out_of_iterations(self) -> bool:
        """True if the iterations allowed were used up before the minimiser terminated."""
        if self.state is None or self.iterations < int(self.estimator.max_iterations):
            return False
        return not float(self.state.bfgs.decrement) < float(self.estimator.tolerance)

    def params(self, x: np.ndarray | None = None) -> Params:
        """Params (numpy) at `x`, by default the best point."""
        return self.objective.evaluator.params(self.x if x is None else x)

    def minimise(self) -> None:
        """Search for the minimum from the best point, unless the user interrupted the fit before."""
        if not self.interrupted:
            self.search.minimise(self)

    # ---- the objective, with the best point so far

    def evaluate(self, x: np.ndarray, modes: Sequence[Any]) -> EvaluatedPoint:
        """The objective at `x` (n,), mode searches starting from `modes`."""
        return self.objective.evaluate(x, modes, self.best)

    def evaluate_notifying(self, x: np.ndarray, modes: Sequence[Any]) -> EvaluatedPoint:
        """`evaluate`, in stages if a callback has `every_stage`."""
        if not self.callbacks.every_stage:
            return self.evaluate(x, modes)
        return self.objective.evaluate_in_stages(x, modes, self.best, self.notify_inner)

    def mode_starts(self, x: np.ndarray) -> Sequence[Any]:
        """Starts of the mode searches at `x` (n,), from the modes of the best point."""
        return starts_at_same_parameters(self.objective.evaluator, self._designs, x, self.best)

    @functools.cached_property
    def _designs(self) -> Designs | None:
        """The designs of a model for which such starts pay, else None."""
        worth_it = self.binding.density.solves_equations and self.processes.count == 1
        return designs_of(self.binding) if worth_it else None

    def evaluate_candidate(self, x: np.ndarray) -> EvaluatedPoint:
        """The EvaluatedPoint at a candidate `x` (n,) for a move."""
        return self.objective.evaluate_candidate(x, self.best)

    def accept_candidate(self, candidate: EvaluatedPoint) -> EvaluatedPoint:
        """The EvaluatedPoint to continue from if a `candidate` is accepted."""
        return self.objective.accept_candidate(candidate, self.best)

    def hessian(self, active: np.ndarray) -> np.ndarray:
        """Second derivatives (active, active) of the objective at the best point in the entries `active`."""
        return self.objective.hessian(self.best, active, self.approximate_se)

    # ---- the best point

    def move(self, point: EvaluatedPoint) -> None:
        """Make `point` the best point; a new minimisation starts from it."""
        self.best, self.state = point, None

    def accept(self, state: MaximumLikelihoodState, point: EvaluatedPoint) -> None:
        """Make `point`, with the minimiser's `state` there, the best point."""
        self.best = point
        self.state = eqx.tree_at(lambda s: s.bfgs.x, state, point.x)

    def record_iteration(self) -> None:
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
    ) -> bool:
        """Call the callbacks with a stage of an inner minimiser, at `x` (n,) with its `outcome` (None: the best);
        True if the fit is to stop."""
        if self.callbacks.every_stage and not self.stopped:
            entry = self._entry("iter" if self.history else "init", InnerStage(procedure, state, iteration), outcome, x)
            self.stopped = self.callbacks.notify(entry)
        return self.stopped

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
            self.objective.procedure,
            state,
            inner,
        )

    def save(self, finished: bool = False) -> None:
        """Write the checkpoint, if there is one."""
        if self.checkpoint is None:
            return
        at_best = self.search.resumable(self) and self.state is not None and np.array_equal(self.state.bfgs.x, self.x)
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

    def _restore(self, run_state: RunState) -> tuple[np.ndarray, list[Any]]:
        """Restore the state of a checkpoint; its point (n,), and the modes from which to evaluate it."""
        self.free, self.state = run_state.free, run_state.state
        self.zeroed, self.freed = set(run_state.zeroed), set(run_state.freed)
        self.iterations, self.objective.evaluator.count = run_state.iterations, run_state.evaluations
        self.history = list(run_state.history)
        self.started -= run_state.seconds
        return run_state.x, self.objective.evaluator.place_modes(run_state.modes)
