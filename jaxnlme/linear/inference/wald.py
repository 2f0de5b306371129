"""t and F tests of linear combinations of fixed effects by a method of degrees of freedom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jaxnlme.linear.inference.degrees_of_freedom import DegreesOfFreedom, degrees_of_freedom, uncorrelated

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


def coefficients(fit: LinearFit, df: str | None, level: float) -> pd.DataFrame:
    """The table of `LinearFit.coefficients`."""
    method = degrees_of_freedom(fit, df)
    beta = fit.outcome.beta
    numbers = [method.of_column(k) for k in range(len(beta))]
    return t_table(fit.model.fixed.names, beta, np.sqrt(np.diag(method.covariance)), np.array(numbers), level)


def contrast_table(
    method: DegreesOfFreedom, rows: np.ndarray, estimates: np.ndarray, names: Sequence[str], level: float
) -> pd.DataFrame:
    """The table of t tests of `rows` (combinations, fixed), whose `estimates` are given."""
    se = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, method.covariance, rows), 0.0))
    return t_table(names, estimates, se, np.array([method.of_contrast(row) for row in rows]), level)


def t_table(names: Sequence[str], estimates: np.ndarray, se: np.ndarray, df: np.ndarray, level: float) -> pd.DataFrame:
    """Estimates, standard errors, degrees of freedom, t, two-sided p values and limits at `level`. Where the degrees of
    freedom are not positive, t has no distribution: NaN."""
    import scipy.stats

    df = np.where(df > 0, df, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = estimates / se
    half = scipy.stats.t.ppf(0.5 + level / 2.0, df) * se
    columns = {
        "estimate": estimates,
        "se": se,
        "df": df,
        "t": t,
        "p": 2.0 * scipy.stats.t.sf(np.abs(t), df),
        "lower": estimates - half,
        "upper": estimates + half,
    }
    return pd.DataFrame(columns, index=pd.Index(list(names)))


def f_test(method: DegreesOfFreedom, rows: np.ndarray, estimates: np.ndarray, term: str | None = None) -> pd.Series:
    """The F test that all `rows` (hypotheses, fixed) times beta are zero, `estimates` their values.

    **Arguments:** `term`: the label of the term that the hypotheses are of, None for others.
    **Returns:** numerator and denominator degrees of freedom, F and p.
    """
    import scipy.stats

    combined, scores, variances = uncorrelated(rows, estimates, method.covariance)
    rank = len(variances)
    if not rank:
        return pd.Series({"num_df": 0.0, "den_df": np.nan, "F": np.nan, "p": np.nan})
    wald = float(np.sum(scores**2 / variances)) / rank
    scale, df = method.of_joint(combined) if term is None else method.of_term(term, combined)
    F = scale * wald
    p = float(scipy.stats.f.sf(F, rank, df)) if np.isfinite(df) else float(scipy.stats.chi2.sf(rank * F, rank))
    return pd.Series({"num_df": float(rank), "den_df": df, "F": F, "p": p if df > 0 else np.nan})
