"""Rows between those of data with doses, for curves: rises, peaks and declines are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data.events.records import count_in_groups
from jaxnlme.data.nonmem.export import RecordTable, record_table
from jaxnlme.data.nonmem.reader import NonmemReader

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData

# The row before a dose, as a fraction of the time since the beginning of the curve or the dose before.
BEFORE = 1e-6
# Least number of points between two resets.
LEAST_POINTS = 10
# Points after each dose, as fractions of the time to the next one: absorption is steepest at first.
AFTER = np.array([0.01, 0.025, 0.05, 0.08, 0.12, 0.17, 0.23, 0.3, 0.4, 0.55, 0.75])


@dataclass(frozen=True, eq=False)
class Grid:
    """Data with rows between those of other data.

    **Fields:** `data`, without responses; for its rows in the order of its table (n_rows,): `source`, the row (0-based)
    of the original table that it was, -1 for new ones; `is_event`: it is a record of a dose or reset; `segment`: number
    of times that the group started anew before it.
    """

    data: GroupedData
    source: np.ndarray
    is_event: np.ndarray
    segment: np.ndarray


def grid_of_records(data: GroupedData, points: int, until: float | None, by: Sequence[str] = ()) -> Grid:
    """The rows of `data`, none observed, and new ones between them.

    **Arguments:** `points`, `until`: as of `GroupedData.grid`; `by`: further columns of x or text, for each of whose
    values that a group has there are new rows.
    """
    table = record_table(data)
    outputs = _output_columns(data, by)
    output = _output_codes(table.frame, outputs)
    row_of = np.where(table.position >= 0, data.row_index[table.group, np.maximum(table.position, 0)], -1)
    times = table.frame[table.columns["time"]].to_numpy(float)
    doses = None if data.events is None or not len(data.events) else data.tables["events"]
    segments = _segments(data, table)
    bounds = np.searchsorted(table.group, np.arange(data.n_groups + 1))
    # Of each new row: its time, the record it comes after, the record with its covariates, and one with its response.
    new: list[tuple[np.ndarray, ...]] = []
    for k in range(data.n_groups):
        rows = np.arange(bounds[k], bounds[k + 1])
        of_group = None if doses is None else _of_group(doses, k)
        at, place = _new_times(times[rows], segments[rows], of_group, points, until)
        responses = _responses(data, table, rows, output)
        neighbour = rows[0] + _neighbours(data, place, len(rows))
        each = len(responses)
        new.append((
            np.repeat(at, each), np.repeat(place + rows[0], each), np.repeat(neighbour, each),
            np.tile(responses, len(at)), np.repeat(segments[rows[np.maximum(place, 0)]], each),
        ))  # fmt: skip
    time, place, neighbour, response, segment = (np.concatenate(parts) for parts in zip(*new, strict=True))
    n_old = len(table.group)
    frame = table.frame.iloc[np.concatenate([np.arange(n_old), neighbour])].reset_index(drop=True)
    _as_predictions(frame, table, n_old, time)
    for name in outputs:
        values = frame[name].to_numpy(copy=True)
        values[n_old:] = table.frame[name].to_numpy()[response]
        frame[name] = values
    order = np.argsort(np.concatenate([np.arange(n_old), place + 0.5]), kind="stable")
    frame = frame.iloc[order].reset_index(drop=True)
    frame[data.y_name] = np.nan
    out = _reader(data, table).read(type(data), frame, need_response=False, like=data)
    at = np.sort(out.row_index[out.rows])
    is_event = frame[table.columns["evid"]].isin((1, 3, 4)).to_numpy()
    source = np.concatenate([row_of, np.full(len(time), -1)])[order]
    return Grid(out, source[at], is_event[at], np.concatenate([segments, segment])[order][at])


def _reader(data: GroupedData, table: RecordTable) -> NonmemReader:
    carry = "nocb" if data.events is None else data.events.facts.carry
    limits = dict.fromkeys(("censoring", "limit", "lloq", "uloq"), False)
    return NonmemReader(table.columns | limits, carry=carry, repeated_ids="same")


def _output_columns(data: GroupedData, by: Sequence[str]) -> list[str]:
    """Columns that say which response a row is of."""
    levels = set(data.level_names)
    compartment = None if data.events is None else data.events.facts.compartment
    named = [compartment, data.endpoint, *by]
    varying = {*data.x, *(name for name, values in data.text.items() if values.ndim == 2)}
    return [name for name in dict.fromkeys(named) if name in varying and name not in levels]


def _output_codes(frame: Any, outputs: list[str]) -> np.ndarray:
    """A number (records,) for each combination of values of the columns `outputs`."""
    if not outputs:
        return np.zeros(len(frame), int)
    return frame.groupby(outputs, sort=False, observed=True, dropna=False).ngroup().to_numpy()


def _responses(data: GroupedData, table: RecordTable, rows: np.ndarray, output: np.ndarray) -> np.ndarray:
    """A record of each response of a group: of the values of `output` in its rows with a response or, without any, in
    those that are no events."""
    of_rows = table.position[rows] >= 0
    observed = of_rows & data.observed[table.group[rows], np.maximum(table.position[rows], 0)]
    plain = of_rows & (table.record[rows] < 0)
    chosen = rows[next(mask for mask in (observed, plain, np.ones(len(rows), bool)) if mask.any())]
    return chosen[np.sort(np.unique(output[chosen], return_index=True)[1])]


def _segments(data: GroupedData, table: RecordTable) -> np.ndarray:
    """Number of times (records,) that the group started anew, up to and with each record."""
    if data.events is None or not len(data.events):
        return np.zeros(len(table.group), int)
    starts = (table.record >= 0) & data.events.starts_anew[np.maximum(table.record, 0)]
    return count_in_groups(starts, table.group)


def _of_group(doses: tuple[dict[str, np.ndarray], np.ndarray], k: int) -> dict[str, np.ndarray]:
    columns, mask = doses
    return {name: values[k][mask[k]] for name, values in columns.items()}


def _new_times(
    times: np.ndarray, segment: np.ndarray, doses: dict[str, np.ndarray] | None, points: int, until: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """New times of a group, in the order of its records, and the record (position) that each comes after, -1: before
    the first one."""
    parts = np.unique(segment)
    spans = []
    for number, part in enumerate(parts):
        inside = times[segment == part]
        low, high = inside.min(), inside.max()
        if number + 1 < len(parts):
            high = max(high, times[segment == parts[number + 1]].min())  # the decline up to the next start
        elif until is not None:
            high = max(low, until)
        spans.append((low, high))
    total = sum(high - low for low, high in spans) or 1.0
    new, place = [], []
    for part, (low, high) in zip(parts, spans, strict=True):
        count = max(int(np.ceil(points * (high - low) / total)), min(points, LEAST_POINTS))
        marks = np.linspace(low, high, count) if high > low else np.array([low])
        if doses is not None:
            marks = np.concatenate([marks, _around_doses(doses, part, low, high)])
        if part != parts[-1]:
            marks = np.where(marks >= high, high - BEFORE * (high - low), marks)
        at = np.unique(marks)
        of_part = np.flatnonzero(segment == part)
        after = np.searchsorted(np.maximum.accumulate(times[of_part]), at, side="right") - 1
        new.append(at)
        place.append(np.where(after >= 0, of_part[np.maximum(after, 0)], of_part[0] - 1))
    return np.concatenate(new), np.concatenate(place)


def _around_doses(doses: dict[str, np.ndarray], part: int, low: float, high: float) -> np.ndarray:
    """The times of the doses of a part, those just before them and following them, and the ends of infusions."""
    inside = (doses["segment"] == part) & (doses["reset"] == 0)
    time, amount, rate = (doses[name][inside] for name in ("time", "amount", "rate"))
    ends = time[rate > 0] + amount[rate > 0] / rate[rate > 0]
    knots = np.unique(np.concatenate([[low], time, [high]]))
    gaps = np.diff(knots)
    step = BEFORE * (gaps[gaps > 0].min() if (gaps > 0).any() else 1.0)
    marks = np.concatenate([time, time - step, ends, (knots[:-1, None] + gaps[:, None] * AFTER).ravel()])
    return marks[(marks >= low) & (marks <= high)]


def _neighbours(data: GroupedData, place: np.ndarray, size: int) -> np.ndarray:
    """The record whose covariates a new row has: the next one, or the one before, as `carry` says."""
    carry = "nocb" if data.events is None else data.events.facts.carry
    return np.minimum(place + 1, size - 1) if carry == "nocb" else np.maximum(place, 0)


def _as_predictions(frame: Any, table: RecordTable, n_old: int, times: np.ndarray) -> None:
    """Make the rows from `n_old` on predictions at `times`."""
    c = table.columns
    zero = {c[m]: 0 for m in ("amt", "rate", "ss", "ii", "addl")}
    for name, value in ({c["evid"]: 2, c["mdv"]: 1} | zero).items():
        values = frame[name].to_numpy(copy=True)
        values[n_old:] = value
        frame[name] = values
    values = frame[c["time"]].to_numpy(float, copy=True)
    values[n_old:] = times
    frame[c["time"]] = values
    # Rows that were observations are predictions; records keep their codes.
    evid = frame[c["evid"]].to_numpy(copy=True)
    frame[c["evid"]] = np.where(evid == 0, 2, evid)
    frame[c["mdv"]] = 1
