"""GroupedData as a NONMEM-style table, one record a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data.events.records import RECORD_COLUMNS, EventRecords
from jaxnlme.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.data.grouped import GroupedData


@dataclass(frozen=True, eq=False)
class RecordTable:
    """A table of records in the order of groups and, within a group, of its records.

    **Fields:** `frame`; `columns`: names of its columns by meaning, as in NonmemReader; `group` (records,): position of
    the group; `position` (records,): among the group's rows, -1 for records that are no rows; `record` (records,):
    number of the event record, -1 for those of rows only.
    """

    frame: pd.DataFrame
    columns: dict[str, Any]
    group: np.ndarray
    position: np.ndarray
    record: np.ndarray


def record_table(data: GroupedData) -> RecordTable:
    """The rows and events of data as one table.

    **Raises:** DataError for data without a column of x, which have no times.
    """
    time, compartment = _time(data), None if data.events is None else data.events.facts.compartment
    rows = _rows(data)
    names = _event_names(data, rows, compartment)
    events = data.events
    group_of_row = np.repeat(np.arange(data.n_groups), data.sizes)
    position_of_row = np.concatenate([np.arange(size) for size in data.sizes])
    record_of_row = np.full(len(rows), -1)
    if events is None or not len(events):
        group, position, record, source = group_of_row, position_of_row, record_of_row, np.arange(len(rows))
    else:
        start = np.cumsum(data.sizes) - data.sizes
        of_row = np.where(events.columns["row"] >= 0, start[events.group] + events.columns["row"], -1).astype(int)
        # A reset that the reader put before an observation has the observation's row, which stays a record of its own.
        own = (of_row >= 0) & ~data.observed[data.rows][of_row]
        record_of_row[of_row[own]] = np.flatnonzero(own)
        extra = np.flatnonzero(~own)
        before = events.columns["rows_before"][extra].astype(int)
        following = np.minimum(before, data.sizes[events.group[extra]] - 1)
        neighbour = following if events.facts.carry == "nocb" else np.maximum(before - 1, 0)
        group = np.concatenate([group_of_row, events.group[extra]])
        position = np.concatenate([position_of_row, np.full(len(extra), -1)])
        record = np.concatenate([record_of_row, extra])
        source = np.concatenate([np.arange(len(rows)), start[events.group[extra]] + neighbour])
        place = np.concatenate([2 * position_of_row + 1, 2 * before])
        order = np.lexsort((record, place, group))
        group, position, record, source = group[order], position[order], record[order], source[order]
    frame = rows.iloc[source].reset_index(drop=True)
    observed = data.observed[data.rows][source] & (position >= 0)
    _put_events(frame, names, events, record, observed, compartment)
    frame[time] = np.where(record >= 0, _of_record(events, "TIME", record), frame[time])
    frame[data.y_name] = np.where(observed, frame[data.y_name], np.nan)
    columns = {
        "id": data.group_name, "time": time, "dv": data.y_name, "date": False, "dur": False, "mdv": names["MDV"],
        "cmt": names["CMT"], "endpoint": data.endpoint,
        "occasion": [level.name for level in data.nested] or None,
        **{name.lower(): names[name] for name in ("EVID", "AMT", "RATE", "SS", "II", "ADDL")},
    }  # fmt: skip
    return RecordTable(frame, columns, group, position, record)


def to_nonmem(data: GroupedData) -> pd.DataFrame:
    """See `GroupedData.to_nonmem`."""
    table = record_table(data)
    frame = table.frame
    if not (data.weights == 1).all():
        frame[_free("WEIGHT", list(frame.columns))] = data.weights[table.group]
    c = table.columns
    first = [data.group_name, *(c["occasion"] or []), c["time"]]
    first += [c[m] for m in ("evid", "amt", "rate", "cmt", "ss", "ii", "addl") if c[m] is not False]
    first += [data.y_name, c["mdv"]]
    return frame[[*first, *(name for name in frame.columns if name not in first)]]


def _time(data: GroupedData) -> str:
    if data.events is not None:
        return data.events.facts.time
    if not data.x:
        raise DataError("the data have no column of x, and so no times; a table of records needs them.")
    return next(iter(data.x))


def _rows(data: GroupedData) -> pd.DataFrame:
    """The rows of data, those of a group together."""
    order = np.argsort(data.row_index[data.rows], kind="stable")
    back = np.empty(len(order), int)
    back[order] = np.arange(len(order))
    return data.to_frame().iloc[back].reset_index(drop=True)


def _event_names(data: GroupedData, rows: pd.DataFrame, compartment: str | None) -> dict[str, Any]:
    """Names for the columns of records that no other column has; False for those that are not written."""
    taken = list(rows.columns)
    names: dict[str, Any] = {
        name: _free(name, taken) for name in (*RECORD_COLUMNS, "MDV") if name not in ("TIME", "CMT")
    }
    named = data.events is not None and (data.events.columns["CMT"] > 0).any()
    names["CMT"] = compartment if compartment is not None else _free("CMT", taken) if named else False
    return names


def _free(name: str, taken: list[Any]) -> str:
    """`name`, with an ending where a column has that name already, in whatever case."""
    used = {str(other).casefold() for other in taken}
    while name.casefold() in used:
        name += "_RECORD" if not name.endswith("_RECORD") else "_"
    return name


def _put_events(
    frame: pd.DataFrame,
    names: dict[str, Any],
    events: EventRecords | None,
    record: np.ndarray,
    observed: np.ndarray,
    compartment: str | None,
) -> None:
    """Write the columns of records into `frame`."""
    is_event = record >= 0
    frame[names["EVID"]] = np.where(is_event, _of_record(events, "EVID", record), np.where(observed, 0, 2)).astype(int)
    frame[names["MDV"]] = np.where(observed, 0, 1)
    for name in ("AMT", "RATE", "SS", "II", "ADDL"):
        values = np.where(is_event, _of_record(events, name, record), 0.0)
        frame[names[name]] = values.astype(int) if name in ("SS", "ADDL") else values
    if names["CMT"] is not False:
        of_rows = frame[names["CMT"]] if compartment is not None else 0.0
        dose = is_event & (_of_record(events, "EVID", record) != 3)
        values = np.where(dose, _of_record(events, "CMT", record), of_rows)
        frame[names["CMT"]] = values


def _of_record(events: EventRecords | None, name: str, record: np.ndarray) -> np.ndarray:
    """A column of the event records at the numbers `record`; zero without any."""
    if events is None or not len(events):
        return np.zeros(len(record))
    return events.columns[name][np.maximum(record, 0)]
