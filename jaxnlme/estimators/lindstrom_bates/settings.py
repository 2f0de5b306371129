"""Tuning constants of the alternation of Lindstrom and Bates and of its root search.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConvergenceCriteria:
    """The fixed point (`objective.py`, `alternation.py`)."""

    fixed_point_tolerance: float = 1e-5
    """Residual of the fixed point, in standard errors, below which it counts as found."""
    rounding_ratio: float = 0.1
    """Where no step reduces the merit function, the root counts as found if the residual is below this fraction of
    `fixed_point_tolerance`: only rounding errors remain."""
    smallest_tolerance: float = 1e-12
    """Smallest tolerance of the root search, in standard errors; a user's tolerance below it is raised to it."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClimbSettings:
    """The climb to the neighbourhood of the root, and alternations on the way (`alternation.py`)."""

    root_search_gains: tuple[float, float, float] = (1e-2, 1e-4, 1e-6)
    """Predicted gain (log-likelihood units) of the climb below which the root search begins: smaller after each
    failure, for the root may lie at the end of a long flat valley."""
    max_rejected_points: int = 8
    """The climb also ends after so many rejected points in a row: g is not exactly the gradient of l(x; x)."""
    gain_after_rejection: float = 1.0
    """It ends after two of them at a predicted gain below this (log-likelihood units)."""
    max_climbs: int = 10
    """Most climbs: there is one more for each variance that is set to zero."""
    far_gain: float = 1.0
    """Predicted gain by the information (log-likelihood units) from which the climb goes on in its metric."""
    least_progress: float = 0.1
    """Log-likelihood units that the last climb must have gained for that."""
    max_alternations: int = 30
    """Most alternations, and most quasi-Newton steps in each."""
    alternation_gain: float = 1e-10
    """Predicted gain (log-likelihood units) below which an alternation ends."""
    alternation_step: float = 1e-2
    """Alternations end when a step moves no entry by more than this, in standard errors."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SearchSettings:
    """The root search (`alternation.py`)."""

    step_lengths: tuple[float, ...] = (1.0, 0.5, 0.2, 0.05, 0.01)
    """Step lengths h that are tried in turn along a direction, as fractions of the Broyden step."""
    slow_step_ratio: float = 0.3
    """A step is slow if it leaves more than this fraction of the merit function."""
    max_slow_steps: int = 2
    """The search with one J ends after more than so many slow steps in a row."""
    largest_condition: float = 1e14
    """Condition number of the differences of g above which they are not inverted: no digit would be right."""
    newton_round_ratio: float = 0.9
    """Further rounds with a new J are not tried if one leaves more than this fraction of the merit function."""


CRITERIA = ConvergenceCriteria()
CLIMB = ClimbSettings()
SEARCH = SearchSettings()
