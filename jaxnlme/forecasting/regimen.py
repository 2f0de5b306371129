"""`regimen`: dosing regimens, their records in NONMEM's words, and data of new subjects who receive them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme import markup
from jaxnlme.arguments import check_choice, check_flag, check_number
from jaxnlme.data.events.records import RECORD_COLUMNS
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, check_whole_number, shown
from jaxnlme.forecasting.dosing import Dosing
from jaxnlme.forecasting.new_subjects import covariate_columns, covariate_factor, data_of_subjects
from jaxnlme.forecasting.settings import DOSING
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@public("jn.pkpd.regimen")
def regimen(
    amount: float,
    interval: float | None = None,
    *,
    doses: int | None = None,
    until: float | None = None,
    start: float = 0.0,
    duration: float | str | None = None,
    rate: float | str | None = None,
    compartment: int | None = None,
    loading: float | None = None,
    steady_state: bool = False,
    per: str | None = None,
    unit: str = "",
    time_unit: str = "",
) -> Regimen:
    """A dosing regimen: doses of one amount at equal intervals. Regimens are put together by `+` (given side by side)
    and `.then(...)` (one after the other); `2 * regimen` doubles the doses.

    **Arguments:**

    - `amount`: of each dose, > 0, in the unit of the data.
    - `interval`: time between doses; None: a single dose.
    - `doses`: their number; or `until`: doses are given before this time (not at it). With neither, a regimen with an
      interval goes on without end.
    - `start`: time of the first dose.
    - `duration`: each dose is an infusion of this duration; or `rate`: of this rate. `"model"`: the model gives it
      (RATE -2 and -1). With neither, doses are given at once (an absorption is the model's affair).
    - `compartment`: number of the compartment that is dosed; None: the model's own.
    - `loading`: amount of the first dose, in the place of `amount`; an infusion of it has the same duration, or rate.
    - `steady_state`: the first dose is given at the steady state of the regimen (SS 1): doses of `amount` have been
      given every `interval` for ever.
    - `per`: name of a covariate by which `amount`, `loading` and `rate` are multiplied, as in mg per kg: `per="WT"`.
    - `unit`, `time_unit`: of amounts and times, for the sentence that the regimen prints.

    **Returns:** a Regimen.
    **Raises:** OptionError for arguments that do not fit.

    **Example:**

    ```python
    jn.pkpd.regimen(500, 12, doses=14, loading=1000, unit="mg", time_unit="h")
    ```
    """
    amount = check_number("amount", amount, 0.0, above=True)
    start = check_number("start", start, -math.inf)
    steady = check_flag("steady_state", steady_state)
    if interval is not None:
        interval = check_number("interval", interval, 0.0, above=True)
    for name, value in {"doses": doses, "until": until, "loading": loading, "steady_state": steady or None}.items():
        if interval is None and value is not None and not (name == "doses" and value == 1):
            raise OptionError(f"{name}={shown(value)} needs interval=, the time between doses.")
    if doses is not None and until is not None:
        raise OptionError("doses and until both say when the regimen ends; give one of them.")
    if doses is not None:
        doses = check_whole_number("doses", doses, 1)
    if until is not None:
        last: float = check_number("until", until, start, above=True)
        doses = max(math.ceil((last - start) / (interval or 1.0) - DOSING.rounding), 1)
    if steady and loading is not None:
        raise OptionError("a loading dose has no meaning at steady state; leave out loading or steady_state.")
    if per is not None and not (isinstance(per, str) and per):
        raise OptionError(f"per must be the name of a covariate, such as 'WT'; received {shown(per)}.")
    cmt = 0 if compartment is None else check_whole_number("compartment", compartment, 1)
    line = Dosing(
        amount, start, interval or 0.0, 1 if interval is None else doses, _rate(amount, duration, rate), cmt,
        int(steady), per,
    )  # fmt: skip
    if loading is None:
        return Regimen((line,), unit, time_unit)
    at_first: float = check_number("loading", loading, 0.0, above=True)
    first = dataclasses.replace(line, amount=at_first, doses=1, rate=_rate(at_first, duration, rate))
    rest = dataclasses.replace(line, start=start + line.interval, doses=None if doses is None else doses - 1)
    return Regimen((first,) if rest.doses == 0 else (first, rest), unit, time_unit)


def _rate(amount: float, duration: Any, rate: Any) -> float:
    """NONMEM's RATE of a dose. **Raises:** OptionError for both a duration and a rate, or other values."""
    if duration is not None and rate is not None:
        raise OptionError("duration and rate both describe the infusion; give one of them.")
    for name, value, code in (("duration", duration, -2.0), ("rate", rate, -1.0)):
        if isinstance(value, str):
            check_choice(name, value, ("model",))
            return code
    if duration is not None:
        return amount / check_number("duration", duration, 0.0, above=True)
    return 0.0 if rate is None else check_number("rate", rate, 0.0, above=True)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Regimen:
    """Doses over time, as `jn.pkpd.regimen` makes them; it prints as a sentence.

    **Fields:** `lines`: doses of one amount at equal intervals each, by their start; `unit`, `time_unit`: for print.
    """

    lines: tuple[Dosing, ...]
    unit: str = ""
    time_unit: str = ""

    # --- putting regimens together ---

    def __add__(self, other: Any) -> Regimen:
        """Both regimens side by side, each on its own clock. Steady states add up: the later ones are SS 2."""
        if not isinstance(other, Regimen):
            raise OptionError(f"a regimen can be added to a regimen only; received {shown(other)}.")
        lines = sorted((*self.lines, *other.lines), key=lambda line: (line.start, line.steady_state == 0))
        lines[1:] = [dataclasses.replace(line, steady_state=2 * (line.steady_state > 0)) for line in lines[1:]]
        return self._of(lines, other)

    def __mul__(self, factor: Any) -> Regimen:
        """All doses times a number; infusions keep their duration."""
        factor = check_number("the factor of a regimen", factor, 0.0, above=True)
        return self._of([line.scaled(factor) for line in self.lines])

    __rmul__ = __mul__

    @public("regimen.then")
    def then(self, other: Regimen, after: float | None = None) -> Regimen:
        """This regimen, followed by another.

        **Arguments:** `other`: its times count from the moment at which the next dose of this one would be due;
        `after`: from this time after the last dose instead (needed after a single dose).
        **Returns:** a Regimen.
        **Raises:** OptionError after a regimen without end, and after a single dose without `after`.
        """
        if not isinstance(other, Regimen):
            raise OptionError(f"then(...) takes a regimen; received {shown(other)}.")
        if math.isinf(self.last_dose):
            raise OptionError("a regimen without end cannot be followed by another; give it doses= or until=.")
        if after is None and self.end <= self.last_dose:
            raise OptionError("a single dose has no interval: say when the next begins, as in then(other, after=12).")
        begin = self.end if after is None else self.last_dose + check_number("after", after, 0.0)
        return self._of([*self.lines, *(dataclasses.replace(e, start=e.start + begin) for e in other.lines)], other)

    def _of(self, lines: Sequence[Dosing], other: Regimen | None = None) -> Regimen:
        unit, time_unit = self.unit, self.time_unit
        if other is not None:
            unit, time_unit = unit or other.unit, time_unit or other.time_unit
        return Regimen(tuple(sorted(lines, key=lambda line: line.start)), unit, time_unit)

    def at_steady_state(self) -> Regimen:
        """The last line of the regimen at its steady state from time 0 on, without end.

        **Raises:** OptionError where it has no interval.
        """
        line = self.lines[-1]
        if not line.interval:
            raise OptionError("a single dose has no steady state; give interval=.")
        return self._of([dataclasses.replace(line, start=0.0, doses=None, steady_state=1)])

    # --- facts ---

    @property
    def start(self) -> float:
        """Time of the first dose."""
        return self.lines[0].start

    @property
    def last_dose(self) -> float:
        """Time of the last dose; infinite without end."""
        return max(line.last_dose for line in self.lines)

    @property
    def end(self) -> float:
        """Time at which the dose after the last one would be due (of a single dose: its own time)."""
        return max(line.end for line in self.lines)

    @property
    def interval(self) -> float:
        """Interval of the last line, 0 of a single dose."""
        return self.lines[-1].interval

    @property
    def window(self) -> tuple[float, float]:
        """The time over which exposure is computed by default: at steady state, and of a regimen without end, one
        interval from the start of its last line; otherwise from the first dose to the end, of a single dose to
        infinity."""
        line = self.lines[-1]
        if line.steady_state or (line.doses is None and line.interval):
            return line.start, line.start + line.interval
        return self.start, self.end if self.end > self.last_dose else math.inf

    @property
    def per(self) -> tuple[str, ...]:
        """Names of the covariates by which amounts are multiplied."""
        return tuple(dict.fromkeys(line.per for line in self.lines if line.per))

    # --- records ---

    @public("regimen.records")
    def records(self, until: float | None = None, covariates: Any = None) -> pd.DataFrame:
        """The regimen in NONMEM's words: TIME, EVID, AMT, RATE, CMT, SS, II, ADDL, one row for each line.

        **Arguments:** `until`: the last time at which doses are given, for a regimen without end; `covariates`: a
        dictionary or data frame with the columns that amounts are multiplied by; the records of each of its rows, with
        a column ID, where it has several.
        **Returns:** a data frame. CMT 0 is the model's own compartment.
        **Raises:** OptionError for a regimen without end, and where a covariate is missing.
        """
        import pandas as pd

        if until is None and math.isinf(self.last_dose):
            raise OptionError("the regimen has no end: give records(until=...), or doses= or until= of the regimen.")
        if self.per and covariates is None:
            name = self.per[0]
            raise OptionError(f"the amounts are per {name}: give records(covariates={{{name!r}: ...}}).")
        last = self.last_dose if until is None else check_number("until", until, self.start)
        rows = []
        for line in self.lines:
            number = line.number_until(last)
            if number:
                interval = line.interval if number > 1 or line.steady_state else 0.0
                row = (line.start, 1, line.amount, line.rate, line.compartment, line.steady_state, interval, number - 1)
                rows.append((*row, line.per))
        frame = pd.DataFrame(rows, columns=[*RECORD_COLUMNS, "per"])
        columns = covariate_columns(covariates, None)
        n = len(next(iter(columns.values()), [0]))
        frames = []
        for k in range(n):
            factor = np.array([1.0 if per is None else covariate_factor(columns, per)[k] for per in frame["per"]])
            of_subject = frame.drop(columns="per")
            of_subject["AMT"] = of_subject["AMT"] * factor
            of_subject["RATE"] = np.where(of_subject["RATE"] > 0, of_subject["RATE"] * factor, of_subject["RATE"])
            if n > 1:
                of_subject.insert(0, "ID", k + 1)
            frames.append(of_subject)
        return pd.concat(frames, ignore_index=True)

    def doses_until(self, last: float) -> dict[str, Any]:
        """Each dose up to and with time `last`, by time: columns (doses,) TIME, AMT, RATE, CMT, SS, II, and `per`, a
        list of the names of covariates or None."""
        parts = []
        for line in self.lines:
            for k, time in enumerate(line.times_until(last)):
                steady = line.steady_state if k == 0 else 0
                parts.append((time, line.amount, line.rate, line.compartment, steady, line.interval, line.per))
        parts.sort(key=lambda part: part[0])
        names = ("TIME", "AMT", "RATE", "CMT", "SS", "II")
        columns: dict[str, Any] = {name: np.array([part[k] for part in parts], float) for k, name in enumerate(names)}
        columns["II"] = np.where(columns["SS"] > 0, columns["II"], 0.0)
        return columns | {"per": [part[6] for part in parts]}

    @public("regimen.data")
    def data(
        self,
        times: Any,
        n: int | None = None,
        covariates: Any = None,
        *,
        rows: Any = None,
        at_dose: str = "before",
        time: str = "TIME",
        group: str = "ID",
        y: str = "DV",
        like: GroupedData | None = None,
    ) -> GroupedData:
        """New subjects who receive the regimen, to be observed at given times: doses as event records, which a model
        reads as `v.events`, and a row for each time, without a response.

        **Arguments:**

        - `times`: of the rows, the same for all subjects; they are sorted, and repeated ones left out.
        - `n`: number of subjects; None: one for each row of `covariates`.
        - `covariates`: a dictionary of numbers or columns (n,), or a data frame with n rows, one value a subject.
        - `rows`: a dictionary of further columns with one value for each time, or one for all (occasion, endpoint).
        - `at_dose`: an observation at the time of a dose is "before" it (a trough) or "after" it. At the time of a
          steady-state record observations are after it: before it there is no steady state.
        - `time`, `group`, `y`: names of the columns of time, subject and response.
        - `like`: data whose names of these columns, and whose division of columns into x, v and text, are used.

        **Returns:** GroupedData with subjects 1, ..., n. Each dose is a record of its own (no ADDL), so that the side
        of observations is that asked for at every dose.
        **Raises:** OptionError for times before the start, and for covariates that do not fit or are missing.
        """
        check_choice("at_dose", at_dose, ("before", "after"))
        number = None if n is None else check_whole_number("n", n, 1, "the number of subjects")
        columns = covariate_columns(covariates, number)
        number = len(next(iter(columns.values()))) if columns else number or 1
        labels = np.array(range(1, number + 1), object)
        names = (time, group, y) if like is None else None
        return data_of_subjects(self, times, labels, columns, rows, at_dose == "before", like, names)[0]

    # --- in words ---

    def __str__(self) -> str:
        return "; ".join(line.in_words(self.unit, self.time_unit) for line in self.lines)

    def __repr__(self) -> str:
        return f"Regimen: {self}"

    def _repr_html_(self) -> str:
        return markup.table("Regimen", (), [(line.in_words(self.unit, self.time_unit),) for line in self.lines])
