"""The log-determinant of a Hessian block and its gradient, by differences of an exact gradient.

For a function F of x, H its second derivatives in some entries b of x, and directions v_j with H^-1 = sum_j v_j v_j',

    d/dx_k (1/2) log|H| = (1/2) tr(H^-1 dH/dx_k) = (1/2) sum_j d2/dv_j2 (dF/dx_k):

second differences of the gradient along p directions give it for every k, and their first differences give H.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnlme.numerics.broyden import positive_definite_neighbour
from jaxnlme.numerics.settings import COMPUTATION


class LogdetDerivative(NamedTuple):
    """Hessian block and the gradient of its log-determinant.

    **Fields:** `hessian` (p, p), symmetric; `mixed_derivatives` (n, p): derivatives of the gradient in the p entries;
    `half_logdet_gradient` (n,): gradient of (1/2) log|H|, all NaN where the Hessian is not positive definite.
    """

    hessian: np.ndarray
    mixed_derivatives: np.ndarray
    half_logdet_gradient: np.ndarray

    @property
    def positive_definite(self) -> bool:
        """True if the Hessian block is positive definite."""
        return bool(np.isfinite(self.half_logdet_gradient).any())


def logdet_derivative(
    gradient: Callable[[np.ndarray], np.ndarray],
    centre: np.ndarray,
    entries: np.ndarray,
    metric: np.ndarray,
    fourth_order: bool = True,
) -> LogdetDerivative:
    """The Hessian block of F in p entries of x, and the gradient of half its log-determinant.

    Takes 4 p to 8 p gradients (2 p to 4 p with differences of second order) where `metric` is near the inverse Hessian.

    **Arguments:** `gradient(shift)`: the gradient (n,) of F with `shift` (p,) added to these entries; `centre` (n,):
    the gradient without a shift; `entries` (p,): their indices in x; `metric` (p, p): an approximation of the inverse
    Hessian, which sets the units of the steps; `fourth_order`: the order of the differences (second if false).
    **Returns:** a LogdetDerivative.
    """
    try:
        units = np.linalg.cholesky(metric)
    except np.linalg.LinAlgError:  # by rounding, where two entries are nearly determined by each other
        units = np.linalg.cholesky(positive_definite_neighbour(metric))
    for _ in range(COMPUTATION.max_rescalings):
        differences = [_differences(gradient, centre, unit, fourth_order) for unit in units.T]
        mixed = np.linalg.solve(units.T, np.array([first for first, _ in differences])).T
        hessian = 0.5 * (mixed[entries] + mixed[entries].T)
        if not np.isfinite(hessian).all():
            break
        values, vectors = np.linalg.eigh(units.T @ hessian @ units)
        if not values[0] > 0.0:
            units = COMPUTATION.shorten_units * units
            continue
        rotated = units @ vectors
        if np.max(np.abs(1.0 / values - 1.0)) > COMPUTATION.rescale_above:
            units = rotated / np.sqrt(values)
            continue
        slope = np.sum([second for _, second in differences], axis=0)
        # sum_j v_j v_j' is the metric; the rotated directions r_k add H^-1 - metric = sum_k (1 / value_k - 1) r_k r_k'.
        for value, direction in zip(values, rotated.T, strict=True):
            weight = 1.0 / value - 1.0
            if abs(weight) > COMPUTATION.negligible_deviation:
                fourth = fourth_order and abs(weight) > COMPUTATION.second_order_below
                slope = slope + weight * _differences(gradient, centre, direction, fourth)[1]
        return LogdetDerivative(hessian, mixed, 0.5 * slope)
    return LogdetDerivative(hessian, mixed, np.full(len(centre), np.nan))


def _differences(
    gradient: Callable[[np.ndarray], np.ndarray], centre: np.ndarray, direction: np.ndarray, fourth_order: bool
) -> tuple[np.ndarray, np.ndarray]:
    """First and second derivative (n,) of the gradient along `direction` (p,), by differences of fourth or second
    order.

    **Source:** Abramowitz and Stegun (1964), Handbook of Mathematical Functions, section 25.3 (25.3.21, 25.3.24)."""
    step = COMPUTATION.difference_step
    up, down = gradient(step * direction), gradient(-step * direction)
    first, second = (up - down) / 2.0, up - 2.0 * centre + down
    if fourth_order:
        up, down = gradient(2.0 * step * direction), gradient(-2.0 * step * direction)
        first = (4.0 * first - (up - down) / 4.0) / 3.0
        second = (4.0 * second - (up - 2.0 * centre + down) / 4.0) / 3.0
    return first / step, second / step**2
