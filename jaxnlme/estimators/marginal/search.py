"""Quasi-Newton search for the minimum of a session's objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import numpy as np

from jaxnlme.estimators.core.objective import Evaluation, GroupValues
from jaxnlme.estimators.marginal.limits import search_away_from_limit
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.estimators.marginal.minimiser_state import MaximumLikelihoodState
from jaxnlme.estimators.marginal.session import AbstractSearch, Session
from jaxnlme.estimators.marginal.starting_scales import adjust_starting_scales
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params

EndsEarly = Callable[[MaximumLikelihoodState, int], bool]


@final
class QuasiNewton(AbstractSearch):
    """Quasi-Newton steps until the predicted gain is below the tolerance."""

    def resumable(self, session: Session) -> bool:
        return not session.held_at_start

    def minimise(self, session: Session) -> None:
        quasi_newton(session)
        while _ended_early(session) and search_away_from_limit(
            session, session.evaluate, lambda: quasi_newton(session)
        ):
            quasi_newton(session)


def _ended_early(session: Session) -> bool:
    """True if the minimiser gave up although its model of the objective predicts a gain."""
    if session.state is None or not np.isfinite(session.best.value):
        return False
    return not float(session.state.bfgs.decrement) < float(session.estimator.tolerance)


def quasi_newton(session: Session, ends_early: EndsEarly = lambda state, rejected: False) -> None:
    """Iterate until the estimator terminates or a callback stops it, keeping the best point so far.

    **Arguments:** `ends_early`: from the minimiser's state and the number of points refused in a row, True if the
    search is to end before the estimator terminates.
    """
    remaining = max(int(session.estimator.max_iterations) - session.iterations, 0)
    method, tolerance = session.estimator.method, session.estimator.tolerance
    state = session.state if session.resumed else None
    session.resumed = False
    if state is not None:
        # Resumed: the minimiser counts its iterations before the checkpoint, too.
        estimator = MaximumLikelihood(method, remaining + int(state.bfgs.iterations), tolerance)
        trial, over = _resume(estimator, state)
    else:
        if not session.history:
            adjust_starting_scales(session)
        estimator = MaximumLikelihood(method, remaining, tolerance)
        first = Evaluation(session.best.sums, GroupValues())
        start = (session.binding.density, session.objective.evaluator.template, session.x, first, session.free)
        state, trial, over = _init(estimator, *start, session.metric)
        session.metric = None
        session.accept(state, session.best)
    if not session.history:
        session.record_iteration()
    _iterate(session, ends_early, estimator, state, trial, over)


def _iterate(
    session: Session,
    ends_early: EndsEarly,
    estimator: MaximumLikelihood,
    state: MaximumLikelihoodState,
    trial: Any,
    over: Any,
) -> None:
    """The iterations of `quasi_newton`."""
    inner, many_groups = session.objective.inner_procedure, session.objective.evaluator.many_groups
    tries = 0
    while not (bool(over) or session.stopped or ends_early(state, tries)):
        if not tries:
            session.notify_inner(inner, "init", 0)
        tries += 1
        result = session.evaluate_notifying(np.asarray(trial), session.mode_starts(np.asarray(trial)))
        before = int(state.bfgs.iterations)
        state, trial, over = _update(estimator, state, Evaluation(result.sums, GroupValues()), many_groups)
        session.notify_inner(inner, "iter", tries, result, result.x)
        if int(state.bfgs.iterations) > before:
            session.iterations += 1
            session.accept(state, result)
            session.notify_inner(inner, "done", tries)
            session.record_iteration()
            tries = 0


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
