"""Bootstrap: refits of resampled groups, or of responses simulated from the fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, check_names, check_progress
from jaxnlme.errors import OptionError, check_level, check_whole_number
from jaxnlme.refits.identifiability import identifiable
from jaxnlme.refits.jackknife import Jackknife
from jaxnlme.refits.jackknife import jackknife as run_jackknife
from jaxnlme.refits.jobs import NO_INFORMATION, Outcomes, failures, outcome_sentences, reached_maximum
from jaxnlme.refits.refits import Refits, check_option_names
from jaxnlme.refits.replicate_table import AbstractReplicateTable
from jaxnlme.refits.resampling import case_draws, parametric_draws, resampling_strata
from jaxnlme.refits.settings import BOOTSTRAP
from jaxnlme.results.display import Table, number
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("case", "parametric")
INTERVALS = ("percentile", "basic", "normal", "bca")


@check_option_names
@public("fit.bootstrap")
def bootstrap(
    fit: FitRecord,
    n: int = 500,
    *,
    seed: int = 0,
    kind: str = "case",
    by: str | Sequence[str] | None = None,
    max_iterations: int = 100,
    width: int | None = None,
    progress: bool | None = None,
) -> Bootstrap:
    """Refit a model to `n` bootstrap samples, all in one compiled program.

    **Arguments:**

    - `kind`: "case" resamples groups with replacement, as many as there are (without those of weight zero): the weight
      of a group drawn c times is multiplied by c, so that no data are copied. "parametric" draws responses from the
      fitted model, those of `fit.simulate(n, seed)`.
    - `by`: a group-level column within whose levels groups are resampled ("case"), or several, whose levels are
      crossed.
    - `seed`: replicate r depends only on (seed, r) and the groups' labels, not on n, the order of groups or `width`.
    - `max_iterations` of a refit; `width`: the number of refits at a time, chosen by memory where None; `progress` as
      in `fit`.

    Refits start from the estimates and conditional modes of the fit; variances estimated as zero start from a positive
    value. They run on the default device with all groups at once, whatever `devices` and `chunk_groups` the fit used.
    **Returns:** a Bootstrap.
    **Raises:** FitError where the fit did not converge; OptionError for an unknown `kind` or column in `by`, `by` with
    kind "parametric", numbers that are not whole or too small, and the fits that `Refits` refuses; ModelError where
    responses cannot be drawn.
    **Source:** Efron and Tibshirani (1993), An Introduction to the Bootstrap, Chapman and Hall; for mixed models Thai,
    Mentre, Holford, Veyrat-Follet and Comets (2013), Pharmaceutical Statistics 12, 129-140.
    """
    check_choice("kind", kind, KINDS)
    progress = check_progress(progress)
    n = check_whole_number("n", n, 2, "the number of replicates")
    seed = check_whole_number("seed", seed, 0)
    if by is not None and kind != "case":
        raise OptionError("by= draws groups within levels of a column, which only kind='case' does.")
    refits = Refits(fit, "a bootstrap", max_iterations, width)
    within = () if by is None else tuple(check_names("by", by, "columns"))
    is_case = kind == "case"
    overlay = case_draws(refits, seed, resampling_strata(fit, within)) if is_case else parametric_draws(refits, seed, n)
    starts = np.tile(refits.x, (n, 1))
    out = refits.run(overlay, starts, inverse_hessians=refits.inverse_hessians, progress=progress, name="bootstrap")
    if is_case:
        out = dataclasses.replace(out, identifiable=identifiable(refits, overlay, n))
    return _record(refits, out, kind, seed, within)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Bootstrap(AbstractReplicateTable):
    """Bootstrap replicates and the statistics that follow from them. Values are on the scale of `fit.values`: typical
    values on their natural scale, SDs, correlations, error parameters.

    **Fields:** `fit`; `kind`, `seed`, `by` as in `bootstrap`; `replicates`, a row per replicate: the values by name
    (NaN where the refit failed), `log_likelihood` (of the resampled data), `status`, `iterations`, `evaluations`;
    `sentences`.
    """

    fit: FitRecord
    kind: str
    seed: int
    by: tuple[str, ...]
    replicates: pd.DataFrame
    sentences: tuple[str, ...]

    @property
    def _refit_table(self) -> pd.DataFrame:
        return self.replicates

    @property
    def se(self) -> pd.Series:
        """Standard deviations of the replicates (divisor n - 1)."""
        return self.values.std(ddof=1).rename("se")

    @property
    def bias(self) -> pd.Series:
        """Mean of the replicates minus the estimate."""
        return (self.values.mean() - self.estimates).rename("bias")

    @property
    def correlation(self) -> pd.DataFrame:
        """Correlations between the estimates, over replicates."""
        return self.values.corr()

    def intervals(self, level: float = 0.95, kind: str = "percentile", jackknife: Any = None) -> pd.DataFrame:
        """Confidence intervals, with columns `estimate`, `lower`, `upper`.

        With q(p) the quantiles of the replicates, t the estimate, a = (1 - level) / 2: "percentile" q(a), q(1 - a);
        "basic" 2 t - q(1 - a), 2 t - q(a); "normal" t - bias -+ z se; "bca", corrected for bias and acceleration,
        for a bootstrap of kind "case".

        **Arguments:** `level`, a probability; `kind`; `jackknife`: the record of `fit.jackknife()` that gives the
        acceleration for "bca", computed here where None.
        **Returns:** a row per value that was not fixed.
        **Raises:** OptionError, for "bca" also where a fit of the jackknife failed, or it belongs to another fit.
        **Source:** Efron and Tibshirani (1993), chapters 13 and 14 (equations 14.9 to 14.15); Davison and Hinkley
        (1997), Bootstrap Methods and their Application, chapter 5 ("basic").
        """
        import pandas as pd
        from scipy.special import ndtri

        check_choice("kind", kind, INTERVALS)
        check_level(level)
        values, estimate = self.values, self.estimates
        if len(values) < 2:
            raise OptionError("fewer than two replicates converged: intervals need at least two.")
        low, high = 0.5 - level / 2.0, 0.5 + level / 2.0
        if kind == "normal":
            half_width = float(ndtri(high)) * self.se
            lower, upper = estimate - self.bias - half_width, estimate - self.bias + half_width
        elif kind == "bca":
            if self.kind != "case":
                raise OptionError("'bca' takes its acceleration from the jackknife, which applies to kind='case' only.")
            jackknife = run_jackknife(self.fit) if jackknife is None else jackknife
            self._check(jackknife)
            limits = {n: _bca(values[n], estimate[n], jackknife.values[n], (low, high)) for n in self._free_names}
            lower, upper = (pd.Series({name: pair[k] for name, pair in limits.items()}) for k in (0, 1))
        else:
            lower, upper = values.quantile(low), values.quantile(high)
            if kind == "basic":
                lower, upper = 2.0 * estimate - upper, 2.0 * estimate - lower
        return pd.DataFrame({"estimate": estimate, "lower": lower, "upper": upper}).loc[list(estimate.index)]

    def _check(self, jackknife: Any) -> None:
        """**Raises:** OptionError for a jackknife that does not give the acceleration of this bootstrap."""
        fit, deleted_from = self.fit, getattr(jackknife, "fit", None)
        if not isinstance(jackknife, Jackknife) or deleted_from is None:
            raise OptionError(
                f"jackknife must be a record of fit.jackknife(), or None; received {type(jackknife).__name__}."
            )
        same_data = fit.fingerprint == deleted_from.fingerprint and fit.method == deleted_from.method
        same = same_data and list(fit.values) == list(deleted_from.values)
        values, of_jackknife = list(fit.values.values()), list(deleted_from.values.values())
        if not same or not np.array_equal(values, of_jackknife, equal_nan=True):
            raise OptionError("the jackknife is of another fit than this bootstrap; omit it, or pass fit.jackknife().")
        failed = [str(label) for label in jackknife.deleted.index[~jackknife.converged]]
        if failed:
            raise OptionError(
                f"'bca' takes its acceleration from fits without each group, and {len(failed)} of these failed "
                f"(without {', '.join(failed[:5])}{', ...' if len(failed) > 5 else ''}); use another kind, or raise "
                "max_iterations of the jackknife."
            )

    def to_arviz(self) -> Any:
        """The replicates that converged as one chain in the container of the installed ArviZ (group "posterior"), for
        its tables and pictures; their distribution is that of an estimate, not a posterior.

        **Returns:** an InferenceData, from version 1 of ArviZ on a DataTree. **Raises:** ImportError without arviz.
        """
        from jaxnlme.results.posterior.arviz_export import container

        values = self.values
        return container({"posterior": {str(name): values[name].to_numpy()[None] for name in values}}, None, {}, {})

    @public("bootstrap.plot")
    def plot(self, level: float = 0.95, kind: str = "percentile", ax: Any = None) -> Any:
        """Histograms of the replicates with estimates and intervals, a panel per parameter.

        **Arguments:** `level`, `kind`: as of `intervals`; `ax`: one axes per parameter, created where None.
        **Returns:** the axes (parameters,).
        **Raises:** OptionError as `intervals`, and for another number of axes.
        """
        from jaxnlme.diagnostics.pictures.refit_records import draw_bootstrap

        return draw_bootstrap(self, level, kind, ax)

    def _tables(self) -> list[Table]:
        rows = []
        enough = len(self.values) > 1
        intervals = self.intervals() if enough else None
        for name in self._free_names:
            cells = [name, number(self.fit.values[name])]
            if intervals is not None:
                limits = f"[{number(intervals.lower[name])}, {number(intervals.upper[name])}]"
                cells += [number(self.se[name]), limits, number(self.bias[name])]
            else:
                cells += ["", "", ""]
            rows.append(cells)
        return [Table("Values on their natural scale", ("", "estimate", "se", "95% percentiles", "bias"), rows)]


def _bca(values: pd.Series, estimate: float, deleted: pd.Series, probabilities: tuple[float, float]) -> list[float]:
    """BCa limits: quantiles of the replicates `values` at Phi(z0 + (z0 + z) / (1 - a (z0 + z))) with
    z = Phi^-1(`probabilities`), z0 from the fraction of replicates below the estimate (ties count half), a from the
    third moment of the jackknife values `deleted` (groups,)."""
    from scipy.special import ndtr, ndtri

    below = float(np.mean(values < estimate) + 0.5 * np.mean(values == estimate))
    z0 = float(ndtri(np.clip(below, 0.5 / len(values), 1.0 - 0.5 / len(values))))
    deviation = np.asarray(deleted.mean() - deleted)
    square = float(np.sum(deviation**2))
    a = float(np.sum(deviation**3)) / (6.0 * square**1.5) if square > 0 else 0.0
    limits = []
    for p in probabilities:
        z = z0 + float(ndtri(p))
        limits.append(float(np.quantile(values, ndtr(z0 + z / (1.0 - a * z)))))
    return limits


def _record(refits: Refits, out: Outcomes, kind: str, seed: int, by: tuple[str, ...]) -> Bootstrap:
    """The Bootstrap of the outcomes, with its sentences."""
    fit, table = refits.fit, refits.values(out)
    status = outcome_sentences(out)
    table["log_likelihood"] = np.where(reached_maximum(out), out.log_likelihood, np.nan)
    table["status"], table["iterations"], table["evaluations"] = status, out.iterations, out.evaluations
    table.index.name = "replicate"
    resampling = "groups drawn with replacement" if kind == "case" else "responses drawn from the fit"
    within = f" within levels of {' by '.join(by)}" if by else ""
    sentences = bootstrap_sentences(
        f"Bootstrap of a fit by {fit.method}: {resampling}{within}, seed {seed}",
        table, refits.device_sentences, int(np.sum(fit.data.weights != 0)) if kind == "case" else None,
    )  # fmt: skip
    if not by and (status == NO_INFORMATION).any():
        sentences.append("Resampling within the levels of a column (by=) keeps every level in every replicate.")
    return Bootstrap(fit, kind, seed, by, table, tuple(sentences))


def bootstrap_sentences(
    opening: str, table: pd.DataFrame, device_sentences: Sequence[str] = (), groups: int | None = None
) -> list[str]:
    """The sentences of a bootstrap.

    **Arguments:** `opening` of the first one; `table` of the replicates; `groups`: the number of groups that were
    resampled, None where responses were drawn.
    """
    status = table["status"].to_numpy(object)
    ran, good = int(np.sum(status != "not run")), int(np.sum(status == "converged"))
    sentences = [f"{opening}; {good} of {ran} replicates converged."]
    sentences += [*failures(status, "replicates"), *device_sentences]
    if groups is not None and groups < BOOTSTRAP.few_groups:
        few = BOOTSTRAP.few_groups
        sentences.append(f"There are {groups} groups: with fewer than {few} a bootstrap is a rough guide.")
    if ran and good < BOOTSTRAP.min_converged * ran:
        sentences.append(
            f"More than {1.0 - BOOTSTRAP.min_converged:.0%} failed: the statistics of the others may be misleading; "
            "try a simpler model."
        )
    zeros = [name for name in table if str(name).startswith("sd(") and (table[name] == 0).any()]
    if zeros:
        parts = ", ".join(f"{name} in {int((table[name] == 0).sum())}" for name in zeros)
        sentences.append(f"Estimated as zero: {parts} of the replicates.")
    return sentences
