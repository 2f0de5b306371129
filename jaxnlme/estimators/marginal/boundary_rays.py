"""Ways out of a psi at the boundary: slopes of the log-likelihood there, and the rays along which it may increase.

A psi with a variance of zero, or a singular psi, is left along three kinds of rays, each a curve psi(c) from psi(0),
the psi at the boundary:

- one standard deviation at zero grows by itself: log SD = log(c t);
- a variance grows along the null space of psi: psi + c^2 w w', with w the direction of largest slope there;
- psi turns towards its null space: L L' with L = L0 + c n q', where the slope in n q' is largest. A first-order change
  of a covariance: a triangular factor with a zero on its diagonal does not contain it.

The slopes are those just inside the boundary (`point_inside`), where every standard deviation at zero has a value t at
which the groups' scores of log t have a root mean square of RAYS.score. There the log-likelihood is linear in the
variance, and t is proportional to the standard error of one group's effect: nothing depends on units or on starting
values. With S the derivatives of the log-likelihood in psi, the slope in c^2 along w is w' S w. The predicted gain of a
ray, s^2 / (2 I), has s the slope and I the sum of squares of the groups' slopes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.settings import RAYS
from jaxnlme.model.derivatives import jacobian


@dataclasses.dataclass(frozen=True)
class Ray:
    """Points x(c) on a way out of the boundary.

    **Fields:** `points`: pairs (c, x) of growing c; `predicted_gain`: log-likelihood units by the slope and its
    information at the boundary, zero if the slope is not positive.
    """

    points: list[tuple[float, np.ndarray]]
    predicted_gain: float


def rays(session: Session) -> Iterator[Ray]:
    """The rays from the session's point, where the variances `session.zeroed` are zero."""
    inside = point_inside(session)
    if inside is None:
        return
    density = session.binding.density
    first = len(density.beta_names)
    last = first + density.covariance.n_unconstrained
    slope = -np.asarray(inside.sums.gradient)[first:last]
    square = np.asarray(inside.sums.outer)[first:last, first:last]
    for entry in sorted(session.zeroed):
        k = entry - first
        at_t = inside.x[entry]
        points = [(c, _with_entry(session.x, entry, at_t + np.log(c))) for c in RAYS.steps]
        yield _ray(slope[k], square[k, k], points)
    if density.covariance.correlated_pairs and not session.binding.fixed[first:last].all():
        yield from _mixtures(session, inside, slope, square)


@np.errstate(all="ignore")  # values that are not finite are checked, not warned of
def point_inside(session: Session) -> EvaluatedPoint | None:
    """The point beside the session's with small positive standard deviations in place of those at zero (see the
    module), None if none was found where the objective is finite."""
    density = session.binding.density
    first = len(density.beta_names)
    entries = np.array(sorted(session.zeroed), int)
    start = np.asarray(session.binding.start.covariance)[entries - first]
    x = session.x.copy()
    start = np.where(np.isfinite(start), start, 0.0)
    x[entries] = start + np.log(RAYS.first_sd)
    inside = None
    for _ in range(RAYS.max_evaluations):
        point = session.evaluate_candidate(x)
        scores = np.sqrt(np.diag(np.asarray(point.sums.outer))[entries] / max(float(point.sums.counted), 1.0))
        if np.isfinite(point.value) and np.isfinite(scores).all():
            inside = point
            ratio = RAYS.score / np.maximum(scores, np.finfo(float).tiny)
            change = 0.5 * np.log(np.clip(ratio, 1.0 / RAYS.largest_change, RAYS.largest_change))
        else:
            change = np.full(len(entries), -np.log(RAYS.shrink))
        if np.max(np.abs(change)) < np.log(RAYS.accepted_ratio):
            break
        x = x.copy()
        # An effect whose scores vanish at any size has no end to its growth.
        x[entries] = np.minimum(x[entries] + change, start + np.log(RAYS.largest_sd))
    return inside


def _mixtures(session: Session, inside: EvaluatedPoint, slope: np.ndarray, square: np.ndarray) -> Iterator[Ray]:
    """The rays along the null space of psi and those that turn psi, in each set of correlated effects.

    **Arguments:** `inside`: the point of `point_inside`; `slope` (unconstrained,), `square` (unconstrained,
    unconstrained): score of theta there, and sum of the outer products of the groups' scores.
    """
    density = session.binding.density
    first = len(density.beta_names)
    covariance = density.covariance
    part = slice(first, first + covariance.n_unconstrained)
    free = ~session.binding.fixed[part]
    psi_inside, psi = psi_of(density, inside.x[part]), psi_of(density, session.x[part])
    sd = np.sqrt(np.diag(psi_inside))
    q = len(sd)
    # Derivatives of psi, in units of the standard deviations inside, by theta; columns to a length of one.
    columns = np.asarray(jacobian(covariance.psi)(inside.x[part])) / np.outer(sd, sd)[:, :, None]
    columns = columns.reshape(q * q, -1)[:, free]
    if not (np.isfinite(columns).all() and np.isfinite(slope).all() and np.isfinite(square).all()):
        return
    length = np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
    inverse = np.linalg.pinv(columns / length, rcond=RAYS.rank_tolerance)
    score, square = slope[free] / length, square[np.ix_(free, free)] / np.outer(length, length)
    slopes = (inverse.T @ score).reshape(q, q)

    def along(direction: np.ndarray) -> tuple[float, float]:
        """Slope of the log-likelihood along a `direction` (q, q) of psi, and the sum of squares of the groups' ones."""
        theta = inverse @ direction.ravel()
        return float(score @ theta), float(theta @ square @ theta)

    def at(matrix: np.ndarray) -> np.ndarray:
        """x with psi the member of the family nearest to `matrix`, in units of the standard deviations inside."""
        x = session.x.copy()
        x[part][free] = covariance.from_matrix(matrix * np.outer(sd, sd))[free]
        return x

    unit = psi / np.outer(sd, sd)
    for effects in _correlated_sets(q, covariance.correlated_pairs):
        values, vectors = np.linalg.eigh(unit[np.ix_(effects, effects)])
        null = np.zeros((q, int(np.sum(values <= RAYS.rank_tolerance))))
        null[effects] = vectors[:, : null.shape[1]]
        root = np.zeros((q, len(effects) - null.shape[1]))
        root[effects] = vectors[:, null.shape[1] :] * np.sqrt(values[null.shape[1] :])
        if not null.shape[1]:
            continue
        if null.shape[1] > 1 or root.shape[1]:
            w = null @ np.linalg.eigh(null.T @ slopes @ null)[1][:, -1]
            s, information = along(np.outer(w, w))
            size = _size(information, inside)
            yield _ray(s, information, [(c, at(unit + (c * size) ** 2 * np.outer(w, w))) for c in RAYS.steps])
        if root.shape[1]:
            left, _, right = np.linalg.svd(null.T @ slopes @ root)
            n, r = null @ left[:, 0], root @ right[0]
            s, information = along(np.outer(n, r) + np.outer(r, n))
            size = np.sign(s) * _size(information, inside) ** 2
            turned = [(c, root + c * size * np.outer(n, right[0])) for c in RAYS.turns]
            yield _ray(abs(s), information, [(c, at(turn @ turn.T + unit - root @ root.T)) for c, turn in turned])


def _ray(slope: float, square: float, points: list[tuple[float, np.ndarray]]) -> Ray:
    gain = np.square(slope / np.sqrt(2.0 * square)) if slope > 0.0 and square > 0.0 else 0.0
    return Ray(points, float(gain) if np.isfinite(gain) else 0.0)


def _size(square: float, point: EvaluatedPoint) -> float:
    """The c at which the groups' scores of log c have a root mean square of RAYS.score, for a slope in c^2 whose
    squares sum to `square`."""
    mean = square / max(float(point.sums.counted), 1.0)
    return float(np.sqrt(0.5 * RAYS.score / np.sqrt(mean))) if mean > 0.0 else 1.0


def _with_entry(x: np.ndarray, entry: int, value: float) -> np.ndarray:
    x = x.copy()
    x[entry] = value
    return x


def _correlated_sets(size: int, pairs: tuple[tuple[int, int], ...]) -> list[list[int]]:
    """The sets of effects (two or more) that are joined by correlations, directly or by others."""
    label = np.arange(size)
    for j, k in pairs:
        label[label == label[k]] = label[j]
    sets = [np.flatnonzero(label == value).tolist() for value in np.unique(label)]
    return [effects for effects in sets if len(effects) > 1]
