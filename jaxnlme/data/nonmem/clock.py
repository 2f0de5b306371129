"""Times of records in hours: numbers as they are; clock times, dates and date-times since the subject's first
record."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnlme.data._columns import object_array
from jaxnlme.data.nonmem.table import MISSING, RawTable
from jaxnlme.errors import DataError, shown

# Order of day, month and year in NONMEM's date columns.
ORDERS = {"DATE": "mdy", "DAT1": "dmy", "DAT2": "ymd", "DAT3": "ydm"}
_CLOCK = re.compile(r"(\d{1,3}):([0-5]?\d)(?::([0-5]?\d(?:\.\d*)?))?\s*([AaPp][Mm])?")
_DATE = re.compile(r"(\d{1,4})[-/. ](\d{1,2})[-/. ](\d{1,4})")
_DATE_TIME = re.compile(r"(\d{4}-\d{1,2}-\d{1,2})[T ]+(.*?)(?:Z|\+00:?00)?")


def times_in_hours(
    table: RawTable, time: Any, date: Any, order: str | None, group: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The time (rows,) of each record, and a sentence on what was converted.

    Numbers without a date column are returned as they are, whatever their unit. Otherwise the times are hours since the
    first record of the subject.

    **Arguments:** `time`, `date`: names of columns, `date` may be None; `order`: of day, month and year, as in "mdy",
    None for that of the name (DATE, DAT1, DAT2, DAT3) or ISO dates; `group` (rows,): number of the subject.
    **Raises:** DataError naming the rows whose time or date is missing or cannot be read.
    """
    if order is not None and (not isinstance(order, str) or sorted(order) != ["d", "m", "y"]):
        raise DataError(f"date_order is {shown(order)}; expected 'mdy', 'dmy', 'ymd' or 'ydm'.")
    moments = _moments(table, time)
    if moments is not None and date is None:
        hours, what = moments, f"dates and times in {time!r}"
    else:
        if moments is not None:
            raise DataError(
                f"column {time!r} holds dates and times, and {date!r} dates too; give date=False to leave {date!r} out."
            )
        hours, is_clock = _clock(table, time)
        if date is None and not is_clock:
            return hours, ()
        what = f"clock times in {time!r}"
        if date is not None:
            hours = hours + 24 * _days(table, date, order)
            what = f"times in {time!r} with dates in {date!r}"
    first = np.zeros(int(group.max()) + 1, int)
    first[group[::-1]] = np.arange(len(group))[::-1]
    hours = hours - hours[first][group]
    # Differences of large numbers of hours have rounding errors far below a millisecond.
    return np.round(hours, 9), (f"{what}: converted to hours since the first record of each subject.",)


def _moments(table: RawTable, name: Any) -> np.ndarray | None:
    """Hours from a column of date-times or durations, None where it holds neither."""
    import pandas as pd

    raw = table.columns[name]
    kind = getattr(getattr(raw, "dtype", None), "kind", "")
    if kind in ("i", "u", "f"):
        return None
    if hasattr(raw, "to_pandas") or type(raw).__module__.startswith("polars"):
        raw = object_array(raw.to_list())
    cells = None if kind in ("M", "m") else object_array(list(raw))[table.at]
    if cells is not None:
        types = {type(cell) for cell in cells if cell is not None}
        if not any(issubclass(t, (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64)) for t in types):
            return _iso(table, name) if str in types else None
    else:
        cells = np.asarray(raw)[table.at]
    series: Any = pd.Series(cells)
    if series.dtype == object:
        is_duration = any(isinstance(c, (datetime.timedelta, np.timedelta64)) for c in cells)
        series = pd.to_timedelta(series) if is_duration else pd.to_datetime(series, utc=True)
    _require(table, name, np.asarray(series.isna()))
    if series.dtype.kind == "m":
        return np.asarray(series / pd.Timedelta(hours=1), float)
    zone = getattr(series.dtype, "tz", None)
    series = series.dt.tz_convert("UTC").dt.tz_localize(None) if zone is not None else series
    return np.asarray((series - pd.Timestamp("1970-01-01")) / pd.Timedelta(hours=1), float)


def _iso(table: RawTable, name: Any) -> np.ndarray | None:
    """Hours from text such as 2024-05-31T08:30, None where the first cell is none."""
    cells = _texts(table, name)
    first = next((cell for cell in cells if cell is not None), "")
    if _DATE_TIME.fullmatch(first) is None:
        return None

    def hours(cell: str) -> float:
        match = _DATE_TIME.fullmatch(cell)
        if match is None:
            raise ValueError
        return 24 * _day(match[1], "ymd") + _hours_of_clock(match[2])

    return _converted(table, name, cells, hours, "a date and time such as 2024-05-31 08:30, as in the first row")


def _clock(table: RawTable, name: Any) -> tuple[np.ndarray, bool]:
    """Hours from numbers or clock times, and True for clock times."""
    raw = object_array(list(table.columns[name])) if not hasattr(table.columns[name], "dtype") else None
    if raw is not None and any(isinstance(cell, datetime.time) for cell in raw):
        cells = np.array([c.isoformat() if isinstance(c, datetime.time) else c for c in raw[table.at]], object)
        return _converted(table, name, cells, _hours_of_clock, "a clock time such as 8:30"), True
    column = table.column(name)
    if column.is_text and any(isinstance(cell, datetime.time) for cell in column.values):
        cells = np.array([c.isoformat() if isinstance(c, datetime.time) else c for c in column.values], object)
        return _converted(table, name, cells, _hours_of_clock, "a clock time such as 8:30"), True
    if not column.is_text:
        hours = table.numbers(name)
        _require(table, name, np.isnan(hours))
        return hours, False
    return _converted(table, name, _texts(table, name), _hours_of_clock, "a number or a clock time such as 8:30"), True


def _days(table: RawTable, name: Any, order: str | None) -> np.ndarray:
    """Days, from a common origin, of a column of dates or of numbers of days."""
    hours = _moments(table, name)
    if hours is not None:
        return np.floor(hours / 24)
    column = table.column(name)
    if not column.is_text:
        days = table.numbers(name)
        _require(table, name, np.isnan(days))
        return days
    order = order or ORDERS.get(str(name).upper())
    cells = _texts(table, name)
    expected = {"mdy": "month/day/year", "dmy": "day/month/year", "ymd": "year/month/day", "ydm": "year/day/month"}
    hint = expected.get(order or "", "year-month-day")
    return _converted(
        table, name, cells, lambda cell: _day(cell, order), f"{hint}: give date_order='mdy', 'dmy', 'ymd' or 'ydm'"
    )


def _texts(table: RawTable, name: Any) -> np.ndarray:
    """The cells as text without blanks around, None where missing."""
    raw = table.columns[name]
    cells = (raw.to_list() if hasattr(raw, "to_list") else list(raw)) if not isinstance(raw, np.ndarray) else raw
    out = [None if c is None or c != c or str(c).strip() in MISSING else str(c).strip() for c in cells]
    return object_array(out)[table.at]


def _converted(
    table: RawTable, name: Any, cells: np.ndarray, convert: Callable[[str], float], expected: str
) -> np.ndarray:
    """`convert` of every cell; a cell that occurs several times is converted once."""
    _require(table, name, np.fromiter((cell is None for cell in cells), bool, len(cells)))
    values: dict[str, float] = {}
    for cell in dict.fromkeys(cells.tolist()):
        try:
            values[cell] = convert(cell)
        except ValueError:
            bad = cells == cell
            raise DataError(
                f"column {name!r} is {cell!r} in {table.rows(bad)}; expected {expected}, or correct the cell."
            ) from None
    return np.fromiter(map(values.__getitem__, cells), float, len(cells))


def _hours_of_clock(text: str) -> float:
    """Hours of "8:30", "08:30:15", "8:30 pm", or of a number. **Raises:** ValueError for others."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return float(text)
    hour = int(match[1])
    if match[4]:
        if not 1 <= hour <= 12:
            raise ValueError
        hour = hour % 12 + 12 * (match[4].lower() == "pm")
    return hour + int(match[2]) / 60 + float(match[3] or 0) / 3600


def _day(text: str, order: str | None) -> float:
    """The number of the day of a date. Years of two digits are 1950 to 2049. **Raises:** ValueError."""
    match = _DATE.fullmatch(text)
    if match is None:
        return float(text)
    if order is None:
        if len(match[1]) != 4:
            raise ValueError
        order = "ymd"
    elif len(match[1]) == 4 and order[0] != "y":
        order = "ymd"  # an ISO date
    part = dict(zip(order, (match[1], match[2], match[3]), strict=True))
    year = int(part["y"])
    if len(part["y"]) <= 2:
        year += 2000 if year < 50 else 1900
    return float(datetime.date(year, int(part["m"]), int(part["d"])).toordinal())


def _require(table: RawTable, name: Any, missing: np.ndarray) -> None:
    if missing.any():
        raise DataError(
            f"column {name!r} is missing in {table.rows(missing)}; every record needs a time (NONMEM would read 0): "
            "fill it in or drop the rows."
        )
