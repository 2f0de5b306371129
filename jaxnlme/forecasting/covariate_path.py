"""Columns of rows other than time, as paths over time that do not depend on the times asked for.

A model whose parameters change in time takes them from row to row: what holds between two rows is the value of one of
them. So the records of a path are rows of the data too, beside the times that are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, near_matches, shown, some


def time_column(data: GroupedData) -> str:
    """The column of time of data without event records. **Raises:** OptionError where no name says so."""
    named = [name for name in data.x if name.lower() in ("time", "t")]
    if len(named) != 1:
        raise OptionError(f"time= must name the column of time; columns of x: {some([*data.x]) or 'none'}.")
    return named[0]


def time_name(data: GroupedData, time: Any) -> str:
    """The column of time of `data`.

    **Arguments:** `time`: its name where it is given, None: that of the event records, or the one called time.
    **Raises:** OptionError for a name that is no column of x, or not that of the event records, and where without a
    name no column says so.
    """
    own = None if data.events is None else data.events.facts.time
    if time is not None and time not in data.x:
        near = near_matches(time, data.x) if isinstance(time, str) else f"its columns: {some([*data.x]) or 'none'}."
        raise OptionError(f"time={shown(time)} names no column of x of the fitted data; {near}")
    if time is not None and own not in (None, time):
        raise OptionError(
            f"time={time!r}: the fitted data have event records, whose times are those of column {own!r}; leave time= "
            "out."
        )
    return time_column(data) if time is None and own is None else str(own or time)


def carries_back(data: GroupedData | None) -> bool:
    """True where a value holds on the interval before its record (nocb), False where after it."""
    return data is not None and data.events is not None and data.events.facts.carry == "nocb"


def record_at(records: np.ndarray, times: np.ndarray, back: bool) -> np.ndarray:
    """The record (times,) whose values hold at each time: the next one (`back`) or the last one; outside of the records
    (in rising order) the nearest."""
    found = np.searchsorted(records, times, "left") if back else np.searchsorted(records, times, "right") - 1
    return np.clip(found, 0, len(records) - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class PathRows:
    """Rows for times asked for, and for the records of a path.

    **Fields:** `times` (rows,), rising; `columns` (rows,) by name; `asked`: positions of the times asked for.
    """

    times: np.ndarray
    columns: dict[str, np.ndarray]
    asked: np.ndarray

    @classmethod
    def of(cls, asked: np.ndarray, records: np.ndarray, columns: Mapping[str, np.ndarray], back: bool) -> PathRows:
        """The rows of `asked` times (rising, all different) with the values of `columns` at `records` (rising)."""
        changes = any((column != column[:1]).any() for column in columns.values())
        times = np.union1d(asked, records) if changes else asked
        source = record_at(records, times, back)
        found = {name: column[source] for name, column in columns.items()}
        return cls(times, found, np.searchsorted(times, asked))

    def with_values(self, asked: np.ndarray, columns: Mapping[str, np.ndarray], back: bool) -> PathRows:
        """The rows with other values of some `columns` at the times asked for; a column that the path lacks has them
        in its other rows too."""
        new = dict(self.columns)
        source = record_at(asked, self.times, back)
        for name, values in columns.items():
            old = new.get(name)
            if old is None:
                new[name] = values[source]
            else:
                both = old.astype(object) if values.dtype == object else old.copy()
                both[self.asked] = values
                new[name] = both
        return dataclasses.replace(self, columns=new)


def as_path(rows: Any, time: str) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """The records of a path: `rows` that have a column of time of their own, by rising time; None for other rows.

    **Raises:** OptionError for columns of other lengths, and times that are no finite numbers.
    """
    if not isinstance(rows, Mapping) or time not in rows:
        return None
    table = {str(name): np.atleast_1d(np.asarray(values)) for name, values in rows.items()}
    times = table.pop(time)
    if times.ndim != 1 or times.dtype.kind not in "iuf" or not np.isfinite(times).all() or not len(times):
        raise OptionError(f"rows: {time!r} must be finite numbers, the times of the further columns.")
    for name, column in table.items():
        if column.shape != times.shape:
            raise OptionError(f"rows: {name!r} has shape {column.shape}; expected {times.shape}, one value per {time}.")
        if column.dtype.kind in "iuf":
            table[name] = column = column.astype(float)
        if any(value is None or value != value for value in column.tolist()):
            raise OptionError(f"rows: {name!r} has a missing value; expected one for each {time}.")
    order = np.argsort(times, kind="stable")
    return times[order].astype(float), {name: column[order] for name, column in table.items()}
