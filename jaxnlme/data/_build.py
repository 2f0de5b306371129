"""Construction of GroupedData from columns: checks, then padding of each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data import _checks as checks
from jaxnlme.data._columns import Column, matrix_columns, read_column, read_labels
from jaxnlme.data._layout import TableLayout, factorize, lay_out
from jaxnlme.data._limit_columns import LimitColumns
from jaxnlme.data._nested import check_nesting, nested_levels, unit_positions
from jaxnlme.data._rows import name_groups, name_rows
from jaxnlme.errors import DataError

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData


def assemble(
    labels: Sequence[Any],
    y: Any,
    x: Mapping[str, Any],
    v: Mapping[str, Any],
    weights: Any,
    level_names: Sequence[str],
    y_name: str,
    weights_name: str = "weights",
    need_response: bool = True,
    limits: LimitColumns | None = None,
) -> dict[str, Any]:
    """The fields of GroupedData from raw columns with one value per row.

    **Arguments:** `labels`: of the grouping levels, outermost first; `y`: the response; `x`, `v`: columns by name;
    `weights`: a column or None; `level_names`, `y_name`, `weights_name`: for messages; `need_response`: refuse data
    without an observed response; `limits`: of quantification, None: there are none.
    **Raises:** DataError, as documented in `_checks`."""
    by_level = [read_labels(raw, name) for raw, name in zip(labels, level_names, strict=True)]
    group_name, outermost = level_names[0], by_level[0]
    response = read_column(y, y_name)
    columns = {name: read_column(raw, name) for name, raw in x.items()}
    v_columns = {name: read_column(raw, name) for name, raw in v.items()}
    weight = None if weights is None else read_column(weights, weights_name)
    lengths = {name: len(column) for name, column in zip(level_names, by_level, strict=True)}
    lengths |= {y_name: response.values.size}
    lengths |= {name: column.values.size for name, column in (columns | v_columns).items()}
    if weight is not None:
        lengths[weights_name] = weight.values.size
    checks.check_lengths(lengths)
    values, of_rows = checks.check_response(response, y_name, need_response and limits is None), None
    if limits is not None:
        values, of_rows = limits.read(values, y_name)
        checks.check_response(Column(values), y_name, need_response)
    for role, table in (("x", columns), ("v", v_columns)):
        for name, column in table.items():
            checks.check_predictor(column, name, role)

    layout = lay_out(*factorize(outermost, group_name))
    fields = _padded(layout, values, columns, v_columns) | {"group_name": group_name, "y_name": y_name}
    if len(by_level) > 1:
        fields["nested"] = nested_levels(level_names[1:], by_level[1:], layout.source)
        if need_response:  # a table to predict may have one unit of each group
            check_nesting(group_name, level_names[1:], outermost, by_level[1:])
    if of_rows is not None:
        fields["limits"] = of_rows.at(layout.source).where(layout.rows & ~np.isnan(values)[layout.source])
    if weight is not None:
        row_weights = checks.check_row_weights(weight, weights_name)
        fields["weights"] = checks.check_weights(
            checks.check_constant(row_weights, layout, weights_name, "weights"), layout.labels
        )
    return fields


def _padded(
    layout: TableLayout, values: np.ndarray, columns: Mapping[str, Column], v_columns: Mapping[str, Column]
) -> dict[str, Any]:
    """The fields of GroupedData for checked responses `values` (rows,), x `columns` and `v_columns`, with weights of
    one. **Raises:** DataError for a column of v that varies within a group."""
    observed = layout.rows & ~np.isnan(values)[layout.source]
    fields: dict[str, Any] = {
        "y": safe_response(values[layout.source], observed),
        "x": {},
        "v": {},
        "text": {},
        "rows": layout.rows,
        "observed": observed,
        "weights": np.ones(len(layout.labels)),
        "labels": layout.labels,
        "row_index": np.where(layout.rows, layout.source, -1),
        "levels": {name: c.levels for name, c in {**columns, **v_columns}.items() if c.levels is not None},
    }
    for name, column in columns.items():
        fields["text" if column.is_text else "x"][name] = column.values[layout.source]
    for name, column in v_columns.items():
        fields["text" if column.is_text else "v"][name] = checks.check_constant(column.values, layout, name, "v")
    return fields


def safe_response(y: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Responses (groups, obs) in which cells without an observation are replaced by the first observed value of the
    group, or 1: computations with these masked cells give no log(0) or overflow.

    **Arguments:** `y`, `observed` (groups, obs).
    """
    first = np.take_along_axis(y, observed.argmax(axis=1, keepdims=True), axis=1)
    return np.where(observed, y, np.where(observed.any(axis=1, keepdims=True), first, 1.0))


def array_columns(y: Any, group: Any, x: Any, v: Any, weights: Any, group_name: str) -> tuple[dict, dict, Any]:
    """x, v and weights from arrays, as columns with one value per row.

    **Arguments:** as for `GroupedData.from_arrays`; v and weights may have one value per group.
    **Raises:** DataError for arrays of the wrong length.
    """
    labels = read_labels(group, group_name)
    codes, distinct = factorize(labels, group_name)

    def to_rows(values: Any, name: str) -> Any:
        if isinstance(values, (list, tuple)):
            values = read_column(values, name).values
        shape: tuple[int, ...] = np.shape(values)
        if len(shape) != 1 or shape[0] == len(labels):
            return values
        size = shape[0]
        if size != len(distinct):
            raise DataError(
                f"{name!r} has length {size}; expected {len(distinct)} (one per group, in order of first appearance) "
                f"or {len(labels)} (one per row)."
            )
        return values.take(codes) if hasattr(values, "take") else values[codes]

    v_columns = {name: to_rows(values, name) for name, values in matrix_columns(v, "v").items()}
    return matrix_columns(x, "x"), v_columns, None if weights is None else to_rows(weights, "weights")


def further_table(
    name: str, labels: Sequence[Any], columns: Mapping[str, Any], data: GroupedData, level_names: Sequence[str]
) -> tuple:
    """The columns (groups, k) and the mask (groups, k) of a further table, the rows of a group in the order of the
    table, and by nested level the unit (groups, k) of each row (empty where the table has the outermost level only).

    **Arguments:** `name`: of the table; `labels`: of its rows, by level; `columns`: raw columns by name; `data`: those
    it is added to; `level_names`: of the label columns, for messages.
    **Raises:** DataError for labels that the data do not have, text columns, missing or infinite values."""
    if len(labels) not in (1, 1 + len(data.nested)):
        known = data.level_names
        raise DataError(
            f"table {name!r} has labels of {len(labels)} levels; the data have {len(known)} ({', '.join(known)}): give "
            "the columns of all of them in group=, or that of the outermost."
        )
    by_level = [read_labels(raw, level) for raw, level in zip(labels, level_names, strict=True)]
    outermost, group_name, data_labels = by_level[0], level_names[0], data.labels.tolist()
    read = {column: read_column(raw, column) for column, raw in columns.items()}
    lengths = {level: len(column) for level, column in zip(level_names, by_level, strict=True)}
    checks.check_lengths(lengths | {c: r.values.size for c, r in read.items()})
    number = {label: k for k, label in enumerate(data_labels)}
    codes = np.fromiter((number.get(label, -1) for label in outermost), dtype=np.intp, count=len(outermost))
    if (codes < 0).any():
        unknown = list(dict.fromkeys(outermost[k] for k in np.flatnonzero(codes < 0)))
        similar = next((label for label in data_labels if str(label) == str(unknown[0])), None)
        hint = f" (the data have the {type(similar).__name__} {similar!r})" if similar is not None else ""
        raise DataError(
            f"table {name!r}: {name_groups(unknown)} of {name_rows(codes < 0)} (column {group_name!r}) "
            f"{'is' if len(unknown) == 1 else 'are'} not in the data{hint}; expected labels of the data, "
            f"{name_groups(data_labels)}: correct the labels or drop those rows."
        )
    for column, content in read.items():
        if content.is_text:
            raise DataError(
                f"table {name!r}: column {column!r} holds text; expected numbers: code it as numbers for the model."
            )
        checks.check_predictor(content, column, f"table {name!r}:")
    layout = lay_out(codes, data_labels)
    inner = data.nested if len(by_level) > 1 else ()
    positions = unit_positions(inner, by_level[1:], codes, name, data_labels)
    units = {level.name: unit[layout.source] for level, unit in zip(inner, positions, strict=True)}
    # A group without rows in the table is filled with another group's row: its unit must exist here as well.
    units = {level: np.where(layout.sizes[:, None] > 0, unit, 0) for level, unit in units.items()}
    return ({column: content.values[layout.source] for column, content in read.items()}, layout.rows), units
