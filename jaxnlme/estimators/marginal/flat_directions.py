"""Directions in which an information matrix from differences has curvature by the errors of the differences only.

Where the data determine the sum of two variances but not the variances, the likelihood is constant along a curve. The
difference of two gradients beside the maximum leaves that curve, and finds a curvature that falls with the square of
the step. A small eigenvalue of the matrix is therefore computed again, along its eigenvector and from two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint
from jaxnlme.estimators.marginal.settings import FLAT
from jaxnlme.numerics.linalg import unit_diagonal


def has_doubtful_direction(matrix: np.ndarray) -> bool:
    """True if a symmetric `matrix` (n, n), scaled to unit diagonal, has an eigenvalue that may be an error."""
    if len(matrix) < 2 or not np.isfinite(matrix).all():
        return False
    return bool(0.0 < np.linalg.eigvalsh(unit_diagonal(matrix)[0])[0] < FLAT.doubtful_eigenvalue)


@np.errstate(all="ignore")  # values that are not finite are checked, not warned of
def without_errors_of_differences(
    matrix: np.ndarray,
    best: EvaluatedPoint,
    active: np.ndarray,
    evaluate: Callable[[np.ndarray, Sequence[Any]], EvaluatedPoint],
) -> np.ndarray:
    """The information `matrix` (active, active) with the curvature of directions that have none set to zero.

    **Arguments:** `active`: packed indices; `evaluate(x, modes)`: the objective whose gradient was differenced at
    `best`.
    **Source:** Richardson's extrapolation, e.g. Stoer and Bulirsch (2002), Introduction to Numerical Analysis, section
    3.4.
    """
    if len(active) < 2 or not np.isfinite(matrix).all():
        return matrix
    scaled, scale = unit_diagonal(matrix)
    values, vectors = np.linalg.eigh(scaled)
    out = matrix
    for value, vector in zip(values, vectors.T, strict=True):
        if not 0.0 < value < FLAT.doubtful_eigenvalue:
            continue
        curvature = _curvature(best, active, vector / scale, evaluate)
        if np.isfinite(curvature) and curvature < FLAT.least_share * value:
            out = out - value * np.outer(scale * vector, scale * vector)
    return out


def _curvature(
    best: EvaluatedPoint,
    active: np.ndarray,
    direction: np.ndarray,
    evaluate: Callable[[np.ndarray, Sequence[Any]], EvaluatedPoint],
) -> float:
    """The second derivative of the objective along `direction` (active,), without the term in the square of the
    step."""
    placed = best.placed
    here = placed.collect(best.modes)
    slopes = []
    for step in (FLAT.step, 2.0 * FLAT.step):
        moved = np.zeros(len(best.x))
        moved[active] = step * direction
        up = evaluate(best.x + moved, best.modes)
        down = evaluate(best.x - moved, placed.scatter(2.0 * here - placed.collect(up.modes)))
        slopes.append(float((up.sums.gradient - down.sums.gradient)[active] @ direction) / (2.0 * step))
    return (4.0 * slopes[0] - slopes[1]) / 3.0
