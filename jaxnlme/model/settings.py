"""Tuning constants and default starting values of models.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ModelSettings:
    """Covariance structures (`covariance/`), transforms (`transforms.py`), and starting values that a model does not
    declare (`parameters.py`, `residual_error/families.py`)."""

    least_eigenvalue: float = 1e-12
    """Smallest eigenvalue of psi that `LogMatrix.from_matrix` does not raise, as a fraction of the largest: the matrix
    logarithm has no singular psi."""
    correlation_margin: float = 1e-6
    """Least distance of the correlation of `CompoundSymmetry` from the ends of its interval, as a fraction of the
    length of the interval: the logit stays below 14."""
    largest_z: float = 9.0
    """Largest starting value of Fisher's z = atanh(r) in `PairFirst`, for correlations of one: r = 1 - 3e-8."""
    pattern_range: tuple[float, float] = (0.3, 0.7)
    """Ends of the arbitrary, different values of theta at which the zero entries of a factor are looked up."""
    held_step: float = 0.1
    """Change of an entry of theta by which it is found out which elements of psi depend on it."""
    held_tolerance: float = 1e-9
    """Difference up to which two values of an element of psi count as equal: far above rounding, far below what
    `held_step` changes."""
    held_rounding: float = 1e-14
    """Accuracy of an entry of theta at which an element of psi has the value to hold."""
    held_reach: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    """Sizes of that entry between which it is searched for, one after the other: up to an SD of e^32."""

    flow_range: float = 1.5
    """Centres of the steps of a flow at the start, from minus to plus this many SDs of z: 87% of the distribution."""
    flow_start: float = 0.01
    """Height of the steps of a flow at the start, in SDs of z: close to Gaussian, with a gradient."""
    flow_nodes: int = 97
    """Equidistant nodes of the trapezoidal rule for mean and variance of the flow of one effect, which is exact to 1e-8
    for a steepness up to 5, to 4e-4 for one of 10 (Gauss-Hermite nodes are farther apart, 48 of them exact to 1e-4 for
    one of 2)."""
    flow_reach: float = 6.0
    """The nodes reach to this many SDs of z on either side; beyond is a probability of 2e-9."""
    joint_flow_nodes: int = 12
    """Nodes for each effect, for the moments of a flow of all effects together."""
    most_flow_effects: int = 3
    """Largest number of effects of such a flow: 1,728 points for three."""

    series_below: float = 1e-5
    """Absolute shape of a Box-Cox or Yeo-Johnson transform below which a power series around shape zero is used; its
    first omitted term is then of the order of rounding."""

    sd_start: float = 0.5
    """Standard deviation of a random effect on a transformed scale; on the log scale about 50% of the typical value."""
    relative_sd_start: float = 0.3
    """Standard deviation of a random effect on the natural scale, as a fraction of the starting typical value."""
    sd_start_at_zero: float = 1.0
    """The same where the typical value starts at zero, in the unit of the parameter, before `fit` has seen the data."""
    sd_start_range: tuple[float, float] = (0.1, 10.0)
    """Range of the default on the natural scale, as fractions of the standard deviation whose random effect would
    explain the residuals at the start; where the typical value starts at zero, that standard deviation itself."""
    proportional_error_start: float = 0.2
    """Proportional part b of a residual error, a coefficient of variation of 20%. `fit` multiplies the scales of a
    residual error that the user does not give by the size of the residuals at the start."""
    error_start: float = 1.0
    """Other scales of a residual error, with the same note."""
    start_correlation: float = 0.2
    """Correlation of neighbouring residuals at the start, at the median distance of the data; nlme's choice for a
    continuous time."""
    rho_lags: tuple[float, float] = (0.02, 1e6)
    """Median distances of neighbouring responses, in units of time, for which the correlation rho at a distance of one
    is reported: any correlation of neighbours between `bound_correlation` and one less that is then neither below the
    smallest number nor within 1e-11 of one."""
    start_nugget: float = 0.1
    """Nugget of a residual correlation at the start; nlme's choice."""
    kernel_tolerance: float = 1e-8
    """Relative difference up to which a correlation function of the user is one at distance zero."""
    kernel_times: int = 1_000
    """Most times of a series, and most different times, at which such a function is checked."""
    kernel_series: int = 50
    """Most series whose matrices are checked: the largest ones that differ."""
    most_lags: int = 100_000
    """Largest distance of two positions of an ARMA correlation, for each of which a number is computed."""
    bound_correlation: float = 1e-5
    """Correlation of neighbours below which residuals are said to be independent, and distance from one below which
    they are said to be equal: a series is then constant but for some thousandths of its standard deviation."""
    inner_correlations: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8)
    """Correlations of neighbours that are tried where residuals come out as independent: on the way there the
    likelihood becomes flat, whatever the data."""
    bound_change: float = 1e-3
    """Change of the log-likelihood on the way to the bound of a moving average below which it is said to be there."""
    inner_logits: tuple[float, ...] = (-4.0, -1.0, 1.0, 4.0)
    """Logits of partial autocorrelations that are tried where a moving average comes out at its bound, where the
    likelihood has no slope."""
    bound_logit: float = 12.0
    """Absolute logit of a correlation from which on it is said to be at its bound: 6e-6 of the interval away."""


MODEL = ModelSettings()
