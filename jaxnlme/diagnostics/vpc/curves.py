"""Survival curves: Kaplan-Meier's estimate, and the mean of a covariate among those at risk (kmmc)."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Times:
    """Times to an event, one for each subject (or each gap between events).

    **Fields:** `time` (n,); `event` (n,): true for an event, false for the end of follow-up; `covariate` (n,), or None.
    """

    time: np.ndarray
    event: np.ndarray
    covariate: np.ndarray | None = None

    def at(self, times: np.ndarray) -> np.ndarray:
        """The curve (times,): survival by Kaplan and Meier, S(t) = prod over event times s <= t of 1 - d(s) / n(s); or
        with a covariate its mean among those at risk at t, whose time is t or later, NaN where nobody is.

        **Source:** Kaplan and Meier (1958), Journal of the American Statistical Association 53, 457-481; Hooker and
        Karlsson (2012), PAGE 21, abstract 2564, for the mean covariate.
        """
        if self.covariate is not None:
            return self._mean_covariate(times)
        order = np.argsort(self.time, kind="stable")
        time, event = self.time[order], self.event[order]
        distinct, first = np.unique(time, return_index=True)
        if not distinct.size:
            return np.full(times.shape, np.nan)
        deaths = np.add.reduceat(event.astype(float), first)
        survival = np.cumprod(1.0 - deaths / (time.size - first))
        return np.concatenate([[1.0], survival])[np.searchsorted(distinct, times, side="right")]

    def at_risk(self, times: np.ndarray) -> np.ndarray:
        """The number (times,) with a time of at least t."""
        return self.time.size - np.searchsorted(np.sort(self.time), times, side="left")

    def events_until(self, times: np.ndarray) -> np.ndarray:
        """The number (times,) of events up to t."""
        return np.searchsorted(np.sort(self.time[self.event]), times, side="right")

    def _mean_covariate(self, times: np.ndarray) -> np.ndarray:
        assert self.covariate is not None
        order = np.argsort(self.time, kind="stable")
        later = np.concatenate([np.cumsum(self.covariate[order][::-1])[::-1], [0.0]])
        first = np.searchsorted(self.time[order], times, side="left")
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(first < self.time.size, later[first] / (self.time.size - first), np.nan)
