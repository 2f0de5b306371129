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
    decay_terms: int = 17
    """Terms of series in a product of rate constant and time below one: the rest is below 2e-16."""
    pair_terms: int = 7
    """Terms of the series of cosh(x) and sinh(x) / x for x below one half: the rest is below 1e-17."""
    far: float = 1.5
    """Difference between a rate constant and the mean of two eigenvalues, times the time, above which partial fractions
    lose less than a digit."""
    far_terms: int = 22
    """Terms of the series used below that difference: the rest is below 1e-17."""
    pair: float = 0.1
    """Half difference of two eigenvalues, over their mean, below which their sum and product are used in the place of
    them wherever possible. Above, derivatives through the square root lose at most two digits an order."""
    distinct: float = 1e-8
    """The same ratio below which they count as equal: their square root has no accurate derivative."""


EXPONENTIAL = ExponentialSettings()
