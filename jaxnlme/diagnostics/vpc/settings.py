"""Constants of visual predictive checks; where no source is named the values are choices of this package."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class VpcSettings:
    """Bins (`bins.py`), strata (`strata.py`), categories (`categories.py`), blocks of replicates (`replicates.py`), the
    picture (`picture.py`) and the numerical check (`npc.py`)."""

    cells_per_block: int = 8_000_000
    """Simulated responses (replicates x rows) that are corrected and sorted at a time, to bound memory."""

    cells_kept: int = 100_000_000
    """Responses simulated from a fit up to which they are kept in memory; more are simulated block by block."""

    most_distinct: int = 16
    """Distinct values of x up to which each is a bin of its own, by the rule "auto"."""
    least_in_bin: int = 5
    """Mean number of observations at a distinct value of x, below which values share bins by the rule "auto"."""
    dense_rows: int = 4
    """Observations of the median group from which on the rule "auto" has as many bins as this group has observations;
    with fewer the number of bins follows from the number of observations."""
    least_bins: int = 3
    """Least bins of sparse data, where each has `least_in_bin` observations."""
    most_bins: int = 12
    """Most bins that are made where no number is asked for."""
    rows_per_bin_dense: int = 4
    """Least mean number of observations in a bin for data with `dense_rows`."""
    rows_per_bin_sparse: int = 20
    """The same for other data."""
    gap_window: float = 0.25
    """Part of the observations of a bin by which the rule "auto" moves a boundary to the widest gap of x nearby."""
    cluster_points: int = 400
    """Most distinct points that the rule "kmeans" divides; more are first rounded to so many quantiles."""

    most_strata: int = 40
    """Most strata: more is taken for a column that was not meant to divide the data."""
    most_categories: int = 12
    """Most categories of an outcome whose kind is not named; with more, percentiles describe it."""

    most_points: int = 3000
    """Observations in a panel of the picture; of more an evenly spread part is drawn."""

    curve_points: int = 200
    """Most times of a survival curve where none are asked for."""

    npc_intervals: tuple[float, ...] = (0.0, 20.0, 40.0, 50.0, 60.0, 80.0, 90.0, 95.0)
    """Prediction intervals of the numerical check, in percent (those of PsN's npc, User Guide 5.3)."""


VPC = VpcSettings()
