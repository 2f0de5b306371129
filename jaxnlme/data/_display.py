"""GroupedData as text, as HTML, as a data frame, and as a hash."""

from __future__ import annotations

import hashlib
import html
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.data._endpoints import endpoint_counts

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.data.grouped import GroupedData


def describe(data: GroupedData) -> tuple[str, str]:
    """Two lines of text: numbers of groups, rows and responses; and the columns by role."""
    sizes = data.sizes
    low, high = int(sizes.min()), int(sizes.max())
    span = f"{low}" if low == high else f"{low} to {high}"
    nested = "".join(f", {int(level.counts.sum())} by {level.name!r} inside" for level in data.nested)
    counts = (
        f"{len(sizes)} group{'s' * (len(sizes) != 1)} by {data.group_name!r} ({span} rows each){nested}, "
        f"{data.n_rows} rows, {data.n_obs} observed{_censored(data)}"
    )
    return counts, "; ".join(f"{role} = {names}" for role, names in roles(data).items() if names)


def _censored(data: GroupedData) -> str:
    """The numbers of censored rows by kind, as an addition to those of the rows."""
    if data.limits is None or not data.limits.censored.any():
        return ""
    names = ("left-censored", "right-censored", "in an interval")
    counts = [int((data.limits.kind == k).sum()) for k in (1, 2, 3)]
    return f" ({', '.join(f'{n} {name}' for n, name in zip(counts, names, strict=True) if n)})"


def roles(data: GroupedData) -> dict[str, str]:
    """The column names by role, joined with commas."""
    return {
        "y": data.y_name,
        "x": ", ".join(data.x),
        "v": ", ".join(data.v),
        "text": ", ".join(data.text),
        "tables": ", ".join(data.tables),
        f"endpoints by {data.endpoint}": endpoint_counts(data),
    }


def to_html(data: GroupedData) -> str:
    """The description and the notes as a small HTML table."""
    rows = {"GroupedData": describe(data)[0]} | {role: names for role, names in roles(data).items() if names}
    cells = [
        f"<tr><th style='text-align:left'>{html.escape(role)}</th>"
        f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
        for role, text in [*rows.items(), *(("note", note) for note in data.notes)]
    ]
    return f"<table>{''.join(cells)}</table>"


def to_frame(data: GroupedData) -> pd.DataFrame:
    """The data as a long table in the original order of rows: group, y (NaN where missing), x, v and text columns,
    and those of limits."""
    import pandas as pd

    def per_row(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values[:, None], data.rows.shape) if values.ndim == 1 else values

    frame = pd.DataFrame({data.group_name: data.rows_to_column(per_row(data.labels))})
    frame[data.group_name] = frame[data.group_name].infer_objects()
    for level in data.nested:
        frame[level.name] = pd.Series(data.rows_to_column(level.row_labels), dtype=object).infer_objects()
    frame[data.y_name] = data.rows_to_column(np.where(data.observed, data.y, np.nan))
    for name, values in (data.x | data.v | data.text).items():
        column = data.rows_to_column(per_row(values))
        frame[name] = pd.Categorical(column, categories=data.levels[name]) if name in data.levels else column
    if data.limits is not None:
        for name, values in data.limits.columns().items():
            if name not in frame:
                frame[name] = data.rows_to_column(values)
    return frame


def digest(data: GroupedData) -> str:
    """SHA-256 (hex) of names, labels, weights and the values of real rows.

    It depends on the order of groups and of rows within a group, not on padding or on how the groups' rows were
    interleaved in the original table."""
    state = hashlib.sha256()

    def add(name: str, values: np.ndarray) -> None:
        state.update(f"\x1e{name}\x1f{values.shape}\x1f".encode())
        if values.dtype == object:
            state.update("\x1f".join(map(repr, values.tolist())).encode())
        else:
            state.update(np.ascontiguousarray(values, dtype="<f8").tobytes())

    add(f"group {data.group_name}", data.labels)
    for level in data.nested:
        add(f"level {level.name}", level.row_labels[data.rows])
    if data.endpoint is not None:
        add(f"endpoint {data.endpoint}", data.sizes)
    add("sizes", data.sizes)
    add("weights", data.weights)
    add(f"y {data.y_name}", np.where(data.observed, data.y, np.nan)[data.rows])
    for name, values in data.limits.arrays.items() if data.limits is not None else ():
        add(f"limits {name}", values[data.rows])
    for name, values in data.x.items():
        add(f"x {name}", values[data.rows])
    for name, values in data.v.items():
        add(f"v {name}", values)
    for name, values in data.text.items():
        add(f"text {name}", values if values.ndim == 1 else values[data.rows])
    if data.events is not None:
        facts = data.events.facts
        add(f"events {facts.time} {facts.compartment} {facts.carry}", data.sizes)
    for name, (columns, mask) in data.tables.items():
        add(f"table {name}", mask.sum(axis=1))
        for column, values in columns.items():
            add(f"table {name} {column}", values[mask])
    return state.hexdigest()
