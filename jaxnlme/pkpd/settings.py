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
    series_below: float = 4.0
    """Square of x below which cosh(x), sinh(x) / x and the functions derived from them are computed by series."""
    pair_terms: int = 12
    """Terms of these series: the rest is below 1e-16."""
    decay_terms: int = 16
    """Terms of series in differences of rate constants times a time, the largest of which is below one: the rest is
    below 1e-15."""
    widest: float = 8.0
    """Largest product for which these series are computed at all: three constants within 8% of their mean have decayed
    by 1e-43 there."""
    close: float = 0.1
    """Half difference of two eigenvalues, over their mean, below which their sum and product are used in the place of
    them if the third constant is not among them. Above, derivatives through the square root lose at most two digits an
    order."""
    distinct: float = 0.02
    """The same ratio below which that is always done: their square root has no accurate derivative."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CircleSettings:
    """Contour integrals around rate constants that are close to each other (`spectrum.py`)."""

    nodes: int = 40
    """Points of the circle: the rest is below 1e-12 of the largest amount where the rate constants within are half as
    far from its centre as the circle, and the next one twice as far."""
    everything: float = 0.3
    """Range of three rate constants, over their mean, below which all of them are within one circle."""
    eigenvalues: float = 0.08
    """Difference of two eigenvalues, over their mean, below which they are close. Derivatives of order n in the rate
    constants by residues lose a factor of the difference to the power 2 n + 1: 1e-10 of the second ones remains."""
    apart: float = 0.2
    """The same where there is no third rate constant."""
    others: float = 0.02
    """The same for ka and an eigenvalue; derivatives lose the difference to the power n + 1."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SavicSettings:
    """Savic's transit model (`savic.py`)."""

    nodes: int = 96
    """Nodes of the integral over the time in the transit compartments."""
    power: int = 6
    """s = S v^power: the integrand begins like v^(power (N + 1) - 1), smooth enough for 1e-12 with N >= 0."""
    deviations: float = 9.0
    tail: float = 40.0
    """The gamma density has less than 1e-16 beyond N + 1 + deviations sqrt(N + 1) + tail, in units of 1 / ktr."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SolutionSettings:
    """From actions to amounts at the rows (`solution.py`)."""

    superposed: float = 1.5
    """Single actions are summed up while rows times actions are at most this many times rows plus actions: then one
    evaluation at each pair costs no more than to carry the state along, and the program is smaller."""


EXPONENTIAL = ExponentialSettings()
CIRCLE = CircleSettings()
SAVIC = SavicSettings()
SOLUTION = SolutionSettings()
