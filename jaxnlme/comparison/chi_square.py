"""Distributions of the likelihood ratio statistic under the smaller model: chi-square, and mixtures of chi-squares."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.comparison.settings import RATIO


@dataclasses.dataclass(frozen=True)
class ChiSquareMixture:
    """A mixture of chi-square distributions: pairs (weight, degrees of freedom); chi-square of zero degrees of freedom
    is a point mass at zero."""

    components: tuple[tuple[float, int], ...]

    def tail(self, statistic: float) -> float:
        """The probability of a statistic at least as large."""
        from scipy.stats import chi2

        total = 0.0
        for weight, df in self.components:
            total += weight * (float(statistic <= RATIO.zero_statistic) if df == 0 else float(chi2.sf(statistic, df)))
        return total

    def quantile(self, probability: float) -> float:
        """The value that the statistic exceeds with probability 1 - `probability`."""
        from scipy.optimize import brentq

        if 1.0 - self.tail(2.0 * RATIO.zero_statistic) >= probability:
            return 0.0
        high = 1.0
        while self.tail(high) > 1.0 - probability:
            high *= 2.0
        root: Any = brentq(lambda x: self.tail(x) - (1.0 - probability), 2.0 * RATIO.zero_statistic, high)
        return float(root)

    def __str__(self) -> str:
        if len(self.components) == 1:
            return f"chi2({self.components[0][1]})"
        return " + ".join(f"{weight:g} chi2({df})" for weight, df in self.components)


def chi_square(df: int) -> ChiSquareMixture:
    """The chi-square distribution, for parameters inside their range."""
    return ChiSquareMixture(((1.0, df),))


def one_variance_mixture(df: int) -> ChiSquareMixture:
    """0.5 chi2(df - 1) + 0.5 chi2(df): one of `df` added parameters is a variance that is zero under the smaller model,
    the others (its covariances, coefficients, ...) are inside their range.

    **Source:** Self and Liang (1987), Journal of the American Statistical Association 82, 605-610, case 6; Stram and
    Lee (1994), Biometrics 50, 1171-1177, case 2.
    """
    return ChiSquareMixture(((0.5, df - 1), (0.5, df)))


def bootstrap_p(statistic: float, replicates: np.ndarray) -> tuple[float, float]:
    """The p value (1 + replicates at least as large) / (1 + number of replicates), and its Monte Carlo standard error.

    **Source:** Davison and Hinkley (1997), Bootstrap Methods and their Application, section 4.2.
    """
    values = np.asarray(replicates, float)
    p = (1.0 + float(np.sum(values >= statistic - RATIO.zero_statistic))) / (1.0 + len(values))
    return p, float(np.sqrt(p * (1.0 - p) / len(values)))
