"""Tuning constants of stepwise searches; where no source is given, the value is a choice of this package."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StepSettings:
    """Stepwise searches (`step.py`)."""

    enter: float = 0.05
    """p value below which an effect is added, as in forward inclusion of covariates (Wahlby, Jonsson and Karlsson 2002,
    AAPS PharmSci 4, article 27, who call such limits common)."""
    remove: float = 0.01
    """p value above which an effect is left out again; the same source."""
    screen: float = 0.2
    """p value of a regression on conditional modes from which on a covariate is not tried: liberal, since shrinkage
    weakens such regressions."""
    shrinkage: float = 30.0
    """Shrinkage (%) beyond which regressions on modes are misleading (Savic and Karlsson 2009, AAPS Journal 11,
    558-569: 20 to 30%)."""
    better: float = 1e-6
    """Difference of the criterion from which on a model is better: less is rounding of two maxima."""
    tie: float = 2.0
    """Units of the criterion within which models are named as good: an evidence ratio exp(tie / 2) of 2.7 (Burnham and
    Anderson 2002, section 2.6)."""
    max_steps: int = 100
    """Steps after which a search ends, and says so."""


STEP = StepSettings()
