"""Jackknife: refits without each group, for bias, standard errors and the influence of groups."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_progress
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError
from jaxnlme.refits.identifiability import identifiable
from jaxnlme.refits.jobs import failures, outcome_sentences, reached_maximum
from jaxnlme.refits.refits import Refits, check_option_names, natural_se, pack_on_host
from jaxnlme.refits.replicate_table import AbstractReplicateTable
from jaxnlme.refits.settings import BOOTSTRAP
from jaxnlme.results.display import Table, number
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@check_option_names
@public("fit.jackknife")
def jackknife(
    fit: FitRecord, *, max_iterations: int = 100, width: int | None = None, progress: bool | None = None
) -> Jackknife:
    """Refit a model without each of its groups, all in one compiled program: the weight of the group is set to zero, no
    data are copied.

    **Arguments:** `max_iterations` of a refit; `width`: the number of refits at a time, chosen by memory where
    None; `progress` as in `fit`. Groups of weight zero are not deleted.

    Refits run on the default device with all groups at once, whatever `devices` and `chunk_groups` the fit used.
    **Returns:** a Jackknife.
    **Raises:** FitError where the fit did not converge; OptionError for fewer than three groups.
    **Source:** Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 11; case deletion: Cook (1977),
    Technometrics 19, 15-18; Cook (1986), JRSS B 48, 133-169.
    """
    progress = check_progress(progress)
    refits = Refits(fit, "a jackknife", max_iterations, width)
    weights = np.asarray(refits.problem.weights, float)
    deleted = np.flatnonzero(weights != 0)
    if len(deleted) < 3:
        raise OptionError(f"a jackknife needs at least three groups; this fit has {len(deleted)}.")

    def overlay(indices: np.ndarray) -> Problem:
        without = np.tile(weights, (len(indices), 1))
        without[np.arange(len(indices)), deleted[indices]] = 0.0
        return refits.overlay(lambda p: p.weights, without)

    starts = np.tile(refits.x, (len(deleted), 1))
    out = refits.run(overlay, starts, inverse_hessians=refits.inverse_hessians, progress=progress, name="jackknife")
    out = dataclasses.replace(out, identifiable=identifiable(refits, overlay, len(deleted)))
    return _record(refits, out, deleted)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Jackknife(AbstractReplicateTable):
    """Values without each group, and the statistics that follow from them. Values are on the scale of `fit.values`.

    **Fields:** `fit`; `deleted`, a row for each deleted group, by label: the values by name (NaN where the refit
    failed), `log_likelihood` (without the group), `status`, `iterations`, `displacement` and `cook` as in `influence`;
    `sentences`.
    """

    fit: FitRecord
    deleted: pd.DataFrame
    sentences: tuple[str, ...]

    @property
    def _refit_table(self) -> pd.DataFrame:
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
        """The values without each group; all NaN where one refit failed, since a jackknife needs every group."""
        values = self.deleted[self._free_names]
        return values if bool(self.converged.all()) else values * np.nan

    @property
    def influence(self) -> pd.DataFrame:
        """Influence of each group, the most influential first.

        With t the estimates, t_i those without group i, l the log-likelihood of all groups (plus log prior, where there
        is one):

        - `displacement` = 2 (l(t) - l(t_i)); NaN where the mode of a group (i included) was not found at t_i.
        - `cook` = (t - t_i)' I (t - t_i) / p on the unconstrained scale, with I the information and p its number of
          parameters, without variances that are zero at t; NaN where another variance is zero at t_i.
        - for each value its change, without the group minus with it, in standard errors of the fit.
        """
        import pandas as pd

        se = natural_se(self.fit)[self._free_names]
        change = (self.deleted[self._free_names] - self.estimates) / se
        table = pd.concat([self.deleted[["displacement", "cook"]], change], axis=1)
        return table.sort_values("displacement", ascending=False, kind="stable")

    @public("jackknife.plot")
    def plot(self, most: int = 20, ax: Any = None) -> Any:
        """The most influential groups: likelihood displacement, Cook's distance and changes of the values.

        **Arguments:** `most`: groups drawn; `ax`: three axes, created where None.
        **Returns:** the axes (3,).
        **Raises:** OptionError for more groups than are legible, and another number of axes.
        """
        from jaxnlme.diagnostics.pictures.refit_records import draw_influence

        return draw_influence(self, most, ax)

    def _tables(self) -> list[Table]:
        bias, se = self.bias, self.se
        rows = [[n, number(self.fit.values[n]), number(se[n]), number(bias[n])] for n in self._free_names]
        first = Table("Values on their natural scale", ("", "estimate", "se", "bias"), rows)
        names = [str(name) for name in self._free_names]
        influence = self.influence.head(BOOTSTRAP.influence_rows)
        cells = [
            [str(label), *(number(row[name], 3) for name in ("displacement", "cook")), self._largest_change(row, names)]
            for label, row in influence.iterrows()
        ]
        title = f"Most influential groups (of {len(self.deleted)}); largest change of a value in standard errors"
        return [first, Table(title, ("", "displacement", "Cook's D", "largest change"), cells)]

    @staticmethod
    def _largest_change(row: pd.Series, names: list[str]) -> str:
        """Name and size of the largest change in a row of `influence`; empty where none is finite."""
        changes = np.array([row[name] for name in names], float)
        if not np.isfinite(changes).any():
            return ""
        k = int(np.nanargmax(np.abs(changes)))
        return f"{names[k]} {changes[k]:+.2f}"


def _record(refits: Refits, out: Any, deleted: np.ndarray) -> Jackknife:
    """The Jackknife of the outcomes, with its sentences; `deleted`: the indices of the deleted groups."""
    import pandas as pd

    fit, table = refits.fit, refits.values(out)
    good = reached_maximum(out)
    table.index = pd.Index(fit.data.labels[deleted], name=fit.data.group_name)
    table["log_likelihood"] = np.where(good, out.log_likelihood, np.nan)
    table["status"], table["iterations"] = outcome_sentences(out), out.iterations
    # The log prior at each x follows from the objective, minus (log-likelihood + log prior).
    with_prior = out.full_log_likelihood + (-out.value - out.log_likelihood)
    best = fit.log_likelihood + fit.log_prior
    table["displacement"] = np.where(good, 2.0 * (best - with_prior), np.nan)
    table["cook"] = np.where(good, _cook(fit, refits, out.x), np.nan)
    ran, converged = int(out.done.sum()), int(good.sum())
    sentences = [f"Jackknife of a fit by {fit.method}: {converged} of {ran} fits without one group converged."]
    sentences += failures(table["status"], "fits") + refits.device_sentences
    if converged < len(deleted):
        sentences.append("Bias and standard errors need the refits without every group and are NaN.")
    return Jackknife(fit, table, tuple(sentences))


def _cook(fit: FitRecord, refits: Refits, x: np.ndarray) -> np.ndarray:
    """Cook's distance (jobs,) of the estimates from each x (jobs, n); NaN without information."""
    info = fit.information
    if info is None or info.covariance is None:
        return np.full(len(x), np.nan)
    with np.errstate(invalid="ignore"):
        change = x[:, info.active] - pack_on_host(fit.params)[info.active]
    finite = np.asarray(np.isfinite(change).all(axis=1))
    change = np.where(finite[:, None], change, 0.0)
    return np.where(finite, np.einsum("ij,jk,ik->i", change, info.matrix, change) / len(info.active), np.nan)
