"""Data of new subjects: rows at given times, covariates, and the doses of a regimen as event records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data.events.records import RECORD_COLUMNS, EventRecords
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import DataError, OptionError, near_matches, shown, some
from jaxnlme.forecasting.covariate_path import PathRows, as_path, carries_back, record_at, time_name

if TYPE_CHECKING:
    from jaxnlme.forecasting.regimen import Regimen


# --- columns ---


def covariate_columns(covariates: Any, n: int | None) -> dict[str, np.ndarray]:
    """Covariates by name, one value a subject: numbers as floats, others as objects.

    **Arguments:** `covariates`: a dictionary of single values or columns, a data frame, or None; `n`: number of
    subjects, None: the number of rows. One row serves all subjects.
    **Raises:** OptionError for what is no table, other lengths, and missing values.
    """
    if covariates is None:
        return {}
    if isinstance(covariates, Mapping):
        raw = {str(name): values for name, values in covariates.items()}
    elif hasattr(covariates, "columns") and hasattr(covariates, "__getitem__"):
        raw = {str(name): covariates[name] for name in covariates.columns}
    else:
        raise OptionError(
            f"covariates must be a data frame, or a dictionary such as {{'WT': 70}} or {{'WT': [60, 75]}}; received "
            f"{shown(covariates)}."
        )
    columns = {name: _column(name, values, "covariates") for name, values in raw.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    rows = max(sizes.values(), default=1)
    wrong = [f"{name!r} ({size})" for name, size in sizes.items() if size not in (1, rows)]
    if wrong:
        raise OptionError(f"covariates must have one length, here {rows}; others: {some(wrong)}.")
    if rows == 0:
        raise OptionError("covariates has no rows; give one for each subject.")
    if n is not None and rows not in (1, n):
        raise OptionError(f"covariates have {rows} rows for {n} subjects; give one row for each, or one for all.")
    return {name: np.repeat(c, (n or rows) if len(c) == 1 else 1) for name, c in columns.items()}


def _column(name: str, values: Any, table: str) -> np.ndarray:
    """Values of a column: numbers as floats, others as objects. **Raises:** OptionError for missing values."""
    raw = values.to_list() if hasattr(values, "to_list") else values
    array = np.atleast_1d(np.asarray(raw))
    if array.ndim > 1:
        raise OptionError(f"{table}: {name!r} has shape {array.shape}; expected one value, or a column of them.")
    if array.dtype.kind in "iuf":
        array = array.astype(float)
        missing = ~np.isfinite(array)
    else:
        array = array.astype(object)
        missing = np.array([value is None or value != value for value in array], bool)
    if missing.any():
        raise OptionError(f"{table}: {name!r} is missing or infinite in row {int(np.argmax(missing)) + 1}.")
    return array


def covariate_factor(columns: dict[str, np.ndarray], per: str) -> np.ndarray:
    """The covariate by which amounts are multiplied. **Raises:** OptionError where it is missing or not positive."""
    if per not in columns:
        raise OptionError(
            f"the regimen's amounts are per {per}, which the covariates lack; {near_matches(per, columns)}"
        )
    column = columns[per]
    if column.dtype == object or not (column > 0).all():
        raise OptionError(f"the regimen's amounts are per {per}; expected positive numbers in that column.")
    return column


def row_columns(rows: Any, n_times: int) -> dict[str, np.ndarray]:
    """Further columns of x by name, one value for each time. **Raises:** OptionError for other lengths."""
    if rows is None:
        return {}
    if not isinstance(rows, Mapping):
        raise OptionError(f"rows must be a dictionary from names of columns to values by time; received {shown(rows)}.")
    out = {}
    for name, values in rows.items():
        column = _column(str(name), values, "rows")
        if len(column) not in (1, n_times):
            raise OptionError(f"rows: {name!r} has {len(column)} values; expected one, or one for each of {n_times}.")
        out[str(name)] = np.repeat(column, n_times) if len(column) == 1 else column
    return out


def sorted_times(times: Any, rows: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Times, sorted and without repetition, and the further columns at them. **Raises:** OptionError for others."""
    try:
        raw = np.atleast_1d(np.asarray(times, float))
    except (TypeError, ValueError):
        raw = np.array([np.nan])
    if raw.ndim != 1 or not len(raw) or not np.isfinite(raw).all():
        raise OptionError(f"times must be a list of finite numbers; received {shown(times)}.")
    columns = row_columns(rows, len(raw))
    unique, first = np.unique(raw, return_index=True)
    return unique, {name: column[first] for name, column in columns.items()}


# --- doses ---


@dataclasses.dataclass(frozen=True, eq=False)
class Doses:
    """Doses at times that all subjects share.

    **Fields:** `columns` (doses,): TIME, EVID, CMT, SS, II; `amount`, `rate` (subjects, doses).
    """

    columns: dict[str, np.ndarray]
    amount: np.ndarray
    rate: np.ndarray

    @classmethod
    def of(cls, regimen: Regimen, last: float, covariates: dict[str, np.ndarray], n: int) -> Doses:
        """The doses of a regimen up to and with time `last` for `n` subjects."""
        table = regimen.doses_until(last)
        factor = np.ones((n, len(table["TIME"])))
        for per in regimen.per:
            chosen = [k for k, name in enumerate(table["per"]) if name == per]
            factor[:, chosen] = covariate_factor(covariates, per)[:, None]
        columns = {name: table[name] for name in ("TIME", "CMT", "SS", "II")}
        columns["EVID"] = np.ones(len(table["TIME"]))
        rate = table["RATE"][None, :]
        return cls(columns, table["AMT"][None, :] * factor, np.where(rate > 0, rate * factor, rate + 0.0 * factor))

    @classmethod
    def of_events(cls, events: EventRecords) -> Doses:
        """The doses and resets of one subject's event records, those of ADDL one by one."""
        table, mask = events.doses()
        of = {name: values[0][mask[0]] for name, values in table.items()}
        columns = {"TIME": of["time"], "EVID": np.where(of["reset"] > 0, 3.0, 1.0), "CMT": of["compartment"]}
        columns |= {"SS": of["steady_state"], "II": np.where(of["steady_state"] > 0, of["interval"], 0.0)}
        return cls(columns, of["amount"][None, :], of["rate"][None, :])

    def followed_by(self, other: Doses) -> tuple[Doses, np.ndarray]:
        """These doses and others of the same subjects, by time, and which of them are the others'."""
        times = np.concatenate([self.columns["TIME"], other.columns["TIME"]])
        order = np.argsort(times, kind="stable")
        columns = {k: np.concatenate([values, other.columns[k]])[order] for k, values in self.columns.items()}
        amount, rate = (
            np.concatenate([a, b], axis=1)[:, order] for a, b in ((self.amount, other.amount), (self.rate, other.rate))
        )
        return Doses(columns, amount, rate), order >= len(self.columns["TIME"])

    def until(self, last: float) -> Doses:
        """The doses before time `last`."""
        kept = self.columns["TIME"] < last
        return Doses({k: c[kept] for k, c in self.columns.items()}, self.amount[:, kept], self.rate[:, kept])


# --- data ---


def data_of_subjects(
    regimen: Regimen | None,
    times: Any,
    labels: np.ndarray,
    covariates: dict[str, np.ndarray],
    rows: Any,
    before: bool,
    like: GroupedData | None,
    names: tuple[str, str, str] | None,
    time: str | None = None,
) -> tuple[GroupedData, np.ndarray]:
    """Data of subjects who receive a regimen (None: no event records), and the positions of the rows asked for.

    **Arguments:** as for `Regimen.data`; `before`: rows at the time of a dose are before it; `like`, or `names` of
    time, subject and response; `time`: name of the column of time, where `like` has no events; `rows` may have a column
    of time of their own: then they are the records of a path (`covariate_path.py`).
    """
    path = None if like is None else as_path(rows, time_name(like, time))
    at, further = sorted_times(times, rows if path is None else None)
    doses = None
    if regimen is not None:
        if at[0] < min(0.0, regimen.start) or (regimen.lines[0].steady_state == 1 and at[0] < regimen.start):
            raise OptionError(
                f"the times begin at {at[0]:g}, before the regimen starts at time {regimen.start:g}; leave earlier "
                "times out, or give the regimen start=."
            )
        doses = Doses.of(regimen, float(at[-1]), covariates, len(labels))
    if path is None:
        return data_with_doses(doses, at, labels, covariates, further, before, like, names, time)
    every = PathRows.of(at, *path, carries_back(like))
    data, kept = data_with_doses(doses, every.times, labels, covariates, every.columns, before, like, names, time)
    return data, kept[every.asked]


def data_with_doses(
    doses: Doses | None,
    times: np.ndarray,
    labels: np.ndarray,
    covariates: dict[str, np.ndarray],
    rows: dict[str, np.ndarray],
    before: bool,
    like: GroupedData | None,
    names: tuple[str, str, str] | None = None,
    time: str | None = None,
) -> tuple[GroupedData, np.ndarray]:
    """As `data_of_subjects`, of doses and sorted times."""
    facts = None if like is None or like.events is None else like.events.facts
    if names is not None:
        time, group, y = names
    else:
        assert like is not None
        time, group, y = time_name(like, time), like.group_name, like.y_name
    n, carry = len(labels), "nocb" if facts is None else facts.carry
    if like is not None:
        rows = _response_columns(like, covariates, len(times)) | rows
    dose_rows = facts is not None and facts.rows_are_records and doses is not None
    # A row at the time of a steady-state record is after it: before the record there is no steady state.
    at_dose = np.zeros(0) if doses is None else doses.columns["TIME"]
    side = np.full(len(at_dose), before) & (np.ones(0) if doses is None else doses.columns["SS"] != 1).astype(bool)
    rows_before = np.where(side, np.searchsorted(times, at_dose, "right"), np.searchsorted(times, at_dose, "left"))
    all_times, kept, own_row = times, np.arange(len(times)), np.full(len(at_dose), -1.0)
    if dose_rows:
        # Order: by time, then rows before the dose, doses, rows after it.
        order = np.lexsort(
            (np.concatenate([np.ones(len(times)), np.zeros(len(at_dose))]),
             np.concatenate([np.arange(len(times), dtype=float), rows_before - 0.5]))
        )  # fmt: skip
        all_times = np.concatenate([times, at_dose])[order]
        place = np.argsort(order)
        kept, own_row = place[: len(times)], place[len(times) :].astype(float)
        source = record_at(times, at_dose, carry == "nocb")
        rows_before = own_row.copy()
        rows = {name: np.concatenate([c, c[source]])[order] for name, c in rows.items()}
    obs = len(all_times)
    x: dict[str, np.ndarray] = {time: np.broadcast_to(all_times, (n, obs)).copy()}
    v: dict[str, np.ndarray] = {}
    text: dict[str, np.ndarray] = {}
    for name, column in rows.items():
        as_text = _is_text(name, column, like)
        values = np.broadcast_to(column.astype(object) if as_text else column, (n, obs)).copy()
        (text if as_text else x)[name] = values
    for name, column in covariates.items():
        if name in rows:
            raise OptionError(f"{name!r} is in covariates and in rows; give it once.")
        by_row = like is not None and (name in like.x or (name in like.text and like.text[name].ndim == 2))
        as_text = _is_text(name, column, like)
        column = column.astype(object) if as_text else column
        values = np.broadcast_to(column[:, None], (n, obs)).copy() if by_row else column
        (text if as_text else x if by_row else v)[name] = values
    if like is not None and like.nested:
        data = _nested(like, labels, x, v, text, group, y)
    else:
        cells = np.ones((n, obs), bool)
        data = GroupedData(
            np.ones((n, obs)), x, v, text, cells, ~cells, np.ones(n), labels,
            np.arange(n * obs).reshape(n, obs), group, y,
        )  # fmt: skip
    if like is not None and like.endpoint is not None:
        if like.endpoint not in {**x, **text}:
            example = f"rows={{{like.endpoint!r}: ...}}"
            raise DataError(f"the fit has several endpoints: say which one in rows=, as in {example}.")
        data = dataclasses.replace(data, endpoint=like.endpoint)
    if doses is None:
        return data, kept
    k = len(at_dose)
    columns = {name: np.tile(values, n) for name, values in doses.columns.items()}
    columns |= {"AMT": doses.amount.ravel(), "RATE": doses.rate.ravel(), "ADDL": np.zeros(n * k)}
    columns = {name: columns[name] for name in RECORD_COLUMNS}
    columns |= {"rows_before": np.tile(rows_before.astype(float), n), "row": np.tile(own_row, n)}
    compartment = None if facts is None else facts.compartment
    records = EventRecords.of(
        columns, np.repeat(np.arange(n), k), labels, group, np.full(n * k, -1), time=time, compartment=compartment,
        carry=carry,
    )  # fmt: skip
    records = dataclasses.replace(records, facts=dataclasses.replace(records.facts, rows_are_records=dose_rows))
    return data.with_event_records(records), kept


def _response_columns(like: GroupedData, covariates: dict[str, np.ndarray], n_times: int) -> dict[str, np.ndarray]:
    """The columns of the endpoint and of the compartment that is observed, where all responses of `like` have the
    same."""
    out = {}
    compartment = None if like.events is None else like.events.facts.compartment
    for name in (like.endpoint, compartment):
        column = None if name is None else like.x.get(name, like.text.get(name))
        if name is None or column is None or name in covariates:
            continue
        values = column[like.observed]
        if len(values) and (values == values[0]).all():
            out[name] = np.repeat(values[:1], n_times)
    return out


def _is_text(name: str, column: np.ndarray, like: GroupedData | None) -> bool:
    return column.dtype == object if like is None else name in like.text or column.dtype == object


def _nested(
    like: GroupedData,
    labels: np.ndarray,
    x: dict[str, np.ndarray],
    v: dict[str, np.ndarray],
    text: dict[str, np.ndarray],
    group: str,
    y: str,
) -> GroupedData:
    """Data with the nested levels of `like`, whose columns `rows` or covariates have."""
    inner = list(like.level_names[1:])
    columns = {**x, **v, **text}
    absent = [name for name in inner if name not in columns]
    if absent:
        raise DataError(
            f"the fit has the nested level {some(absent)}: give it in rows=, as in rows={{{absent[0]!r}: 1}}."
        )
    n, obs = next(iter(x.values())).shape
    frame = {name: (c if c.ndim == 2 else np.repeat(c[:, None], obs, axis=1)).ravel() for name, c in columns.items()}
    frame[group] = np.repeat(labels, obs)
    by_row = [name for name in [*x, *(k for k, c in text.items() if c.ndim == 2)] if name not in inner]
    by_group = [name for name in [*v, *(k for k, c in text.items() if c.ndim == 1)] if name not in inner]
    return GroupedData.from_frame(frame, [group, *inner], y, by_row, by_group, need_response=False)
