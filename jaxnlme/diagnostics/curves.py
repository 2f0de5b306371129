"""Prediction curves: a table of new rows between a fit's own rows, and the predictions there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data.grouped import GroupedData

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.fit import Fit


def prediction_curves(
    fit: Fit, positions: Sequence[int], x: str, by: str | None = None, points: int = 100
) -> pd.DataFrame:
    """Predictions along `x` for the groups at `positions`, from each group's smallest to its largest value.

    Every new row repeats the other columns of the row at or before it (the first row's, before that), which suits
    predictors that hold until the next row, not events such as doses: `points=0` stays on the rows themselves, as it
    must for a model with an explicit design per group, which has no entry for new rows.

    **Arguments:** `by`: a column whose levels have curves of their own; `points` between the ends of a curve.
    **Returns:** a data frame: the group's column, `x`, `by`, and `population` and `group`, the predictions.
    """
    own = fit.data.select(np.asarray(positions))
    designs = (fit.model.fixed_design, fit.model.random_design)
    if points == 0 or any(np.ndim(design) > 2 for design in designs if design is not None):
        frame = fit.data.to_frame()
        for level in ("population", "group"):
            frame[level] = np.asarray(fit.predict(level=level))
        chosen = frame[own.group_name].isin(own.labels)
        return frame[chosen].sort_values([own.group_name, x], kind="stable")
    table = _fine_table(own, x, by, points)
    names_x = [*own.x, *(name for name, values in own.text.items() if values.ndim == 2)]
    names_v = [*own.v, *(name for name, values in own.text.items() if values.ndim == 1)]
    data = GroupedData.from_frame(table, own.group_name, own.y_name, names_x, names_v, need_response=False)
    data = dataclasses.replace(data, tables=own.tables)
    for level in ("population", "group"):
        table[level] = np.asarray(fit.predict(data, level=level))
    return table


def _fine_table(own: GroupedData, x: str, by: str | None, points: int) -> pd.DataFrame:
    import pandas as pd

    frame = own.to_frame()
    pieces: list[Any] = []
    labels = frame[own.group_name]
    for label in own.labels:
        rows = frame[labels == label]
        inside = np.linspace(rows[x].min(), rows[x].max(), points)
        for _, part in rows.groupby(by, sort=False, observed=True) if by else [(None, rows)]:
            part = part.sort_values(x, kind="stable")
            where = np.unique(np.concatenate([inside, part[x].to_numpy()]))
            before = np.searchsorted(part[x].to_numpy(), where, side="right") - 1
            piece = part.iloc[np.maximum(before, 0)].copy()
            piece[x] = where
            pieces.append(piece)
    table = pd.concat(pieces, ignore_index=True)
    table[own.y_name] = np.nan
    return table
