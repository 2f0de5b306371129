"""Tests that npd or npde are standard normal, and their moments."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import stats

from jaxnlme.diagnostics.npde.settings import NPDE
from jaxnlme.diagnostics.settings import DIAGNOSTICS

WILCOXON, T, FISHER, SHAPIRO, GLOBAL = "Wilcoxon signed rank", "t", "Fisher variance", "Shapiro-Wilk", "global"


def distribution_tests(values: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Tests of a standard normal distribution.

    - Wilcoxon's signed rank test and the t test: the median and the mean are zero;
    - Fisher's test: the variance is one, (n - 1) s^2 against both tails of chi-square with n - 1 degrees of freedom;
    - Shapiro and Wilk's test: the distribution is normal;
    - global: the smallest adjusted p value of t, Fisher and Shapiro-Wilk.

    The adjustment is Bonferroni's for three tests (mean, variance, shape). The Wilcoxon test takes the place of the t
    test where values are far from normal, and is adjusted in the same way.

    **Arguments:** `values` (n,); those that are not finite are left out.
    **Returns:** by test the statistic (the sum of the positive ranks, t, chi-square, W; NaN for the global test), the p
    value and the adjusted one; NaN where there are too few values, or all are equal.
    **Source:** Brendel, Comets, Laffont and Mentre (2010), Journal of Pharmacokinetics and Pharmacodynamics 37, 49-65.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    n, nan = len(values), float("nan")
    found = dict.fromkeys((WILCOXON, T, FISHER, SHAPIRO), (nan, nan))
    if n >= 2 and np.ptp(values) > 0.0:
        found[WILCOXON] = _wilcoxon(values)
        t: Any = stats.ttest_1samp(values, 0.0)
        found[T] = float(t.statistic), float(t.pvalue)
        chi2 = (n - 1) * float(np.var(values, ddof=1))
        tail = min(stats.chi2.cdf(chi2, n - 1), stats.chi2.sf(chi2, n - 1))
        found[FISHER] = chi2, float(min(2.0 * tail, 1.0))
        if n >= 3:
            shapiro = stats.shapiro(shapiro_sample(values))
            found[SHAPIRO] = float(shapiro.statistic), float(shapiro.pvalue)
    adjusted = {name: min(3.0 * p, 1.0) if p == p else nan for name, (_, p) in found.items()}
    smallest = [adjusted[name] for name in (T, FISHER, SHAPIRO) if adjusted[name] == adjusted[name]]
    out = {name: (statistic, p, adjusted[name]) for name, (statistic, p) in found.items()}
    # The smallest of three p values has no p value of its own but the adjusted one.
    return out | {GLOBAL: (nan, nan, min(smallest, default=nan))}


def _wilcoxon(values: np.ndarray) -> tuple[float, float]:
    """Sum of the ranks of positive values, and p value: exact for fewer than 50 values without ties and zeros, of the
    normal approximation with continuity correction otherwise, as in R's wilcox.test."""
    values = values[values != 0.0]
    if not len(values):
        return float("nan"), float("nan")
    sizes = np.abs(values)
    exact = len(values) < NPDE.exact_wilcoxon and len(np.unique(sizes)) == len(sizes)
    with warnings.catch_warnings():  # a note that the sample is small for the approximation
        warnings.simplefilter("ignore", UserWarning)
        test: Any = stats.wilcoxon(values, correction=not exact, method="exact" if exact else "asymptotic")
    return float(stats.rankdata(sizes)[values > 0.0].sum()), float(test.pvalue)


def shapiro_sample(values: np.ndarray) -> np.ndarray:
    """The values, or 5,000 of them at random (by a fixed seed), the most for which the test's p value is known."""
    if len(values) <= DIAGNOSTICS.most_shapiro:
        return values
    return np.random.default_rng(0).permutation(values)[: DIAGNOSTICS.most_shapiro]


def moments(values: np.ndarray) -> dict[str, float]:
    """Number, mean, variance (divisor n - 1), skewness and excess kurtosis (moment ratios) of the finite values, each
    moment with its standard error.

    The standard errors are s / sqrt(n), s^2 sqrt(2 / (n - 1)), and those of moment ratios of a normal sample,
    sqrt(6 (n - 2) / ((n + 1) (n + 3))) and sqrt(24 n (n - 2) (n - 3) / ((n + 1)^2 (n + 3) (n + 5))).

    **Source:** Fisher (1930), Proceedings of the Royal Society A 130, 16-28, for the last two.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    n, nan = len(values), float("nan")
    spread = n >= 2 and bool(np.ptp(values) > 0.0)
    mean = float(np.mean(values)) if n else nan
    variance = float(np.var(values, ddof=1)) if n >= 2 else nan
    return {
        "n": n,
        "mean": mean,
        "se mean": float(np.sqrt(variance / n)) if n >= 2 else nan,
        "variance": variance,
        "se variance": variance * float(np.sqrt(2.0 / (n - 1))) if n >= 2 else nan,
        "skewness": float(stats.skew(values)) if spread else nan,
        "se skewness": float(np.sqrt(6.0 * (n - 2) / ((n + 1) * (n + 3)))) if n >= 3 else nan,
        "kurtosis": float(stats.kurtosis(values)) if spread else nan,
        "se kurtosis": float(np.sqrt(24.0 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))))
        if n >= 4
        else nan,
    }
