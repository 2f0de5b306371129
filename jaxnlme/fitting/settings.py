"""Tuning constants of updated and of replicated fits; the values are choices of this package."""

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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AgreementCriteria:
    """Replicated fits (`replicates.py`)."""

    replicates: int = 5
    """Number of fits where none is given."""
    same_estimate: float = 0.1
    """Difference from an estimate, in its standard errors, up to which replicates agree: it then adds half a percent to
    the mean squared error."""
    same_objective: float = 0.5
    """Difference of -2 log L up to which replicates have reached the same maximum; Monte Carlo errors included."""
    least_size: float = 0.1
    """Least size that the spread of starts on an identity scale is relative to."""


RESTART = RestartSettings()
AGREEMENT = AgreementCriteria()
