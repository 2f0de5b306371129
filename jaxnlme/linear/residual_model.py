"""The residual covariance of a linear model: variance functions and correlation met with the rows of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.series import layout_of, linked_series
from jaxnlme.errors import DataError, ModelError, OptionError, shown, some
from jaxnlme.estimators.linear.cross_products import column_plan, frame, unit_places
from jaxnlme.estimators.linear.problem import LinearProblem
from jaxnlme.estimators.linear.whitened import ResidualCovariance, RowData, WhitenedRows
from jaxnlme.formulas.frames import as_table
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.residual_error.correlation_base import AbstractCorrelation, Series
from jaxnlme.model.residual_error.families import gaussian
from jaxnlme.model.residual_error.variance import fixed
from jaxnlme.model.residual_error.variance_scale import VarianceScale
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.records import Record


def residual_error(weights: Any, correlation: Any) -> GaussianError | None:
    """The residual model of the options `weights` and `correlation`; None for independent residuals of one variance.

    **Raises:** OptionError for other types.
    """
    if weights is None and correlation is None:
        return None
    if isinstance(weights, str):
        weights = fixed(weights)
    if weights is None:
        weights = VarianceScale(())
    if not isinstance(weights, VarianceScale):
        raise OptionError(
            "weights must be a variance function such as jn.variance.power(), or the name of a column that the "
            f"variance is proportional to; received {shown(weights)}."
        )
    return gaussian(weights, correlation)


def columns_of(error: GaussianError | None) -> tuple[str, ...]:
    """Names of the columns that a residual model reads."""
    if error is None:
        return ()
    scale: Any = error.scale
    names = [*scale.columns, *(column for column, _ in scale.strata)]
    if error.correlation is not None:
        names += [name for name in (error.correlation.time, error.correlation.within) if name is not None]
    return tuple(dict.fromkeys(names))


def depends_on_fitted(error: GaussianError | None) -> bool:
    """True if the residual variance is a function of the fitted values."""
    scale: Any = None if error is None else error.scale
    return scale is not None and any(term.of is None and term.kind != "strata" for term in scale.terms)


@dataclasses.dataclass(frozen=True, eq=False)
class ResidualRows:
    """The rows of a problem in arrays (rows of the largest unit, units).

    **Fields:** `position`, `unit` (rows,): where each sorted row stands; `shape`; `error`, resolved; `series`, None
    without correlation; `rows`: the whitened rows; in a LinearFit a variance function of the fitted values is computed
    at those of the last maximisation, before one at fitted values of one.
    """

    position: np.ndarray
    unit: np.ndarray
    shape: tuple[int, int]
    error: GaussianError
    series: Series | None
    rows: WhitenedRows

    @property
    def names(self) -> list[str]:
        """Names of the estimated parameters, sigma not among them."""
        return [self.error.parameters[k].name for k in self.rows.residual.free]

    def natural(self, delta: np.ndarray) -> np.ndarray:
        """The values of the estimated parameters, sigma not among them, from `delta` (parameters,), unconstrained."""
        with x64():
            values = self.error.natural(np.asarray(self.rows.residual.full(np.asarray(delta, float)))).values
        return np.array([float(values[k]) for k in self.rows.residual.free])

    def scale(self, delta: np.ndarray) -> tuple[np.ndarray, float]:
        """g (rows,) of sorted rows over its geometric mean, and this mean."""
        if not _scale(self.error).terms:
            return np.ones(len(self.position)), 1.0
        residual = self.rows.residual
        with x64():
            log, mean = compiled(_log_scale, self.shape[0] * self.shape[1])(residual, np.asarray(delta, float))
        return np.exp(np.asarray(log))[self.position, self.unit], float(np.exp(mean))

    def whitened(self, values: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """T times values (rows,) of sorted rows."""
        with x64():
            (out,), _ = compiled(_whiten, values.size)(self.rows.residual, self.place(values), delta)
        return np.asarray(out)[self.position, self.unit]

    def colored(self, noise: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """Residuals (rows,) of sorted rows with the covariance Lambda, its scale of geometric mean one, from
        independent `noise` (rows,)."""
        scale, residual = self.scale(delta)[0], self.rows.residual
        if residual.rows.layout is None:
            return scale * noise
        with x64():
            out = compiled(_color, noise.size)(residual, self.place(noise), np.asarray(delta, float))
        return scale * np.asarray(out)[self.position, self.unit]

    def place(self, values: np.ndarray, padding: float = 0.0) -> np.ndarray:
        """Values of sorted rows (rows,) in an array; `padding` elsewhere."""
        return _placed(values, self.position, self.unit, self.shape, padding)

    def at(self, rows: Any) -> ResidualRows:
        """These with the WhitenedRows of a likelihood."""
        return dataclasses.replace(self, rows=rows)

    def with_fitted(self, fitted: np.ndarray) -> WhitenedRows:
        """The rows with fitted values (rows,) of sorted rows, for variance functions of them."""
        changed: Any = self.rows
        residual: Any = self.rows.residual
        return dataclasses.replace(changed, residual=dataclasses.replace(residual, fitted=self.place(fitted, 1.0)))


def residual_rows(problem: LinearProblem, error: GaussianError, table: Any) -> ResidualRows:
    """The ResidualRows of a problem.

    **Arguments:** `table`: a data frame with the rows of the model, in their order, and the columns of `columns_of`.
    **Raises:** DataError, ModelError naming column and rows.
    """
    data = as_table(table, columns_of(error), "the residual model")
    sorted_data = data if isinstance(problem.order, slice) else data.iloc[problem.order]
    places = unit_places(problem.levels)
    starts, place, size = (problem.levels[-1].starts, places[-1].place, places[-1].size) if problem.levels else (
        np.zeros(1, int), np.zeros(1, int), 1
    )  # fmt: skip
    if not problem.levels and error.correlation is not None and error.correlation.within is not None:
        starts = np.flatnonzero(np.diff(_codes(sorted_data[error.correlation.within]), prepend=-1))
        place, size = np.arange(len(starts)), len(starts)
    counts = np.diff(np.append(starts, problem.n_rows))
    position = np.arange(problem.n_rows) - np.repeat(starts, counts)
    unit = np.repeat(place, counts)
    shape = (int(counts.max()), size)
    series = None
    if error.correlation is not None:
        series = _series(error.correlation, sorted_data, position, unit, shape, problem)
        if not series.linked.any():
            raise ModelError(
                "no unit has two responses in a series, so that their residuals have no correlation to estimate; leave "
                "correlation= out."
            )
        error = error.with_correlation(error.correlation.reportable(series, ()).resolve(series))
    levels = {name: _levels(sorted_data[name]) for name, _ in _scale(error).strata}
    resolved: Any = error.resolve(lambda name: levels[name])
    names = tuple(dict.fromkeys(_scale(resolved).columns))
    columns = [_placed(_numbers(sorted_data, name, resolved), position, unit, shape, 1.0) for name in names]
    codes = []
    for name, known in _scale(resolved).strata:
        index = {level: k for k, level in enumerate(known)}
        of_rows = np.array([index[str(value)] for value in sorted_data[name]], int)
        codes.append(_placed(of_rows, position, unit, shape, 0).astype(int))
    layout = None
    if series is not None:
        stacked = layout_of(resolved.correlation.place(series), resolved.correlation)
        layout = _units_last(stacked)
    start = np.array([float(p.transform.to_real(float(p.start))) for p in resolved.parameters])
    if resolved.correlation is not None:
        values = [float(p.start) for p in resolved.correlation.parameters]
        start[len(start) - len(values) :] = resolved.correlation.unconstrained(values)
    free = tuple(k for k, p in enumerate(resolved.parameters) if k > 0 and not p.fix)
    real = _placed(np.ones(problem.n_rows), position, unit, shape, 0.0) > 0
    data_of_rows = RowData(Record(names, tuple(columns), "column"), Record((), (), "column"), tuple(codes), layout)
    fitted = _placed(np.ones(problem.n_rows), position, unit, shape, 1.0)
    units = _units(resolved, sorted_data, problem.y)[list(free)]
    residual = ResidualCovariance(resolved, start, free, units, data_of_rows, real, fitted)
    plan = column_plan(problem)
    arrays = [_placed(column, position, unit, shape, 0.0) for column in plan.columns]
    rows = WhitenedRows(arrays, plan.own, plan.every, plan.right, plan.transforms, frame(problem, places), residual)
    return ResidualRows(position, unit, shape, resolved, series, rows)


def _units(error: GaussianError, table: Any, y: np.ndarray) -> np.ndarray:
    """Units of the unconstrained parameters (parameters of error,): the rate of an exponential has that of its
    variate, whose reciprocal standard deviation is one; y stands for the fitted values."""
    units = dict.fromkeys((p.name for p in error.parameters), 1.0)
    for term in _scale(error).terms:
        if term.kind == "exponential":
            spread = float(np.std(y if term.of is None else _numbers(table, term.of, error)))
            units |= {name: 1.0 / spread if spread > 0 else 1.0 for names in term.names() for name in names}
    return np.array(list(units.values()))


def _log_scale(residual: ResidualCovariance, delta: Any) -> Any:
    return residual.log_scale(delta)


def _color(residual: ResidualCovariance, noise: Any, delta: Any) -> Any:
    return residual.color(noise, delta)


def _whiten(residual: ResidualCovariance, values: Any, delta: Any) -> Any:
    return residual.whiten([values], delta)


def _scale(error: GaussianError) -> VarianceScale:
    scale: Any = error.scale
    return scale


def _placed(values: np.ndarray, position: np.ndarray, unit: np.ndarray, shape: tuple[int, int], padding: float) -> Any:
    out = np.full(shape, padding, float)
    out[position, unit] = values
    return out


def _units_last(layout: Any) -> Any:
    """The layout of all units with these last, (rows of the largest unit, units)."""
    names = ("time", "code", "row_code", "offset", "lag")
    return dataclasses.replace(layout, **{name: np.ascontiguousarray(getattr(layout, name).T) for name in names})


def _series(
    correlation: AbstractCorrelation,
    table: Any,
    position: np.ndarray,
    unit: np.ndarray,
    shape: tuple[int, int],
    problem: LinearProblem,
) -> Series:
    """The series of all units, arrays (units, rows of the largest unit)."""
    code = np.zeros(problem.n_rows) if correlation.within is None else _codes(table[correlation.within]).astype(float)
    real = _placed(np.ones(problem.n_rows), position, unit, shape, 0.0).T > 0
    codes = _placed(code, position, unit, shape, -1.0).T.astype(int)
    if correlation.time is None:
        time = np.zeros(problem.n_rows)
        order = np.lexsort((position, code, unit))
        changed = np.append(True, (np.diff(code[order]) != 0) | (np.diff(unit[order]) != 0))
        first = np.flatnonzero(changed)
        time[order] = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    else:
        time = _times(table, correlation)
    series = linked_series(_placed(time, position, unit, shape, 0.0).T, codes, real, real, correlation.time)
    tied = series.linked & (series.lag == 0)
    if tied.any() and not correlation.allows_ties:
        bad = tied[unit, position]
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


def _numbers(table: Any, name: str, error: GaussianError) -> np.ndarray:
    """A column of numbers that a variance function is of (rows,)."""
    try:
        values = np.asarray(table[name], float)
    except (TypeError, ValueError):
        raise DataError(f"column {name!r} of the variance function holds text; expected numbers.") from None
    if not np.isfinite(values).all():
        raise DataError(
            f"column {name!r} of the variance function holds {values[~np.isfinite(values)][0]:g}; expected finite "
            "numbers."
        )
    for term in _scale(error).terms:
        if term.of == name and term.kind == "power" and (values == 0).any():
            raise DataError(
                f"column {name!r}, whose power the variance function is, holds 0, where that has no inverse: use "
                "jn.variance.constant_power, or shift the column."
            )
        if term.of == name and term.kind == "fixed" and not (values > 0).all():
            raise DataError(
                f"column {name!r}, which the variance is proportional to, must hold positive numbers; it holds "
                f"{values[~(values > 0)][0]:g}."
            )
    return values


def _levels(column: Any) -> Sequence[Any]:
    """The levels of a column of strata: declared categories that occur, or sorted values."""
    if hasattr(column, "cat"):
        used = set(column.unique())
        return [level for level in column.cat.categories if level in used]
    return sorted(column.unique())


def _codes(column: Any) -> np.ndarray:
    """Numbers (rows,) of the values of a column."""
    import pandas as pd

    return pd.factorize(column)[0]


def _row_numbers(problem: LinearProblem, bad: np.ndarray) -> str:
    """Numbers in the table of sorted rows."""
    rows = np.flatnonzero(bad) if isinstance(problem.order, slice) else np.asarray(problem.order)[bad]
    return some([str(int(row) + 1) for row in np.sort(rows)])
