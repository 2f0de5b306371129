"""Constants of generalised linear mixed models, each with its unit and reason."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class GlmmSettings:
    """Constants of the start, of the search for separation, and of densities."""

    # Of exp(eta): the largest exponent whose exponential is finite in float64.
    largest_exponent: float = 700.0
    # Size of the negative binomial above which lgamma(y + size) - lgamma(size) is taken from Stirling's series, whose
    # first omitted term is below 1e-18 there; the difference of two lgamma loses 7 digits at 1e6.
    stirling_from: float = 1000.0
    # Steps of iteratively reweighted least squares, halvings of a step, and the relative change of the deviance at
    # which they end: a start needs no more digits.
    irls_steps: int = 30
    irls_halvings: int = 12
    irls_tolerance: float = 1e-8
    # A mean closer to its bound (as a fraction, or in counts) in the model without random effects calls for the search
    # for separation: eight standard units on the logit scale.
    suspect_mean: float = 3e-4
    # Rows in the linear program, the distinct ones; more are not searched.
    most_separation_rows: int = 20000
    # Entries of a direction, relative to the largest and with columns scaled to one, that count as zero.
    separation_zero: float = 1e-6
    # The least starting variance of a random effect as a fraction of the sampling variance of the estimates by unit:
    # below it the data would hardly distinguish it from zero, and a start at zero is a bad one.
    least_variance_fraction: float = 0.1
    # Bounds of the starting values of a size (negative binomial) and of a shape (gamma).
    dispersion_bounds: tuple[float, float] = (0.05, 1e3)
    # A size of the negative binomial, in mean counts, above which its variance is that of a Poisson distribution to one
    # part in ten thousand.
    poisson_size: float = 1e4
    # Whole numbers: the largest distance from one, relative, so that sums of decimals pass.
    whole: float = 1e-9


GLMM = GlmmSettings()
