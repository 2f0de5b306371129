"""The column that says to which endpoint (response) each row of a table belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._columns import read_column, read_labels
from jaxnlme.data._rows import name_rows
from jaxnlme.errors import DataError, near_matches, shown

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData


def check_endpoint(name: Any, roles: dict[str, Sequence[Any]]) -> None:
    """Check the name of the endpoint column. `roles`: names of columns by their role.

    **Raises:** DataError where it is no name, or has another role than x.
    """
    if not isinstance(name, str):
        raise DataError(
            f"endpoint is {shown(name)}; expected the name of the column that labels the endpoint of a row."
        )
    for role, names in roles.items():
        if name in names:
            raise DataError(
                f"endpoint column {name!r} is also {role}; expected a column of its own, or one of x: drop it there."
            )


def endpoint_label(value: Any) -> str | None:
    """The label of an endpoint as text: 1, 1.0 and "1" are "1"; None for what is no label."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (str, int, float, np.number)):
        return None
    try:
        number = float(value)
    except ValueError:
        return str(value).strip() or None
    if not np.isfinite(number):
        return str(value).strip() if isinstance(value, str) else None
    return str(int(number)) if number.is_integer() else f"{number:g}" if not isinstance(value, str) else value.strip()


def label_text(value: Any) -> str:
    """`endpoint_label` of a cell of a table, the cell as text where it holds no label."""
    return endpoint_label(value) or str(value)


def label_texts(columns: Mapping[str, Any], name: str | None) -> list[str] | None:
    """The labels (rows,) of the endpoint column `name` as text, None without one."""
    return None if name is None else [label_text(label) for label in np.asarray(columns[name]).tolist()]


def endpoint_column(raw: Any, name: str, group: Any, group_name: str, y: Any) -> Any:
    """The labels (rows,) of endpoints, complete: a row without a response and without a label has that of the first
    row of its group with one.

    **Raises:** DataError naming rows with a response and no label.
    """
    column, responses = read_column(raw, name), read_column(y, "y")
    missing = np.fromiter((v is None or v != v for v in column.values.tolist()), bool, column.values.size)
    if not missing.any():
        return raw
    empty = np.fromiter((v is None or v != v for v in responses.values.tolist()), bool, responses.values.size)
    if len(empty) == len(missing) and (missing & ~empty).any():
        raise DataError(
            f"endpoint column {name!r} has no label in {name_rows(missing & ~empty)}, which "
            f"{'has' if (missing & ~empty).sum() == 1 else 'have'} a response; expected a label in every row with one: "
            "fill it in."
        )
    if missing.all():
        raise DataError(f"endpoint column {name!r} has no label in any row; expected one in every row with a response.")
    values = column.values.copy()
    first: dict[Any, Any] = {}
    labels = read_labels(group, group_name)
    for k in np.flatnonzero(~missing):
        first.setdefault(labels[k], values[k])
    other = values[np.flatnonzero(~missing)[0]]
    for k in np.flatnonzero(missing):
        values[k] = first.get(labels[k], other)
    return values


def known_endpoint(name: Any, x: dict[str, Any]) -> None:
    """**Raises:** DataError where `name` is not None and no column of `x`."""
    if name is not None and name not in x:
        raise DataError(f"endpoint={name!r} is no column of x; {near_matches(str(name), list(x))}")


def endpoint_values(data: GroupedData) -> np.ndarray:
    """The labels (groups, obs) of endpoints of data that have them."""
    return (data.x | data.text)[str(data.endpoint)]


def endpoint_numbers(data: GroupedData) -> np.ndarray:
    """A number (groups, obs) for the label of each row's endpoint."""
    values = endpoint_values(data)
    return np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)[1].reshape(
        values.shape
    )


def endpoint_counts(data: GroupedData) -> str:
    """The endpoints with their numbers of responses, as text: "cp (120), pca (98)"."""
    if data.endpoint is None:
        return ""
    values = endpoint_values(data)[data.observed]
    counts: dict[Any, int] = {}
    for value in values.tolist():
        counts[value] = counts.get(value, 0) + 1
    ordered = sorted(counts.items(), key=lambda pair: str(pair[0]))
    return ", ".join(f"{label_text(value)} ({count})" for value, count in ordered)
