"""Tuning constants of the fits of single groups, one frozen dataclass for each stage.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SearchSettings:
    """The search of one group (`search.py`)."""

    tolerance: float = 1e-12
    """Predicted gain of a further step at which a search ends, in log-likelihood units: the estimates are then within
    about a millionth of a standard error of the maximum."""
    curvature_drop: float = 0.05
    """Relative decrease of the curvature over the last step above which a parameter is taken to diverge. Near a maximum
    a step of so little gain leaves the curvature as it was; on an exponential tail, where the likelihood increases all
    the way to infinity, the curvature falls by a factor e in every step."""
    rounding_sd: float = 1e-10
    """Residual SD, as a fraction of the spread of y, below which a residual is rounding error."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SharedErrorSettings:
    """The residual model that the groups share (`search.py`, `fit_groups.py`)."""

    max_rounds: int = 20
    """Most alternations of group fits and shared residual model."""
    max_change: float = 1e-5
    """Largest change of the error parameters (unconstrained scale) at which the alternation ends."""
    max_move: float = 10.0
    """Bound on the change of an error parameter from its start, on its unconstrained scale: a factor of 20,000."""
    same_scale: float = 1e-12
    """Relative error, of the size of rounding, within which the SD must double with its parameter to count as
    proportional to it."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PopulationSettings:
    """The two-stage estimate of the population, and the starting values from it (`population.py`)."""

    t_df: float = 4.0
    """Degrees of freedom of the multivariate t whose weights bound the influence of outlying groups in the first pass.

    **Source:** Lange, Little and Taylor (1989), Journal of the American Statistical Association 84, 881-896."""
    outlier_quantile: float = 0.999
    """Quantile of a group's squared distance from the population (chi-squared) above which the second pass excludes
    it."""
    sd_per_mad: float = 1.4826
    """Standard deviation of a normal distribution in units of its median absolute deviation, 1 / Phi^-1(3/4)."""
    min_outlier_scale: float = 1e-8
    """Smallest scale of the squared distances in the limit for outliers: groups that differ by rounding are none."""
    min_kept_fraction: float = 0.75
    """Fraction of the groups that must remain: more than a quarter of the groups are no outliers."""
    robust_steps: int = 40
    """EM iterations of the robust pass, at most; enough for starting values."""
    plain_steps: int = 200
    """EM iterations of the plain pass, at most; enough for starting values."""
    max_change: float = 1e-6
    """Largest change of the covariance (in units of the spread over groups) at which the EM iterations end."""
    rank_tolerance: float = 1e-12
    """Singular value of the normal equations, relative to the largest, at which a direction of beta is left out: the
    groups do not determine it."""
    max_groups: int = 2_000
    """Most groups that the EM iterations use; enough for starting values."""
    min_start_variance: float = 0.01
    """Smallest variance at the start of EM, as a fraction of the squared spread over groups: EM does not leave zero."""
    min_robust_scale: float = 0.1
    """Smallest factor by which the covariance of the robust pass is rescaled for the plain one, so that this pass does
    not start at zero."""
    least_sd_ratio: float = 0.3
    """A starting SD is at least this multiple of the standard error of a group's estimate: off the boundary of the
    parameter space."""
    max_correlation: float = 0.95
    """Factor of the starting correlations, which are at most so large: off the boundary of the parameter space."""
    least_sd: float = 1e-8
    """Smallest starting SD, in the unit of its effect, where every estimate is exact."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StatusCriteria:
    """Outcomes of single groups (`status.py`), and their variation (`summary.py`)."""

    singular_eigenvalue: float = 1e-12
    """Smallest eigenvalue of a curvature scaled to unit diagonal; below it the group has no information on the
    eigenvector."""
    least_coefficient: float = 0.1
    """Coefficients of that eigenvector (of length one) below this are not named in the sentence."""
    significance: float = 0.05
    """p-value below which a parameter is reported to vary between groups."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DisplaySettings:
    """The printed table (`group_fits.py`) and the plot of intervals (`plots.py`)."""

    rows: int = 12
    """Groups in the printed table."""
    max_groups: int = 60
    """Groups in the plot: more rows are not legible."""
    axis_reach: float = 3.0
    """Limits of an axis, in multiples of the central range of intervals: a group without information, whose interval is
    very wide, must not compress the others."""


SEARCH = SearchSettings()
SHARED_ERROR = SharedErrorSettings()
POPULATION = PopulationSettings()
STATUS = StatusCriteria()
DISPLAY = DisplaySettings()
