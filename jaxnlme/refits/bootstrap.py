"""The bootstrap: a fit repeated on resampled groups, or on responses drawn from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.errors import OptionError, near_matches
from jaxnlme.refits.identifiability import identifiable
from jaxnlme.refits.jackknife import Jackknife
from jaxnlme.refits.jobs import NOTHING_SAID, Outcomes, failures, outcome_sentences, reached_maximum
from jaxnlme.refits.refits import Refits, named_options, whole_number
from jaxnlme.refits.replicate_table import ReplicateTable
from jaxnlme.refits.resampling import case_draws, parametric_draws, strata_of
from jaxnlme.results.display import Table, number
from jaxnlme.results.record import Fit

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("case", "parametric")
INTERVALS = ("percentile", "basic", "normal", "bca")
# Fewer groups than this make few different draws.
FEW_GROUPS = 20


@named_options
def bootstrap(
    fit: Fit,
    n: int = 500,
    *,
    seed: int = 0,
    kind: str = "case",
    by: str | Sequence[str] | None = None,
    max_iterations: int = 100,
    width: int | None = None,
    progress: bool | None = None,
) -> Bootstrap:
    """`n` refits of a fit, all in one compiled program.

    **Arguments:**

    - `kind`: "case" draws groups with replacement, as many as there are (those of weight zero aside): a group drawn c
      times has c times its own weight, so that no data are copied. "parametric" draws responses from the fitted model,
      those of `fit.simulate(n, seed)`.
    - `by`: a group-level column within whose levels groups are drawn ("case"), or several, whose levels are crossed.
    - `seed`: replicate r depends on (seed, r) and the groups' labels alone, not on n, the order of groups or `width`.
    - `max_iterations` of a refit; `width`: how many run side by side, None chooses by memory; `progress` as in `fit`.

    Refits start from the estimates and conditional modes of the fit, on the default device with all groups at once
    (the fit's `devices` and `chunk_groups` are not theirs). Variances estimated as zero are opened again.
    **Returns:** a Bootstrap.
    **Errors:** FitError where the fit did not converge; OptionError; ModelError where responses cannot be drawn.
    **Source:** Efron and Tibshirani (1993), An Introduction to the Bootstrap, Chapman and Hall; for mixed models Thai,
    Mentre, Holford, Veyrat-Follet and Comets (2013), Pharmaceutical Statistics 12, 129-140.
    """
    if kind not in KINDS:
        raise OptionError(f"kind {kind!r} of bootstrap is not known; {near_matches(kind, KINDS)}")
    n = whole_number("n", n, 2, "the number of replicates")
    seed = whole_number("seed", seed, 0)
    if by is not None and kind != "case":
        raise OptionError("by= draws groups within levels of a column, which only kind='case' does.")
    refits = Refits(fit, "a bootstrap", max_iterations, width)
    within = () if by is None else (by,) if isinstance(by, str) else tuple(by)
    own = case_draws(refits, seed, strata_of(fit, within)) if kind == "case" else parametric_draws(refits, seed, n)
    out = refits.run(
        own,
        np.tile(refits.x, (n, 1)),
        metrics=refits.metrics,
        progress=progress,
        name="bootstrap",
    )
    if kind == "case":
        out = dataclasses.replace(out, identifiable=identifiable(refits, own, n))
    return _record(refits, out, kind, seed, within)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Bootstrap(ReplicateTable):
    """What a bootstrap found. Values are on the scale of `fit.values`: typical values on their natural scale, SDs,
    correlations, error parameters.

    **Fields:** `fit`; `kind`, `seed`, `by`; `replicates`, a row a replicate: the values by name (NaN where the refit
    failed), `log_likelihood` (of the resampled data), `status`, `iterations`, `evaluations`; `sentences`.
    """

    fit: Fit
    kind: str
    seed: int
    by: tuple[str, ...]
    replicates: pd.DataFrame
    sentences: tuple[str, ...]

    @property
    def _rows(self) -> pd.DataFrame:
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
        "basic" 2 t - q(1 - a), 2 t - q(a); "normal" t - bias -+ z se; "bca", corrected for bias and acceleration, the
        latter from the jackknife (`jackknife`, a record of `fit.jackknife()`, made here where None), for kind "case".

        **Errors:** OptionError, for "bca" also where a fit of the jackknife failed, or it is one of another fit.
        **Source:** Efron and Tibshirani (1993), chapters 13 and 14 (equations 14.9 to 14.15); Davison and Hinkley
        (1997), Bootstrap Methods and their Application, chapter 5 ("basic").
        """
        import pandas as pd
        from scipy.special import ndtri

        if kind not in INTERVALS:
            raise OptionError(f"kind {kind!r} of intervals is not known; {near_matches(kind, INTERVALS)}")
        if not 0.0 < level < 1.0:
            raise OptionError(f"level is a probability, such as 0.9 for 90%; received {level!r}.")
        values, estimate = self.values, self.estimates
        if len(values) < 2:
            raise OptionError("fewer than two replicates converged: there is nothing to take intervals of.")
        low, high = 0.5 - level / 2.0, 0.5 + level / 2.0
        if kind == "normal":
            reach = float(ndtri(high)) * self.se
            lower, upper = estimate - self.bias - reach, estimate - self.bias + reach
        elif kind == "bca":
            if self.kind != "case":
                raise OptionError("'bca' takes its acceleration from the jackknife, which suits kind='case' alone.")
            jackknife = self.fit.jackknife(progress=False) if jackknife is None else jackknife
            self._check(jackknife)
            ends = {n: _bca(values[n], estimate[n], jackknife.values[n], (low, high)) for n in self._moving}
            lower, upper = (pd.Series({name: pair[k] for name, pair in ends.items()}) for k in (0, 1))
        else:
            lower, upper = values.quantile(low), values.quantile(high)
            if kind == "basic":
                lower, upper = 2.0 * estimate - upper, 2.0 * estimate - lower
        return pd.DataFrame({"estimate": estimate, "lower": lower, "upper": upper}).loc[list(estimate.index)]

    def _check(self, jackknife: Any) -> None:
        """Refuses a jackknife that acceleration cannot be taken from."""
        own, its = self.fit, getattr(jackknife, "fit", None)
        if not isinstance(jackknife, Jackknife) or its is None:
            raise OptionError(
                f"jackknife is a record of fit.jackknife(), or None; received {type(jackknife).__name__}."
            )
        same = own.fingerprint == its.fingerprint and own.method == its.method and list(own.values) == list(its.values)
        if not same or not np.array_equal(list(own.values.values()), list(its.values.values()), equal_nan=True):
            raise OptionError(
                "the jackknife is of another fit than this bootstrap; leave it out, or pass fit.jackknife()."
            )
        failed = [str(label) for label in jackknife.deleted.index[~jackknife.converged]]
        if failed:
            raise OptionError(
                f"'bca' takes its acceleration from fits without each group, and {len(failed)} of these failed "
                f"(without {', '.join(failed[:5])}{', ...' if len(failed) > 5 else ''}); use another kind, or raise "
                "max_iterations of the jackknife."
            )

    def _tables(self) -> list[Table]:
        rows = []
        enough = len(self.values) > 1
        ends = self.intervals() if enough else None
        for name in self._moving:
            cells = [name, number(self.fit.values[name])]
            if ends is not None:
                cells += [number(self.bias[name]), number(self.se[name])]
                cells.append(f"[{number(ends.lower[name])}, {number(ends.upper[name])}]")
            else:
                cells += ["", "", ""]
            rows.append(cells)
        return [Table("Values on their natural scale", ("", "estimate", "bias", "se", "95% percentiles"), rows)]


def _bca(values: pd.Series, estimate: float, deleted: pd.Series, probabilities: tuple[float, float]) -> list[float]:
    """BCa ends: quantiles at Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z0 from the share of replicates below the estimate
    (ties count half), a from the third moment of the jackknife, `deleted` (groups,)."""
    from scipy.special import ndtr, ndtri

    below = float(np.mean(values < estimate) + 0.5 * np.mean(values == estimate))
    z0 = float(ndtri(np.clip(below, 0.5 / len(values), 1.0 - 0.5 / len(values))))
    gap = np.asarray(deleted.mean() - deleted)
    square = float(np.sum(gap**2))
    a = float(np.sum(gap**3)) / (6.0 * square**1.5) if square > 0 else 0.0
    out = []
    for p in probabilities:
        z = z0 + float(ndtri(p))
        out.append(float(np.quantile(values, ndtr(z0 + z / (1.0 - a * z)))))
    return out


def _record(refits: Refits, out: Outcomes, kind: str, seed: int, by: tuple[str, ...]) -> Bootstrap:
    fit, table = refits.fit, refits.values(out)
    status = outcome_sentences(out)
    table["log_likelihood"] = np.where(reached_maximum(out), out.log_likelihood, np.nan)
    table["status"], table["iterations"], table["evaluations"] = status, out.iterations, out.evaluations
    table.index.name = "replicate"
    ran = int(out.done.sum())
    drawn = "groups drawn with replacement" if kind == "case" else "responses drawn from the fit"
    within = f" within levels of {' by '.join(by)}" if by else ""
    good = int(np.sum(status == "converged"))
    sentences = [
        f"Bootstrap of a fit by {fit.method}: {drawn}{within}, seed {seed}; {good} of {ran} replicates converged."
    ]
    sentences += failures(status, "replicates") + refits.placement
    groups = int(np.sum(fit.data.weights != 0))
    if kind == "case" and groups < FEW_GROUPS:
        sentences.append(f"There are {groups} groups to draw from: with fewer than {FEW_GROUPS} this is a rough guide.")
    if not by and (status == NOTHING_SAID).any():
        sentences.append("Drawing within levels of a group-level column (by=) keeps every level in every replicate.")
    if ran and good < 0.9 * ran:
        sentences.append("So many failed that what the others say may be far off: try a simpler model.")
    zeros = [name for name in table if str(name).startswith("sd(") and (table[name] == 0).any()]
    if zeros:
        parts = ", ".join(f"{name} in {int((table[name] == 0).sum())}" for name in zeros)
        sentences.append(f"Estimated as zero: {parts} of them.")
    return Bootstrap(fit, kind, seed, by, table, tuple(sentences))
