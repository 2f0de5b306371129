"""First derivatives of functions on the host by central differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Where the errors of truncation and of rounding are of one size.
_STEP = float(np.finfo(float).eps) ** (1.0 / 3.0)


def central_differences(
    fn: Callable[[np.ndarray], np.ndarray], point: np.ndarray, least_size: float = 1.0
) -> np.ndarray:
    """The derivatives (parameters, *values) of `fn`, an array (*values), at `point` (parameters,), one at least.

    **Arguments:** `least_size`: steps are eps^(1/3) max(|entry|, least_size).
    """
    slopes = []
    for k, entry in enumerate(point):
        up, down = point.copy(), point.copy()
        step = _STEP * max(abs(float(entry)), least_size)
        up[k] += step
        down[k] -= step
        slopes.append((fn(up) - fn(down)) / (up[k] - down[k]))
    return np.array(slopes)
