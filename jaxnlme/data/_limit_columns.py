"""Columns of a table that hold limits of quantification, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnlme.data._columns import read_column, take_column
from jaxnlme.data._endpoints import label_text
from jaxnlme.data._limits import DEFAULT_NAMES, INTERVAL, LEFT, OBSERVED, RIGHT, Limits
from jaxnlme.data._rows import name_rows
from jaxnlme.errors import DataError, shown, some


@dataclass(frozen=True, eq=False)
class LimitColumns:
    """Limits as a table has them, before they are checked.

    **Fields:** `censoring`: codes by row, 1: the response is below its value, -1: above it, 0: it is the response; or
    None. `limit`: other end of the interval of a censored row, or None. `lloq`, `uloq`: a number, a dictionary from
    endpoint labels to numbers, a column, or None. `names`: of the four, for messages and tables; `endpoint`: label of
    each row, None: there is one endpoint.
    """

    censoring: Any = None
    limit: Any = None
    lloq: Any = None
    uloq: Any = None
    names: tuple[str, str, str, str] = DEFAULT_NAMES
    endpoint: Sequence[Any] | None = None

    @classmethod
    def of_frame(
        cls, frame: Any, censoring: Any, limit: Any, lloq: Any, uloq: Any, endpoint: Sequence[Any] | None = None
    ) -> LimitColumns | None:
        """The columns of a table by their names; None where no argument names any. **Raises:** DataError for unknown
        names."""
        given = {"censoring": censoring, "limit": limit, "lloq": lloq, "uloq": uloq}
        if all(value is None for value in given.values()):
            return None
        columns: dict[str, Any] = {}
        names: list[str] = list(DEFAULT_NAMES)
        for k, (role, value) in enumerate(given.items()):
            is_name = isinstance(value, str)
            if role in ("censoring", "limit") and value is not None and not is_name:
                raise DataError(f"{role} is {shown(value)}; expected the name of a column.")
            columns[role] = take_column(frame, value, role) if is_name else value
            names[k] = value if is_name else names[k]
        return cls(**columns, names=(names[0], names[1], names[2], names[3]), endpoint=endpoint)

    @classmethod
    def of_arrays(
        cls, censoring: Any, limit: Any, lloq: Any, uloq: Any, endpoint: Sequence[Any] | None = None
    ) -> LimitColumns | None:
        """The columns given as arrays; None where there are none. **Raises:** DataError for names and single codes."""
        given = {"censoring": censoring, "limit": limit, "lloq": lloq, "uloq": uloq}
        for role, value in given.items():
            is_array = value is None or isinstance(value, Mapping) or np.ndim(value) > 0
            if isinstance(value, str) or (role in ("censoring", "limit") and not is_array):
                raise DataError(f"{role} is {shown(value)}; expected an array with one value for each row.")
        return None if all(value is None for value in given.values()) else cls(**given, endpoint=endpoint)

    def read(self, y: np.ndarray, y_name: str) -> tuple[np.ndarray, Limits]:
        """The responses (rows,), with the limit in censored rows, and the Limits (rows,).

        **Arguments:** `y` (rows,): responses, NaN where missing; `y_name`: of their column, for messages.
        **Raises:** DataError naming column and rows.
        """
        cens_name, limit_name, lloq_name, uloq_name = self.names
        lloq = self._level(self.lloq, "lloq", lloq_name, y.size, -np.inf)
        uloq = self._level(self.uloq, "uloq", uloq_name, y.size, np.inf)
        if (bad := lloq >= uloq).any():
            raise DataError(
                f"the lower limit of quantification is not below the upper one in {name_rows(bad)} "
                f"({lloq[bad][0]:g} and {uloq[bad][0]:g}); correct lloq= or uloq=."
            )
        code = self._codes(y, cens_name)
        with np.errstate(invalid="ignore"):
            left = (code == 1) | ((code == 0) & (y < lloq))
            right = (code == -1) | ((code == 0) & (y > uloq))
        # A response below its limit of quantification is known to be below that limit, also where the table has 0.
        values = np.where(left, np.fmax(y, lloq), np.where(right, np.fmin(y, uloq), y))
        if (missing := (left | right) & ~np.isfinite(values)).any():
            raise DataError(
                f"column {cens_name!r} marks {name_rows(missing)} as censored, without a limit: expected it in column "
                f"{y_name!r} (the upper limit for 1, the lower one for -1), or by lloq= or uloq=; fill it in."
            )
        lower, upper = np.where(right, values, -np.inf), np.where(left, values, np.inf)
        interval = np.zeros(y.shape, bool)
        if self.limit is not None:
            other = self._numbers(self.limit, limit_name, y.size)
            interval = (left | right) & np.isfinite(other)
            self._check_interval(left & interval, other, values, "below", y_name)
            self._check_interval(right & interval, other, values, "above", y_name)
            lower, upper = np.where(left & interval, other, lower), np.where(right & interval, other, upper)
        kind = np.where(interval, INTERVAL, np.where(left, LEFT, np.where(right, RIGHT, OBSERVED)))
        observed = (kind == OBSERVED) & ~np.isnan(y)
        lloq = _common_limit(lloq, left, values, observed, self.endpoint, np.less)
        uloq = _common_limit(uloq, right, values, observed, self.endpoint, np.greater)
        return values, Limits(kind, lower, upper, lloq, uloq, self.names)

    def _check_interval(self, rows: np.ndarray, other: np.ndarray, limit: np.ndarray, side: str, y_name: str) -> None:
        """**Raises:** DataError where the other end of an interval is not `side` ("below", "above") the limit."""
        bad = rows & ((other >= limit) if side == "below" else (other <= limit))
        if bad.any():
            cens_name, limit_name, *_ = self.names
            raise DataError(
                f"column {limit_name!r} is not {side} the limit in {name_rows(bad)} ({other[bad][0]:g} against "
                f"{limit[bad][0]:g}): a row with {cens_name} = {1 if side == 'below' else -1} is known to lie between "
                f"{limit_name} and {y_name}; correct one of them, or leave {limit_name} empty."
            )

    def _codes(self, y: np.ndarray, name: str) -> np.ndarray:
        """The codes (rows,) 0, 1 and -1; empty ones are 0."""
        if self.censoring is None:
            return np.zeros(y.size)
        column = read_column(self.censoring, name)
        if column.is_text and {type(v) for v in column.values.tolist()} <= {bool, np.bool_, type(None)}:
            codes = np.array([0.0 if v is None else float(v) for v in column.values.tolist()])
        else:
            codes = self._numbers(self.censoring, name, y.size)
        _check_length(codes, name, y.size)
        if (bad := np.isnan(codes) & ~np.isnan(y)).any():
            raise DataError(
                f"column {name!r} is empty in {name_rows(bad)}, with a response; expected 0 (observed), 1 (the "
                "response is below its value) or -1 (above it): fill it in."
            )
        codes = np.where(np.isnan(codes), 0.0, codes)
        if (bad := ~np.isin(codes, (0.0, 1.0, -1.0))).any():
            raise DataError(
                f"column {name!r} holds {some([f'{v:g}' for v in np.unique(codes[bad])])} in {name_rows(bad)}; "
                "expected 0 (observed), 1 (the response is below its value) or -1 (above it): recode it."
            )
        return codes

    def _numbers(self, raw: Any, name: str, rows: int) -> np.ndarray:
        column = read_column(raw, name)
        if column.is_text:
            raise DataError(
                f"column {name!r} of limits holds text; expected numbers, empty where there is none: convert it."
            )
        return _check_length(column.values, name, rows)

    def _level(self, given: Any, role: str, name: str, rows: int, none: float) -> np.ndarray:
        """Limits of quantification (rows,) from a number, a dictionary by endpoint, or a column; `none` where there is
        none."""
        if given is None:
            return np.full(rows, none)
        if isinstance(given, Mapping):
            if self.endpoint is None:
                raise DataError(
                    f"{role} is a dictionary by endpoint, and the data have no endpoints; expected a number, or the "
                    "name of a column."
                )
            labels = {label_text(label) for label in self.endpoint}
            unknown = [label_text(label) for label in given if label_text(label) not in labels]
            if unknown:
                raise DataError(f"{role} names {some(unknown)}, and the endpoints are {some(sorted(labels))}.")
            by_label = {label_text(label): _number(value, f"{role} of {label!r}") for label, value in given.items()}
            values = np.array([by_label.get(label_text(label), np.nan) for label in self.endpoint])
        elif np.ndim(given) == 0:
            values = np.full(rows, _number(given, role))
        else:
            values = self._numbers(given, name, rows)
        return np.where(np.isnan(values), none, values)


def _number(value: Any, role: str) -> float:
    """`value` as a number. **Raises:** DataError where it is none."""
    if (
        not isinstance(value, (int, float, np.number))
        or isinstance(value, bool)
        or not np.isfinite(number := float(value))
    ):
        raise DataError(f"{role} is {shown(value)}; expected a number in the unit of the response.")
    return number


def _check_length(values: np.ndarray, name: str, rows: int) -> np.ndarray:
    if values.size != rows:
        raise DataError(f"column {name!r} has {values.size} values and the table {rows} rows; expected one for each.")
    return values


def _common_limit(
    limit: np.ndarray,
    censored: np.ndarray,
    values: np.ndarray,
    observed: np.ndarray,
    endpoint: Sequence[Any] | None,
    beyond: Any,
) -> np.ndarray:
    """Limits of quantification (rows,): in rows without one, that of the censored rows themselves; in all rows of an
    endpoint if it is the same in its censored rows, and no observed response is `beyond` it."""
    out = np.where(censored & ~np.isfinite(limit), values, limit)
    labels = np.zeros(values.size, int)
    if endpoint is not None:
        labels = np.unique([str(label) for label in endpoint], return_inverse=True)[1]
    for label in np.unique(labels):
        of_label = labels == label
        distinct = np.unique(values[of_label & censored])
        if distinct.size == 1 and not beyond(values[of_label & observed], distinct[0]).any():
            out = np.where(of_label & ~np.isfinite(out), distinct[0], out)
    return out
