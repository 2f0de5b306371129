"""Objectives that a session minimises: minus a log-likelihood and log prior over the packed parameters."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, final

import numpy as np

from jaxnlme.errors import Status
from jaxnlme.estimators.core.objective import GroupValues, partial_sums
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint, Evaluator
from jaxnlme.estimators.marginal.flat_directions import without_errors_of_differences
from jaxnlme.estimators.marginal.settings import CRITERIA, DIFFERENCES


class Notify(Protocol):
    """Calls the callbacks with a stage of an inner minimiser; True if the fit is to stop.

    **Arguments:** `procedure`, `state`, `iteration`: as in `InnerStage`; `outcome`: the EvaluatedPoint of the stage,
    None for the best point; `x` (n,): its point.
    """

    def __call__(
        self,
        procedure: str,
        state: str,
        iteration: int,
        outcome: EvaluatedPoint | None = None,
        x: np.ndarray | None = None,
    ) -> bool: ...


def no_callbacks(
    procedure: str, state: str, iteration: int, outcome: EvaluatedPoint | None = None, x: np.ndarray | None = None
) -> bool:
    """A `Notify` that calls nothing."""
    return False


class AbstractObjective(abc.ABC):
    """A function of the packed parameters x (n,), evaluated over all groups.

    In all methods `best` is the best point so far, from which inner searches may start; None if there is none yet.

    **Arguments:** `evaluator`, which runs the compiled program.

    **Attributes:** `procedure`, `inner_procedure`: names of the procedure and of its minimiser in the records that
    callbacks receive.
    """

    procedure: ClassVar[str]
    inner_procedure: ClassVar[str]

    def __init__(self, evaluator: Evaluator):
        self.evaluator = evaluator

    @abc.abstractmethod
    def evaluate(self, x: np.ndarray, modes: Sequence[Any], best: EvaluatedPoint | None) -> EvaluatedPoint:
        """The objective at `x` (n,).

        **Arguments:** `modes`: starts of the mode searches, as `Evaluator.run` takes them.
        **Returns:** the point evaluated.
        """

    def search_modes(self, x: np.ndarray, modes: Sequence[Any]) -> EvaluatedPoint:
        """The point `x` (n,), with the groups' modes that a search from `modes` finds; its sums need not be those of
        the objective."""
        return self.evaluate(x, modes, None)

    def mode_ranks(self, groups: GroupValues) -> np.ndarray:
        """Numbers (groups,), in log units, of which a group's best mode has the highest: log joint densities."""
        return np.asarray(groups.joint)

    @abc.abstractmethod
    def evaluate_in_stages(
        self, x: np.ndarray, modes: Sequence[Any], best: EvaluatedPoint, notify: Notify
    ) -> EvaluatedPoint:
        """`evaluate`, with `notify` called at each stage of the inner searches; the same point is returned."""

    @abc.abstractmethod
    def evaluate_candidate(self, x: np.ndarray, best: EvaluatedPoint) -> EvaluatedPoint:
        """Evaluation of a candidate for a move.

        **Arguments:** `x` (n,): the candidate.
        **Returns:** its point, whose value may be compared with that of `best`.
        """

    @abc.abstractmethod
    def accept_candidate(self, candidate: EvaluatedPoint, best: EvaluatedPoint) -> EvaluatedPoint:
        """The point to continue from if a candidate is accepted.

        **Arguments:** `candidate`: a point from `evaluate_candidate`.
        **Returns:** the point at the same x.
        """

    @abc.abstractmethod
    def hessian(self, best: EvaluatedPoint, active: np.ndarray, approximate_se: np.ndarray) -> np.ndarray:
        """Second derivatives (active, active) at `best`.

        **Arguments:** `active`: packed indices; `approximate_se` (n,): the unit of the steps of differences.
        """

    @abc.abstractmethod
    def stopping_criterion(
        self, best: EvaluatedPoint, matrix: np.ndarray | None, active: np.ndarray, decrement: float
    ) -> tuple[bool, str]:
        """The criterion by which `best` counts as converged.

        **Arguments:** `matrix` (active, active): the information, None if it was not asked for; `active`: packed
        indices; `decrement`: the predicted gain of a further step.
        **Returns:** True if the criterion is met, and a clause with the value and its limit.
        """

    @abc.abstractmethod
    def failures(self, best: EvaluatedPoint) -> list[str]:
        """Sentences on problems of `best` that only this objective has; none where there are none."""


class AbstractSumObjective(AbstractObjective):
    """An objective that is evaluated in one step at any point: a sum over groups, with or without further terms. A
    subclass defines `evaluate`."""

    procedure, inner_procedure = "LAP", "PLM"

    @abc.abstractmethod
    def evaluate(
        self, x: np.ndarray, modes: Sequence[Any], best: EvaluatedPoint | None = None, steps: int | None = None
    ) -> EvaluatedPoint:
        """The objective at `x` (n,), as of `AbstractObjective`; `steps`: most evaluations of each mode search."""

    def evaluate_in_stages(
        self, x: np.ndarray, modes: Sequence[Any], best: EvaluatedPoint, notify: Notify
    ) -> EvaluatedPoint:
        return search_modes_in_stages(self.evaluate, x, modes, best, self.evaluator, notify)

    def evaluate_candidate(self, x: np.ndarray, best: EvaluatedPoint) -> EvaluatedPoint:
        return self.evaluate(x, self.evaluator.modes_at(x, best))

    def accept_candidate(self, candidate: EvaluatedPoint, best: EvaluatedPoint) -> EvaluatedPoint:
        return candidate

    def hessian(self, best: EvaluatedPoint, active: np.ndarray, approximate_se: np.ndarray) -> np.ndarray:
        """Central differences of the exact gradient, which need no other program (that of the Hessian would take many
        times as long to compile)."""
        matrix = gradient_differences(best, active, active, self.evaluate, approximate_se)
        return without_errors_of_differences(0.5 * (matrix + matrix.T), best, active, self.evaluate)

    def stopping_criterion(
        self, best: EvaluatedPoint, matrix: np.ndarray | None, active: np.ndarray, decrement: float
    ) -> tuple[bool, str]:
        return gain_criterion(decrement)

    def failures(self, best: EvaluatedPoint) -> list[str]:
        return []


@final
class MarginalObjective(AbstractSumObjective):
    """Minus the log-likelihood of an approximation, random effects integrated out."""

    def evaluate(
        self, x: np.ndarray, modes: Sequence[Any], best: EvaluatedPoint | None = None, steps: int | None = None
    ) -> EvaluatedPoint:
        return self.evaluator.run(partial_sums, (np.asarray(x),), modes, steps)


def gain_criterion(decrement: float) -> tuple[bool, str]:
    """The stopping criterion on the predicted gain of a further step, `decrement`, in log-likelihood units."""
    if not np.isfinite(decrement):
        return False, "the gain of a further step is not known"
    clause = f"a further step is expected to gain {decrement:.1e} log-likelihood units (limit {CRITERIA.max_gain:g})"
    return decrement < CRITERIA.max_gain, clause


def search_modes_in_stages(
    evaluate: Callable[[np.ndarray, Sequence[Any], EvaluatedPoint | None, int | None], EvaluatedPoint],
    x: np.ndarray,
    modes: Sequence[Any],
    best: EvaluatedPoint,
    evaluator: Evaluator,
    notify: Notify,
) -> EvaluatedPoint:
    """An evaluation at `x` (n,), its mode searches in stages of a few evaluations, with `notify` after each.

    **Arguments:** `evaluate`: the objective at x from modes, `best` and the most evaluations of a search (None: as many
    as the method allows); `modes`: the first starts.
    **Returns:** the point with the modes found.
    """
    method, placed = evaluator.method, evaluator.placed
    if not method.at_mode:
        return evaluate(x, modes, best, None)
    notify("PNLS", "init", 0)
    limit, k, done, steps = int(method.search.steps), 0, False, 2
    while not done:
        k += 1
        outcome = evaluate(x, modes, best, steps)
        # A search shortens steps that are too long: if it took none, the next search gets more evaluations.
        unchanged = np.array_equal(placed.collect(outcome.modes), placed.collect(modes))
        steps, modes = min(2 * steps if placed.processes.all(unchanged) else 2, limit), outcome.modes
        stopped = notify("PNLS", "iter", k, outcome, x)
        done = placed.processes.all(not (outcome.local_groups.status == Status.mode_not_found).any())
        done |= stopped or k == limit
    notify("PNLS", "done", k, outcome, x)
    return outcome


# ---- differences of an objective around the best point

P = TypeVar("P", bound=EvaluatedPoint)


@np.errstate(all="ignore")  # values that are not finite are checked, not warned of
def gradient_differences(
    best: EvaluatedPoint,
    entries: np.ndarray,
    active: np.ndarray,
    evaluate: Callable[[np.ndarray, Sequence[Any]], EvaluatedPoint],
    approximate_se: np.ndarray,
) -> np.ndarray:
    """Derivatives (entries, active), in each of `entries`, of the gradient given by `evaluate`; see
    `points_beside`."""
    rows = [
        (up.sums.gradient - down.sums.gradient)[active] / width
        for up, down, width in points_beside(best, entries, evaluate, approximate_se)
    ]
    return np.array(rows).reshape(len(entries), len(active))


def points_beside(
    best: EvaluatedPoint,
    entries: np.ndarray,
    evaluate: Callable[[np.ndarray, Sequence[Any]], P],
    approximate_se: np.ndarray,
    step_in_se: float = DIFFERENCES.step,
) -> Iterator[tuple[P, P, float]]:
    """For each of `entries`, `evaluate(x, modes)` on either side of `best`, and the distance of the two.

    **Arguments:** `approximate_se` (n,): approximate standard errors; `step_in_se`: the step, in these.
    """
    placed, x = best.placed, best.x
    # Entries in the user's units have the size of their value or of their standard error: no absolute number is small.
    size = np.maximum(np.abs(np.where(np.isfinite(x), x, 0.0)), approximate_se)
    least = DIFFERENCES.least_step * size
    step = np.clip(step_in_se * approximate_se, least, DIFFERENCES.largest_step * size)
    here = placed.collect(best.modes)
    for k in entries:
        ends = x.copy(), x.copy()
        ends[0][k] += step[k]
        ends[1][k] -= step[k]
        up = evaluate(ends[0], best.modes)
        # A step in the other direction moves the modes by as much the other way: their search starts at its end.
        down = evaluate(ends[1], placed.scatter(2.0 * here - placed.collect(up.modes)))
        yield up, down, float(ends[0][k] - ends[1][k])
