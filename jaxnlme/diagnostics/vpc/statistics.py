"""Statistics of the responses in a bin: percentiles, or shares of categories."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.diagnostics.vpc.quantiles import quantiles
from jaxnlme.errors import OptionError, shown


class AbstractStatistic(abc.ABC):
    """A statistic of samples with several values, each named in the column `column`."""

    column: str
    values: tuple[Any, ...]

    @abc.abstractmethod
    def of(self, y: np.ndarray) -> np.ndarray:
        """The values (samples, values) for samples (samples, rows); NaN is no observation."""


@dataclasses.dataclass(frozen=True)
class Percentiles(AbstractStatistic):
    """Percentiles, by `values` in percent."""

    values: tuple[float, ...]
    column: str = "percentile"

    def of(self, y: np.ndarray) -> np.ndarray:
        return quantiles(y, [value / 100.0 for value in self.values])


@dataclasses.dataclass(frozen=True)
class Shares(AbstractStatistic):
    """Shares of the categories `values`."""

    values: tuple[Any, ...]
    column: str = "category"

    def of(self, y: np.ndarray) -> np.ndarray:
        counts = np.sum(~np.isnan(y), axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([np.sum(y == value, axis=1) / counts for value in self.values], axis=1)


def check_percentiles(percentiles: Any) -> tuple[float, ...]:
    """The option `percentiles` in rising order. **Raises:** OptionError for others than numbers from 0 to 100."""
    listed = [percentiles] if np.ndim(percentiles) == 0 else list(percentiles)
    numbers = [p for p in listed if isinstance(p, (int, float, np.number)) and not isinstance(p, bool)]
    if not listed or len(numbers) != len(listed) or not all(0.0 <= float(p) <= 100.0 for p in numbers):
        raise OptionError(
            f"percentiles must be numbers from 0 to 100, as in (5, 50, 95); received {shown(percentiles)}."
        )
    if listed != [50] and all(0.0 < float(p) < 1.0 for p in numbers):
        raise OptionError(
            f"percentiles are in percent, as in (5, 50, 95); received {shown(percentiles)}: multiply by 100."
        )
    return tuple(sorted({float(p) for p in numbers}))


def shares_of(y: np.ndarray, categories: Sequence[Any] | None) -> Shares:
    """The statistic of the categories that occur in `y`, or of those named. **Raises:** OptionError where a response is
    none of those named."""
    present = np.unique(y)
    if categories is None:
        return Shares(tuple(float(value) for value in present))
    known = np.asarray(list(categories), float)
    if (other := present[~np.isin(present, known)]).size:
        raise OptionError(f"categories lacks {other[0]:g}, which is observed; name every category.")
    return Shares(tuple(float(value) for value in known))
