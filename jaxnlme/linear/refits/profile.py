"""Profile likelihoods of a linear mixed model.

A fixed effect is held by subtracting its column from the responses and leaving it out of the model. A variance
parameter q(theta, log sigma) is held by minimising -2 log L, fixed effects at their maximum, where q = c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxnlme.arguments import check_names, check_progress
from jaxnlme.errors import FitError, OptionError, check_level, near_matches
from jaxnlme.estimators.core.progress import ProgressLine
from jaxnlme.linear.estimates import estimates_table, reported_names
from jaxnlme.linear.refits.held import HeldFixedEffect, HeldPoint, HeldVariance
from jaxnlme.linear.refits.settings import LINEAR_PROFILE
from jaxnlme.refits.jobs import failures
from jaxnlme.refits.profile import Profile
from jaxnlme.signatures import public

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


@public("fit.profile")
def profile(
    fit: LinearFit,
    names: str | Sequence[str] | None = None,
    *,
    level: float = 0.95,
    progress: bool | None = None,
) -> Profile:
    """Profile likelihood intervals of fixed effects, standard deviations, correlations and residual parameters.

    With M(c) the maximum of the log-likelihood where the value is held at c, and M that of the fit, the deviance is
    D(c) = 2 (M - M(c)), the signed root zeta(c) = sign(c - estimate) sqrt(D(c)), and the interval is where D(c) is
    below the `level` quantile of chi-squared with one degree of freedom. The likelihood is the ordinary one: a fit by
    REML is refitted by ML first, as lme4 does, and the estimates in the table are those of ML.

    **Arguments:** `names`: all parameters of `fit.estimates` where None; `level` of the intervals; `progress` as in
    `fit`.
    **Returns:** a Profile: `.intervals`, `.table` with a row per point, `.plot()`.
    **Raises:** FitError where the fit did not converge; OptionError for unknown names, a correlation of an effect of
    variance zero, and a variance function of the fitted values.
    **Source:** Bates and Watts (1988), Nonlinear Regression Analysis and Its Applications, chapter 6; Bates, Maechler,
    Bolker and Walker (2015), Journal of Statistical Software 67(1), section 5.1.
    """
    check_level(level)
    progress = check_progress(progress)
    ml = fit.update(method="ML") if fit.restricted else fit
    if not ml.converged:
        raise FitError(f"a profile begins at a maximum, and the fit by ML has not converged. {ml.status}", ml)
    wanted = _names(ml, names)
    traces: list[_Trace] = []
    interrupted = False
    wald = estimates_table(ml, level)
    with ProgressLine(progress, "profile", len(wanted)) as line:
        for count, name in enumerate(wanted):
            line.show(name, count)
            trace = _Trace(ml, name, wald, level)
            traces.append(trace)
            try:
                trace.search()
            except KeyboardInterrupt:
                interrupted = True
                break
    return _record(fit, ml, traces, wald, level, interrupted)


def _names(fit: LinearFit, names: str | Sequence[str] | None) -> list[str]:
    """The names to profile. **Raises:** OptionError."""
    known = reported_names(fit)
    values = fit.estimates["estimate"]
    if names is None:
        return [name for name in known if not np.isnan(values[name])]
    listed = check_names("names", names, "parameters of the fit")
    for name in listed:
        if name not in known:
            raise OptionError(f"{name!r} is not a parameter of this fit; {near_matches(name, known)}")
        if np.isnan(values[name]):
            raise OptionError(f"{name!r} has no profile: the variance of one of its effects is zero.")
    return listed


class _Trace:
    """The profile of one parameter: its points and the limits of its interval.

    **Fields:** `points`, in the order in which they were computed; `limits` (lower, upper) on the natural scale, and
    `notes` on them.
    """

    def __init__(self, fit: LinearFit, name: str, wald: Any, level: float):
        from scipy.special import ndtri

        self.name, self.fit = name, fit
        self.quantile = float(ndtri(0.5 + level / 2.0))
        position = reported_names(fit).index(name)
        fixed = position < len(fit.model.fixed.names)
        self.held: Any = (
            HeldFixedEffect(fit, position) if fixed else HeldVariance(fit, position - len(fit.model.fixed.names))
        )
        self.estimate = float(wald.loc[name, "estimate"])
        self.points: list[HeldPoint] = []
        self._zetas: dict[float, float] = {}
        self.limits, self.notes = [np.nan, np.nan], ["", ""]
        real = self.held.to_real(wald.loc[name, ["lower", "upper"]].to_numpy(float))
        spread = float(real[1] - real[0]) / 2.0
        self.step = spread if np.isfinite(spread) and spread > 0 else LINEAR_PROFILE.first_step

    @property
    def at_zero(self) -> bool:
        """True for a standard deviation estimated as zero."""
        return self.held.lowest == 0.0 and self.estimate == 0.0

    def search(self) -> None:
        """Find both limits."""
        if self.at_zero:
            self.limits[0], self.notes[0] = 0.0, "estimated as zero"
        else:
            self.points.append(HeldPoint(self.estimate, 0.0, "converged", np.array([*self.fit.values.values()])))
            self._zetas[float(self.held.to_real(self.estimate))] = 0.0
            self._limit(0, -1.0)
        self._limit(1, 1.0)

    def _zeta(self, real: float) -> float:
        """The root of the deviance at a value held, on the real line; NaN where it was not maximised. A point is
        computed once."""
        if real not in self._zetas:
            point = self.held.at(float(self.held.to_natural(real)))
            self.points.append(point)
            self._zetas[real] = float(np.sqrt(np.maximum(point.deviance, 0.0)))
        return self._zetas[real]

    def _limit(self, end: int, sign: float) -> None:
        """Find one limit: a bracket, then Brent's method within it."""
        from scipy.optimize import brentq

        try:
            bracket = self._bracket(end, sign)
            if bracket is None:
                return
            root = brentq(self._above, *bracket, xtol=LINEAR_PROFILE.tolerance * self.step)
        except _NotMaximised:
            self.notes[end] = f"{_END[end]} limit: a point on the way was not maximised"
            return
        self.limits[end] = float(self.held.to_natural(root))

    def _bracket(self, end: int, sign: float) -> tuple[float, float] | None:
        """Points on the real line inside and outside the interval, by doubling steps from the estimate; None, with a
        note, where the interval reaches a bound of the parameter, or no limit was passed."""
        start = self.held.start() if self.at_zero else float(self.held.to_real(self.estimate))
        inside, step = start, self.step
        half = start + sign * 0.5 * step  # one point between estimate and limit, for the picture
        if self._zeta(half) < self.quantile:
            inside = half
        for _ in range(LINEAR_PROFILE.doublings):
            outside = start + sign * step
            bound = self.held.bound(outside)
            outside = outside if bound is None else float(self.held.to_real(bound))
            if self._above(outside) >= 0.0:
                return inside, outside
            if bound is not None:
                self.limits[end] = self.held.lowest if end == 0 else self.held.highest
                self.notes[end] = f"{_END[end]} limit is the bound of the parameter"
                return None
            inside, step = outside, 2.0 * step
        self.notes[end] = f"{_END[end]} limit was not reached"
        return None

    def _above(self, real: float) -> float:
        zeta = self._zeta(real)
        if np.isnan(zeta):
            raise _NotMaximised
        return zeta - self.quantile


_END = ("lower", "upper")


class _NotMaximised(Exception):
    """A point between estimate and limit whose maximum was not found."""


def _record(
    fit: LinearFit, ml: LinearFit, traces: Sequence[_Trace], wald: pd.DataFrame, level: float, interrupted: bool
) -> Profile:
    """The Profile of the traces, with its sentences."""
    names = reported_names(ml)
    columns = ["parameter", "value", "deviance", "zeta", "log_likelihood", "status"]
    columns += [name if name not in columns else f"values.{name}" for name in names]
    rows, limits = [], {}
    for trace in traces:
        for point in sorted(trace.points, key=lambda point: point.value):
            zeta = np.sign(point.value - trace.estimate) * np.sqrt(max(point.deviance, 0.0))
            value = ml.log_likelihood - 0.5 * point.deviance
            rows.append([trace.name, point.value, point.deviance, zeta, value, point.status, *point.values])
        note = "; ".join(note for note in trace.notes if note)
        lower, upper = wald.loc[trace.name, "lower"], wald.loc[trace.name, "upper"]
        limits[trace.name] = [trace.estimate, *trace.limits, lower, upper, note]
    table = pd.DataFrame(rows, columns=columns)
    heading = ["estimate", "lower", "upper", "wald lower", "wald upper", "note"]
    intervals = pd.DataFrame.from_dict(limits, orient="index", columns=heading)
    intervals.index.name = "parameter"
    sentences = [f"Profile likelihood of a fit by ML, {100 * level:g}% intervals ({len(table)} points)."]
    if fit.restricted:
        sentences.append("The fit was by REML, and was refitted by ML: the estimates here are those of ML.")
    if interrupted:
        sentences.append(f"Interrupted at {traces[-1].name}: its limits are not complete, later ones are not there.")
    sentences += failures(table["status"].to_numpy(object), "points")
    noted = [f"{name}: {note}" for name, note in intervals["note"].items() if note]
    if noted:
        sentences.append(f"{'; '.join(noted)}.")
    lowest = float(np.nanmin(table["deviance"].to_numpy(float), initial=0.0))
    if lowest < -2.0 * LINEAR_PROFILE.better_by:
        sentences.append(
            f"A BETTER MAXIMUM than the fit's was found on the way, by {-0.5 * lowest:.4f} log-likelihood units."
        )
    of: Any = ml  # a Profile asks of its fit whether it converged
    return Profile(of, level, table, intervals, tuple(sentences), interrupted)
