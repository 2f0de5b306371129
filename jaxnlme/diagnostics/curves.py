"""Prediction curves: predictions on a grid between the rows of the fitted data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.data.nonmem.grid import grid_of_records
from jaxnlme.diagnostics.settings import DIAGNOSTICS

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord


# Columns of the table, and the level of `predict` behind each.
LEVELS = {"population prediction": "population", "individual prediction": "group"}


def prediction_curves(
    fit: FitRecord, positions: Sequence[int], x: str, by: str | None = None, points: int = 100
) -> pd.DataFrame:
    """Predictions along the column `x`, from the smallest to the largest value of each group.

    A curve of a unit of a nested level goes from the smallest to the largest value of the unit.

    Data with doses (`data.events`) have new rows along their time as `data.grid` makes them, without the records of
    doses and resets themselves; where a group starts anew a row without predictions interrupts the curve. In other data
    every new row has the other columns of the last row before it (or of the first row). That is right for predictors
    that keep their value until the next row, not for events that are rows, such as doses. Where the new rows change the
    predictions at the fitted rows, because the model uses other rows, the table has the fitted rows only, and
    `table.attrs["rows_only"]` is true. It also has the fitted rows only with `points=0`, and for a model with an
    explicit design per group, which has no entries for new rows, or data with a further table by nested level.

    **Arguments:** `positions` of the groups in `fit.data`; `by`: a column, for each level of which there is a separate
    curve; `points` of a curve.
    **Returns:** a data frame: the group's column, `x`, `by`, `population prediction`, `individual prediction`.
    """
    selected = fit.data.select(np.asarray(positions))
    rows = fit.data.to_frame()
    for name, level in LEVELS.items():
        rows[name] = np.asarray(fit.predict(level=level))
    rows = rows[_no_events(fit.data) & rows[selected.group_name].isin(selected.labels).to_numpy()]
    designs = (fit.model.fixed_design, fit.model.random_design)
    use_grid = points > 0 and not any(np.ndim(design) > 2 for design in designs if design is not None)
    # Labels of nested levels in a further table are positions among the units of the fitted rows.
    use_grid = use_grid and not fit.data.table_units
    if fit.data.events is not None:
        use_grid = use_grid and x == fit.data.events.facts.time and set(fit.data.tables) == {"events"}
        table = _event_curves(fit, selected, x, by, points) if use_grid else None
    else:
        table = _grid_curves(fit, selected, rows, x, by, points) if use_grid else None
    if table is None:
        table = rows.sort_values([selected.group_name, x], kind="stable")
        table.attrs["rows_only"] = use_grid
    return table


def _grid_curves(
    fit: FitRecord, selected: GroupedData, rows: pd.DataFrame, x: str, by: str | None, points: int
) -> pd.DataFrame | None:
    """The grid with its predictions; None where these differ from the predictions in `rows` at the fitted rows."""
    table, is_fitted = _grid(selected, rows, x, by, points)
    names_x = [*selected.x, *(name for name, values in selected.text.items() if values.ndim == 2)]
    names_v = [*selected.v, *(name for name, values in selected.text.items() if values.ndim == 1)]
    levels = list(selected.level_names)
    data = GroupedData.from_frame(table, levels, selected.y_name, names_x, names_v, need_response=False)
    data = dataclasses.replace(
        data, tables=selected.tables, table_units=selected.table_units, endpoint=selected.endpoint
    )
    for name, level in LEVELS.items():
        before, after = table[name].to_numpy()[is_fitted], np.asarray(fit.predict(data, level=level))
        if not _same(after[is_fitted], before):
            return None
        table[name] = after
    return table


def _event_curves(fit: FitRecord, selected: GroupedData, x: str, by: str | None, points: int) -> pd.DataFrame | None:
    """Curves of data with doses; None where they differ from the predictions at the fitted rows."""
    import pandas as pd

    grid = grid_of_records(selected, points, None, [] if by is None else [by])
    table, is_fitted = grid.data.to_frame(), grid.source >= 0
    size = int(fit.data.row_index.max()) + 1
    for name, level in LEVELS.items():
        at_rows = np.full(size, np.nan)
        at_rows[np.sort(fit.data.row_index[fit.data.rows])] = np.asarray(fit.predict(level=level))
        after = np.asarray(fit.predict(grid.data, level=level))
        if not _same(after[is_fitted], at_rows[grid.source[is_fitted]]):
            return None
        table[name] = after
    group = np.unique(table[selected.group_name].to_numpy().astype(str), return_inverse=True)[1]
    anew = (np.diff(grid.segment, prepend=0) != 0) & (np.diff(group, prepend=-1) == 0) & (table.index > 0)
    breaks = table.iloc[np.flatnonzero(anew)].copy()
    breaks[list(LEVELS)] = np.nan
    kept = np.flatnonzero(~grid.is_event)
    order = np.argsort(np.concatenate([kept, np.flatnonzero(anew) - 0.5]), kind="stable")
    return pd.concat([table.iloc[kept], breaks]).iloc[order].reset_index(drop=True)


def _no_events(data: GroupedData) -> np.ndarray:
    """True for the rows of data, in the order of their table, that are no records of doses or resets."""
    plain = data.rows.copy()
    if data.events is not None:
        own = data.events.columns["row"] >= 0
        plain[data.events.group[own], data.events.columns["row"][own].astype(int)] = False
    return data.rows_to_column(plain | data.observed)


def response_column(data: GroupedData) -> str | None:
    """The column that says which of several responses a row is of: that of the endpoint, or of the compartment of an
    observation where a group has several; None without one."""
    endpoint = data.endpoint
    compartment = None if data.events is None else data.events.facts.compartment
    if endpoint is not None or compartment is None:
        return endpoint
    values = np.where(data.observed, data.x[compartment], np.nan)
    spread = np.nanmax(values, axis=1, initial=-np.inf) > np.nanmin(values, axis=1, initial=np.inf)
    return compartment if spread.any() else None


def _same(after: np.ndarray, before: np.ndarray) -> bool:
    """True for predictions that agree."""
    rtol, atol = DIAGNOSTICS.same_prediction, DIAGNOSTICS.same_zero * np.nanmax(np.abs(before), initial=0.0)
    return np.allclose(after, before, rtol=rtol, atol=atol, equal_nan=True)


def _grid(
    selected: GroupedData, rows: pd.DataFrame, x: str, by: str | None, points: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """A table with new rows between `rows`, and True for its fitted rows (rows,), the last one among equal `x`."""
    import pandas as pd

    pieces: list[Any] = []
    is_fitted: list[np.ndarray] = []
    for label in selected.labels:
        group = rows[rows[selected.group_name] == label]
        for _, part in group.groupby(by, sort=False, observed=True) if by else [(None, group)]:
            span = part[x] if by in selected.level_names else group[x]
            grid = np.linspace(span.min(), span.max(), points)
            part = part.sort_values(x, kind="stable")
            values = np.unique(np.concatenate([grid, part[x].to_numpy()]))
            before = np.searchsorted(part[x].to_numpy(), values, side="right") - 1
            piece = part.iloc[np.maximum(before, 0)].copy()
            is_fitted.append(piece[x].to_numpy() == values)
            piece[x] = values
            pieces.append(piece)
    table = pd.concat(pieces, ignore_index=True)
    table[selected.y_name] = np.nan
    return table, np.concatenate(is_fitted)
