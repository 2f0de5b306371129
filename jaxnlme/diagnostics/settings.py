"""Tuning constants of diagnostics; the values are choices of this package. Sizes and colours of drawings are in the
code that draws."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DiagnosticSettings:
    """Residuals (`residuals.py`), prediction curves (`curves.py`) and pictures (`pictures/`)."""

    matrix_entries: int = 20_000_000
    """Entries of the covariance matrices (groups, obs, obs) of residuals that are in memory at a time."""

    same_prediction: float = 1e-6
    """Largest relative difference between predictions at the fitted rows with and without a grid between them, for the
    grid to be used."""
    same_zero: float = 1e-9
    """The same for predictions near zero, as a fraction of the largest prediction."""

    most_shapiro: int = 5000
    """Values up to which p values of Shapiro and Wilk's test are accurate (Royston 1995, Applied Statistics 44)."""
    high_shrinkage: float = 0.3
    """Shrinkage of modes above which tests of them are called into question (Savic and Karlsson 2009)."""
    least_informed: float = 0.05
    """Variance of a whitened mode, in a direction of the random effects, below which the data hardly inform it
    (shrinkage above 78%): such directions have no part in distances of groups."""

    most_panels: int = 24
    """Groups on a page of `individual_fits`."""
    most_rows: int = 60
    """Groups on a page of `individual_parameters` and `effect_intervals`."""
    trajectory_columns: int = 4
    """Most panels in a row of `trajectories`."""
    most_censored: float = 0.05
    """Largest share of censored rows with which the others have a smooth curve."""
    normal_quantile: float = 1.96
    """Lines in plots of weighted residuals: the central 95% of a standard normal distribution."""
    least_residual_limit: float = 2.2
    """Least limit of the axis of weighted residuals, beyond these lines (before a margin of a tenth)."""
    least_effect_limit: float = 3.2
    """Least limit of the axis of random effects, in standard deviations: all but 0.1% of a normal distribution."""
    density_points: int = 201
    """Points of a normal density curve."""
    histogram_from: int = 40
    """Groups from which on random effects are drawn as a histogram; fewer as dots."""
    quantiles: tuple[float, ...] = (0.025, 0.25, 0.75, 0.975)
    """Quantiles of conditional distributions: the central 95% and 50%."""


DIAGNOSTICS = DiagnosticSettings()
