"""`next_dose`: the dose with which a patient's trough, peak or area reaches a target."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, check_flag, check_number, real_number
from jaxnlme.errors import OptionError, check_whole_number, shown
from jaxnlme.forecasting.curves import BEFORE, Curves
from jaxnlme.forecasting.panels import adaptive_panels, highest
from jaxnlme.forecasting.regimen import Regimen, regimen
from jaxnlme.forecasting.settings import DOSE_SEARCH
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.signatures import public

if TYPE_CHECKING:
    from jaxnlme.forecasting.forecast import Forecast

MEASURES = ("trough", "peak", "auc", "auc24", "cavg")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NextDose(Printable):
    """The next dose of a patient. It prints as sentences.

    **Fields:** `amount` of each dose (0: none is needed, or less than half of `round_to`); `exact`: before rounding;
    `regimen` with it, None without a dose;
    `at_mode`: the measure that it reaches at the mode; `exposure` (draws,) of the posterior; `median`, `lower`,
    `upper` of these; `proportional`: the measure is a linear function of the dose; `sentences`.
    """

    amount: float
    exact: float
    regimen: Regimen | None
    at_mode: float
    exposure: np.ndarray
    median: float
    lower: float
    upper: float
    proportional: bool
    sentences: tuple[str, ...]

    def _tables(self) -> list[Table]:
        return []


@public("forecast.next_dose")
def next_dose(
    forecast: Forecast,
    target: tuple[str, float],
    interval: float,
    *,
    at: float | None = None,
    doses: int = 1,
    duration: float | None = None,
    compartment: int | None = None,
    steady_state: bool = False,
    by: str = "mode",
    round_to: float | None = None,
) -> NextDose:
    """The amount with which the patient reaches a target, after the doses so far (a regimen to come of the forecast is
    replaced). A target that falls with the dose, an inhibited response, is reached from above.

    **Arguments:**

    - `target`: a pair of a measure and its value: "trough", the value at the end of the interval before the next dose;
      "peak", the largest value in it; "auc", the area over it; "auc24", 24 times the area by the interval, and "cavg",
      the area by the interval.
    - `interval` between doses; `at`: time of the next dose, None: `interval` after the last one, or the time of the
      last level where that is later.
    - `doses`: the measure is that of the interval after this number of doses of the amount.
    - `duration`: doses are infusions of this duration; `compartment` that is dosed.
    - `steady_state`: the measure is that of the steady state of these doses, whatever was given before.
    - `by`: the target is that of the curve at the "mode" of the random effects, or of the "median" of the posterior.
    - `round_to`: amounts come in multiples of this; the nearest one is given, which may be 0 (a sentence then says what
      one multiple would do).

    **Returns:** a NextDose, with the interval of the measure over the posterior.
    **Raises:** OptionError for arguments that do not fit, and where no dose reaches the target.
    """
    measure, value = _target(target)
    interval = check_number("interval", interval, 0.0, above=True)
    doses = check_whole_number("doses", doses, 1)
    steady = check_flag("steady_state", steady_state)
    check_choice("by", by, ("mode", "median"))
    if steady and doses != 1:
        raise OptionError("at steady state the number of doses has no meaning; leave out doses.")
    step = None if round_to is None else check_number("round_to", round_to, 0.0, above=True)
    past = forecast.patient.past
    if past is None:
        raise OptionError("the fitted data have no event records, so that a next dose cannot be given to the model.")
    given = past.columns["TIME"][past.columns["EVID"] != 3]
    last = float(given[-1]) + interval if len(given) else 0.0
    start = max(last, forecast.patient.last_level) if at is None else check_number("at", at, -math.inf)
    if len(given) and start < given[-1]:
        raise OptionError(f"at={start:g} is before the patient's last dose, at time {float(given[-1]):g}.")
    # The unit of the search: the amount of the last dose.
    amounts = past.amount[0][past.columns["EVID"] != 3]
    unit = float(amounts[-1]) if len(amounts) and amounts[-1] > 0 else 1.0
    options = {"start": start, "duration": duration, "compartment": compartment, "steady_state": steady}
    trial = regimen(unit, interval, doses=doses, **options)
    begin = start if steady else start + (doses - 1) * interval
    at_mode, new = forecast.curves(trial, begin + interval, at_mode=True)

    def of(curves: Curves, factor: float) -> np.ndarray:
        scaled = curves.scaled(np.where(new, factor, 1.0))
        return _measure(scaled, measure, begin, interval)

    draws, _ = forecast.curves(trial, begin + interval)
    aim = at_mode if by == "mode" else draws
    factor, proportional, sign = _solve(lambda k: float(np.median(of(aim, k))), value)
    exact = unit * factor
    amount = exact if step is None else step * round(exact / step)
    values = of(draws, amount / unit)
    reached = float(of(at_mode, amount / unit)[0])
    tail = 50.0 * (1.0 - forecast.level)
    median, lower, upper = (float(v) for v in np.percentile(values, [50.0, tail, 100.0 - tail]))
    final = None if amount == 0 else regimen(amount, interval, doses=doses, **options)
    where = "at steady state" if steady else f"from time {begin:g} to {begin + interval:g}"
    if exact == 0:
        first = f"No dose at time {start:g}: without it {measure} is {number(reached)} {where}, the target {value:g}."
    elif step is not None and amount == 0:
        one = float(of(at_mode, step / unit)[0])
        first = (
            f"No dose at time {start:g}: {number(exact)} would reach the target {value:g}, and the nearest multiple of "
            f"{step:g} is 0. Without a dose {measure} is {number(reached)} {where}, with {step:g} {number(one)}."
        )
    else:
        rounded = f" (rounded from {number(exact)})" if amount != exact else ""
        first = f"{number(amount)}{rounded} every {interval:g} from time {start:g} on: {measure} {where} is "
        first += f"{number(reached)} at the mode, the target {value:g}."
    spread = (
        f"Posterior median {number(median)}, {100 * forecast.level:g}% interval {number(lower)} to {number(upper)}; "
        f"{100 * float(np.mean(sign * values >= sign * value)):.0f}% of the draws reach the target."
    )
    kind = "The measure is linear in the dose." if proportional else "The measure is not linear in the dose: searched."
    warning = () if forecast.fit.converged else (f"The fit has NOT converged. {forecast.fit.status}",)
    return NextDose(
        amount, exact, final, reached, values, median, lower, upper, proportional, (*warning, first, spread, kind)
    )


def _target(target: Any) -> tuple[str, float]:
    """**Raises:** OptionError for what is no pair of a measure and a positive number."""
    pair = list(target) if isinstance(target, (tuple, list)) else []
    value = real_number(pair[1]) if len(pair) == 2 else None
    if len(pair) != 2 or value is None or value <= 0:
        raise OptionError(f'target must be a pair such as ("trough", 15.0); received {shown(target)}.')
    check_choice("the measure of target", pair[0], MEASURES)
    return pair[0], value


def _measure(curves: Curves, measure: str, begin: float, interval: float) -> np.ndarray:
    """The measure (subjects,) over [begin, begin + interval]."""
    n = curves.n
    end = np.full(n, begin + interval)
    if measure == "trough":
        return curves(np.arange(n), end[:, None], np.full((n, 1), BEFORE))[:, 0]
    panels = adaptive_panels(curves, np.full(n, begin), end)
    if measure == "peak":
        return highest(curves, panels)[0]
    return panels.by_subject(panels.area) * {"auc": 1.0, "auc24": 24.0 / interval, "cavg": 1.0 / interval}[measure]


def _solve(measure: Any, target: float) -> tuple[float, bool, int]:
    """The factor at which `measure(factor)` is the target (0: reached without a dose), True where it is linear, and 1
    for a measure that grows with the dose, -1 for one that falls (an effect). **Raises:** OptionError where no factor
    reaches the target."""
    none, one, two = measure(0.0), measure(1.0), measure(2.0)
    if not math.isfinite(none + one + two):
        raise OptionError("the patient's curve is not finite in the interval of the next dose.")
    sign = -1 if one < none else 1
    linear = abs((two - one) - (one - none)) <= DOSE_SEARCH.linear * max(abs(none), abs(two))
    if sign * none >= sign * target:
        return 0.0, linear, sign
    if one != none and linear:
        return (target - none) / (one - none), True, sign
    low, high, value = 0.0, 1.0, one
    while sign * value < sign * target:
        low, high = high, 2.0 * high
        value = measure(high)
        if high > DOSE_SEARCH.widest or not math.isfinite(value):
            raise OptionError(
                f"no dose reaches the target {target:g}; the measure is {value:g} with the largest tried."
            )
    while high - low > DOSE_SEARCH.tolerance * high:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if sign * measure(middle) >= sign * target else (middle, high)
    return high, False, sign
