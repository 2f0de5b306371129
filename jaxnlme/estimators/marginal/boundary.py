"""Variances at the boundary of the parameter space: set to exactly zero if that costs no likelihood, and freed again if
the score at zero is positive."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.settings import BOUNDARY


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

    Variances that were freed before (`session.freed`) stay free; `session.zeroed` is updated.

    **Arguments:** `active`: packed indices of the free entries; `matrix` (active, active): second derivatives there.
    """
    density = session.binding.density
    first = len(density.beta_names)
    last = first + density.covariance.n_unconstrained
    changed = False
    for entry in _flat_variances(session, active, matrix):
        if entry in session.zeroed or entry in session.freed:
            continue
        x = session.x.copy()
        x[entry] = -np.inf
        x[first:last] = density.covariance.from_matrix(psi_of(density, x[first:last]))
        zeros = {first + i for i, _, _ in density.covariance.log_scales if x[first + i] == -np.inf}
        if not zeros:
            continue
        candidate = session.evaluate_candidate(x)
        if not candidate.value <= session.best.value + BOUNDARY.cost_of_zero:
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
    """Free a zero variance again if the likelihood increases from the boundary towards the interior; True if so.

    Tested are each variance by itself (the slope in its logarithm at a hundredth of its starting value, and the value
    there), then pairs of effects by `_nearby_psi`.
    """
    density = session.binding.density
    first = len(density.beta_names)
    start = np.asarray(session.binding.start.covariance)
    slopes: dict[int, float] = {}
    sds: dict[int, float] = {}
    for entry in sorted(session.zeroed):
        x = session.x.copy()
        reference = start[entry - first]
        x[entry] = (reference if np.isfinite(reference) else 0.0) + np.log(BOUNDARY.trial_sd)
        trial = session.evaluate_candidate(x)
        # d(objective)/d(log sd) is minus 2 psi times the score of the variance.
        slopes[entry] = float(trial.sums.gradient[entry])
        sds[entry] = np.exp(x[entry])
        if slopes[entry] < -BOUNDARY.least_slope and trial.value < session.best.value - BOUNDARY.least_gain:
            return _move_inside(session, trial)
    effects = {first + k: members[0] for k, members, _ in density.covariance.log_scales if len(members) == 1}
    zero = {
        effects[entry]: (sds[entry], max(slopes[entry], BOUNDARY.smallest_score))
        for entry in slopes
        if entry in effects
    }
    theta = session.x[first : first + density.covariance.n_unconstrained]
    for psi in _nearby_psi(psi_of(density, theta), density.covariance.correlated_pairs, zero):
        x = session.x.copy()
        x[first : first + len(theta)] = density.covariance.from_matrix(psi)
        trial = session.evaluate_candidate(x)
        if trial.value < session.best.value - BOUNDARY.least_gain:
            return _move_inside(session, trial)
    return False


def _nearby_psi(
    psi: np.ndarray, correlated_pairs: Sequence[tuple[int, int]], zero: dict[int, tuple[float, float]]
) -> Iterator[np.ndarray]:
    """Matrices near psi that no change of a single zero variance reaches.

    For two effects at zero, psi + w w' with w a combination weighted by 1 / sqrt(score): the two signs decide exactly
    whether the 2 x 2 block of their scores is negative definite. For one effect at zero, a multiple of another effect
    is added to it: a first-order change of a covariance, which a triangular factor with a zero on its diagonal does
    not contain.

    **Arguments:** `correlated_pairs`: pairs of effects whose covariance is estimated; `zero`: effect to (small standard
    deviation, score of its logarithm).
    """
    for pair, size, sign in itertools.product(correlated_pairs, BOUNDARY.direction_sizes, (1.0, -1.0)):
        if all(k in zero for k in pair):
            least = min(zero[k][1] for k in pair)
            w = np.zeros(len(psi))
            w[list(pair)] = [size * zero[k][0] * np.sqrt(least / zero[k][1]) for k in pair]
            w[pair[1]] *= sign
            yield psi + np.outer(w, w)
        for k, partner in (pair, pair[::-1]):
            if k in zero and partner not in zero and psi[partner, partner] > 0:
                transform = np.eye(len(psi))
                transform[k, partner] = sign * size * zero[k][0] / np.sqrt(psi[partner, partner])
                yield transform @ psi @ transform.T


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
