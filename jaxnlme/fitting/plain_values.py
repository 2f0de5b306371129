"""Dates, times, bytes and exact numbers, which label groups and rows, as JSON and back.

A value is encoded only where it comes back equal, of the same type and in the same words: digests of data depend on
them.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
import zoneinfo
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def encode_plain(value: Any) -> dict[str, Any] | None:
    """`value` as JSON; None where it is not of a type that `decode_plain` knows."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    kind = _PANDAS_NAMES.get(kind, kind)
    if kind not in _KINDS:
        return None
    node = {"$plain": kind, "of": _KINDS[kind][0](value)}
    return node if _comes_back(value, lambda: decode_plain(node)) else None


def decode_plain(node: dict[str, Any]) -> Any:
    """The value that `encode_plain` made `node` of."""
    return _KINDS[node["$plain"]][1](*node["of"])


def encode_index(index: pd.Index) -> dict[str, Any] | None:
    """An index of times, durations or periods as JSON, without its name; None for others."""
    integers = getattr(index, "asi8", None)
    if integers is None:
        return None
    node = {"$index": str(index.dtype), "values": integers.tolist()}
    return node if _comes_back(index, lambda: decode_index(node, index.name)) else None


def decode_index(node: dict[str, Any], name: Any) -> pd.Index:
    """The index that `encode_index` made `node` of, with its `name`."""
    import pandas as pd

    dtype: Any = pd.api.types.pandas_dtype(node["$index"])
    integers = np.asarray(node["values"], np.int64)
    if isinstance(dtype, pd.PeriodDtype):
        return pd.PeriodIndex(pd.arrays.PeriodArray(integers, dtype=dtype), name=name)
    if isinstance(dtype, pd.DatetimeTZDtype):
        times = pd.DatetimeIndex(integers.view(f"M8[{dtype.unit}]"), name=name)
        return times.tz_localize("UTC").tz_convert(dtype.tz)
    if dtype.kind not in "mM":
        raise ValueError(f"an index of {dtype} is not known")
    return pd.Index(integers.view(dtype), name=name)


def _comes_back(value: Any, decoded: Callable[[], Any]) -> bool:
    """True if `decoded` gives `value` again."""
    try:
        again = decoded()
        equal = again.equals(value) if hasattr(value, "equals") else again == value
    except Exception:  # a time zone that has no name, a period of a frequency that has no text
        return False
    if getattr(value, "dtype", None) != getattr(again, "dtype", None):
        return False
    return bool(equal) and type(again) is type(value) and (hasattr(value, "equals") or repr(again) == repr(value))


def _zone(zone: datetime.tzinfo | None) -> str | None:
    """The name of a time zone, by which it is found again; None for a fixed difference to UTC, which the time has."""
    return zone.key if isinstance(zone, zoneinfo.ZoneInfo) else None


def _datetime(text: str, zone: str | None, fold: int) -> datetime.datetime:
    time = datetime.datetime.fromisoformat(text)
    return time.replace(tzinfo=time.tzinfo if zone is None else zoneinfo.ZoneInfo(zone), fold=fold)


def _timestamp(integer: int, unit: str, zone: str | None) -> pd.Timestamp:
    import pandas as pd

    time = pd.Timestamp(np.datetime64(integer, unit))  # pyright: ignore[reportArgumentType, reportCallIssue]
    return time if zone is None else time.tz_localize("UTC").tz_convert(zone)


def _timedelta(integer: int, unit: str) -> pd.Timedelta:
    import pandas as pd

    return pd.Timedelta(np.timedelta64(integer, unit))  # pyright: ignore[reportArgumentType, reportCallIssue]


def _period(ordinal: int, frequency: str) -> pd.Period:
    import pandas as pd

    return pd.Period(ordinal=ordinal, freq=frequency)


# By the name of the type: the arguments of the function that makes it again, and that function.
_KINDS: dict[str, tuple[Callable[[Any], list[Any]], Callable[..., Any]]] = {
    "datetime.date": (lambda day: [day.isoformat()], datetime.date.fromisoformat),
    "datetime.time": (lambda time: [time.isoformat()], datetime.time.fromisoformat),
    "datetime.datetime": (lambda time: [time.isoformat(), _zone(time.tzinfo), time.fold], _datetime),
    "datetime.timedelta": (lambda span: [span.days, span.seconds, span.microseconds], datetime.timedelta),
    "builtins.bytes": (lambda content: [content.hex()], bytes.fromhex),
    "decimal.Decimal": (lambda number: [str(number)], decimal.Decimal),
    "uuid.UUID": (lambda number: [str(number)], uuid.UUID),
    "numpy.datetime64": (
        lambda time: [int(time.view(np.int64)), time.dtype.str],
        lambda integer, dtype: np.int64(integer).view(dtype),
    ),
    "numpy.timedelta64": (
        lambda span: [int(span.view(np.int64)), span.dtype.str],
        lambda integer, dtype: np.int64(integer).view(dtype),
    ),
    "pandas.Timestamp": (
        lambda time: [int(time.asm8.view(np.int64)), time.unit, None if time.tz is None else str(time.tz)],
        _timestamp,
    ),
    "pandas.Timedelta": (lambda span: [int(span.asm8.view(np.int64)), span.unit], _timedelta),
    "pandas.Period": (lambda period: [period.ordinal, period.freqstr], _period),
}
# Names of types within pandas, whose modules move between its versions.
_PANDAS_NAMES = {
    f"{module}.{name}": f"pandas.{name}"
    for name, folder in (("Timestamp", "timestamps"), ("Timedelta", "timedeltas"), ("Period", "period"))
    for module in (f"pandas._libs.tslibs.{folder}", "pandas")
}
