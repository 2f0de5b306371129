"""Tuning constants of comparisons.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExactnessCriteria:
    """Linear models, whose likelihood is the same by every approximation (`exactness.py`)."""

    tolerance: float = 1e-9
    """Departure from linearity, relative to the change of the residuals, that is taken for rounding."""
    steps: tuple[float, ...] = (0.5, 2.0)
    """Sizes of the random changes of effects (whitened) and of fixed effects (of their own size) that are tried."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NestingCriteria:
    """Nested models (`nesting.py`, `psi_nesting.py`, `residual_nesting.py`)."""

    draws: int = 4
    """Random members of the smaller covariance family that must be members of the larger one."""
    spread: float = 0.3
    """Standard deviation of the draws of theta around its start."""
    same_psi: float = 1e-5
    """Largest difference of an element of psi, relative to the standard deviations, that is taken for rounding (a
    matrix logarithm represents a variance of zero only approximately)."""
    same_density: float = 1e-6
    """Largest difference of the log-densities of a group, relative to their size, that is taken for rounding."""
    groups: int = 6
    """Groups whose log-densities are compared."""
    most_trials: int = 200
    """Most combinations of null values of residual parameters that are tried."""
    limit: float = 1e-200
    """Value that stands for a bound of zero that a parameter only reaches in the limit."""
    singular: float = 1e-6
    """Eigenvalue of the correlation matrix of the random effects below which psi is at its boundary."""
    same_value: float = 1e-10
    """Relative difference of two values held fixed that is taken for rounding."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LikelihoodRatioSettings:
    """Likelihood ratio tests (`likelihood_ratio.py`, `bootstrap_ratio.py`)."""

    lower_by: float = 1e-3
    """Log-likelihood units by which the larger model may have the lower log-likelihood; beyond that its fit has not
    reached the maximum."""
    replicates: int = 1000
    """Replicates of the parametric bootstrap: a Monte Carlo error of 0.007 for p = 0.05."""
    min_converged: float = 0.9
    """Fraction of the replicates that must have converged, or the record warns of their statistics."""
    max_iterations: int = 100
    """Iterations of a refit."""
    zero_statistic: float = 1e-6
    """Statistic that is taken for zero, and difference of statistics for none: a fit may be so far from its maximum."""


EXACTNESS = ExactnessCriteria()
NESTING = NestingCriteria()
RATIO = LikelihoodRatioSettings()
