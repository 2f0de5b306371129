"""Dosing: one line of a regimen, doses of one amount at equal distances."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.forecasting.settings import DOSING


@dataclasses.dataclass(frozen=True)
class Dosing:
    """Doses of one amount.

    **Fields:** `amount`, of `per` one unit of a covariate where that is given; `start`: time of the first dose;
    `interval` between doses, 0 for a single dose; `doses`: their number, None without end; `rate`: 0 at once, > 0 the
    rate of an infusion, -1 and -2 a rate and a duration that the model gives (NONMEM's RATE); `compartment`: 0 the
    model's own; `steady_state`: 0, 1 (the first dose finds the steady state of the line), 2 (that is added to the state
    before); `per`: name of a covariate by which amount and rate are multiplied.
    """

    amount: float
    start: float = 0.0
    interval: float = 0.0
    doses: int | None = 1
    rate: float = 0.0
    compartment: int = 0
    steady_state: int = 0
    per: str | None = None

    @property
    def last_dose(self) -> float:
        """Time of the last dose; infinite for doses without end."""
        return math.inf if self.doses is None else self.start + (self.doses - 1) * self.interval

    @property
    def end(self) -> float:
        """Time at which the dose after the last one would be due; of a single dose its own time."""
        return self.last_dose + self.interval

    @property
    def duration(self) -> float:
        """Duration of an infusion whose rate is given, otherwise 0."""
        return self.amount / self.rate if self.rate > 0 else 0.0

    def number_until(self, last: float) -> int:
        """Number of doses up to and with time `last`. **Raises:** OptionError for too many."""
        if self.start > last:
            return 0
        if not self.interval:
            return 1
        number = math.floor((last - self.start) / self.interval + DOSING.rounding) + 1
        number = number if self.doses is None else min(number, self.doses)
        if number > DOSING.most_doses:
            raise OptionError(
                f"the regimen has {number} doses up to time {last:g}, one every {self.interval:g}; interval and times "
                "must be in the same unit."
            )
        return number

    def times_until(self, last: float) -> np.ndarray:
        """Times of the doses up to and with time `last`."""
        return self.start + self.interval * np.arange(self.number_until(last))

    def scaled(self, factor: float) -> Dosing:
        """The doses times `factor`; infusions keep their duration."""
        rate = self.rate * factor if self.rate > 0 else self.rate
        return dataclasses.replace(self, amount=self.amount * factor, rate=rate)

    def in_words(self, unit: str, time_unit: str) -> str:
        """The line in words, such as "500 mg every 12 h, 14 doses from time 0 to 156"."""
        per = f" per {self.per}" if self.per else ""
        hours = f" {time_unit}" if time_unit else ""
        words = f"{self.amount:g}{f' {unit}' if unit else ''}{per}"
        if not self.interval or self.doses == 1:
            words += f" at time {self.start:g}"
        elif self.doses is None:
            words += f" every {self.interval:g}{hours} from time {self.start:g} on"
        else:
            words += f" every {self.interval:g}{hours}, {self.doses} doses from time {self.start:g} to "
            words += f"{self.last_dose:g}"
        if self.rate > 0:
            words += f", {'each ' if self.doses != 1 else ''}infused over {self.duration:g}{hours}"
        elif self.rate:
            words += f", infused {'at a rate' if self.rate == -1 else 'over a duration'} that the model gives"
        if self.compartment:
            words += f", into compartment {self.compartment}"
        if self.steady_state:
            every = f" of {self.interval:g}{hours} intervals" if self.doses == 1 else ""
            words += f", at steady state{every} from its first dose on"
        return words
