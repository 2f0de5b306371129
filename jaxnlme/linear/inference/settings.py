"""Constants of inference on linear mixed models."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class InferenceSettings:
    """Constants of degrees of freedom, contrasts, means and residual correlations."""

    # Random effects of dependent rows that Kenward and Roger's method takes at once: matrices of so many rows and
    # columns, a handful of them, 72 MB each.
    most_effects: int = 3000
    # Entries of the cross-products of blocks that are computed together (32 MB).
    block_entries: int = 4_000_000
    # Eigenvalues of the covariance of contrasts below this fraction of the largest one are zero, as in lmerTest.
    rank_tolerance: float = float(np.sqrt(np.finfo(float).eps))
    # Denominator degrees of freedom of orthogonal contrasts that differ by less are one value.
    equal_df: float = 1e-8
    # Kenward and Roger's factor of F, as pbkrtest: terms of rho below the first are zero, and within the second of two
    # degrees of freedom F has no expectation and is not scaled.
    zero_of_rho: float = 1e-10
    near_two: float = 1e-2
    # Degrees of freedom beyond which the studentized range is that of infinitely many.
    large_df: float = 1e5
    # A column whose range within every unit is below this fraction of its largest value is constant within them.
    constant: float = 1e-10
    # Coefficients of a contrast below this fraction of its largest one are zero.
    least_coefficient: float = 1e-8
    # Rows of a reference grid at most.
    most_grid_rows: int = 100_000
    # Pairs of rows within units of a variogram at most: 16 bytes each, and as much again while they are sorted.
    most_pairs: int = 20_000_000
    # Rows of numeric covariates at which contrasts of type III are first formed.
    numeric_rows: int = 8


INFERENCE = InferenceSettings()
