"""From the end of a minimisation to a verdict: boundaries, fresh modes, information, the last Newton steps."""

from __future__ import annotations

import numpy as np

from jaxnlme.errors import Status
from jaxnlme.estimators.marginal.boundary import at_boundary, fix_zeroed, reopen, set_to_zero
from jaxnlme.estimators.marginal.convergence import Convergence, assess
from jaxnlme.estimators.marginal.session import CONVERGED, Session
from jaxnlme.results.inference import singular_directions

ROUNDS = 8
# Newton steps longer than this, in standard errors, make the information matrix afresh.
FAR = 1e-3


def finish(session: Session, with_information: bool) -> Convergence:
    """Minimises, and looks at the end as DESIGN's contract asks; reopens the fit where something better is found.

    Each round: minimise; search all modes afresh from z = 0 and adopt better ones; information matrix; variances that
    vanish are set to exactly zero and decided by the score there; a direction of negative curvature is followed down;
    Newton steps with the information matrix until the predicted gain is below 1e-6.
    """
    if not session.resumed:
        session.zeroed = at_boundary(session)
        fix_zeroed(session, session.zeroed)
    try:
        matrix, decrement = _rounds(session, with_information)
        session.processes.together(lambda: session.save(finished=not session.halted))
    except KeyboardInterrupt:
        session.interrupted = True
        matrix, decrement = None, np.inf
        session.save()
    except BaseException:
        session.save()
        raise
    active = np.flatnonzero(session.free[: session.dense])
    return assess(session, matrix, active, decrement, session.zeroed, with_information)


def _rounds(session: Session, with_information: bool) -> tuple[np.ndarray | None, float]:
    """The rounds of `finish`: the information matrix at the end (None where it was not reached) and the decrement."""
    zeroed, kept = session.zeroed, session.kept
    for _ in range(ROUNDS):
        session.minimise()
        session.processes.together(session.save)
        if session.halted or session.exhausted or not np.isfinite(session.best.value):
            return None, np.inf
        if _fresh_modes(session):
            continue
        # A variance may have been set to zero on the way there.
        if zeroed and not with_information and reopen(session, zeroed, kept):
            continue
        if not with_information:
            return None, float(session.state.bfgs.decrement) if session.state else np.inf
        active = np.flatnonzero(session.free[: session.dense])
        matrix = session.hessian(active)
        if set_to_zero(session, active, matrix, zeroed, kept):
            continue
        if reopen(session, zeroed, kept):
            continue
        if _follow_negative_curvature(session, active, matrix):
            continue
        before = session.x
        decrement = _newton_steps(session, active, matrix)
        if np.max(np.abs(session.x[active] - before[active]) * np.sqrt(np.abs(np.diag(matrix))), initial=0.0) > FAR:
            matrix = session.hessian(active)
        return matrix, decrement
    return None, np.inf


def _fresh_modes(session: Session) -> bool:
    """Searches every mode from z = 0; adopts the better ones and returns True where there was one.

    Where a group has several modes, the better one is that which carries more of its likelihood: the integral is at
    least the larger part. Groups whose mode was not found again are left in `session.not_found_again`.
    """
    if not (session.estimator.method.at_mode and session.binding.density.n_effects):
        return False
    outcome = session.evaluate(session.x, session.zero_modes())
    fresh, own = outcome.own, session.best.own
    counts = session.binding.data.weights != 0
    value = np.where(counts, fresh.values, 0.0)
    best = np.where(counts, own.values, 0.0)
    ended = np.isin(fresh.status, (Status.ok, Status.no_observations))
    slack = 1e-6 + 1e-10 * np.abs(best)
    session.not_found_again = counts & ~(ended & (value > best - slack))
    better = counts & ended & (value > best + slack)
    if not session.processes.any(better.any()):
        return False
    modes = session.modes_from(np.where(better[:, None], fresh.modes, own.modes))
    session.move(session.evaluate(session.x, modes))
    return True


def _follow_negative_curvature(session: Session, active: np.ndarray, matrix: np.ndarray) -> bool:
    """From a saddle: moves along the most negative direction to where the objective is lower; True where it was."""
    if not len(active) or not np.isfinite(matrix).all():
        return False
    scale = 1.0 / np.sqrt(np.maximum(np.abs(np.diag(matrix)), 1e-12))
    values, vectors = np.linalg.eigh(matrix * np.outer(scale, scale))
    if values[0] > -1e-6:
        return False
    # Nearly flat entries have a long scale: a log standard deviation may move by one at most.
    logs = [len(session.binding.density.beta_names) + k for k, _, _ in session.binding.density.covariance.log_scales]
    direction = scale * vectors[:, 0]
    direction /= np.max(np.abs(direction[np.isin(active, logs)]), initial=1.0)
    for length in (1.0, 0.3, 0.1):
        for sign in (1.0, -1.0):
            x = session.x.copy()
            x[active] += sign * length * direction
            trial = session.evaluate(x, session.best.modes)
            if trial.value < session.best.value - 1e-6:
                session.move(trial)
                return True
    return False


def _newton_steps(session: Session, active: np.ndarray, matrix: np.ndarray) -> float:
    """Newton steps with the information matrix at hand; returns the decrement at the last point."""
    if not len(active):
        return 0.0
    if singular_directions(matrix, [str(k) for k in active]):
        return np.inf
    decrement = np.inf
    for _ in range(4):
        gradient = session.best.sums.gradient[active]
        step = -np.linalg.solve(matrix, gradient)
        decrement = float(-0.5 * gradient @ step)
        if decrement < 1e-6 * CONVERGED:
            break
        x = session.x.copy()
        x[active] += step
        trial = session.evaluate(x, session.best.modes)
        if not trial.value <= session.best.value + 1e-9 * abs(session.best.value):
            break
        session.x, session.best = trial.x, trial
    return decrement
