"""k-fold cross-validation by group: the log-likelihood of groups that a fit has not seen."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.arguments import check_progress
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError, check_whole_number
from jaxnlme.refits.identifiability import identifiable
from jaxnlme.refits.jobs import failures, outcome_sentences, reached_maximum
from jaxnlme.refits.likelihood_at import group_values_at
from jaxnlme.refits.refits import Refits, check_option_names
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@check_option_names
@public("fit.cross_validate")
def cross_validate(
    fit: FitRecord,
    k: int = 10,
    *,
    seed: int = 0,
    max_iterations: int = 100,
    width: int | None = None,
    progress: bool | None = None,
) -> CrossValidation:
    """The log-likelihood of groups left out of a fit, by k-fold cross-validation.

    The groups are divided at random into k folds of nearly equal size. For each fold the model is fitted to the other
    groups (the weights of the fold are zero, all fits in one compiled program), and the log-likelihood of each group of
    the fold is computed at those estimates, by the approximation of the fit. Models are compared by the sum over
    groups, with the same k and seed: see `CrossValidation.difference`.

    **Arguments:** `k`: number of folds, at most that of groups, which leaves out one group at a time; `seed`: the fold
    of a group depends on the labels and the seed only; `max_iterations` of a refit; `width`: the number of refits at a
    time, chosen by memory where None; `progress` as in `fit`. Groups of weight zero are in no fold.
    **Returns:** a CrossValidation.
    **Raises:** FitError where the fit did not converge; OptionError for fewer than two folds or more than groups, and
    the fits that `Refits` refuses.
    **Source:** Stone (1974), Journal of the Royal Statistical Society B 36, 111-147; for models of groups Colby and
    Bair (2013), Journal of Pharmacokinetics and Pharmacodynamics 40, 243-252.

    **Example:**

    ```python
    print(fit.cross_validate(k=4, seed=1))
    ```
    """
    progress = check_progress(progress)
    k, seed = check_whole_number("k", k, 2, "the number of folds"), check_whole_number("seed", seed, 0)
    refits = Refits(fit, "cross-validation", max_iterations, width)
    weights = np.asarray(refits.problem.weights, float)
    used = np.flatnonzero(weights != 0)
    if k > len(used):
        raise OptionError(f"k={k} folds of {len(used)} groups: take at most one fold for each group.")
    fold = np.full(len(weights), -1)
    labels = np.array([str(label) for label in fit.data.labels])
    in_order = used[np.argsort(labels[used], kind="stable")]
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(used))
    fold[in_order[order]] = np.arange(len(used)) % k

    def overlay(indices: np.ndarray) -> Problem:
        others = np.where(fold[None, :] == np.asarray(indices)[:, None], 0.0, weights[None, :])
        return refits.overlay(lambda p: p.weights, others)

    starts = np.tile(refits.x, (k, 1))
    out = refits.run(overlay, starts, inverse_hessians=refits.inverse_hessians, progress=progress, name="folds")
    out = dataclasses.replace(out, identifiable=identifiable(refits, overlay, k))
    good = reached_maximum(out)
    points = np.where(good[:, None], out.x, refits.x)
    of_groups, _ = group_values_at(fit, points)
    held_out = np.where(good[fold], of_groups[fold, np.arange(len(weights))], np.nan)
    return _record(fit, refits, fold, used, held_out, outcome_sentences(out), seed)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CrossValidation(Printable):
    """Log-likelihoods of groups that were left out of the fit.

    **Fields:** `fit`; `seed`; `groups`, a row for each group: `fold`, `log_likelihood` held out, and `fitted`, that at
    the estimates of all groups (both times the group's weight; NaN where the fit of the fold failed); `folds`: of each
    `groups`, `log_likelihood`, `fitted` and `status` of its fit; `sentences`.

    **Example:**

    ```python
    print(fit.cross_validate(k=4).groups.head())
    ```
    """

    fit: FitRecord
    seed: int
    groups: pd.DataFrame
    folds: pd.DataFrame
    sentences: tuple[str, ...]

    @functools.cached_property
    def log_likelihood(self) -> float:
        """The held-out log-likelihood, summed over groups; NaN where the fit of a fold failed."""
        return float(self.groups["log_likelihood"].sum(skipna=False))

    @functools.cached_property
    def se(self) -> float:
        """The standard error of the sum over m groups, sqrt(m) times the standard deviation of the terms."""
        values = self.groups["log_likelihood"].to_numpy(float)
        return float(np.sqrt(len(values)) * np.std(values, ddof=1))

    def difference(self, other: CrossValidation) -> tuple[float, float]:
        """The held-out log-likelihood of this model less that of another one, and its standard error, from the
        differences by group.

        **Arguments:** `other`: of a fit to the same groups, with the same folds.
        **Returns:** the difference and its standard error.
        **Raises:** OptionError for other groups or folds.
        """
        if not isinstance(other, CrossValidation):
            raise OptionError(f"other must be a record of fit.cross_validate(); received {type(other).__name__}.")
        if not self.groups["fold"].equals(other.groups["fold"].reindex(self.groups.index)):
            raise OptionError(
                "the two cross-validations have other groups or folds: run both on the same groups with one k and seed."
            )
        own = self.groups["log_likelihood"]
        change = (own - other.groups["log_likelihood"].reindex(own.index)).to_numpy(float)
        return float(change.sum()), float(np.sqrt(len(change)) * np.std(change, ddof=1))

    def _tables(self) -> list[Table]:
        rows = [
            [str(name), f"{row['groups']:g}", number(row["log_likelihood"]), number(row["fitted"]), str(row["status"])]
            for name, row in self.folds.iterrows()
        ]
        return [Table("Folds", ("", "groups", "held out", "fitted", "status"), rows)]


def _record(
    fit: FitRecord,
    refits: Refits,
    fold: np.ndarray,
    used: np.ndarray,
    held_out: np.ndarray,
    status: np.ndarray,
    seed: int,
) -> CrossValidation:
    """The CrossValidation with its sentences."""
    import pandas as pd

    weights = np.asarray(fit.data.weights, float)
    groups = pd.DataFrame(
        {
            "fold": fold[used] + 1,
            "log_likelihood": (weights * held_out)[used],
            "fitted": (weights * fit.group_log_likelihood)[used],
        },
        index=pd.Index(np.asarray(fit.data.labels)[used], name=fit.data.group_name),
    )
    by_fold = groups.groupby("fold")
    folds = pd.DataFrame(
        {
            "groups": by_fold.size(),
            "log_likelihood": by_fold["log_likelihood"].agg(lambda column: column.sum(skipna=False)),
            "fitted": by_fold["fitted"].sum(),
            "status": status,
        }
    )
    record = CrossValidation(fit, seed, groups, folds, ())
    good = int(np.sum(status == "converged"))
    sentences = [
        f"Cross-validation of a fit by {fit.method}, {len(folds)} folds of {len(groups)} groups, seed {seed}: {good} "
        f"of {len(folds)} fits converged.",
        f"Held-out log-likelihood {number(record.log_likelihood, 6)} (SE {number(record.se, 3)}), at the estimates of "
        f"all groups {number(float(groups['fitted'].sum()), 6)}."
        if good == len(folds)
        else "The sum over groups needs the fits of all folds and is NaN.",
    ]
    sentences += failures(status, "folds") + refits.device_sentences
    return dataclasses.replace(record, sentences=tuple(sentences))
