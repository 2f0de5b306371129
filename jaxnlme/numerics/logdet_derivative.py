"""The log-determinant of a Hessian block and its gradient, by differences of an exact gradient.

For a function F of x, H its second derivatives in some entries b of x, and directions v_j with H^-1 = sum_j v_j v_j',

    d/dx_k (1/2) log|H| = (1/2) tr(H^-1 dH/dx_k) = (1/2) sum_j d2/dv_j2 (dF/dx_k):

second differences of the gradient along p directions give it for every k, and their first differences give H.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Points of the differences lie so far out, and twice as far, in units where H is the identity: near enough for an error
# of fourth order, far enough that second differences keep eight digits of a gradient that has eleven.
REACH = 0.02
# Where H in the units at hand has an eigenvalue further from one, the differences are made again in better units; so
# many times at most. Nearer ones are corrected, to a lower order below CLOSE, not at all below SAME.
FAR, AGAIN = 0.5, 6
CLOSE, SAME = 1e-3, 1e-9


class LogdetDerivative(NamedTuple):
    """`hessian` (p, p), symmetric; `mixed` (n, p): the derivatives of the gradient along the entries; `slope` (n,): the
    gradient of half the log-determinant, all NaN where the Hessian is not positive definite."""

    hessian: np.ndarray
    mixed: np.ndarray
    slope: np.ndarray

    @property
    def positive(self) -> bool:
        return bool(np.isfinite(self.slope).any())


def logdet_derivative(
    gradient: Callable[[np.ndarray], np.ndarray],
    centre: np.ndarray,
    which: np.ndarray,
    metric: np.ndarray,
    fine: bool = True,
) -> LogdetDerivative:
    """The Hessian block in the entries `which` (p,) of x and the gradient of half its log-determinant.

    **Arguments:** `gradient(shift)`: the gradient (n,) where these entries are moved by `shift` (p,); `centre` (n,),
    the gradient at no shift; `metric` (p, p): an approximation of the inverse Hessian, whose units the steps are taken
    in; `fine`: differences are of fourth order (else of second). It needs 4 p to 8 p gradients (2 p to 4 p) where the
    metric is near.
    """
    units = np.linalg.cholesky(metric)
    for _ in range(AGAIN):
        ends = [_differences(gradient, centre, unit, fine) for unit in units.T]
        mixed = np.linalg.solve(units.T, np.array([first for first, _ in ends])).T
        hessian = 0.5 * (mixed[which] + mixed[which].T)
        if not np.isfinite(hessian).all():
            break
        values, vectors = np.linalg.eigh(units.T @ hessian @ units)
        if not values[0] > 0.0:
            # In units far too long, differences may miss a curvature: shorter ones tell.
            units = 0.1 * units
            continue
        rotated = units @ vectors
        if np.max(np.abs(1.0 / values - 1.0)) > FAR:
            units = rotated / np.sqrt(values)
            continue
        slope = np.sum([second for _, second in ends], axis=0)
        # sum_j v_j v_j' is the metric: what H^-1 differs from it lies along the rotated directions.
        for value, direction in zip(values, rotated.T, strict=True):
            share = 1.0 / value - 1.0
            if abs(share) > SAME:
                slope = slope + share * _differences(gradient, centre, direction, fine and abs(share) > CLOSE)[1]
        return LogdetDerivative(hessian, mixed, 0.5 * slope)
    return LogdetDerivative(hessian, mixed, np.full(len(centre), np.nan))


def _differences(
    gradient: Callable[[np.ndarray], np.ndarray], centre: np.ndarray, direction: np.ndarray, fine: bool
) -> tuple[np.ndarray, np.ndarray]:
    """First and second derivative (n,) of the gradient along a direction (p,), of fourth order, or second (not `fine`).

    **Source:** Abramowitz and Stegun (1964), Handbook of Mathematical Functions, section 25.3 (25.3.21, 25.3.24)."""
    up, down = gradient(REACH * direction), gradient(-REACH * direction)
    first, second = (up - down) / 2.0, up - 2.0 * centre + down
    if fine:
        up, down = gradient(2.0 * REACH * direction), gradient(-2.0 * REACH * direction)
        first = (4.0 * first - (up - down) / 4.0) / 3.0
        second = (4.0 * second - (up - 2.0 * centre + down) / 4.0) / 3.0
    return first / REACH, second / REACH**2
