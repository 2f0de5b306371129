"""Tests of columns of numbers: location, normality, variance, association with covariates, and adjusted p values.

Functions of arrays; each returns rows of a table as dictionaries. A test that is not defined for the values (too few,
or all equal) has a statistic and p value of NaN.

**Source:** Shapiro and Wilk (1965), Biometrika 52, 591-611; D'Agostino and Pearson (1973), Biometrika 60, 613-622;
Kruskal and Wallis (1952), Journal of the American Statistical Association 47, 583-621; Holm (1979), Scandinavian
Journal of Statistics 6, 65-70; Benjamini and Hochberg (1995), Journal of the Royal Statistical Society B 57, 289-300.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.diagnostics.settings import DIAGNOSTICS

ADJUSTMENTS = ("holm", "bh", "bonferroni", "none")
NAN = float("nan")
PARAMETRIC, RANKS = ("pearson", "anova"), ("spearman", "kruskal")


def normality_tests(values: np.ndarray, variance: float | None = None) -> list[dict[str, Any]]:
    """Tests of `values` (n,) that their mean is zero (t test), that they are normal (Shapiro-Wilk, or above
    `DIAGNOSTICS.most_shapiro` values, for which its p values are not accurate, D'Agostino and Pearson's K^2), and,
    where it is known, that their variance is `variance` (chi-square, two-sided).

    **Returns:** a dictionary for each test: test, n, estimate (mean, skewness, variance), statistic, p.
    """
    from scipy import stats

    values = values[np.isfinite(values)]
    n = len(values)
    varies = n > 2 and np.ptp(values) > 0
    mean = float(np.mean(values)) if n else NAN
    t = mean / (np.std(values, ddof=1) / math.sqrt(n)) if varies else NAN
    rows = [{"test": "mean zero (t)", "n": n, "estimate": mean, "statistic": float(t)}]
    rows[0]["p"] = float(2.0 * stats.t.sf(abs(t), n - 1)) if varies else NAN
    name = "normal (Shapiro-Wilk)" if n <= DIAGNOSTICS.most_shapiro else "normal (D'Agostino-Pearson)"
    statistic = p = skewness = NAN
    if varies:
        statistic, p = stats.shapiro(values) if n <= DIAGNOSTICS.most_shapiro else stats.normaltest(values)
        skewness = float(stats.skew(values))
    rows.append({"test": name, "n": n, "estimate": skewness, "statistic": float(statistic), "p": float(p)})
    if variance is not None:
        estimate = float(np.var(values, ddof=1)) if n > 1 else NAN
        ratio = (n - 1) * estimate / variance if variance > 0 else NAN
        p = 2.0 * min(stats.chi2.cdf(ratio, n - 1), stats.chi2.sf(ratio, n - 1)) if math.isfinite(ratio) else NAN
        name = "variance one (chi-square)" if variance == 1.0 else "variance psi (chi-square)"
        rows.append({"test": name, "n": n, "estimate": estimate, "statistic": ratio, "p": float(p)})
    return rows


def numeric_tests(values: np.ndarray, covariate: np.ndarray) -> list[dict[str, Any]]:
    """Correlations of `values` (n,) with a numeric `covariate` (n,), Pearson's and Spearman's, over the rows that have
    both.

    **Returns:** a dictionary for each: test, n, estimate (the correlation), statistic (its t), df, p.
    """
    from scipy import stats

    both = np.isfinite(values) & np.isfinite(covariate)
    x, y = covariate[both], values[both]
    n = len(x)
    out = []
    for name, test in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        defined = n > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
        r, p = map(float, test(x, y)) if defined else (NAN, NAN)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = float(r * np.sqrt((n - 2) / np.maximum(1.0 - r**2, 0.0))) if defined else NAN
        out.append({"test": name, "n": n, "estimate": r, "statistic": t, "df": float(max(n - 2, 0)), "p": p})
    return out


def categorical_tests(values: np.ndarray, covariate: np.ndarray) -> list[dict[str, Any]]:
    """Analysis of variance and Kruskal-Wallis test of `values` (n,) between the categories of `covariate` (n,), None or
    NaN where missing.

    **Returns:** a dictionary for each: test, n, estimate (the share of the variance, of ranks for Kruskal-Wallis,
    between categories), statistic (F, H), df (of the categories), p.
    """
    import pandas as pd
    from scipy import stats

    codes, categories = pd.factorize(np.asarray(covariate, object))
    known = np.isfinite(values) & (codes >= 0)
    parts = [values[known & (codes == k)] for k in range(len(categories))]
    parts = [part for part in parts if len(part)]
    y = np.concatenate(parts) if parts else np.zeros(0)
    n, k = len(y), len(parts)
    defined = k > 1 and n > k and np.ptp(y) > 0
    f = p_f = h = p_h = share = share_of_ranks = NAN
    if defined:
        between = sum(len(part) * (part.mean() - y.mean()) ** 2 for part in parts)
        share = float(between / np.sum((y - y.mean()) ** 2))
        with np.errstate(divide="ignore"):
            f = float(np.float64(share) / (k - 1) / ((1.0 - share) / (n - k)))
        p_f = float(stats.f.sf(f, k - 1, n - k))
        h, p_h = map(float, stats.kruskal(*parts))
        share_of_ranks = h / (n - 1)
    first = {"test": "anova", "n": n, "estimate": share, "statistic": f, "df": float(k - 1), "p": p_f}
    return [first, {**first, "test": "kruskal", "estimate": share_of_ranks, "statistic": h, "p": p_h}]


def adjusted(p: Sequence[float] | np.ndarray, method: str) -> np.ndarray:
    """P values (n,) adjusted for their number; NaN stays NaN and does not count.

    **Arguments:** `method`: "holm" or "bonferroni" (probability of any false rejection), "bh" (share of false ones),
    "none".
    """
    p = np.asarray(p, float)
    out, known = np.full(len(p), NAN), np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    n, ordered = len(order), p[order]
    if method == "holm":
        out[order] = np.minimum(np.maximum.accumulate((n - np.arange(n)) * ordered), 1.0)
    elif method == "bonferroni":
        out[order] = np.minimum(n * ordered, 1.0)
    elif method == "bh":
        scaled = n / np.arange(1, n + 1) * ordered
        out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    else:
        out[order] = ordered
    return out


def outlier_p(values: np.ndarray) -> np.ndarray:
    """Two-sided p values (n,) of each of `values` (n,), mean zero and normal with an unknown variance, by Thompson's
    distribution of a residual over the standard deviation that it contributed to: t with n - 1 degrees of freedom.

    **Source:** Thompson (1935), Annals of Mathematical Statistics 6, 214-219, with the mean known to be zero.
    """
    from scipy import stats

    known = np.isfinite(values)
    n, out = int(known.sum()), np.full(len(values), NAN)
    squares = values[known] ** 2
    rest = squares.sum() - squares
    if n > 2:
        with np.errstate(divide="ignore", invalid="ignore"):
            out[known] = 2.0 * stats.t.sf(np.sqrt(squares * (n - 1) / rest), n - 1)
    return out
