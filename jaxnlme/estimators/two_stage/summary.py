"""Summary of fits of single groups: the variation of each parameter between groups."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.errors import some
from jaxnlme.estimators.two_stage.settings import STATUS
from jaxnlme.results.display import Printable, Table, number

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.estimators.two_stage.group_fits import GroupFits


class GroupSummary(Printable):
    """Variation of each parameter between groups (of weight other than zero), compared with the error of its estimates.

    `table`, a row per parameter: `mean` and `sd` of the estimates on the transformed scale; their mean standard error
    `mean se`; `ratio` = sd / mean se; `overlap%`, the percentage of pairs of groups whose intervals at `level` overlap;
    `p`, the p-value of the hypothesis that the parameter is the same in all groups, from Cochran's sum of squares
    weighted by precision, with the residual SD pooled (F distribution; chi-squared without Gaussian moments).

    **Arguments:** `fits`; `level` of the intervals.

    **Source:** Cochran (1954), Biometrics 10, 101-129.
    """

    def __init__(self, fits: GroupFits, level: float = 0.95):
        self.fits, self.level = fits, level
        self._intervals = fits.intervals(level)

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """One row per parameter: `mean`, `sd`, `mean se`, `ratio`, `overlap%`, `p`."""
        import pandas as pd

        fits = self.fits
        use = fits.contributing
        estimates = fits.group_params[use]
        se = fits.standard_errors.to_numpy()[use]
        pooled = np.sqrt(np.einsum("ikk->ik", fits.covariances(pooled=fits.binding.density.error.is_gaussian)[use]))
        limits = self._intervals[["lower", "upper"]].to_numpy().reshape(len(use), -1, 2)[use]
        sd = np.std(estimates, axis=0, ddof=1) if len(estimates) > 1 else np.full(estimates.shape[1], np.nan)
        mean = estimates.mean(axis=0) if len(estimates) else sd
        mean_se = se.mean(axis=0) if len(estimates) else sd
        return pd.DataFrame(
            {
                "mean": mean,
                "sd": sd,
                "mean se": mean_se,
                "ratio": sd / mean_se,
                "overlap%": [100.0 * overlap(*limits[:, k].T) for k in range(estimates.shape[1])],
                "p": [self._p_value(estimates[:, k], pooled[:, k]) for k in range(estimates.shape[1])],
            },
            index=pd.Index(fits.single_group.names, name="parameter"),
        )

    def _p_value(self, estimates: np.ndarray, se: np.ndarray) -> float:
        """p-value of Cochran's test that `estimates` (groups,) with standard errors `se` (groups,) have one mean."""
        from scipy.stats import chi2, f

        m = len(estimates)
        if m < 2:
            return np.nan
        weight = 1.0 / se**2
        q = float(np.sum(weight * (estimates - np.sum(weight * estimates) / np.sum(weight)) ** 2))
        if not self.fits.binding.density.error.is_gaussian:
            return float(chi2.sf(q, m - 1))
        return float(f.sf(q / (m - 1), m - 1, float(self.fits.df[self.fits.contributing].sum())))

    @property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The sentences of the fits, then the parameters that vary between groups and those that do not."""
        p = self.table["p"]
        varying = [str(name) for name in p.index if p[name] < STATUS.significance]
        constant = [str(name) for name in p.index if not p[name] < STATUS.significance]
        conclusions = []
        if p.isna().all():
            conclusions.append("Fewer than two groups were fitted: the variation between groups cannot be assessed.")
        else:
            if varying:
                single = len(varying) == 1
                conclusions.append(
                    f"{some(varying, 8)} {'varies' if single else 'vary'} more between groups than the error of the "
                    f"estimates explains: {'a candidate' if single else 'candidates'} for random effects."
                )
            if constant:
                single = len(constant) == 1
                conclusions.append(
                    f"{some(constant, 8)} {'does' if single else 'do'} not: one value for all groups may suffice."
                    if varying
                    else f"No parameter ({some(constant, 8)}) varies more between groups than the error of the "
                    "estimates explains."
                )
        return (*self.fits.sentences, *conclusions)

    def _tables(self) -> list[Table]:
        rows = [
            [str(name), *(number(row[c]) for c in ("mean", "sd", "mean se")), number(row["ratio"], 3),
             number(row["overlap%"], 3), number(row["p"], 2)]
            for name, row in self.table.iterrows()
        ]  # fmt: skip
        header = ("", "mean", "sd between", "mean se", "ratio", "overlap%", "p (equal)")
        title = (
            f"Variation between groups, on the transformed scale; overlap of pairs of {100 * self.level:g}% intervals"
        )
        return [Table(title, header, rows)]


def overlap(lower: np.ndarray, upper: np.ndarray) -> float:
    """Fraction of the pairs of intervals [lower, upper] (groups,) that have a point in common; NaN for fewer than
    two."""
    m = len(lower)
    if m < 2:
        return np.nan
    # Two intervals are disjoint where one ends before the other begins, which counts each such pair once.
    disjoint = int(np.searchsorted(np.sort(upper), np.sort(lower), side="left").sum())
    return 1.0 - disjoint / (m * (m - 1) / 2)
