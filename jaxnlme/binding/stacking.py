"""Stacked groups for the device: columns, masks, strata and random keys of a data set as one Group per bucket."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxnlme.data._nested import NestedLevel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import MESSAGES, ModelError, near_matches, some
from jaxnlme.model.density import Group
from jaxnlme.model.levels import Units
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.censoring import GroupLimits
from jaxnlme.model.residual_error.correlation_base import SeriesLayout
from jaxnlme.model.residual_error.endpoint_parts import EndpointRows
from jaxnlme.model.residual_error.variance_scale import VarianceScale
from jaxnlme.records import RESERVED_IN_ROWS, RESERVED_NAMES, Events, Record, Rows


def check_readable(data: GroupedData) -> None:
    """Check that the model can read every column as an attribute of x, v or a further table."""
    records = [("x", data.x, RESERVED_IN_ROWS), ("v", (*data.v, *data.tables), RESERVED_NAMES)]
    records += [(f"v.{name}", table, RESERVED_IN_ROWS) for name, (table, _) in data.tables.items()]
    for record, names, reserved in records:
        for name in names:
            if name in reserved:
                raise ModelError(
                    f"column {name!r} cannot be read by the model: {record}.{name} is reserved for another purpose. "
                    "Rename the column in the table."
                )


def levels(data: GroupedData, name: str) -> list[str]:
    """The levels that column `name` has on rows with a response, in their declared order or sorted.

    **Raises:** ModelError where the data have no such column.
    """
    values, codes = distinct(column_of(data, name))
    observed_codes = set(codes[data.observed].tolist())
    if name not in data.levels:
        return [_level(value) for k, value in enumerate(values) if k in observed_codes]
    observed_levels = {_level(values[k]) for k in observed_codes}
    return [level for level in map(_level, data.levels[name]) if level in observed_levels]


def distinct(column: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """The sorted distinct values of a column (groups, obs), and the index in them of each cell (groups, obs)."""
    if column.dtype == object:
        column = np.vectorize(_level, otypes=[object])(column).astype(str)
    values, codes = np.unique(column, return_inverse=True)
    return values.tolist(), codes.reshape(column.shape)


def row_levels(data: GroupedData, name: str) -> np.ndarray:
    """The level of column `name` in each cell (groups, obs), as text. **Raises:** ModelError without such a column."""
    return np.vectorize(_level, otypes=[object])(column_of(data, name, "the covariance"))


def _level(value: Any) -> str:
    """The name of a level: whole numbers without their decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def column_of(data: GroupedData, name: str, user: str = "the residual model") -> np.ndarray:
    """Column `name` of the data for each cell (groups, obs); `user`: who reads it, for the message.

    **Raises:** ModelError where the data have no such column.
    """
    for level in data.nested:
        if name == level.name:
            return _as_numbers(level.row_labels)
    for table in (data.x, data.v, data.text):
        if name in table:
            column = np.asarray(table[name])
            return column if column.ndim == 2 else np.repeat(column[:, None], data.y.shape[1], axis=1)
    names = [*data.x, *data.v, *data.text, *(level.name for level in data.nested)]
    raise ModelError(f"column {name!r} of {user} is not in the data; {near_matches(name, names)}")


def _as_numbers(labels: np.ndarray) -> np.ndarray:
    """Labels (groups, obs) of a nested level as floats where all of them are numbers, otherwise unchanged."""
    kinds = set(map(type, labels.ravel().tolist()))
    is_number = all(issubclass(kind, (int, float, np.number)) and kind is not bool for kind in kinds)
    return labels.astype(float) if is_number else labels


def strata_of(data: GroupedData, error: AbstractError) -> np.ndarray | None:
    """Index (groups, obs) of each row's level of the column `by` of the residual model; None without such a column.

    **Raises:** ModelError for a level that the fitted data do not have.
    """
    by, levels = getattr(error, "by", None), getattr(error, "levels", ())
    return None if by is None else codes_of(data, by, levels)


def variance_codes(data: GroupedData, error: AbstractError) -> tuple[np.ndarray, ...]:
    """Index (groups, obs) of each row's level, for each column of strata of the variance functions.

    **Raises:** ModelError for a level that the fitted data do not have, and for columns of numbers that are missing,
    hold text, or are zero (for a fixed variance: not positive) in rows with a response.
    """
    scale = getattr(error, "scale", None)
    if not isinstance(scale, VarianceScale):
        return ()
    for term in scale.terms:
        if term.of is None:
            continue
        column = column_of(data, term.of, "a variance function")
        if column.dtype == object:
            raise ModelError(f"column {term.of!r} of a variance function holds text; expected numbers.")
        bad = data.observed & (column <= 0 if term.kind == "fixed" else column == 0)
        if bad.any() and term.kind in ("fixed", "power"):
            rows = some([str(k) for k in sorted((data.row_index[bad] + 1).tolist())])
            raise ModelError(
                f"column {term.of!r} of jn.variance.{term.kind} is {column[bad][0]:g} in row {rows}, where the "
                "standard deviation would be zero or no number; expected "
                f"{'positive numbers' if term.kind == 'fixed' else 'numbers other than 0 (constant_power allows 0)'}."
            )
    return tuple(codes_of(data, by, levels) for by, levels in scale.strata)


def codes_of(data: GroupedData, by: str, levels: Sequence[str]) -> np.ndarray:
    """Index (groups, obs) in `levels` of each row's level of column `by`.

    **Raises:** ModelError for a level that the fitted data do not have.
    """
    values, codes = distinct(column_of(data, by))
    index = [levels.index(_level(value)) if _level(value) in levels else -1 for value in values]
    strata = np.array(index)[codes]
    # Only rows with a response need a level; a table without responses (for predictions) needs one in every row.
    unknown = (strata < 0) & (data.observed if data.observed.any() else data.rows)
    if unknown.any():
        names = [_level(values[k]) for k in sorted(set(codes[unknown].tolist()))]
        shown = names[: MESSAGES.items]
        raise ModelError(f"column {by!r} has levels that the fitted data lacked: {shown}; known: {list(levels)}.")
    return np.maximum(strata, 0)


def stack_groups(
    data: GroupedData,
    groups: np.ndarray,
    columns: list[np.ndarray],
    strata: np.ndarray | None,
    layout: SeriesLayout | None = None,
    codes: tuple[np.ndarray, ...] = (),
    endpoints: tuple[np.ndarray | None, tuple[EndpointRows, ...]] = (None, ()),
    limits: GroupLimits | None = None,
) -> Group:
    """Groups of a data set stacked into one Group, with as many rows as the longest of them has.

    **Arguments:** `groups` (n,): positions of the groups; `columns`: the varying columns of the designs, each (groups,)
    or (groups, obs); `strata` (groups, obs) or None; `layout` of all groups, or None; `codes`: of
    `variance_codes`; `endpoints`: of `endpoints.member_rows`; `limits` of all groups, or None.
    """
    obs = max(int(data.rows[groups].sum(axis=1).max(initial=1)), 1) if len(groups) < data.n_groups else data.y.shape[1]

    def cut(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[groups][:, :obs] if array.ndim >= 2 else array[groups])

    level_names = tuple(level.name for level in data.nested)
    units = tuple(_units(level, groups, cut) for level in data.nested)
    x = Rows(
        tuple(data.x),
        tuple(cut(c) for c in data.x.values()),
        "predictor (x)",
        cut(data.rows),
        cut(data.observed),
        Record(level_names, tuple(level.index for level in units), "nested level") if units else None,
        None if endpoints[0] is None else cut(endpoints[0]),
        text_columns=tuple(data.text),
    )
    tables = {}
    for name, (table, mask) in data.tables.items():
        of_rows = {level: unit[groups] for level, unit in data.table_units.get(name, {}).items()}
        index = Record(tuple(of_rows), tuple(of_rows.values()), "nested level") if of_rows else None
        columns_of_table = tuple(c[groups] for c in table.values())
        columns_of = (tuple(table), columns_of_table, f"column of table {name}", mask[groups])
        if data.events is not None and name == "events":
            tables[name] = Events(*columns_of, units=index, facts=data.events.facts)
        else:
            tables[name] = Rows(*columns_of, units=index)
    columns_v = (*(cut(c) for c in data.v.values()), *tables.values())
    v = Record((*data.v, *tables), columns_v, "group-level predictor (v)", text_columns=tuple(data.text))
    keys = label_keys(data.labels[groups])
    of_rows = None if strata is None else cut(strata)
    series, of_codes, members, of_limits = jax.tree.map(cut, (layout, codes, endpoints[1], limits))
    of_design = tuple(cut(c) for c in columns)
    return Group(cut(data.y), x, v, of_design, of_rows, keys, units, series, of_codes, members, of_limits)


def _units(level: NestedLevel, groups: np.ndarray, cut: Callable[[np.ndarray], np.ndarray]) -> Units:
    """The units of a nested level in the `groups` (n,), as many as the one with most of them has.

    **Arguments:** `cut(array)`: the groups of an array (groups, obs), with as many rows as the longest has.
    """
    units = int(level.counts[groups].max())
    index = cut(level.unit)
    # In padding the unit is that of the group's last row, which the level has.
    return Units(
        index,
        np.ascontiguousarray(level.first_row[groups][:, :units]),
        np.ascontiguousarray(level.parent[groups][:, :units]),
        np.ascontiguousarray(level.present[groups][:, :units]),
    )


def label_keys(labels: np.ndarray) -> np.ndarray:
    """Hashes (groups,) of group `labels` (groups,), from which the random keys of groups are folded."""
    return np.array([zlib.crc32(str(label).encode()) for label in labels], np.uint32)
