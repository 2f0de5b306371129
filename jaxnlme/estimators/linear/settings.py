"""Constants of linear mixed models."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class LinearSettings:
    """Constants of the profiled likelihood of linear mixed models and of its maximisation."""

    # A residual standard deviation below this fraction of the root mean square of y is rounding.
    least_residual: float = 1e3 * float(np.finfo(float).eps)
    # A search that does not converge, with sigma below this fraction of the standard deviation of y, fits exactly.
    vanishing_sigma: float = 1e-5
    # Smallest eigenvalue of scaled cross-products of columns, and smallest share of y'y that the fixed effects leave,
    # for which cross-products of the columns as they are keep 13 of 16 digits when they are transformed: with 12 the
    # log-likelihood of 400 rows whose residual variance is 1e-6 of y'y is wrong in its seventh decimal.
    clear_eigenvalue: float = 2e-3
    clear_residual: float = 5e-3
    # Columns of random effects are dependent where the part that the ones before do not explain is shorter than this,
    # relative to the column: that of fixed effects (R's lm) is ten times as large.
    dependent_effects: float = 1e-8
    # Up to so many columns cross-products are sums of scalar products.
    few_columns: int = 4
    # A level is stored with one slot for each unit of its largest parent, if that is at most this many times its units.
    most_padding: float = 3.0
    # Converged: a further step is predicted to gain less than this (log-likelihood units).
    tolerance: float = 1e-6
    # A second search from this fraction of the first start, where the cross-products have at most so many entries; its
    # end counts if -2 log L is lower by more than `better`.
    second_start: float = 0.1
    work_of_second_search: int = 20_000
    better: float = 1e-6
    # Starts beside the estimates without it for a model with a residual covariance: relative standard deviations.
    random_starts: tuple[float, ...] = (1.0, 0.1)
    # Newton steps predicted to gain less than this (log-likelihood units) are the last.
    newton_tolerance: float = 1e-7
    # The quasi-Newton search ends where no entry of the gradient of -2 log L is larger than this times the square root
    # of the number of rows: Newton steps do the rest.
    gradient_tolerance: float = 1e-4
    # The first Hessian of a search has this fraction of its largest diagonal entry added to its diagonal.
    least_hessian: float = 1e-3
    # The value of a point where the likelihood cannot be computed: larger than any -2 log L, and finite.
    not_finite: float = 1e300
    # Curvatures below this fraction of the largest one count as zero, and below minus this fraction as negative.
    least_curvature: float = 1e-10
    negative_curvature: float = 1e-6
    # First step along negative curvature, in theta (relative standard deviations).
    saddle_step: float = 0.1
    # Rounding of -2 log L, relative.
    rounding: float = 1e-13
    # The Hessian is computed again after the last step if that was predicted to gain more than this (log-likelihood
    # units): it moves the estimates by more than 1e-5 standard errors.
    negligible: float = 1e-10
    # Newton steps at most, and halvings of one.
    newton_steps: int = 20
    halvings: int = 12
    # Iterations of the quasi-Newton search at most.
    iterations: int = 200
    # A standard deviation (of an effect, or of a combination of effects) below this fraction of the residual one is
    # zero where the log-likelihood there is lower by at most `zero_gain`.
    zero_scale: float = 1e-3
    zero_gain: float = 1e-7
    # Cross-products by lag serve up to so many distances of time, and correlations of neighbours below the limit: at
    # 0.99 their differences lose four of sixteen digits.
    most_lags: int = 3
    largest_lagged: float = 0.99
    # Rounds at most of the alternation with a variance function of the fitted values, which ends when the variance
    # parameters move by less than this (standard errors).
    alternations: int = 100
    fixed_point: float = 1e-6
    # Crossed factors: most effects of the factors that are not eliminated first, if all are connected, and arrays of
    # their squared number (8 bytes an entry) at the largest use of memory.
    most_crossed_effects: int = 12_000
    crossed_copies: float = 4.0
    # Time of a product in scipy's sparse matrices relative to one in a dense product by BLAS.
    sparse_cost: float = 60.0
    # Up to this size numpy factors many blocks by one call faster than one after the other.
    small_block: int = 48
    # Halves of a large matrix are halved down to this size: OpenBLAS factors fewer than 64 columns by one thread.
    base_block: int = 63
    # Columns of an inverse that are computed by one product.
    panel: int = 512


LINEAR = LinearSettings()
