"""The residual covariance of a linear model: variance functions and correlation met with the rows of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.series import layout_of
from jaxnlme.errors import DataError, ModelError, OptionError, shown
from jaxnlme.estimators.linear.cross_products import column_plan, frame, unit_places
from jaxnlme.estimators.linear.problem import LinearProblem
from jaxnlme.estimators.linear.whitened import ResidualCovariance, RowData, WhitenedRows
from jaxnlme.formulas.frames import as_table
from jaxnlme.linear.residual_series import RowPlaces, series_of_units, units_last, value_codes
from jaxnlme.model.residual_error.base import GaussianError
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

    **Fields:** `places` of the rows in the arrays; `error`, resolved; `rows`: the whitened rows; in a LinearFit a
    variance function of the fitted values is computed at those of the last maximisation, before one at fitted values of
    one.
    """

    places: RowPlaces
    error: GaussianError
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
            return np.ones(len(self.places.position)), 1.0
        residual = self.rows.residual
        with x64():
            log, mean = compiled(_log_scale, self.places.n_entries)(residual, np.asarray(delta, float))
        return np.exp(self.places.rows(log)), float(np.exp(mean))

    def whitened(self, values: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """T times values (rows,) of sorted rows."""
        with x64():
            (out,), _ = compiled(_whiten, values.size)(self.rows.residual, self.places.array(values), delta)
        return self.places.rows(out)

    def colored(self, noise: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """Residuals (rows,) of sorted rows with the covariance Lambda, its scale of geometric mean one, from
        independent `noise` (rows,)."""
        scale, residual = self.scale(delta)[0], self.rows.residual
        if residual.rows.layout is None:
            return scale * noise
        with x64():
            out = compiled(_color, noise.size)(residual, self.places.array(noise), np.asarray(delta, float))
        return scale * self.places.rows(out)

    def delta(self, theta: np.ndarray) -> np.ndarray:
        """The parameters of the residual covariance, unconstrained: the last entries of theta (parameters,)."""
        return theta[len(theta) - self.rows.n_residual :]

    def at(self, rows: Any) -> ResidualRows:
        """These with the WhitenedRows of a likelihood."""
        return dataclasses.replace(self, rows=rows)

    def with_fitted(self, fitted: np.ndarray) -> WhitenedRows:
        """The rows with fitted values (rows,) of sorted rows, for variance functions of them."""
        rows: Any = self.rows
        residual = dataclasses.replace(rows.residual, fitted=self.places.array(fitted, 1.0))
        return dataclasses.replace(rows, residual=residual)


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
        starts = np.flatnonzero(np.diff(value_codes(sorted_data[error.correlation.within]), prepend=-1))
        place, size = np.arange(len(starts)), len(starts)
    counts = np.diff(np.append(starts, problem.n_rows))
    position = np.arange(problem.n_rows) - np.repeat(starts, counts)
    of_rows = RowPlaces(position, np.repeat(place, counts), (int(counts.max()), size))
    series = None
    if error.correlation is not None:
        series = series_of_units(error.correlation, sorted_data, of_rows, problem)
        if not series.linked.any():
            raise ModelError(
                "no unit has two responses in a series, so that their residuals have no correlation to estimate; leave "
                "correlation= out."
            )
        error = error.with_correlation(error.correlation.reportable(series, ()).resolve(series))
    levels = {name: _levels(sorted_data[name]) for name, _ in _scale(error).strata}
    resolved: Any = error.resolve(lambda name: levels[name])
    names = tuple(dict.fromkeys(_scale(resolved).columns))
    columns = [of_rows.array(_numbers(sorted_data, name, resolved), 1.0) for name in names]
    codes = []
    for name, known in _scale(resolved).strata:
        index = {level: k for k, level in enumerate(known)}
        strata = np.array([index[str(value)] for value in sorted_data[name]], int)
        codes.append(of_rows.array(strata).astype(int))
    layout = None
    if series is not None:
        stacked = layout_of(resolved.correlation.place(series), resolved.correlation)
        layout = units_last(stacked)
    start = np.array([float(p.transform.to_real(float(p.start))) for p in resolved.parameters])
    if resolved.correlation is not None:
        values = [float(p.start) for p in resolved.correlation.parameters]
        start[len(start) - len(values) :] = resolved.correlation.unconstrained(values)
    free = tuple(k for k, p in enumerate(resolved.parameters) if k > 0 and not p.fix)
    real = of_rows.array(np.ones(problem.n_rows)) > 0
    data_of_rows = RowData(Record(names, tuple(columns), "column"), Record((), (), "column"), tuple(codes), layout)
    fitted = of_rows.array(np.ones(problem.n_rows), 1.0)
    units = _units(resolved, sorted_data, problem.y)[list(free)]
    residual = ResidualCovariance(resolved, start, free, units, data_of_rows, real, fitted)
    plan = column_plan(problem)
    arrays = [of_rows.array(column) for column in plan.columns]
    rows = WhitenedRows(arrays, plan.own, plan.every, plan.right, plan.transforms, frame(problem, places), residual)
    return ResidualRows(of_rows, resolved, rows)


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
