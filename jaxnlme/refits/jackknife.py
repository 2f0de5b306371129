"""The jackknife: a fit without each of its groups, for bias, standard errors and the influence of each group."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError
from jaxnlme.refits.identifiability import identifiable
from jaxnlme.refits.jobs import failures, outcome_sentences, reached_maximum
from jaxnlme.refits.refits import Refits, named_options, natural_se, packed
from jaxnlme.refits.replicate_table import ReplicateTable
from jaxnlme.results.display import Table, number
from jaxnlme.results.record import Fit

if TYPE_CHECKING:
    import pandas as pd

# Groups shown on a page.
SHOWN = 10


@named_options
def jackknife(
    fit: Fit, *, max_iterations: int = 100, width: int | None = None, progress: bool | None = None
) -> Jackknife:
    """Fits without one group at a time, all in one compiled program: the group's weight is zero, no data are copied.

    **Arguments:** `max_iterations` of a refit; `width`: how many run side by side, None chooses by memory; `progress`
    as in `fit`. Groups of weight zero are not deleted.

    Refits run on the default device with all groups at once: the fit's `devices` and `chunk_groups` are not theirs.
    **Returns:** a Jackknife.
    **Errors:** FitError where the fit did not converge; OptionError for fewer than three groups.
    **Source:** Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 11; case deletion: Cook (1977),
    Technometrics 19, 15-18; Cook (1986), JRSS B 48, 133-169.
    """
    refits = Refits(fit, "a jackknife", max_iterations, width)
    weights = np.asarray(refits.problem.weights, float)
    counts = np.flatnonzero(weights != 0)
    if len(counts) < 3:
        raise OptionError(f"a jackknife needs at least three groups; this fit has {len(counts)}.")

    def own(indices: np.ndarray) -> Problem:
        without = np.tile(weights, (len(indices), 1))
        without[np.arange(len(indices)), counts[indices]] = 0.0
        return refits.own(lambda p: p.weights, without)

    starts = np.tile(refits.x, (len(counts), 1))
    out = refits.run(own, starts, metrics=refits.metrics, progress=progress, name="jackknife")
    out = dataclasses.replace(out, identifiable=identifiable(refits, own, len(counts)))
    return _record(refits, out, counts)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Jackknife(ReplicateTable):
    """What deleting groups changes. Values are on the scale of `fit.values`.

    **Fields:** `fit`; `deleted`, a row for each group left out, by label: the values by name (NaN where the refit
    failed), `log_likelihood` (without the group), `status`, `iterations`, `displacement` and `cook` as in `influence`;
    `sentences`.
    """

    fit: Fit
    deleted: pd.DataFrame
    sentences: tuple[str, ...]

    @property
    def _rows(self) -> pd.DataFrame:
        return self.deleted

    @property
    def bias(self) -> pd.Series:
        """(m - 1) (mean of the values without a group - estimate), m the number of groups; NaN where a refit failed."""
        values = self._complete()
        return ((len(values) - 1) * (values.mean() - self.estimates)).rename("bias")

    @property
    def se(self) -> pd.Series:
        """sqrt((m - 1) / m sum of (value without group i - their mean)^2); NaN where a refit failed."""
        values = self._complete()
        m = len(values)
        return np.sqrt((m - 1) / m * ((values - values.mean()) ** 2).sum(skipna=False)).rename("se")

    def _complete(self) -> pd.DataFrame:
        """The values without each group; all NaN where one is missing: every group counts in a jackknife."""
        values = self.deleted[self._moving]
        return values if bool(self.converged.all()) else values * np.nan

    @property
    def influence(self) -> pd.DataFrame:
        """How much each group matters, the most influential first.

        `displacement`: 2 (l(t) - l(t_i)), l the log-likelihood of all groups (with log prior, where there is one), t
        the estimates, t_i those without group i (NaN where the mode of a group was not found there, also of i); `cook`:
        (t - t_i)' I (t - t_i) / p, on the unconstrained scale with I the information and p its number of parameters (of
        a variance at zero it has none; NaN where one that it has is zero without the group); then for each value the
        change (without the group minus with it) in standard errors of the fit.
        """
        import pandas as pd

        se = natural_se(self.fit)[self._moving]
        change = (self.deleted[self._moving] - self.estimates) / se
        table = pd.concat([self.deleted[["displacement", "cook"]], change], axis=1)
        return table.sort_values("displacement", ascending=False, kind="stable")

    def _tables(self) -> list[Table]:
        bias, se = self.bias, self.se
        rows = [[n, number(self.fit.values[n]), number(bias[n]), number(se[n])] for n in self._moving]
        first = Table("Values on their natural scale", ("", "estimate", "bias", "se"), rows)
        names = [str(name) for name in self._moving]
        influence = self.influence.head(SHOWN)
        cells = [
            [str(label), *(number(row[name], 3) for name in ("displacement", "cook")), self._most(row, names)]
            for label, row in influence.iterrows()
        ]
        title = f"Most influential groups (of {len(self.deleted)}); largest change of a value in standard errors"
        return [first, Table(title, ("", "displacement", "Cook's D", "largest change"), cells)]

    @staticmethod
    def _most(row: pd.Series, names: list[str]) -> str:
        changes = np.array([row[name] for name in names], float)
        if not np.isfinite(changes).any():
            return ""
        k = int(np.nanargmax(np.abs(changes)))
        return f"{names[k]} {changes[k]:+.2f}"


def _record(refits: Refits, out: Any, counts: np.ndarray) -> Jackknife:
    import pandas as pd

    fit, table = refits.fit, refits.values(out)
    good = reached_maximum(out)
    table.index = pd.Index(fit.data.labels[counts], name=fit.data.group_name)
    table["log_likelihood"] = np.where(good, out.log_likelihood, np.nan)
    table["status"], table["iterations"] = outcome_sentences(out), out.iterations
    # The log prior at each end: the objective is minus (log-likelihood + log prior).
    common = out.common + (-out.value - out.log_likelihood)
    best = fit.log_likelihood + fit.log_prior
    table["displacement"] = np.where(good, 2.0 * (best - common), np.nan)
    table["cook"] = np.where(good, _cook(fit, refits, out.x), np.nan)
    ran, converged = int(out.done.sum()), int(good.sum())
    sentences = [f"Jackknife of a fit by {fit.method}: {converged} of {ran} fits without one group converged."]
    sentences += failures(table["status"], "fits") + refits.placement
    if converged < len(counts):
        sentences.append("Bias and standard errors need every group and are NaN.")
    return Jackknife(fit, table, tuple(sentences))


def _cook(fit: Fit, refits: Refits, x: np.ndarray) -> np.ndarray:
    """Cook's distance of each end x (jobs, n)."""
    info = fit.information
    if info is None or info.covariance is None:
        return np.full(len(x), np.nan)
    with np.errstate(invalid="ignore"):
        gap = x[:, info.active] - packed(fit.params)[info.active]
    finite = np.asarray(np.isfinite(gap).all(axis=1))
    gap = np.where(finite[:, None], gap, 0.0)
    return np.where(finite, np.einsum("ij,jk,ik->i", gap, info.matrix, gap) / len(info.active), np.nan)
