"""Constants of profiles of linear mixed models."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class LinearProfileSettings:
    """Profiles (`profile.py`, `held.py`)."""

    first_step: float = 1.0
    """First step from the estimate on the real line where there is no Wald interval."""
    doublings: int = 12
    """Largest number of steps outwards, each twice the one before, until a limit is passed."""
    tolerance: float = 1e-4
    """Precision of a limit, as a fraction of the half-width of the Wald interval."""
    better_by: float = 1e-4
    """Gain over the fit (log-likelihood units) above which a maximum is reported as better."""
    bound: float = 1e-4
    """Distance from a bound, relative to the estimate of a standard deviation and absolute for a correlation, at which
    the deviance is that of the bound."""
    score: float = 0.02
    """Largest slope of the log-likelihood along the constraint at a held point, in standard errors: the deviance is
    then short by less than its square."""
    constraint: float = 1e-6
    """Largest distance from the value held, on the real line."""
    longest_step: float = 2.0
    """Length of a step of the constrained minimisation, in standard errors of the fit."""
    halvings: int = 20
    """Halvings of a step that does not improve."""
    small_start: float = 0.05
    """Size of relative standard deviations, as a fraction of their first start, where those estimated as zero begin."""
    iterations: int = 60
    """Iterations of the constrained minimisation."""


LINEAR_PROFILE = LinearProfileSettings()
