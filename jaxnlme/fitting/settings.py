"""Tuning constants of updated fits; the values are choices of this package."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RestartSettings:
    """The starting psi of an updated fit (`update.py`)."""

    sd_fraction: float = 0.3
    """Starting value of a standard deviation that was estimated as zero, relative to its default start."""
    nearly_singular: float = 1e-6
    """Smallest eigenvalue of the correlation matrix below which a psi is moved into the interior: it would start on the
    boundary of the parameter space."""
    diagonal_weight: float = 0.05
    """Weight of the diagonal of psi in this move, which multiplies the correlations by 0.95."""


RESTART = RestartSettings()
