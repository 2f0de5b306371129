"""Residual parameters that a search left where the likelihood says nothing of the way back.

- Beside a limit, beyond which the likelihood is not finite, such as a power of zero where predictions are zero: steps
  that lead across it are halved until they do not, so that the search ends beside it although the likelihood rises away
  from it once the other parameters have followed. They go back to their start, the others are searched first, and then
  all again.
- Where residuals are as good as independent: the likelihood has no slope in the logarithm of the range of a
  correlation, whatever the data. Larger ranges are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxnlme.estimators.core.correlation_bounds import bounds_of_correlation
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint
from jaxnlme.estimators.marginal.objective import gradient_differences
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.settings import BOUNDARY, ROUNDS


def search_away_from_limit(
    session: Session, evaluate: Callable[[np.ndarray, Sequence[Any]], EvaluatedPoint], search: Callable[[], None]
) -> bool:
    """Set residual parameters that ended beside a limit to their start, and search in all others; False if there is
    none, or if it was tried before.

    **Arguments:** `evaluate(x, modes)`: the objective whose gradient is differenced; `search()`: moves the session.
    """
    first = session.n_dense - len(session.binding.density.error_names)
    open_ = session.free & np.isfinite(session.x)
    entries = np.array([k for k in range(first, session.n_dense) if open_[k] and k not in session.restarted], int)
    if session.halted or session.out_of_iterations or not len(entries):
        return False
    active = np.flatnonzero(session.free)
    slopes = gradient_differences(session.best, entries, active, evaluate, session.approximate_se)
    limited = entries[~np.isfinite(slopes).all(axis=1)]
    if not len(limited):
        return False
    session.restarted.update(map(int, limited))
    x = session.x.copy()
    x[limited] = session.objective.evaluator.start[limited]
    point = session.evaluate(x, session.best.modes)
    if not np.isfinite(point.value):
        return False
    session.move(point)
    session.free[limited], session.held_at_start = False, True
    try:
        search()
    finally:
        session.free[limited], session.held_at_start = True, False
    return not session.halted


def restore_correlation(session: Session) -> bool:
    """Move to a stronger correlation of residuals that are estimated as independent, if the objective is lower there;
    True if so."""
    binding = session.binding
    start = np.concatenate([np.full(session.n_dense - len(binding.start.error), np.nan), binding.start.error])
    independent = bounds_of_correlation(binding, session.x, session.processes)[1]
    entries = [k for k in independent if session.free[k]]
    return move_to_best(session, [(k, start[k] + change) for k in entries for change in ROUNDS.correlation_changes])


def move_to_best(session: Session, changes: Iterable[tuple[int, float]]) -> bool:
    """Move to the best of the points that differ from the session's in one entry, if the objective is lower there by
    BOUNDARY.least_gain; True if so.

    **Arguments:** `changes`: pairs of a packed entry and its other value.
    """
    best, limit = None, session.best.value - BOUNDARY.least_gain - BOUNDARY.rounding * abs(session.best.value)
    for entry, value in changes:
        x = session.x.copy()
        x[entry] = value
        trial = session.evaluate_candidate(x)
        if trial.value < limit and np.isfinite(trial.sums.gradient).all():
            best, limit = trial, trial.value
    if best is None:
        return False
    session.move(session.accept_candidate(best))
    return True
