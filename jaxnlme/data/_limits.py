"""Limits of quantification: which responses are known only to lie below, above or between limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from jaxnlme.data._columns import read_column, take_column
from jaxnlme.data._rows import name_rows
from jaxnlme.errors import DataError, shown, some

OBSERVED, LEFT, RIGHT, INTERVAL = 0, 1, 2, 3
# Names of the columns of `to_frame` where the table had none.
DEFAULT_NAMES = ("CENS", "LIMIT", "LLOQ", "ULOQ")


@dataclass(frozen=True, eq=False)
class Limits:
    """Limits of the responses, each (rows,) or (groups, obs).

    **Fields:** `kind`: 0 observed, 1 left (y < upper), 2 right (y > lower), 3 interval (lower < y < upper); `lower`,
    `upper`: of a censored row, -inf and inf where open and in observed rows; `lloq`, `uloq`: limits of quantification
    that a row has whether or not it is censored, -inf and inf where none is known; `names`: of the columns CENS, LIMIT,
    LLOQ and ULOQ.
    """

    kind: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    lloq: np.ndarray
    uloq: np.ndarray
    names: tuple[str, str, str, str] = DEFAULT_NAMES

    @property
    def censored(self) -> np.ndarray:
        """True in censored rows."""
        return self.kind > 0

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name of their field."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "names"}

    def at(self, index: Any) -> Limits:
        """The limits of the rows `index`, an index of all arrays."""
        return Limits(**{name: values[index] for name, values in self.arrays.items()}, names=self.names)

    def of_rows(self, rows: np.ndarray) -> Limits | None:
        """The limits of the rows of the mask `rows` only; None where they have none."""
        fill = {"kind": OBSERVED, "lower": -np.inf, "upper": np.inf, "lloq": -np.inf, "uloq": np.inf}
        arrays = {name: np.where(rows, values, fill[name]) for name, values in self.arrays.items()}
        has = (arrays["kind"] > 0) | (arrays["lloq"] > -np.inf) | (arrays["uloq"] < np.inf)
        return Limits(**arrays, names=self.names) if has.any() else None

    def where(self, rows: np.ndarray) -> Limits:
        """The limits with no row censored but those of the mask `rows`."""
        keep = rows & self.censored
        lower, upper = np.where(keep, self.lower, -np.inf), np.where(keep, self.upper, np.inf)
        return Limits(np.where(keep, self.kind, OBSERVED), lower, upper, self.lloq, self.uloq, self.names)

    def of_responses(self, y: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, Limits]:
        """Other responses `y` with the limits of quantification of the rows applied: those below `lloq` or above `uloq`
        are censored there. A row that was censored in an interval whose end is its `lloq` keeps the other end.

        **Arguments:** `before`: the responses that the limits belong to. A response at a limit is censored where it was
        before, or was another value before.
        **Returns:** the responses, a limit where they are censored, and the Limits.
        """
        new = self.censored | (y != before)
        with np.errstate(invalid="ignore"):
            low = (y < self.lloq) | ((y == self.lloq) & new)
            high = (y > self.uloq) | ((y == self.uloq) & new)
        inner = (self.kind == INTERVAL) & low & (self.upper == self.lloq)
        kind = np.where(inner, INTERVAL, np.where(low, LEFT, np.where(high, RIGHT, OBSERVED)))
        upper = np.where(low, self.lloq, np.inf)
        lower = np.where(inner, self.lower, np.where(high, self.uloq, -np.inf))
        y = np.where(low, self.lloq, np.where(high, self.uloq, y))
        return y, Limits(kind, lower, upper, self.lloq, self.uloq, self.names)

    def columns(self) -> dict[str, np.ndarray]:
        """The columns CENS (1 below, -1 above), LIMIT (the other end of an interval), LLOQ and ULOQ of a table, by
        name; the last three only where a row has one. Beside them the response is the limit."""
        cens, limit, lloq, uloq = self.names
        at_upper = np.isin(self.kind, (LEFT, INTERVAL))
        out = {cens: np.where(at_upper, 1, np.where(self.kind == RIGHT, -1, 0))}
        if (self.kind == INTERVAL).any():
            out[limit] = np.where(self.kind == INTERVAL, self.lower, np.nan)
        for name, values in ((lloq, self.lloq), (uloq, self.uloq)):
            if np.isfinite(values).any():
                out[name] = np.where(np.isfinite(values), values, np.nan)
        return out


@dataclass(frozen=True, eq=False)
class LimitColumns:
    """What a table says about limits, before it is checked.

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
    endpoint: Sequence[Any] | None = field(default=None)

    @classmethod
    def of_frame(
        cls, frame: Any, censoring: Any, limit: Any, lloq: Any, uloq: Any, endpoint: Sequence[Any] | None = None
    ) -> LimitColumns | None:
        """The columns of a table by their names; None where no argument names any. **Raises:** DataError for unknown
        names."""
        given = {"censoring": censoring, "limit": limit, "lloq": lloq, "uloq": uloq}
        if all(value is None for value in given.values()):
            return None
        columns, names = {}, list(DEFAULT_NAMES)
        for k, (role, value) in enumerate(given.items()):
            is_name = isinstance(value, str)
            if role in ("censoring", "limit") and value is not None and not is_name:
                raise DataError(f"{role} is {shown(value)}; expected the name of a column.")
            columns[role] = take_column(frame, value, role) if is_name else value
            names[k] = value if is_name else names[k]
        return cls(**columns, names=tuple(names), endpoint=endpoint)

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
        upper = np.where(left, np.fmax(y, lloq), np.inf)
        lower = np.where(right, np.fmin(y, uloq), -np.inf)
        missing = (left & ~np.isfinite(upper)) | (right & ~np.isfinite(lower))
        if missing.any():
            raise DataError(
                f"column {cens_name!r} marks {name_rows(missing)} as censored, and {'its' if missing.sum() == 1 else 'their'} "
                f"limit is missing: expected it in column {y_name!r} (the upper limit for 1, the lower one for -1), or by "
                "lloq= or uloq=; fill it in."
            )
        interval = np.zeros(y.shape, bool)
        if self.limit is not None:
            other = self._numbers(self.limit, limit_name, y.size)
            interval = (left | right) & np.isfinite(other)
            if (bad := left & interval & (other >= upper)).any():
                raise DataError(
                    f"column {limit_name!r} is not below the upper limit in {name_rows(bad)} ({other[bad][0]:g} against "
                    f"{upper[bad][0]:g}): a row with {cens_name} = 1 is known to lie between {limit_name} and {y_name}; "
                    "correct one of them, or leave it empty."
                )
            if (bad := right & interval & (other <= lower)).any():
                raise DataError(
                    f"column {limit_name!r} is not above the lower limit in {name_rows(bad)} ({other[bad][0]:g} against "
                    f"{lower[bad][0]:g}): a row with {cens_name} = -1 is known to lie between {y_name} and {limit_name}; "
                    "correct one of them, or leave it empty."
                )
            lower, upper = np.where(left & interval, other, lower), np.where(right & interval, other, upper)
        kind = np.where(interval, INTERVAL, np.where(left, LEFT, np.where(right, RIGHT, OBSERVED)))
        values = np.where(left, np.fmax(y, lloq), np.where(right, np.fmin(y, uloq), y))
        observed = (kind == OBSERVED) & ~np.isnan(y)
        lloq = _common_limit(lloq, left, values, observed, self.endpoint, np.less)
        uloq = _common_limit(uloq, right, values, observed, self.endpoint, np.greater)
        return values, Limits(kind, lower, upper, lloq, uloq, self.names)

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
                f"column {name!r} is empty in {name_rows(bad)}, which {'has a response' if bad.sum() == 1 else 'have responses'}; "
                "expected 0 (observed), 1 (below the value) or -1 (above it): fill it in."
            )
        codes = np.where(np.isnan(codes), 0.0, codes)
        if (bad := ~np.isin(codes, (0.0, 1.0, -1.0))).any():
            raise DataError(
                f"column {name!r} holds {some([f'{v:g}' for v in np.unique(codes[bad])])} in {name_rows(bad)}; expected 0 "
                "(observed), 1 (the response is below its value) or -1 (above it): recode it."
            )
        return codes

    def _numbers(self, raw: Any, name: str, rows: int) -> np.ndarray:
        column = read_column(raw, name)
        if column.is_text:
            raise DataError(
                f"column {name!r} of limits holds text; expected numbers, empty where there is none: convert the column."
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
                    f"{role} is a dictionary by endpoint, and the data have one endpoint; expected a number or the name "
                    "of a column, or endpoint= beside it."
                )
            labels = {str(label) for label in self.endpoint}
            unknown = [str(label) for label in given if str(label) not in labels]
            if unknown:
                raise DataError(f"{role} names {some(unknown)}, and the endpoints are {some(sorted(labels))}.")
            by_label = {str(label): _number(value, f"{role} of {label!r}") for label, value in given.items()}
            values = np.array([by_label.get(str(label), np.nan) for label in self.endpoint])
        elif np.ndim(given) == 0:
            values = np.full(rows, _number(given, role))
        else:
            values = self._numbers(given, name, rows)
        return np.where(np.isnan(values), none, values)


def _number(value: Any, role: str) -> float:
    """`value` as a number. **Raises:** DataError where it is none."""
    if isinstance(value, (bool, np.bool_, str)) or not np.isscalar(value) or not np.isfinite(float(value)):
        raise DataError(f"{role} is {shown(value)}; expected a number in the unit of the response.")
    return float(value)


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
