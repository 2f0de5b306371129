"""Visual predictive check of the times to event of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.arguments import check_flag
from jaxnlme.data._limits import RIGHT
from jaxnlme.diagnostics.vpc.fit_rows import FitRows
from jaxnlme.diagnostics.vpc.record import Vpc
from jaxnlme.diagnostics.vpc.strata import Specification, strata_of
from jaxnlme.diagnostics.vpc.survival import Names, checked_times, compare_times, spells_of
from jaxnlme.errors import OptionError, check_level, shown


def survival_of_fit(
    rows: FitRows,
    draws: tuple[int, int],
    specification: Specification,
    event: str | None,
    follow_up: Any,
    x: Any,
    repeated: bool,
    covariate: str | None,
    times: Any,
    level: float,
) -> Vpc:
    """The check of times to event. The response is the time; or, with `x`, 1 for an event at that time and 0
    otherwise. **Arguments:** `draws`: number of replicates and seed."""
    check_level(level)
    check_flag("repeated", repeated)
    data, frame, use = rows.fit.binding.data, rows.frame, rows.use
    strata = strata_of(frame, specification, use)
    subject = np.unique(frame[data.group_name].astype(str), return_inverse=True)[1][use]
    of_covariate = None if covariate is None else rows.horizontal(covariate)[1][use]
    y, stratum = rows.response[use], strata.code[use]
    grid = checked_times(times)
    if x is not None:
        name, at = rows.horizontal(x)
        if not np.isin(y, (0.0, 1.0)).all():
            raise OptionError(
                f"with x={shown(x)} the response is 1 for an event at that time and 0 otherwise; it holds others. For "
                "responses that are times leave x out."
            )
        at, is_event, end = at[use], y == 1.0, None
    else:
        if repeated:
            raise OptionError("repeated=True needs the time of each row as x=, and responses 1 for an event and 0.")
        name, at = data.y_name, y
        is_event = _observed_events(rows, event)
        end = _follow_up(rows, follow_up, y, is_event)
    drawn = rows.replicates(*draws, use, by_block=False)
    matrix, size, size_rows = np.concatenate([block for _, block in drawn.blocks()]), drawn.size, y.size
    if end is None:
        drawn_at, drawn_event = np.tile(at, size), matrix.ravel() == 1.0
    else:
        drawn_at, drawn_event = np.minimum(matrix, end).ravel(), (matrix <= end).ravel()

    def tiled(values: np.ndarray | None) -> Any:
        return None if values is None else np.tile(values, size)

    spells = spells_of(at, is_event, subject, np.zeros(size_rows, int), stratum, of_covariate, repeated)
    of_drawn = spells_of(drawn_at, drawn_event, tiled(subject), np.repeat(np.arange(size), size_rows), tiled(stratum),
                         tiled(of_covariate), repeated)  # fmt: skip
    names = Names(name, event or data.y_name, data.group_name, covariate)
    return compare_times(spells, of_drawn, size, strata, names, grid, repeated, level)


def _observed_events(rows: FitRows, event: str | None) -> np.ndarray:
    """True for observed times that are events: by the column `event`, or those that are not right-censored."""
    data = rows.fit.binding.data
    if event is not None:
        name, values = rows.horizontal(event)
        if not np.isin(values[rows.use], (0.0, 1.0)).all():
            raise OptionError(f"event: column {name!r} must hold 1 (an event) and 0 (the end of follow-up).")
        return values[rows.use] == 1.0
    if data.limits is None:
        raise OptionError("times to event need the column that is 1 for events and 0 for ends of follow-up: event=.")
    return data.rows_to_column(data.limits.kind)[rows.use] != RIGHT


def _follow_up(rows: FitRows, follow_up: Any, y: np.ndarray, is_event: np.ndarray) -> np.ndarray:
    """The end of follow-up (rows,) that simulated times are censored at: a number, a column, or where None the time of
    a censored subject and for others the longest observed."""
    if follow_up is None:
        return np.where(is_event, y.max(), y)
    if isinstance(follow_up, str):
        return rows.horizontal(follow_up)[1][rows.use]
    if isinstance(follow_up, (int, float, np.number)) and not isinstance(follow_up, bool) and follow_up > 0:
        return np.full(y.shape, float(follow_up))
    raise OptionError(f"follow_up must be a time > 0 or the name of a column; received {shown(follow_up)}.")
