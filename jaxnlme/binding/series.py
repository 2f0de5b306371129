"""Series of correlated residuals: which rows of a group are correlated, and how far apart they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from jaxnlme.binding.settings import CHECKS
from jaxnlme.binding.stacking import column_of, distinct
from jaxnlme.data._layout import next_size
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import MESSAGES, ModelError, some
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.correlation_base import AbstractCorrelation, Series, SeriesLayout


def correlation_of(error: AbstractError) -> AbstractCorrelation | None:
    """The correlation of a residual model, None where its residuals are independent."""
    return getattr(error, "correlation", None)


def series_of(data: GroupedData, correlation: AbstractCorrelation) -> Series:
    """The series of the rows of `data`.

    **Raises:** ModelError naming the rows whose times are no numbers, no whole numbers, or occur twice in a series.
    """
    code = np.zeros(data.y.shape, int)
    if correlation.within is not None:
        code = distinct(column_of(data, correlation.within, "the residual correlation"))[1]
    time = _positions(data, code) if correlation.time is None else _times(data, correlation)
    series = linked_series(time, code, data.observed, data.rows, correlation.time)
    if not correlation.allows_ties:
        _check_ties(data, series, correlation)
    return series


def linked_series(
    time: np.ndarray, code: np.ndarray, observed: np.ndarray, rows: np.ndarray, column: str | None
) -> Series:
    """The Series of rows with a `time` and the `code` of a series in its group; `observed`, `rows`: all (groups,
    obs)."""
    previous, lag = np.full(time.shape, -1), np.ones(time.shape)
    groups, positions = np.nonzero(observed)
    order = np.lexsort((time[groups, positions], code[groups, positions], groups))
    groups, positions = groups[order], positions[order]
    times, codes = time[groups, positions], code[groups, positions]
    linked = np.flatnonzero((groups[1:] == groups[:-1]) & (codes[1:] == codes[:-1])) + 1
    previous[groups[linked], positions[linked]] = positions[linked - 1]
    lag[groups[linked], positions[linked]] = times[linked] - times[linked - 1]
    return Series(time, code, observed, rows, previous, lag, column)


def _positions(data: GroupedData, code: np.ndarray) -> np.ndarray:
    """The position (groups, obs) of each row in its series, in the order of the table."""
    out = np.zeros(code.shape)
    for number in np.unique(code):
        of_series = (code == number) & data.rows
        out = np.where(of_series, np.cumsum(of_series, axis=1) - 1, out)
    return out


def _times(data: GroupedData, correlation: AbstractCorrelation) -> np.ndarray:
    """The column (groups, obs) of times or positions."""
    column = column_of(data, str(correlation.time), "the residual correlation")
    if column.dtype == object:
        raise ModelError(
            f"column {correlation.time!r} of the residual correlation holds text; expected numbers (code occasions as "
            "1, 2, ...)."
        )
    column = np.asarray(column, float)
    if correlation.whole_numbers:
        bad = data.rows & (column != np.round(column))
        if bad.any():
            raise ModelError(
                f"column {correlation.time!r} of the residual correlation must hold whole numbers, whose differences "
                f"are the lags; row {_numbers(data, bad)} holds {column[bad][0]:g}. For a continuous time use "
                "jn.correlation.CAR1."
            )
    return column


def _check_ties(data: GroupedData, series: Series, correlation: AbstractCorrelation) -> None:
    """**Raises:** ModelError for two responses at the same time in a series, whose correlation would be one."""
    tied = series.linked & (series.lag == 0)
    if not tied.any():
        return
    groups = [str(data.labels[i]) for i in np.flatnonzero(tied.any(axis=1))]
    remedy = (
        "declare the series with within= (an endpoint, for example), "
        + ("number the occasions" if correlation.whole_numbers else "use a correlation with a nugget")
        + ", or leave one of the responses out"
    )
    raise ModelError(
        f"two responses of one series have the same {series.column} (row {_numbers(data, tied)}, group "
        f"{some(groups)}), where their residuals would be equal: {remedy}."
    )


def _numbers(data: GroupedData, which: np.ndarray) -> str:
    numbers = sorted(int(k) + 1 for k in data.row_index[which])
    return some([str(k) for k in numbers], MESSAGES.items)


def resolve_correlation(error: Any, data: GroupedData, named: Collection[str] = ()) -> AbstractError:
    """The residual model with starting values, bounds and occasions of its correlation from the data.

    **Arguments:** `named`: names of values that the model holds fixed or gives a prior.
    **Raises:** ModelError where no series has two responses, or times cannot be used.
    """
    correlation = correlation_of(error)
    if correlation is None:
        return error
    series = series_of(data, correlation)
    if not series.linked.any():
        of = f" within a value of {correlation.within!r}" if correlation.within else ""
        raise ModelError(
            f"no group has two responses{of}, so that their residuals have no correlation to estimate; leave "
            "correlation= out."
        )
    return error.with_correlation(correlation.reportable(series, named).resolve(series))


def layouts(data: GroupedData, error: AbstractError) -> SeriesLayout | None:
    """The SeriesLayout of all groups (leading axis groups), None without a correlation."""
    correlation = correlation_of(error)
    if correlation is None:
        return None
    return layout_of(correlation.place(series_of(data, correlation)), correlation)


def layout_of(series: Series, correlation: AbstractCorrelation) -> SeriesLayout:
    """The SeriesLayout of a Series, as `correlation` has placed it."""
    linked = series.linked & (series.code >= 0)
    offset = np.where(linked, np.arange(series.time.shape[1]) - series.previous, 0)
    lag = np.where(linked, series.lag, 1.0)
    return SeriesLayout(
        series.time,
        np.where(series.observed, series.code, -1),
        np.where(series.rows, series.code, -1),
        offset,
        lag,
        few(set(offset[linked].tolist())),
        few(set(lag[linked].tolist())),
        next_size(series.extent, 2) if correlation.whole_numbers else 0,
    )


def few(distances: set[Any]) -> tuple[Any, ...] | None:
    """The distances that occur, sorted; None if they are many."""
    return tuple(sorted(distances)) if len(distances) <= CHECKS.most_distances else None
