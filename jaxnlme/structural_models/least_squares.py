"""Starting values of a curve by least squares on pooled data: the nonlinear coordinates on a grid, then by a search
with the linear coefficients projected out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy.optimize import least_squares

from jaxnlme.errors import DataError, some
from jaxnlme.model.derivatives import jacobian
from jaxnlme.numerics.compiling import compiler_options
from jaxnlme.precision import x64
from jaxnlme.structural_models.linear_parts import Absorption, AbstractLinearPart, MeasurementUnits
from jaxnlme.structural_models.settings import STARTS


@dataclasses.dataclass(frozen=True, eq=False)
class PooledRows:
    """Observed rows of all groups.

    **Fields:** `x`, `y`, `weights` (rows,); `dose` (rows,), None where the curve has none; `x_name`, `y_name`: of the
    columns; `numbers` (rows,): of the rows in the table, from 1.
    """

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    dose: np.ndarray | None
    x_name: str
    y_name: str
    numbers: np.ndarray

    def chosen(self, rows: np.ndarray) -> PooledRows:
        """Those of the rows with these positions."""
        dose = None if self.dose is None else self.dose[rows]
        return dataclasses.replace(
            self, x=self.x[rows], y=self.y[rows], weights=self.weights[rows], dose=dose, numbers=self.numbers[rows]
        )

    def at_most(self, count: int) -> PooledRows:
        """At most `count` of the rows, evenly spaced in the order of x."""
        if len(self.x) <= count:
            return self
        order = np.argsort(self.x, kind="stable")
        return self.chosen(order[np.linspace(0, len(order) - 1, count).round().astype(int)])


def pooled_parameters(part: AbstractLinearPart, names: Sequence[str], rows: PooledRows, title: str) -> dict[str, float]:
    """The least-squares parameters of a curve on pooled rows.

    **Arguments:** `part`: the curve; `names` of its parameters; `title` of the model, for messages.
    **Returns:** values by name.
    **Raises:** DataError where the rows do not determine the curve.
    **Source:** Golub and Pereyra (1973), SIAM Journal on Numerical Analysis 10, 413-432, for the projection; Bates and
    Watts (1988), Nonlinear Regression Analysis and Its Applications, sections 3.3 and 3.5.5, for conditionally linear
    parameters.
    """
    _check(part, names, rows, title)
    rows = rows.at_most(STARTS.most_rows)
    origin = float(rows.x.min()) if part.shifted else 0.0
    dose = 1.0 if rows.dose is None else float(np.abs(rows.dose).max())
    units = MeasurementUnits(origin, float(np.abs(rows.x - origin).max()), float(np.abs(rows.y).max()), dose)
    search = _Search(part, units, rows)
    best, best_square = np.array([np.nan]), np.inf
    for theta, signs in _grid_starts(part, units, rows.at_most(STARTS.grid_rows)):
        for values, square in search.from_start(theta, signs):
            if square < best_square:
                best, best_square = values, square
    # Parameters that are not finite: the best coefficients belong to no curve of this kind.
    if not np.isfinite(best).all():
        raise DataError(
            f"{title}: no parameters of this curve are near the data ({rows.y_name} against {rows.x_name}): "
            f"{part.refusal}. Choose another curve, or give starts={{{', '.join(f'{name!r}: ...' for name in names)}}}."
        )
    return dict(zip(names, best.tolist(), strict=True))


def improved_parameters(
    curve: Callable[..., Any], start: Mapping[str, float], given: Mapping[str, float], rows: PooledRows
) -> dict[str, float]:
    """The least-squares parameters of a curve where some of them are given.

    **Arguments:** `curve`: a function of the inputs (rows,) and the parameters; `start`: all parameters by name;
    `given`: those that stay at the user's values.
    **Returns:** values by name; those of `start`, and given ones, where the curve is not finite there.
    """
    values = {**start, **given}
    free = [name for name in start if name not in given]
    rows = rows.at_most(STARTS.most_rows)
    scale = np.sqrt(rows.weights) / np.abs(rows.y).max()
    inputs = (rows.x,) if rows.dose is None else (rows.dose, rows.x)

    def residuals(free_values):
        parameters = {**values, **dict(zip(free, free_values, strict=True))}
        return (curve(*inputs, *parameters.values()) - rows.y) * scale

    with x64():
        options = compiler_options(0, jax.default_backend())
        fn, slopes = (jax.jit(f, compiler_options=options) for f in (residuals, jacobian(residuals)))
        begin = np.array([values[name] for name in free])
        if not free or not np.isfinite(np.asarray(fn(begin))).all():
            return values
        refused = STARTS.refused_residual
        at: Any = lambda v: np.nan_to_num(np.asarray(fn(v)), nan=refused, posinf=refused, neginf=-refused)  # noqa: E731
        slope: Any = lambda v: np.nan_to_num(np.asarray(slopes(v)), posinf=0.0, neginf=0.0)  # noqa: E731
        found = least_squares(at, begin, slope, x_scale="jac", max_nfev=STARTS.steps)
    return {**values, **dict(zip(free, map(float, found.x), strict=True))}


class _Search:
    """Least squares over theta, the linear coefficients projected out."""

    def __init__(self, part: AbstractLinearPart, units: MeasurementUnits, rows: PooledRows):
        self.part = part
        if isinstance(part, Absorption) and rows.dose is not None:
            self.part = part.with_dose(rows.dose / units.dose)
        self.units, self.u, self.y = units, (rows.x - units.x0) / units.sx, rows.y / units.sy
        self.root = np.sqrt(rows.weights / rows.weights.max())

    def project(self, theta: Any, signs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
        """The coefficients and the residuals at theta; None where the columns are not finite."""
        with np.errstate(all="ignore"):
            columns = np.stack(self.part.columns(self.u, theta, signs), axis=1) * self.root[:, None]
        if not (np.abs(columns) < STARTS.largest_column).all():
            return None
        size = np.linalg.norm(columns, axis=0)
        size = np.where(size > 0, size, 1.0)
        c = np.linalg.lstsq(columns / size, self.y * self.root, rcond=None)[0] / size
        return c, self.y * self.root - columns @ c

    def parameters(self, theta: Any, signs: tuple[int, ...]) -> tuple[np.ndarray, float]:
        """The parameters in the units of the data, NaN where there are none, and the sum of squares."""
        projected = self.project(theta, signs)
        if projected is None:
            return np.array([np.nan]), np.inf
        with np.errstate(all="ignore"):
            values = self.part.parameters(theta, signs, projected[0], self.units)
        return np.array(values, float), float(projected[1] @ projected[1])

    def from_start(self, theta: Any, signs: tuple[int, ...]) -> list[tuple[np.ndarray, float]]:
        """Parameters and sum of squares at `theta`, and at the minimum that a search from there finds."""
        lower, upper = np.array(self.part.bounds).T

        def residuals(theta):
            projected = self.project(theta, signs)
            return np.full(len(self.y), STARTS.refused_residual) if projected is None else projected[1]

        found = least_squares(
            residuals, theta, bounds=(lower, upper), ftol=STARTS.tolerance, xtol=STARTS.tolerance,
            gtol=STARTS.tolerance, max_nfev=STARTS.steps,
        )  # fmt: skip
        return [self.parameters(theta, signs), self.parameters(found.x, signs)]


def _grid_starts(
    part: AbstractLinearPart, units: MeasurementUnits, rows: PooledRows
) -> list[tuple[Any, tuple[int, ...]]]:
    """The best points (theta, signs) of the grid, no two of the same neighbourhood."""
    search = _Search(part, units, rows)
    squares = []
    for signs in part.variants:
        for theta in part.points():
            projected = search.project(theta, signs)
            if projected is not None:
                squares.append((float(projected[1] @ projected[1]), signs, theta))
    chosen: list[tuple[Any, tuple[int, ...]]] = []
    for _, signs, theta in sorted(squares):
        apart = all(s != signs or np.max(np.abs(np.subtract(t, theta))) > 1.0 for t, s in chosen)
        if apart and len(chosen) < STARTS.refined:
            chosen.append((theta, signs))
    return chosen


def _check(part: AbstractLinearPart, names: Sequence[str], rows: PooledRows, title: str) -> None:
    """**Raises:** DataError where the rows cannot determine the curve."""
    negative = rows.x < 0
    if not part.shifted and part.non_negative and negative.any():
        k = int(np.argmax(negative))
        raise DataError(
            f"{title} is defined for {rows.x_name} >= 0; row {rows.numbers[k]} has {rows.x[k]:g}. Correct the row, or "
            "measure from another origin."
        )
    distinct = np.unique(rows.x)
    if len(distinct) < len(names):
        raise DataError(
            f"{title} has {len(names)} parameters ({', '.join(names)}) and needs at least as many different values of "
            f"{rows.x_name}; the observed rows have {len(distinct)} ({some([f'{value:g}' for value in distinct])}). "
            "Choose a curve with fewer parameters, or give starts=."
        )
    if np.ptp(rows.y) <= STARTS.exact * np.abs(rows.y).max():
        raise DataError(
            f"{title}: {rows.y_name} is {rows.y[0]:g} in all observed rows, so that there is no curve to start from; "
            "check the response column, or give starts=."
        )
    if rows.dose is not None and not (rows.dose > 0).any():
        raise DataError(f"{title}: no observed row has a dose above zero; check the column of doses.")
