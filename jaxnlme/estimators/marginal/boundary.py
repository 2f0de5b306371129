"""Variances at the boundary of the parameter space: set to exactly zero if that costs no likelihood, and freed again if
the likelihood is higher inside."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.errors import Status
from jaxnlme.estimators.marginal.boundary_rays import rays
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.settings import BOUNDARY, RAYS


def variances_at_zero(session: Session) -> set[int]:
    """Packed indices of variances that are zero, and not fixed, at the session's point: a fit may start from one that
    ended at the boundary."""
    density = session.binding.density
    entries = [len(density.beta_names) + index for index, _, _ in density.covariance.log_scales]
    return {entry for entry in entries if session.x[entry] == -np.inf and not session.binding.fixed[entry]}


def has_flat_variance(session: Session, active: np.ndarray, matrix: np.ndarray) -> bool:
    """True if a variance may be tending to zero, by the second derivatives `matrix` (active, active)."""
    return any(True for _ in _flat_variances(session, active, matrix))


def _flat_variances(session: Session, active: np.ndarray, matrix: np.ndarray) -> Iterator[int]:
    """Packed indices of variances that may be tending to zero."""
    first = len(session.binding.density.beta_names)
    curvature = dict(zip(active.tolist(), np.diag(matrix), strict=True))
    for index, _, _ in session.binding.density.covariance.log_scales:
        if curvature.get(first + index, np.inf) < BOUNDARY.flat_curvature:
            yield first + index


def set_to_zero(session: Session, active: np.ndarray, matrix: np.ndarray) -> bool:
    """Set variances that tend to zero to exactly zero if that costs no likelihood; True if one was set.

    `session.zeroed` is updated.

    **Arguments:** `active`: packed indices of the free entries; `matrix` (active, active): second derivatives there.
    """
    density = session.binding.density
    first = len(density.beta_names)
    last = first + density.covariance.n_unconstrained
    changed = False
    for entry in _flat_variances(session, active, matrix):
        if entry in session.zeroed:
            continue
        x = session.x.copy()
        x[entry] = -np.inf
        x[first:last] = density.covariance.from_matrix(psi_of(density, x[first:last]))
        zeros = {first + i for i, _, _ in density.covariance.log_scales if x[first + i] == -np.inf}
        if not zeros:
            continue
        candidate = session.evaluate_candidate(x)
        # A variance that was freed before is set to zero again only if that gains: rounds cannot repeat for ever.
        cost = 0.0 if entry in session.freed else BOUNDARY.least_gain + BOUNDARY.rounding * abs(session.best.value)
        if not candidate.value <= session.best.value + cost:
            continue
        # A model that is finite with the linearisation held may not be finite when linearised at the candidate itself.
        accepted = session.accept_candidate(candidate)
        if not np.isfinite(accepted.value):
            continue
        # psi is factored anew: entries below the new zero may make an earlier zero of the factor positive again.
        session.zeroed = zeros
        fix_zeroed(session)
        session.move(accepted)
        changed = True
    return changed


def fix_zeroed(session: Session) -> None:
    """Free all entries that the user left free, except the variances at zero (`session.zeroed`) and entries without
    effect beside them."""
    density = session.binding.density
    first = len(density.beta_names)
    session.free[: session.n_dense] = ~session.binding.fixed
    for index, _, column in density.covariance.log_scales:
        if first + index in session.zeroed:
            session.free[[first + index, *(first + k for k in column)]] = False


def leave_boundary(session: Session) -> bool:
    """Leave the boundary if the likelihood is higher inside; True if so.

    A variance stays at zero if, on each ray from the boundary (`boundary_rays`), no standard deviation that is tried
    has a likelihood higher by BOUNDARY.least_gain: neither the small ones, where the slope at zero decides, nor those
    up to the spread of the data. The best point of the rays is moved to.
    """
    if not session.zeroed:
        return False
    best, limit = None, session.best.value - BOUNDARY.least_gain - BOUNDARY.rounding * abs(session.best.value)
    for ray in rays(session):
        for c, x in ray.points:
            if c < RAYS.first_far_step and ray.predicted_gain < BOUNDARY.least_gain:
                continue
            trial = session.evaluate_candidate(x)
            if trial.value < limit and np.isfinite(trial.sums.gradient).all() and all_modes_found(trial):
                best, limit = trial, trial.value
    return best is not None and _move_inside(session, best)


def all_modes_found(point: EvaluatedPoint) -> bool:
    """True if no group of any process has failed at `point`."""
    failed = ~np.isin(point.local_groups.status, (Status.ok, Status.no_observations))
    return not point.placed.processes.any(failed.any())


def _move_inside(session: Session, candidate: EvaluatedPoint) -> bool:
    """Move to `candidate`, where some variances that were zero are positive, and free those; always True."""
    x = candidate.x
    density = session.binding.density
    entries = [len(density.beta_names) + k for k, _, _ in density.covariance.log_scales]
    session.freed |= {entry for entry in session.zeroed if np.isfinite(x[entry])}
    session.zeroed = {entry for entry in entries if x[entry] == -np.inf}
    fix_zeroed(session)
    session.move(session.accept_candidate(candidate))
    return True
