"""Screening of covariates by least squares, before models with them are fitted."""

from __future__ import annotations

import numpy as np


def regression_p_value(y: np.ndarray, columns: np.ndarray, intercept: bool = True) -> float:
    """The p value of `columns` (n, k) in a regression of y (n,) on them and, unless `intercept` is False, an intercept
    beside them; 1 where they are constant beside it.

    **Source:** the general linear hypothesis; Maitre, Buhrer, Thomson and Stanski (1991), Journal of Pharmacokinetics
    and Biopharmaceutics 19, 377-384, for regressions of individual estimates on covariates.
    """
    from scipy.stats import f as f_distribution

    centred = columns - columns.mean(axis=0) * intercept
    deviation = y - y.mean() * intercept
    rank = int(np.linalg.matrix_rank(centred))
    rest = len(y) - int(intercept) - rank
    if rank == 0 or rest <= 0:
        return 1.0
    fitted = centred @ np.linalg.lstsq(centred, deviation, rcond=None)[0]
    explained, residual = float(fitted @ fitted), float((deviation - fitted) @ (deviation - fitted))
    if residual <= np.finfo(float).eps * float(deviation @ deviation):
        return 0.0 if explained > 0 else 1.0
    return float(f_distribution.sf(explained / rank / (residual / rest), rank, rest))
