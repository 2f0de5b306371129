"""Doses from a table of their own beside that of the observations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._rows import name_groups, name_rows
from jaxnlme.data.events.records import EventRecords
from jaxnlme.data.nonmem.names import find_column
from jaxnlme.data.nonmem.reader import NonmemReader
from jaxnlme.data.nonmem.records import Records
from jaxnlme.data.nonmem.table import raw_table
from jaxnlme.errors import DataError, OptionError, shown

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData

# Arguments of `with_events` and NONMEM's names for them.
MEANINGS = {
    "group": "id", "time": "time", "amount": "amt", "rate": "rate", "duration": "dur", "compartment": "cmt",
    "steady_state": "ss", "interval": "ii", "additional": "addl", "kind": "evid",
}  # fmt: skip


def records_by_time(
    data: GroupedData, frame: Any, given: dict[str, Any], row_time: str | None, ties: str, carry: str
) -> EventRecords:
    """Event records of a table of doses, placed among the rows of data by time; see `GroupedData.with_events`.

    **Arguments:** `given`: names of columns by the arguments' names in MEANINGS; the others as there.
    """
    if ties not in ("dose first", "observation first"):
        raise OptionError(f"ties is {shown(ties)}; expected 'dose first' or 'observation first'.")
    time = _row_time(data, given["time"], row_time)
    table = raw_table(frame, None, (), str(given["group"]), {})
    names = {meaning: None for meaning in ("dv", "mdv", "date", "reset", "censoring", "limit", "lloq", "uloq")}
    for argument, meaning in MEANINGS.items():
        column = given[argument]
        names[meaning] = None if column is None else find_column(column, table.names, argument)
    records = Records(NonmemReader({}, carry=carry, repeated_ids="same"), table, names, need_response=False)
    c = records.c
    no_event = np.isin(c["evid"], (0, 2))
    if no_event.any():
        raise DataError(
            f"{names['amt']} is 0 or missing in {table.rows(no_event)} of the doses; expected amounts > 0: drop them."
        )
    position = {label: k for k, label in enumerate(data.labels.tolist())}
    of_label = np.array([position.get(label, -1) for label in records.labels])
    if (of_label < 0).any():
        unknown = [label for label, k in zip(records.labels, of_label, strict=True) if k < 0]
        similar = next((label for label in position if str(label) == str(unknown[0])), None)
        hint = f" (the data have the {type(similar).__name__} {similar!r})" if similar is not None else ""
        raise DataError(
            f"{name_groups(unknown)} of the doses (column {names['id']!r}) {'is' if len(unknown) == 1 else 'are'} not "
            f"in the data{hint}; correct the labels or drop those rows."
        )
    group = of_label[records.group]
    before = _rows_before(data, time, group, c["time"], "left" if ties == "dose first" else "right")
    columns = {"TIME": c["time"], "EVID": c["evid"], "rows_before": before, "row": np.full(len(table), -1.0)}
    dose = c["evid"] != 3
    columns |= {name: np.where(dose, c[name.lower()], 0.0) for name in ("AMT", "RATE", "CMT", "SS", "II", "ADDL")}
    compartment = str(given["compartment"]) if given["compartment"] in data.x else None
    return EventRecords.of(
        columns, group, data.labels, data.group_name, table.at, time=time, compartment=compartment, carry=carry
    )


def _row_time(data: GroupedData, time: str, row_time: str | None) -> str:
    """The column of x with the times of rows, which must be in order within each group."""
    name = row_time if row_time is not None else time
    if name not in data.x:
        raise DataError(
            f"the data have no column {name!r} in x ({', '.join(data.x)}); name that with the times of their rows, as "
            "in row_time='Time'."
        )
    back = (np.diff(data.x[name], axis=1) < 0) & data.rows[:, 1:]
    if back.any():
        bad = data.row_index[:, 1:][back]
        raise DataError(
            f"{name!r} goes back in {name_rows(np.sort(bad))}; doses are placed among the rows by time: sort the rows "
            "of each group by time before from_frame."
        )
    return name


def _rows_before(data: GroupedData, time: str, group: np.ndarray, at: np.ndarray, side: str) -> np.ndarray:
    """Number of rows of the group before each time."""
    times = np.where(data.rows, data.x[time], np.inf)[group]
    earlier = times < at[:, None] if side == "left" else times <= at[:, None]
    return earlier.sum(axis=1).astype(float)
