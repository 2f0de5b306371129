"""Prediction curves: a table of new rows between a fit's own rows, and the predictions there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data.grouped import GroupedData

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import Fit


# Columns of the table, and the level of `predict` behind each.
LEVELS = {"population prediction": "population", "individual prediction": "group"}
# Predictions at the fitted rows that differ by more than this, relative, between the two tables are not the same.
SAME = 1e-6


def prediction_curves(
    fit: Fit, positions: Sequence[int], x: str, by: str | None = None, points: int = 100
) -> pd.DataFrame:
    """Predictions along `x` for the groups at `positions`, from each group's smallest to its largest value.

    Every new row repeats the other columns of the row at or before it (the first row's, before that), which suits
    predictors that hold until the next row, not events such as doses. Where the new rows change the predictions at the
    fitted rows, because the model reads other rows, the table holds the fitted rows alone (`table.attrs["rows_only"]`
    is true), as it does with `points=0` and for a model with an explicit design per group, which has no entry for new
    rows.

    **Arguments:** `by`: a column whose levels have curves of their own; `points` between the ends of a curve.
    **Returns:** a data frame: the group's column, `x`, `by`, `population prediction`, `individual prediction`.
    """
    own = fit.data.select(np.asarray(positions))
    rows = fit.data.to_frame()
    for name, level in LEVELS.items():
        rows[name] = np.asarray(fit.predict(level=level))
    rows = rows[rows[own.group_name].isin(own.labels)]
    designs = (fit.model.fixed_design, fit.model.random_design)
    fine = points > 0 and not any(np.ndim(design) > 2 for design in designs if design is not None)
    table = _fine_curves(fit, own, rows, x, by, points) if fine else None
    if table is None:
        table = rows.sort_values([own.group_name, x], kind="stable")
        table.attrs["rows_only"] = fine
    return table


def _fine_curves(
    fit: Fit, own: GroupedData, rows: pd.DataFrame, x: str, by: str | None, points: int
) -> pd.DataFrame | None:
    """The fine table with its predictions; None where they are others than those of `rows` at the rows themselves."""
    table, real = _fine_table(own, rows, x, by, points)
    names_x = [*own.x, *(name for name, values in own.text.items() if values.ndim == 2)]
    names_v = [*own.v, *(name for name, values in own.text.items() if values.ndim == 1)]
    data = GroupedData.from_frame(table, own.group_name, own.y_name, names_x, names_v, need_response=False)
    data = dataclasses.replace(data, tables=own.tables)
    for name, level in LEVELS.items():
        before, now = table[name].to_numpy()[real], np.asarray(fit.predict(data, level=level))
        around = 1e-9 * np.nanmax(np.abs(before), initial=0.0)
        if not np.allclose(now[real], before, rtol=SAME, atol=around, equal_nan=True):
            return None
        table[name] = now
    return table


def _fine_table(
    own: GroupedData, rows: pd.DataFrame, x: str, by: str | None, points: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """New rows between `rows`, and which of the table's rows are fitted ones (rows,); of equal `x` the last."""
    import pandas as pd

    pieces: list[Any] = []
    real: list[np.ndarray] = []
    for label in own.labels:
        group = rows[rows[own.group_name] == label]
        inside = np.linspace(group[x].min(), group[x].max(), points)
        for _, part in group.groupby(by, sort=False, observed=True) if by else [(None, group)]:
            part = part.sort_values(x, kind="stable")
            where = np.unique(np.concatenate([inside, part[x].to_numpy()]))
            before = np.searchsorted(part[x].to_numpy(), where, side="right") - 1
            piece = part.iloc[np.maximum(before, 0)].copy()
            real.append(piece[x].to_numpy() == where)
            piece[x] = where
            pieces.append(piece)
    table = pd.concat(pieces, ignore_index=True)
    table[own.y_name] = np.nan
    return table, np.concatenate(real)
