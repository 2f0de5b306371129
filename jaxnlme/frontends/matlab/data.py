"""X, y, group and V as in MATLAB's calls, read into GroupedData with the groups in the order of grp2idx."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.data._columns import column_names, read_column, read_labels
from jaxnlme.data._rows import name_groups
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import DataError, shown, some
from jaxnlme.frontends.matlab.settings import MATLAB
from jaxnlme.records import RESERVED_IN_ROWS

# The table of GroupedData that holds the numbers of V, and its column.
TABLE, VALUE = "V", "value"


@dataclasses.dataclass(frozen=True, eq=False)
class MatlabData:
    """`data`, its groups in the order of grp2idx, its rows numbered as in X and y; `shapes`, the distinct shapes of
    the arrays that modelfun gets as vfun, () where V is empty.

    The table "V" holds for each group one number that says which shape is its own, then a block of numbers for every
    shape: the group's own, or, in the blocks of the other shapes, those of the first group that has the shape, so that
    modelfun receives finite numbers in every block.
    """

    data: GroupedData
    shapes: tuple[tuple[int, ...], ...]

    @property
    def n_rows(self) -> int:
        """N, the rows of X."""
        return self.data.n_rows

    @property
    def source(self) -> np.ndarray:
        """The row of X in each cell (groups, obs), the group's last one in padding."""
        slot = np.minimum(np.arange(self.data.rows.shape[1]), self.data.sizes[:, None] - 1)
        return np.take_along_axis(self.data.row_index, slot, axis=1)


def matlab_data(X: Any, y: Any, group: Any, V: Any) -> MatlabData:
    """Read X, y, group and V into the data that nlmefit and nlmefitsa fit.

    **Arguments:** `X` (N, H), or (N,) for one predictor, or a data frame; `y` (N,) or (N, 1), NaN where missing: such a
    row keeps its place in X and in the residuals (NaN there), and adds nothing to the likelihood; `group` (N,):
    numbers, text or categories; `V`: (M, G), (M,), M arrays, a data frame of M rows, or a dictionary from group label
    to array or data frame; None or empty if none.
    **Returns:** a MatlabData.
    **Raises:** DataError naming what was expected and received, and rows where values are missing.
    """
    y = _vector(y, "y")
    group = _vector(group, "group")
    columns = _predictors(X)
    lengths = {"y": len(y), "group": len(group), "X": len(next(iter(columns.values())))}
    if len(set(lengths.values())) > 1:
        lengths_found = some([f"{name} has {length} rows" for name, length in lengths.items()])
        raise DataError(f"{lengths_found}: expected one row of X and one group label for every response.")
    data = GroupedData.from_arrays(y, group, columns)
    data = data.select(grp2idx_order(group, data.labels.tolist()))
    shapes: tuple[tuple[int, ...], ...] = ()
    if not _is_empty(V):
        values, shapes = _blocks(_by_group(V, data.labels.tolist()), data.labels.tolist())
        table = ({VALUE: values}, np.ones(values.shape, bool))
        data = dataclasses.replace(data, tables={TABLE: table})
    return MatlabData(data, shapes)


def grp2idx_order(group: Any, labels: Sequence[Any]) -> np.ndarray:
    """Positions in `labels`, which are in order of first appearance, in the order of MATLAB's grp2idx: numbers
    ascending, categories in theirs (those without rows left out), anything else by first appearance."""
    categories = getattr(getattr(group, "dtype", None), "categories", None)
    if categories is not None:
        rank = {label: k for k, label in enumerate(list(categories))}
        # A categorical of polars does not store an order.
        if all(label in rank for label in labels):
            return np.argsort([rank[label] for label in labels], kind="stable")
    if all(isinstance(label, (numbers.Real, np.bool_)) for label in labels):
        return np.argsort(np.array(labels, float), kind="stable")
    return np.arange(len(labels))


def _vector(values: Any, name: str) -> Any:
    """`values` as a vector (N,); matrices (N, 1) and data frames of one column are accepted, too."""
    is_list = isinstance(values, (list, tuple))
    shape = (len(values),) if is_list else np.shape(values)
    if not is_list and len(shape) == 2 and shape[1] == 1:
        return _nth(values, None, 0) if hasattr(values, "iloc") else np.asarray(values)[:, 0]
    if len(shape) != 1 or isinstance(values, (str, Mapping)):
        raise DataError(f"{name} has shape {shape}; expected a vector, one entry per row of X.")
    if isinstance(values, (list, tuple)) and name == "y":
        try:
            return np.array([np.nan if entry is None else entry for entry in values], float).reshape(len(values))
        except (TypeError, ValueError):
            raise DataError("y is a list that does not hold one number per row.") from None
    if isinstance(values, (list, tuple)) and name == "group":
        return read_labels(values, name)
    return values


def _predictors(X: Any) -> dict[str, Any]:
    """The columns of X by name: those of a data frame where a model could read them, x0, x1, ... otherwise."""
    if isinstance(X, Mapping) or (hasattr(X, "columns") and hasattr(X, "__getitem__")):
        names = column_names(X)
        readable = all(isinstance(n, str) and n not in (*RESERVED_IN_ROWS, TABLE, "y", "group") for n in names)
        readable = readable and len(set(names)) == len(names)
        columns = {name if readable else f"x{k}": _nth(X, name, k) for k, name in enumerate(names)}
    else:
        matrix = np.asarray(X)
        if matrix.ndim == 1:
            matrix = matrix[:, None]
        if matrix.ndim != 2:
            raise DataError(f"X has shape {matrix.shape}; expected (N, H), one row per response.")
        columns = {f"x{k}": matrix[:, k] for k in range(matrix.shape[1])}
    if not columns:
        raise DataError("X has no columns; expected (N, H) with at least one predictor.")
    return {name: _numeric(column, name) for name, column in columns.items()}


def _nth(frame: Any, name: Any, k: int) -> Any:
    return frame.iloc[:, k] if hasattr(frame, "iloc") else frame[name]


def _numeric(column: Any, name: str) -> np.ndarray:
    """A column of X as float64; truth values are numbers to MATLAB."""
    if getattr(getattr(column, "dtype", None), "kind", "") == "b":
        return np.asarray(column, np.float64)
    read = read_column(column, name)
    if read.is_text:
        raise DataError(f"X column {name!r} holds text; expected numbers: code it as numbers for modelfun.")
    return read.values


def _is_empty(V: Any) -> bool:
    return V is None or (hasattr(V, "__len__") and (len(V) == 0 or 0 in np.shape(V) if _plain(V) else len(V) == 0))


def _plain(V: Any) -> bool:
    return isinstance(V, np.ndarray) and V.dtype != object


def _by_group(V: Any, labels: list[Any]) -> list[np.ndarray]:
    """vfun of every group, in the order of `labels`."""
    if isinstance(V, Mapping):
        entries = _in_order(V, V, labels)
    elif hasattr(V, "columns") and hasattr(V, "__getitem__"):
        rows = V.to_numpy()
        index = getattr(V, "index", None)
        entries = list(rows)
        if index is not None and type(index).__name__ != "RangeIndex" and set(index) == set(labels):
            entries = _in_order(dict(zip(index, rows, strict=True)), V, labels)
    elif not hasattr(V, "__iter__") or isinstance(V, str):
        raise DataError(
            f"V is {shown(V)}; expected (M, G), (M,), a list of M arrays or a dictionary, or None for none."
        )
    else:
        entries = list(V)
    if len(entries) != len(labels):
        kind = "rows" if _plain(V) or hasattr(V, "columns") else "arrays" if np.ndim(entries[0]) else "entries"
        raise DataError(f"V has {len(entries)} {kind}; expected {len(labels)}, one for each group in grp2idx's order.")
    return [_numbers(entry, label) for entry, label in zip(entries, labels, strict=True)]


def _in_order(by_label: Mapping[Any, Any], V: Any, labels: list[Any]) -> list[Any]:
    missing = [label for label in labels if label not in by_label]
    unknown = [label for label in by_label if label not in labels]
    if missing or unknown or len(by_label) != len(V):
        raise DataError(
            f"V is labelled, and not by the groups, each once: {name_groups(missing or unknown)} "
            f"{'has no entry' if missing else 'is not in group'}; expected one entry for each of {name_groups(labels)}."
        )
    return [by_label[label] for label in labels]


def _numbers(entry: Any, label: Any) -> np.ndarray:
    """One group's part of V as float64; a number is a row of one."""
    try:
        array = np.asarray(entry.to_numpy() if hasattr(entry, "to_numpy") else entry, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"V of group {label!r} does not hold numbers; expected a row or an array of numbers.") from None
    if not np.isfinite(array).all():
        raise DataError(f"V of group {label!r} is missing or infinite in {int((~np.isfinite(array)).sum())} entries.")
    return array.reshape(1) if array.ndim == 0 else array


def _blocks(arrays: list[np.ndarray], labels: list[Any]) -> tuple[np.ndarray, tuple[tuple[int, ...], ...]]:
    """The table of MatlabData (groups, 1 + numbers) and the distinct shapes."""
    first: dict[tuple[int, ...], np.ndarray] = {}
    for array in arrays:
        first.setdefault(array.shape, array)
    shapes = tuple(first)
    if len(shapes) > MATLAB.most_shapes:
        raise DataError(
            f"V has arrays of {len(shapes)} different shapes ({some([str(s) for s in shapes], 4)}); modelfun runs once "
            f"for every shape, and {MATLAB.most_shapes} are the most: bring them to one shape with a column that marks "
            "the rows in use, or use jn.fit with GroupedData.with_table, which pads and masks."
        )
    values = np.empty((len(arrays), 1 + sum(int(np.prod(shape)) for shape in shapes)))
    for row, array in zip(values, arrays, strict=True):
        blocks = [(array if array.shape == shape else donor).ravel() for shape, donor in first.items()]
        row[:] = np.concatenate([[shapes.index(array.shape)], *blocks])
    return values, shapes
