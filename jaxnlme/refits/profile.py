"""Profile likelihood: how the maximum falls as one value is held off its estimate, and the intervals that follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError, near_matches
from jaxnlme.model.covariance.reordered import reorderable
from jaxnlme.refits.jobs import failures, nothing, outcome_sentences, reached_maximum
from jaxnlme.refits.profile_coordinate import coordinate
from jaxnlme.refits.profile_trace import ProfileTrace
from jaxnlme.refits.refits import Refits, named_options
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.record import Fit

if TYPE_CHECKING:
    import pandas as pd

# Rounds of refits at most: the first points, two further out, and those that settle the ends.
ROUNDS = 8
# A better maximum met on the way is reported from here on, in log-likelihood units: points are not polished.
MET_BETTER = 1e-3


@named_options
def profile(
    fit: Fit,
    names: str | Sequence[str] | None = None,
    *,
    level: float = 0.95,
    points: int = 4,
    max_iterations: int = 100,
    width: int | None = None,
    progress: bool | None = None,
) -> Profile:
    """Profile likelihood intervals of reported values: typical values, coefficients, SDs, correlations, error
    parameters; all points of all profiles are fitted in one compiled program.

    With M(c) the maximum of the objective where a value is held at c, and M at the fit, the deviance is
    D(c) = 2 (M - M(c)), the signed root zeta(c) = sign(c - estimate) sqrt(D(c)), and the interval is where D(c) is
    below the `level` quantile of chi-squared with one degree of freedom. SDs and correlations of a full psi are made
    coordinates by reordering its factor.

    **Arguments:** `names`: all that were estimated where None; `points` on each side at first, up to 1.25 times the
    Wald interval's reach; more follow where the end lies further out, and until it is exact; `max_iterations` of a
    refit; `width`: how many run side by side; `progress` as in `fit`.

    Refits run on the default device with all groups at once: the fit's `devices` and `chunk_groups` are not theirs.
    **Returns:** a Profile.
    **Errors:** FitError where the fit did not converge; OptionError for unknown or fixed names, a covariance family
    that has no coordinate for one of them, or a fit without information matrix.
    **Source:** Bates and Watts (1988), Nonlinear Regression Analysis and Its Applications, chapter 6; Venzon and
    Moolgavkar (1988), Applied Statistics 37, 87-94.
    """
    if not 0.0 < level < 1.0:
        raise OptionError(f"level is a probability, such as 0.9 for 90%; received {level!r}.")
    if not isinstance(points, (int, np.integer)) or isinstance(points, bool) or points < 1:
        raise OptionError(f"points must be a whole number >= 1; received {points!r}.")
    refits = Refits(fit, "a profile", max_iterations, width)
    if fit.information is None or fit.information.covariance is None:
        raise OptionError("a profile begins with the information matrix; fit with standard_errors=True.")
    if refits.metrics is None:
        raise OptionError(
            "a profile moves all other parameters along the information matrix, which leaves the weights of the "
            "structural model out; try fit.bootstrap()."
        )
    wanted = _names(fit, names)
    if not wanted:
        raise OptionError("there is nothing to profile: no name is given, or every value is fixed.")
    coordinates = [coordinate(refits.binding, name) for name in wanted]
    # One that needs psi in another order puts all into the family where orders may differ: one program serves all.
    reorder = any(c.places is not None for c in coordinates)
    inner = reorderable(refits.binding.density.covariance) if reorder else None
    traces = [ProfileTrace(refits, c, inner, level, int(points)) for c in coordinates]
    search = _Search(refits, traces, progress)
    rounds = 0
    while rounds < ROUNDS and not search.interrupted:
        asked = [trace.ask() for trace in traces]
        if not any(len(c) for c in asked):
            break
        search.run(asked)
        rounds += 1
    return _record(fit, traces, search, level)


def _names(fit: Fit, names: str | Sequence[str] | None) -> list[str]:
    fixed = fit.estimates["fixed"]
    if names is None:
        return [
            name
            for name in fit.values
            if not fixed[name] and not (name.startswith("corr(") and _no_correlation(fit, name))
        ]
    listed = [names] if isinstance(names, str) else list(names)
    for name in listed:
        if name not in fit.values:
            raise OptionError(f"{name!r} is no value of this fit; {near_matches(name, fit.values)}")
        if name.startswith("corr(") and _no_correlation(fit, name):
            raise OptionError(f"{name!r} has no profile: the variance of one of its effects is zero.")
    return listed


def _no_correlation(fit: Fit, name: str) -> bool:
    effects = fit.binding.density.effect_names
    return any(fit.values[f"sd({effect})"] == 0 for effect in name[5:-1].split(", ") if effect in effects)


class _Search:
    """Runs the points that traces ask for, all in one program."""

    def __init__(self, refits: Refits, traces: list[ProfileTrace], progress: bool | None):
        self.refits, self.traces, self.progress = refits, traces, progress
        self.interrupted = False
        self.problem = traces[0].problem
        self.ordered = traces[0].family is not None
        self.metrics = np.array([trace.metric for trace in traces])
        # Modes are whitened by the factor; another order of the effects whitens otherwise.
        self.modes = np.zeros_like(refits.fit.modes) if self.ordered else refits.fit.modes
        self.expected = sum(2 * trace.points for trace in traces)

    def run(self, asked: list[np.ndarray]) -> None:
        refits = self.refits
        owner = np.concatenate([np.full(len(c), k) for k, c in enumerate(asked)]).astype(int)
        values = np.concatenate(asked)
        x = np.array([self.traces[k].begin(c) for k, c in zip(owner, values, strict=True)])
        free = np.tile(refits.free, (len(x), 1))
        free[np.arange(len(x)), [self.traces[k].coordinate.index for k in owner]] = False

        def own(indices: np.ndarray) -> Problem:
            empty = nothing(self.problem)
            if not self.ordered:
                return empty
            places = np.array([self.traces[owner[j]].problem.density.covariance.places for j in indices])  # pyright: ignore[reportAttributeAccessIssue]
            return eqx.tree_at(lambda p: p.density.covariance.places, empty, places, is_leaf=lambda leaf: leaf is None)

        out = refits.run(
            own,
            x,
            free=free,
            modes=self.modes,
            metrics=self.metrics,
            metric=owner,
            problem=self.problem,
            expected=self.expected,
            progress=self.progress,
            name="profile",
        )
        self.interrupted = out.interrupted
        best = refits.fit.log_likelihood + refits.fit.log_prior
        good, said = reached_maximum(out), outcome_sentences(out)
        for j, k in enumerate(owner):
            trace = self.traces[k]
            trace.c.append(float(values[j]))
            trace.deviance.append(2.0 * (best + float(out.value[j])) if good[j] else np.nan)
            trace.log_likelihood.append(float(out.log_likelihood[j]) if good[j] else np.nan)
            trace.x.append(out.x[j])
            trace.status.append(str(said[j]))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Profile(Printable):
    """Profile likelihoods of a fit's values, on the scale of `fit.values`.

    **Fields:** `fit`; `level`; `table`, a row a point: `parameter`, `value` it was held at, `deviance`, `zeta` (signed
    root of it), `log_likelihood`, `status`, then all values there; `intervals`, a row a parameter: `estimate`, `lower`,
    `upper`, `wald lower`, `wald upper`, `note`; `sentences`.
    """

    fit: Fit
    level: float
    table: pd.DataFrame
    intervals: pd.DataFrame
    sentences: tuple[str, ...]

    def plot(self, axes: Any = None) -> Any:
        """zeta against each value, with the interval: a straight line is a likelihood that Wald intervals suit.

        **Arguments:** `axes`: an axis per parameter (array or list), made here where None.
        **Returns:** the axes (parameters,)."""
        import matplotlib.pyplot as plt
        from scipy.special import ndtri

        names = list(self.intervals.index)
        if axes is None:
            columns = min(len(names), 4)
            rows = -(-len(names) // columns)
            figure, made = plt.subplots(rows, columns, figsize=(3.0 * columns, 2.6 * rows), squeeze=False)
            axes = made.ravel()
            for spare in axes[len(names) :]:
                spare.remove()
            figure.set_layout_engine("constrained")
        axes = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()[: len(names)]
        if len(axes) < len(names):
            raise OptionError(f"axes must hold one axis for each of {len(names)} parameters; received {len(axes)}.")
        quantile = float(ndtri(0.5 + self.level / 2.0))
        for axis, name in zip(axes, names, strict=True):
            own = self.table[(self.table["parameter"] == name) & self.table["zeta"].notna()].sort_values("value")
            axis.plot(own["value"], own["zeta"], "-", marker=".", color="C0")
            for sign, end in ((-1.0, "lower"), (1.0, "upper")):
                axis.axhline(sign * quantile, color="0.7", linewidth=0.8)
                where = self.intervals.loc[name, end]
                if np.isfinite(where) and f"{end} limit" not in str(self.intervals.loc[name, "note"]):
                    axis.axvline(where, color="C1", linewidth=0.8)
            axis.set_xlabel(name)
            axis.set_ylabel("signed root of deviance")
        return axes

    def _tables(self) -> list[Table]:
        rows = [
            [
                str(name),
                number(row["estimate"]),
                f"[{number(row['lower'])}, {number(row['upper'])}]",
                _pair(row["wald lower"], row["wald upper"]),
                str(row["note"]),
            ]
            for name, row in self.intervals.iterrows()
        ]
        header = ("", "estimate", f"{100 * self.level:g}% profile", "Wald", "note")
        return [Table("Values on their natural scale", header, rows)]


def _pair(lower: float, upper: float) -> str:
    return "" if np.isnan(lower) or np.isnan(upper) else f"[{number(lower)}, {number(upper)}]"


def _record(fit: Fit, traces: list[ProfileTrace], search: _Search, level: float) -> Profile:
    import pandas as pd

    rows, status, ends = [], [], {}
    wald = fit.confidence_intervals(level)
    for trace in traces:
        name = trace.coordinate.name
        for j in np.argsort(trace.c, kind="stable"):
            held, deviance = trace.c[j], trace.deviance[j]
            values = dict.fromkeys(fit.values, np.nan)
            if j == 0 and not trace.zero:  # the estimates
                values = fit.values
            elif np.isfinite(deviance):
                values = trace.binding.values(search.refits.params(trace.x[j]))
            sign = 1.0 if trace.zero else np.sign(held - trace.start)
            row = {
                "parameter": name,
                "value": float(trace.coordinate.to_natural(held)),
                "deviance": deviance,
                "zeta": sign * np.sqrt(max(deviance, 0.0)) if np.isfinite(deviance) else np.nan,
                "log_likelihood": trace.log_likelihood[j],
                "status": trace.status[j],
            }
            # A column "value" of the model's own does not hide the one held.
            rows.append(row | {n if n not in row else f"values.{n}": v for n, v in values.items()})
            status.append(trace.status[j])
        (lower, below), (upper, above) = (trace.end(sign, search.interrupted) for sign in (-1, 1))
        natural = bool(wald["value"].notna()[name])
        ends[name] = {
            "estimate": fit.values[name],
            "lower": lower,
            "upper": upper,
            "wald lower": wald.loc[name, "value_lower" if natural else "lower"],
            "wald upper": wald.loc[name, "value_upper" if natural else "upper"],
            "note": "; ".join(note for note in (below, above) if note),
        }
    columns = ["parameter", "value", "deviance", "zeta", "log_likelihood", "status"]
    columns += [n if n not in columns else f"values.{n}" for n in fit.values]
    table = pd.DataFrame(rows, columns=columns)
    intervals = pd.DataFrame.from_dict(ends, orient="index")
    intervals.index.name = "parameter"
    sentences = [f"Profile likelihood of a fit by {fit.method}, {100 * level:g}% intervals ({len(table)} points)."]
    if fit.log_prior != 0:
        sentences.append("Of likelihood times priors: the intervals are those of the posterior's ridge.")
    sentences += failures(np.array(status, object), "points") + search.refits.placement
    noted = [f"{name}: {note}" for name, note in intervals["note"].items() if note]
    if noted:
        sentences.append(f"{'; '.join(noted)}.")
    lowest = min((d for d in table["deviance"] if np.isfinite(d)), default=0.0)
    if lowest < -2.0 * MET_BETTER:
        sentences.append(
            f"A BETTER MAXIMUM than the fit's was met on the way, by {-0.5 * lowest:.4f} log-likelihood units: fit "
            "again from there, or look with fit.multistart()."
        )
    return Profile(fit, level, table, intervals, tuple(sentences))
