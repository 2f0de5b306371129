"""Tuning constants of the compartment models.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExponentialSettings:
    """Matrix exponentials and divided differences of exp (`exponential.py`)."""

    norm: float = 0.5
    """Largest product of a rate constant and a time for which the Taylor series of exp is used without halving."""
    terms: int = 11
    """Terms of that series beyond the number of compartments: the rest is below 1e-15 of the sum."""
    halvings: int = 30
    """Most halvings of a time; enough for products of rate constant and time up to 5e8; NaN beyond."""


EXPONENTIAL = ExponentialSettings()
