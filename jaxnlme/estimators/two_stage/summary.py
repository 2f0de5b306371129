"""Which parameters vary between groups: fits of single groups on a page."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.errors import some
from jaxnlme.results.display import Printable, Table, number

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.estimators.two_stage.group_fits import GroupFits

# Probability below which equal parameters are not believed.
UNLIKELY = 0.05


class GroupSummary(Printable):
    """The variation of each parameter between groups (of weight other than zero) against the error of its estimates.

    `table`, a row a parameter: `mean` and `sd` of the estimates on the transformed scale, their mean standard error
    `mean se`; `ratio` of the two; `overlap%`, the share of pairs of groups whose intervals at `level` overlap; `p`, the
    probability of such variation (or more) if the parameter were the same in all groups, by Cochran's sum of squares
    weighted by precision, with the residual SD pooled (F distribution; chi-squared without a Gaussian face).

    **Source:** Cochran (1954), Biometrics 10, 101-129.
    """

    def __init__(self, fits: GroupFits, level: float = 0.95):
        self.fits, self.level = fits, level
        self._intervals = fits.intervals(level)

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        import pandas as pd

        fits = self.fits
        use = fits.counted
        own = fits.own[use]
        se = fits.standard_errors.to_numpy()[use]
        pooled = np.sqrt(
            np.einsum("ikk->ik", fits.covariances(pooled=fits.binding.density.error.has_gaussian_moments)[use])
        )
        ends = self._intervals[["lower", "upper"]].to_numpy().reshape(len(use), -1, 2)[use]
        sd = np.std(own, axis=0, ddof=1) if len(own) > 1 else np.full(own.shape[1], np.nan)
        mean = own.mean(axis=0) if len(own) else sd
        mean_se = se.mean(axis=0) if len(own) else sd
        return pd.DataFrame(
            {
                "mean": mean,
                "sd": sd,
                "mean se": mean_se,
                "ratio": sd / mean_se,
                "overlap%": [100.0 * overlap(*ends[:, k].T) for k in range(own.shape[1])],
                "p": [self._equal(own[:, k], pooled[:, k]) for k in range(own.shape[1])],
            },
            index=pd.Index(fits.single_group.names, name="parameter"),
        )

    def _equal(self, own: np.ndarray, se: np.ndarray) -> float:
        """The probability of estimates (groups,) at least as different, were they of one value."""
        from scipy.stats import chi2, f

        m = len(own)
        if m < 2:
            return np.nan
        weight = 1.0 / se**2
        q = float(np.sum(weight * (own - np.sum(weight * own) / np.sum(weight)) ** 2))
        if not self.fits.binding.density.error.has_gaussian_moments:
            return float(chi2.sf(q, m - 1))
        return float(f.sf(q / (m - 1), m - 1, float(self.fits.df[self.fits.counted].sum())))

    @property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the table says, after how the fits went."""
        p = self.table["p"]
        varying = [str(name) for name in p.index if p[name] < UNLIKELY]
        steady = [str(name) for name in p.index if not p[name] < UNLIKELY]
        said = []
        if p.isna().all():
            said.append("Fewer than two groups were fitted: nothing can be said of variation between groups.")
        else:
            if varying:
                one = len(varying) == 1
                said.append(
                    f"{some(varying, 8)} {'varies' if one else 'vary'} more between groups than the error of the "
                    f"estimates explains: {'a candidate' if one else 'candidates'} for random effects."
                )
            if steady:
                one = len(steady) == 1
                said.append(
                    f"{some(steady, 8)} {'does' if one else 'do'} not: one value for all groups may do."
                    if varying
                    else f"No parameter ({some(steady, 8)}) varies more between groups than the error of the estimates "
                    "explains."
                )
        return (*self.fits.sentences, *said)

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
    """The share of pairs of intervals [lower, upper] (groups,) that have a point in common; NaN for fewer than two."""
    m = len(lower)
    if m < 2:
        return np.nan
    # A pair is apart where one ends before the other begins, which is counted once.
    apart = int(np.searchsorted(np.sort(upper), np.sort(lower), side="left").sum())
    return 1.0 - apart / (m * (m - 1) / 2)
