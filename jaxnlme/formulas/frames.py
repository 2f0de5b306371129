"""Data frames of any kind as the pandas columns that a formula uses, and rows without missing values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxnlme.data._columns import column_names, read_column, take_column
from jaxnlme.data._rows import name_rows
from jaxnlme.errors import DataError, some


def as_table(frame: Any, names: Iterable[str], role: str = "the formula") -> pd.DataFrame:
    """The columns `names` of any data frame as a pandas frame with the same rows and row labels.

    Numbers become float64 (those of a pandas frame are left as they are); text, categories and truth values become
    categories, of which only those that occur are kept, in their declared order or else sorted.

    **Arguments:** `frame`: a pandas or polars data frame, or a dictionary of arrays; `role`: of the columns, for
    messages.
    **Raises:** DataError for unknown columns, with similar names, and for columns that hold neither.
    """
    series: dict[str, Any] = {}
    index = frame.index if isinstance(frame, pd.DataFrame) else None
    for name in dict.fromkeys(names):
        raw = take_column(frame, name, role)
        if isinstance(raw, pd.DataFrame):
            raise DataError(f"column {name!r} is itself a table (a column of several levels); flatten the columns.")
        series[name] = _pandas_column(raw, name, index)
    lengths = {len(column) for column in series.values()}
    if len(lengths) > 1:
        raise DataError(f"the columns {some(list(series))} have different lengths; expected one value per row in each.")
    if not series and index is None:
        index = pd.RangeIndex(row_count(frame))
    return pd.DataFrame(series, index=index, copy=False)


def row_count(frame: Any) -> int:
    """The number of rows of a data frame. **Raises:** DataError for other objects."""
    names = column_names(frame)
    return len(frame[names[0]]) if isinstance(frame, Mapping) and names else len(frame)


def complete_rows(frame: Any, columns: Sequence[str]) -> np.ndarray:
    """A mask (rows,): True where none of the `columns` is missing. Infinite numbers are not missing.

    **Raises:** DataError for unknown columns.
    """
    complete = np.ones(row_count(frame), bool)
    for name in dict.fromkeys(columns):
        raw = take_column(frame, name, "the formula")
        if isinstance(raw, (pd.Series, pd.Categorical)):
            if isinstance(raw.dtype, np.dtype) and raw.dtype.kind in "iub":
                continue
            missing = np.asarray(raw.isna())
        else:
            missing = np.asarray(pd.isna(read_column(raw, name).values))
        if missing.shape != complete.shape:
            raise DataError(f"column {name!r} has length {missing.size}; expected one value per row, {complete.size}.")
        complete &= ~missing
    return complete


def rows_text(rows: np.ndarray, index: Any) -> str:
    """Rows for a message: counted from 1, with the label of the first where the frame has labels of its own.

    **Arguments:** `rows`: a mask; `index`: of the frame.
    """
    text = name_rows(rows)
    if isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1:
        return text
    return f"{text} (the first has the index {index[int(np.argmax(rows))]!r})"


def _pandas_column(raw: Any, name: str, index: Any) -> Any:
    """A column as numbers or categories."""
    if isinstance(raw, pd.Series):
        dtype = raw.dtype
        if isinstance(dtype, np.dtype) and dtype.kind in "iuf":
            return raw
        if isinstance(dtype, pd.CategoricalDtype):
            return pd.Series(raw.array.remove_unused_categories(), index=index)  # pyright: ignore
        if isinstance(dtype, pd.StringDtype) or (isinstance(dtype, np.dtype) and dtype.kind == "b"):
            return pd.Series(_categorical(raw.array, name), index=index)
    column = read_column(raw, name)
    if not column.is_text:
        whole = _whole_numbers(raw)
        return pd.Series(column.values if whole is None else whole, index=index)
    if column.levels is None:
        return pd.Series(_categorical(column.values, name), index=index)
    return pd.Series(pd.Categorical(column.values, column.levels).remove_unused_categories(), index=index)


def _whole_numbers(raw: Any) -> np.ndarray | None:
    """A column of integers without missing ones, so that factor(year) has the category 2022; None for others."""
    values = np.asarray(raw.to_numpy() if hasattr(raw, "to_numpy") else raw)
    return values if values.dtype.kind in "iu" else None


def _categorical(values: Any, name: str) -> pd.Categorical:
    """Text or truth values as categories. **Raises:** DataError where they cannot be sorted."""
    categories = pd.Categorical(values)
    kinds = {type(value).__name__ for value in categories.categories}
    if len(kinds) > 1:
        raise DataError(
            f"column {name!r} holds values of different types ({some(sorted(kinds))}); expected numbers or text: "
            "convert it."
        )
    return categories
