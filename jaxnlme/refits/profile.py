"""Profile likelihood: the maximum of the likelihood as a function of one value, and the intervals that follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_names, check_progress
from jaxnlme.errors import OptionError, check_level, check_whole_number, near_matches
from jaxnlme.model.covariance.reordered import with_pair_first
from jaxnlme.refits.jobs import failures
from jaxnlme.refits.profile_coordinate import coordinate, held_families
from jaxnlme.refits.profile_search import ProfileSearch
from jaxnlme.refits.profile_trace import ProfileTrace
from jaxnlme.refits.refits import Refits, check_option_names
from jaxnlme.refits.settings import PROFILE
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@check_option_names
@public("fit.profile")
def profile(
    fit: FitRecord,
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

    With M(c) the maximum of the log-likelihood plus log prior where the value is held at c, and M that of the fit, the
    deviance is D(c) = 2 (M - M(c)), the signed root zeta(c) = sign(c - estimate) sqrt(D(c)), and the interval is where
    D(c) is below the `level` quantile of chi-squared with one degree of freedom. SDs and correlations of a full psi are
    made coordinates by reordering its factor.

    **Arguments:** `names`: all that were estimated where None; `level` of the intervals; `points` on each side
    in the first round, up to `PROFILE.first_reach` times the half-width of the Wald interval; more follow farther out
    where a limit was not reached, and until it is exact; `max_iterations` of a refit; `width`: the number of refits at
    a time; `progress` as in `fit`.

    Refits run on the default device with all groups at once, whatever `devices` and `chunk_groups` the fit used.
    **Returns:** a Profile.
    **Raises:** FitError where the fit did not converge; OptionError for unknown or fixed names, a covariance family
    without a coordinate for one of them, or a fit without information matrix.
    **Source:** Bates and Watts (1988), Nonlinear Regression Analysis and Its Applications, chapter 6; Venzon and
    Moolgavkar (1988), Applied Statistics 37, 87-94.
    """
    progress = check_progress(progress)
    refits = _refits(fit, level, points, max_iterations, width)
    wanted = _names(fit, names)
    if not wanted:
        raise OptionError("there is nothing to profile: no name is given, or every value is fixed.")
    families = held_families(refits.binding, wanted)
    coordinates = [coordinate(refits.binding, name, families.get(name)) for name in wanted]
    # If one coordinate needs the effects in another order, all use the family that permits it: one program serves all.
    reorder = any(c.permutation is not None for c in coordinates)
    inner = with_pair_first(refits.binding.density.covariance) if reorder else None
    traces = [ProfileTrace(refits, c, inner, level, int(points)) for c in coordinates]
    # Traces of one family are refitted together; there are several where the model holds elements of psi fixed.
    interrupted = False
    for family in {id(c.family): c.family for c in coordinates}.values():
        if interrupted:
            break
        search = ProfileSearch(refits, [trace for trace in traces if trace.coordinate.family is family], progress)
        search.run()
        interrupted = search.interrupted
    return _record(fit, traces, refits, interrupted, level)


def _refits(fit: FitRecord, level: float, points: int, max_iterations: int, width: int | None) -> Refits:
    """The Refits of a profile; arguments as of `profile`. **Raises:** OptionError, FitError."""
    check_level(level)
    check_whole_number("points", points, 1)
    refits = Refits(fit, "a profile", max_iterations, width)
    if fit.information is None or fit.information.covariance is None:
        raise OptionError("a profile begins with the information matrix; fit with standard_errors=True.")
    if refits.inverse_hessians is None:
        raise OptionError(
            "a profile moves all other parameters along the information matrix, which does not include the "
            "weights of the structural model; try fit.bootstrap()."
        )
    return refits


def _names(fit: FitRecord, names: str | Sequence[str] | None) -> list[str]:
    """The names to profile: `names`, or all that were estimated where None. **Raises:** OptionError for names without a
    profile."""
    fixed = fit.estimates["fixed"]
    if names is None:
        return [
            name
            for name in fit.values
            if not fixed[name] and not (name.startswith("corr(") and _no_correlation(fit, name))
        ]
    listed = check_names("names", names, "values of the fit")
    for name in listed:
        if name not in fit.values:
            raise OptionError(f"{name!r} is not a value of this fit; {near_matches(name, fit.values)}")
        if name.startswith("corr(") and _no_correlation(fit, name):
            raise OptionError(f"{name!r} has no profile: the variance of one of its effects is zero.")
    return listed


def _no_correlation(fit: FitRecord, name: str) -> bool:
    """True if the variance of an effect of the correlation `name` is zero."""
    effects = fit.binding.density.effect_names
    return any(fit.values[f"sd({effect})"] == 0 for effect in name[5:-1].split(", ") if effect in effects)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Profile(Printable):
    """Profile likelihoods of the values of a fit, on the scale of `fit.values`.

    **Fields:** `fit`; `level`; `table`, a row per point: `parameter`, the `value` at which it was held, `deviance`,
    `zeta` (its signed root), `log_likelihood`, `status`, then all values there; `intervals`, a row per parameter:
    `estimate`, `lower`, `upper`, `wald lower`, `wald upper`, `note`; `sentences`; `interrupted` by Ctrl-C.
    """

    fit: FitRecord
    level: float
    table: pd.DataFrame
    intervals: pd.DataFrame
    sentences: tuple[str, ...]
    interrupted: bool = False

    @public("profile.plot")
    def plot(self, axes: Any = None) -> Any:
        """Plot zeta against each value, with the interval and Wald's (dashed); a straight line means that the Wald
        interval is accurate.

        **Arguments:** `axes`: one axes per parameter (array or list), created where None.
        **Returns:** the axes (parameters,).
        **Raises:** OptionError where `axes` holds too few.
        """
        from jaxnlme.diagnostics.pictures.refit_records import draw_profile

        count = len(self.intervals)
        if axes is not None:
            axes = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()[:count]
            if len(axes) < count:
                raise OptionError(f"axes must hold one axes for each of {count} parameters; received {len(axes)}.")
        return draw_profile(self, axes)

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
    """An interval as text, empty where a limit is NaN."""
    return "" if np.isnan(lower) or np.isnan(upper) else f"[{number(lower)}, {number(upper)}]"


def _record(fit: FitRecord, traces: list[ProfileTrace], refits: Refits, interrupted: bool, level: float) -> Profile:
    """The Profile of the traces, with its sentences."""
    import pandas as pd

    wald = fit.confidence_intervals(level)
    places = [(trace, int(j)) for trace in traces for j in np.argsort(trace.c, kind="stable")]
    rows = [_row(fit, trace, j, refits) for trace, j in places]
    columns = ["parameter", "value", "deviance", "zeta", "log_likelihood", "status"]
    columns += [n if n not in columns else f"values.{n}" for n in fit.values]
    table = pd.DataFrame(rows, columns=columns)
    limits = {trace.coordinate.name: _interval(fit, trace, wald, interrupted) for trace in traces}
    intervals = pd.DataFrame.from_dict(limits, orient="index")
    intervals.index.name = "parameter"
    status = np.array([trace.status[j] for trace, j in places], object)
    sentences = [f"Profile likelihood of a fit by {fit.method}, {100 * level:g}% intervals ({len(table)} points)."]
    if fit.log_prior != 0:
        sentences.append("The profile is that of likelihood times priors, the posterior density up to a constant.")
    sentences += failures(status, "points") + refits.device_sentences
    noted = [f"{name}: {note}" for name, note in intervals["note"].items() if note]
    if noted:
        sentences.append(f"{'; '.join(noted)}.")
    lowest = min((d for d in table["deviance"] if np.isfinite(d)), default=0.0)
    if lowest < -2.0 * PROFILE.better_by:
        sentences.append(
            f"A BETTER MAXIMUM than the fit's was found on the way, by {-0.5 * lowest:.4f} log-likelihood units: fit "
            "again from there, or search with fit.multistart()."
        )
    return Profile(fit, level, table, intervals, tuple(sentences), interrupted)


def _row(fit: FitRecord, trace: ProfileTrace, j: int, refits: Refits) -> dict[str, Any]:
    """Row of the table for point number `j` of a trace: the profile there, and the values (NaN for a failed refit)."""
    c, deviance = trace.c[j], trace.deviance[j]
    values = dict.fromkeys(fit.values, np.nan)
    if j == 0 and not trace.zero:  # the estimates
        values = fit.values
    elif np.isfinite(deviance):
        values = trace.binding.values(refits.params(trace.x[j]))
    sign = 1.0 if trace.zero else np.sign(c - trace.estimate)
    row = {
        "parameter": trace.coordinate.name,
        "value": float(trace.coordinate.to_natural(c)),
        "deviance": deviance,
        "zeta": sign * np.sqrt(max(deviance, 0.0)) if np.isfinite(deviance) else np.nan,
        "log_likelihood": trace.log_likelihood[j],
        "status": trace.status[j],
    }
    # A parameter of the model called "value" does not replace the column "value".
    return row | {n if n not in row else f"values.{n}": v for n, v in values.items()}


def _interval(fit: FitRecord, trace: ProfileTrace, wald: pd.DataFrame, interrupted: bool) -> dict[str, Any]:
    """Row of the intervals for a trace, with the Wald interval of the table `wald` beside it."""
    name = trace.coordinate.name
    (lower, lower_note), (upper, upper_note) = (trace.limit(sign, interrupted) for sign in (-1, 1))
    natural = bool(wald["value"].notna()[name])
    return {
        "estimate": fit.values[name],
        "lower": lower,
        "upper": upper,
        "wald lower": wald.loc[name, "value_lower" if natural else "lower"],
        "wald upper": wald.loc[name, "value_upper" if natural else "upper"],
        "note": "; ".join(note for note in (lower_note, upper_note) if note),
    }
