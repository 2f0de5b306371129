"""Rows of a linear model in arrays by unit, and the series of correlated residuals in them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.binding.series import linked_series
from jaxnlme.errors import DataError, ModelError, some
from jaxnlme.estimators.linear.problem import LinearProblem
from jaxnlme.model.residual_error.correlation_base import AbstractCorrelation, Series


@dataclasses.dataclass(frozen=True, eq=False)
class RowPlaces:
    """Places of sorted rows in arrays (rows of the largest unit, units).

    **Fields:** `position` (rows,): of each row in its unit; `unit` (rows,); `shape` of the arrays.
    """

    position: np.ndarray
    unit: np.ndarray
    shape: tuple[int, int]

    @property
    def n_entries(self) -> int:
        """The number of entries of an array."""
        return self.shape[0] * self.shape[1]

    def array(self, values: np.ndarray, padding: float = 0.0) -> np.ndarray:
        """Values of sorted rows (rows,) in an array; `padding` elsewhere."""
        out = np.full(self.shape, padding, float)
        out[self.position, self.unit] = values
        return out

    def rows(self, array: Any) -> np.ndarray:
        """The values of sorted rows (rows,) in an array."""
        return np.asarray(array)[self.position, self.unit]


def series_of_units(correlation: AbstractCorrelation, table: Any, places: RowPlaces, problem: LinearProblem) -> Series:
    """The series of all units, arrays (units, rows of the largest unit).

    **Raises:** DataError, ModelError for a column of times that cannot be used, and for rows at one time.
    """
    within = correlation.within
    code = np.zeros(problem.n_rows) if within is None else value_codes(table[within]).astype(float)
    real = places.array(np.ones(problem.n_rows)).T > 0
    codes = places.array(code, -1.0).T.astype(int)
    if correlation.time is None:
        time = np.zeros(problem.n_rows)
        order = np.lexsort((places.position, code, places.unit))
        changed = np.append(True, (np.diff(code[order]) != 0) | (np.diff(places.unit[order]) != 0))
        first = np.flatnonzero(changed)
        time[order] = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    else:
        time = _times(table, correlation)
    series = linked_series(places.array(time).T, codes, real, real, correlation.time)
    tied = series.linked & (series.lag == 0)
    if tied.any() and not correlation.allows_ties:
        bad = tied[places.unit, places.position]
        raise ModelError(
            f"two rows of one series have the same {correlation.time} (row {_row_numbers(problem, bad)}), where their "
            "residuals would be equal: declare the series with within=, use a correlation with a nugget, or leave one "
            "of the rows out."
        )
    return series


def _times(table: Any, correlation: AbstractCorrelation) -> np.ndarray:
    """The column of times or positions (rows,)."""
    name = str(correlation.time)
    try:
        values = np.asarray(table[name], float)
    except (TypeError, ValueError):
        raise ModelError(
            f"column {name!r} of the residual correlation holds text; expected numbers (code occasions as 1, 2, ...)."
        ) from None
    if not np.isfinite(values).all():
        raise DataError(f"column {name!r} of the residual correlation has missing or infinite values.")
    if correlation.whole_numbers and (values != np.round(values)).any():
        bad = values[values != np.round(values)][0]
        raise ModelError(
            f"column {name!r} of the residual correlation must hold whole numbers, whose differences are the lags; it "
            f"holds {bad:g}. For a continuous time use jn.correlation.CAR1."
        )
    return values


def value_codes(column: Any) -> np.ndarray:
    """Numbers (rows,) of the values of a column."""
    import pandas as pd

    return pd.factorize(column)[0]


def units_last(layout: Any) -> Any:
    """The layout of all units with these last, (rows of the largest unit, units)."""
    names = ("time", "code", "row_code", "offset", "lag")
    return dataclasses.replace(layout, **{name: np.ascontiguousarray(getattr(layout, name).T) for name in names})


def _row_numbers(problem: LinearProblem, bad: np.ndarray) -> str:
    """Numbers in the table of sorted rows."""
    rows = np.flatnonzero(bad) if isinstance(problem.order, slice) else np.asarray(problem.order)[bad]
    return some([str(int(row) + 1) for row in np.sort(rows)])
