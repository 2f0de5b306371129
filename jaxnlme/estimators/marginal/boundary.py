"""Variances that go to zero: set to exactly zero where that costs nothing, decided by the score there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.marginal.evaluations import Outcome
from jaxnlme.estimators.marginal.session import Session

# A log standard deviation with less curvature than this may be on its way to minus infinity.
FLAT = 10.0
# What setting a variance to exactly zero may cost, in log-likelihood units.
COST_OF_ZERO = 1e-4


def at_boundary(session: Session) -> set[int]:
    """Packed indices of variances that are zero at the session's point and not fixed there: a fit may start from one
    that ended at the boundary."""
    density = session.binding.density
    places = [len(density.beta_names) + index for index, _, _ in density.covariance.log_scales]
    return {place for place in places if session.x[place] == -np.inf and not session.binding.fixed[place]}


def flat(session: Session, active: np.ndarray, matrix: np.ndarray) -> bool:
    """Whether a variance may be on its way to zero, by the curvature `matrix` (active, active)."""
    return any(True for _ in _flat(session, active, matrix))


def _flat(session: Session, active: np.ndarray, matrix: np.ndarray) -> Iterator[int]:
    """Packed indices of variances that may be on their way to zero."""
    first = len(session.binding.density.beta_names)
    curvature = dict(zip(active.tolist(), np.diag(matrix), strict=True))
    for index, _, _ in session.binding.density.covariance.log_scales:
        if curvature.get(first + index, np.inf) < FLAT:
            yield first + index


def set_to_zero(session: Session, active: np.ndarray, matrix: np.ndarray, zeroed: set[int], kept: set[int]) -> bool:
    """Sets variances that have gone to zero to exactly zero, where that costs no likelihood; True where one was."""
    density = session.binding.density
    first = len(density.beta_names)
    last = first + density.covariance.n_unconstrained
    changed = False
    for place in _flat(session, active, matrix):
        if place in zeroed or place in kept:
            continue
        x = session.x.copy()
        x[place] = -np.inf
        x[first:last] = density.covariance.from_matrix(psi_of(density, x[first:last]))
        zeros = {first + i for i, _, _ in density.covariance.log_scales if x[first + i] == -np.inf}
        if not zeros:
            continue
        decided = session.decide(x)
        if not decided.value <= session.best.value + COST_OF_ZERO:
            continue
        # Linearised there, a model may be worth nothing that was not linearised here.
        there = session.accepted_outcome(decided)
        if not np.isfinite(there.value):
            continue
        # What lay below the new zero in its column of the factor may lift an earlier zero off the ground again.
        zeroed.clear()
        zeroed |= zeros
        fix_zeroed(session, zeroed)
        session.move(there)
        changed = True
    return changed


def fix_zeroed(session: Session, zeroed: set[int]) -> None:
    """Frees all that the user left free, but for the collapsed variances and what has no effect beside them."""
    density = session.binding.density
    first = len(density.beta_names)
    session.free[: session.dense] = ~session.binding.fixed
    for index, _, others in density.covariance.log_scales:
        if first + index in zeroed:
            session.free[[first + index, *(first + o for o in others)]] = False


def reopen(session: Session, zeroed: set[int], kept: set[int]) -> bool:
    """The score at the boundary: where the likelihood rises as a zero variance grows, frees it again."""
    density = session.binding.density
    first = len(density.beta_names)
    start = np.asarray(session.binding.start.covariance)
    slopes: dict[int, float] = {}
    sds: dict[int, float] = {}
    for place in sorted(zeroed):
        x = session.x.copy()
        reference = start[place - first]
        x[place] = (reference if np.isfinite(reference) else 0.0) + np.log(0.01)
        trial = session.decide(x)
        # d(objective)/d(log sd) is 2 psi times the score of the variance, with the sign turned.
        slopes[place] = float(trial.sums.gradient[place])
        sds[place] = np.exp(x[place])
        if slopes[place] < -1e-7 and trial.value < session.best.value - 1e-9:
            return _free_again(session, zeroed, kept, trial)
    effects = {first + k: which[0] for k, which, _ in density.covariance.log_scales if len(which) == 1}
    zero = {effects[place]: (sds[place], max(slopes[place], 1e-12)) for place in slopes if place in effects}
    theta = session.x[first : first + density.covariance.n_unconstrained]
    for psi in _mixtures(psi_of(density, theta), density.covariance.related, zero):
        x = session.x.copy()
        x[first : first + len(theta)] = density.covariance.from_matrix(psi)
        trial = session.decide(x)
        if trial.value < session.best.value - 1e-9:
            return _free_again(session, zeroed, kept, trial)
    return False


def _mixtures(
    psi: np.ndarray, related: Sequence[tuple[int, int]], zero: dict[int, tuple[float, float]]
) -> Iterator[np.ndarray]:
    """The psi nearby that no single variance reaches from zero; `zero`: effect to (small sd, score of log sd).

    Of two effects at zero, w w' with w a mixture weighted by 1 / sqrt(score): the pair decides exactly whether their
    2 x 2 block of scores is negative definite. Of one at zero, a share of another effect added to it: a first-order
    change of a covariance, which a triangular factor with a zero on its diagonal does not contain.
    """
    for pair, size, sign in itertools.product(related, (1.0, 10.0), (1.0, -1.0)):
        if all(k in zero for k in pair):
            least = min(zero[k][1] for k in pair)
            w = np.zeros(len(psi))
            w[list(pair)] = [size * zero[k][0] * np.sqrt(least / zero[k][1]) for k in pair]
            w[pair[1]] *= sign
            yield psi + np.outer(w, w)
        for k, other in (pair, pair[::-1]):
            if k in zero and other not in zero and psi[other, other] > 0:
                mix = np.eye(len(psi))
                mix[k, other] = sign * size * zero[k][0] / np.sqrt(psi[other, other])
                yield mix @ psi @ mix.T


def _free_again(session: Session, zeroed: set[int], kept: set[int], decided: Outcome) -> bool:
    """Moves to the point of `decided`, where some variances that were zero are not, and frees those."""
    x = decided.x
    density = session.binding.density
    places = [len(density.beta_names) + k for k, _, _ in density.covariance.log_scales]
    kept |= {place for place in zeroed if np.isfinite(x[place])}
    zeroed.clear()
    zeroed |= {place for place in places if x[place] == -np.inf}
    fix_zeroed(session, zeroed)
    session.move(session.accepted_outcome(decided))
    return True
