"""Tuning constants of npd and npde; where no source is given, the value is a choice of this package."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NpdeSettings:
    """npd and npde (`discrepancies.py`, `decorrelation.py`) and their tests (`distribution.py`)."""

    replicates: int = 1000
    """Default number of simulated data sets: the resolution of a prediction discrepancy is 1/1000 then (Brendel et al.
    (2006) recommend at least 1000)."""
    few_replicates: int = 100
    """Number of simulated data sets below which the record says that there are few."""
    cells_per_block: int = 4_000_000
    """Simulated responses (replicates x rows) that are decorrelated at a time, to bound memory."""
    tied: float = 0.05
    """Average share of simulations equal to the observation from which on responses count as discrete: half of it is
    the bias of pd where ties count as not below."""
    singular: float = 16.0
    """A covariance matrix is singular where the least eigenvalue of its correlation matrix is below this many rounding
    errors (eps times the number of rows)."""
    exact_wilcoxon: int = 50
    """Values below which the Wilcoxon test has its exact distribution, as in R's wilcox.test."""
    significance: float = 0.05
    """Level at which the sentence of the record calls a test significant."""


NPDE = NpdeSettings()
