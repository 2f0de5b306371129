"""Constants of reports; the values are choices of this package."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReportSettings:
    """A page (`contents.py` and the modules beside it)."""

    dpi: int = 110
    """Dots per inch of a picture: more than the 96 of a page, so that it stays sharp when enlarged a little."""
    colours: int = 96
    """Colours of a picture; with fewer, thin lines become grainy, and more take more space than they show."""
    most_bytes: int = 3_000_000
    """Size of a page above which pictures are left out, the last ones first: mail and browsers take pages up to it."""
    bytes_of_text: int = 300_000
    """Size of a page without its pictures, at most: tables are cut to the limits below."""
    iterations_shown: int = 12
    """Most rows of the table of iterations, the last ones."""
    groups_shown: int = 24
    """Most groups in the table of groups with a remark, and in that of individual fits."""
    effects_shown: int = 30
    """Most units in the table of random effects; `fit.random_effects` has all."""
    levels_shown: int = 12
    """Most levels of a categorical column that are named."""
    digits: int = 4
    """Significant digits of the numbers shown; each cell holds the value itself as well (`data-value`)."""
    large_residual: float = 3.0
    """Weighted residual beyond which a row is counted as large: of a standard normal variable 0.27% are."""
    strong_correlation: float = 0.95
    """Correlation of two estimates from which on it is named: the data hardly tell them apart (NONMEM's users take
    the same limit)."""
    replicates: int = 500
    """Simulated data sets for visual predictive checks and npde: bands hardly change beyond."""


REPORT = ReportSettings()
