"""Tuning constants of the curves and of their starting values.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CurveSettings:
    """Evaluation of the curves (`curves.py`)."""

    series_below: float = 0.5
    """Largest |h| for which sinh(h) / h is computed by its series; beyond it the difference of exponentials loses less
    than a digit."""
    series_terms: int = 8
    """Terms of that series after the first: the rest is below 1e-19."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StartSettings:
    """Pooled least squares (`least_squares.py`, `grids.py`)."""

    most_rows: int = 20_000
    """Rows that starting values are computed from, evenly spaced in the order of x where there are more."""
    grid_rows: int = 1_000
    """Rows that the points of a grid are compared on."""
    refined: int = 4
    """Best points of the grid (at most one for each neighbourhood) from which least squares start."""
    steps: int = 200
    """Most evaluations of one search."""
    tolerance: float = 1e-12
    """Relative change of the sum of squares and of the parameters at which a search ends."""
    largest_column: float = 1e100
    """Entries of a column from which on its squares are close to overflow: such a point of the grid is left out."""
    factor_logs: tuple[float, float] = (1e-4, 7.0)
    """Absolute logarithm of a factor for one unit of x (b3 of a Gompertz curve) within which that unit is kept: beyond,
    steps that a search takes for small leave the range of powers, or do not change the curve."""
    refused_residual: float = 1e10
    """Residual, in units of the largest response, in the place of one that is not finite: searches step back from it,
    and the sum of its squares is far from overflow."""
    exact: float = 1e-12
    """Spread of the response, as a fraction of its size, below which it counts as constant."""


CURVES = CurveSettings()
STARTS = StartSettings()
