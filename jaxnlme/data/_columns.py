"""Columns of any kind of table (pandas, polars, numpy, lists) as float64 numbers or text; pandas is not required."""

from __future__ import annotations

import datetime
import decimal
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnlme.data._rows import name_rows
from jaxnlme.errors import DataError, near_matches, shown


@dataclass(frozen=True)
class Column:
    """A column of a table.

    **Fields:** `values` (rows,): float64 with NaN where missing; for text, categories and truth values objects, with
    None where missing. `levels`: the declared order of a categorical column, None if it has none.
    """

    values: np.ndarray
    levels: tuple[Any, ...] | None = None

    @property
    def is_text(self) -> bool:
        """True for text, categories and truth values."""
        return self.values.dtype == object


def column_names(frame: Any) -> list[Any]:
    """The column names of a pandas or polars data frame or of a dictionary of arrays.

    **Raises:** DataError for lazy frames and other objects.
    """
    if isinstance(frame, Mapping):
        return list(frame.keys())
    if hasattr(frame, "collect_schema") and not hasattr(frame, "get_column"):
        raise DataError("a lazy frame has no rows yet; expected a data frame: call .collect() first.")
    if hasattr(frame, "columns") and hasattr(frame, "__getitem__"):
        return list(frame.columns)
    raise DataError(
        f"expected a pandas or polars data frame or a dictionary of arrays, got {type(frame).__name__}; "
        "for bare arrays use GroupedData.from_arrays."
    )


def take_column(frame: Any, name: Any, role: str) -> Any:
    """The raw column `name` of `frame`; `role` is for messages.

    **Raises:** DataError if there is no such column, or several, and for one that JAX traces.
    """
    names = column_names(frame)
    if isinstance(name, (list, tuple, set, Mapping)):
        raise DataError(f"{role} is {shown(name)}; expected one column name.")
    count = names.count(name)
    if count > 1:
        raise DataError(
            f"{count} columns of the table are called {name!r} ({role}); expected one: rename or drop the others."
        )
    if count == 0:
        hint = near_matches(name, [str(n) for n in names])
        if name in list(getattr(getattr(frame, "index", None), "names", [])):
            hint = "it is the index of the frame: call frame.reset_index() first."
        raise DataError(f"{role}: the table has no column {name!r}; {hint}")
    refuse_traced(frame[name], f"column {name!r}")
    return frame[name]


def refuse_traced(values: Any, description: str) -> None:
    """**Raises:** DataError for `values` that JAX traces. (This room does not need JAX, and does not import it.)"""
    if any(kind.__name__ == "Tracer" for kind in type(values).__mro__):
        raise DataError(
            f"{description} is traced by jax.jit, jax.vmap or jax.grad, and GroupedData runs on the host, in Python: "
            "make the data outside. Inside JAX programs jn.estimate and jn.log_likelihood take them."
        )


def read_column(raw: Any, name: str) -> Column:
    """`raw` as a Column called `name`. Truth values and categories count as text; all numbers become float64.

    **Raises:** DataError for dates, complex numbers, and arrays that are not one-dimensional."""
    library = type(raw).__module__.partition(".")[0]
    if library == "pandas" and hasattr(raw, "dtype") and np.ndim(raw) == 1:
        return _from_pandas(raw, name)
    if library == "polars" and hasattr(raw, "dtype"):
        return _from_polars(raw, name)
    if isinstance(raw, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(raw)
        if raw.dtype.kind in "iuf":
            return Column(np.where(masked, np.nan, raw.filled(0).astype(np.float64)))
        raw = np.ma.filled(raw.astype(object), None)
    if isinstance(raw, (list, tuple)):
        values = object_array(raw)  # np.asarray would convert the numbers of a mixed list to text
    else:
        values = np.asarray(raw)
    if values.ndim != 1:
        raise DataError(f"column {name!r} has shape {values.shape}; expected one value per row.")
    return _from_numpy(values, name)


def read_labels(raw: Any, name: str) -> list[Any]:
    """Group labels as Python objects, one per row, from the raw column called `name`.

    **Raises:** DataError naming the rows without a label.
    """
    if isinstance(raw, np.ndarray):
        if raw.ndim != 1:
            raise DataError(f"group column {name!r} has shape {raw.shape}; expected one label per row.")
        labels = list(raw) if raw.dtype.kind in "mM" else raw.tolist()
    elif hasattr(raw, "to_list"):
        labels = raw.to_list()
    elif hasattr(raw, "tolist"):
        labels = raw.tolist()
    elif not hasattr(raw, "__iter__") or isinstance(raw, (str, Mapping)):
        raise DataError(f"group is {shown(raw)}; expected one label per row.")
    else:
        labels = list(raw)
    missing = _missing(labels)
    if missing is not None and missing.any():
        raise DataError(
            f"group column {name!r} has no label in {name_rows(missing)}; every row needs the label of its group: "
            "fill it in or drop the rows."
        )
    floats = any(issubclass(kind, (float, np.floating)) for kind in set(map(type, labels)))
    checked = labels if floats else ()
    infinite = np.array([isinstance(label, (float, np.floating)) and np.isinf(label) for label in checked], bool)
    if infinite.any():
        raise DataError(
            f"group column {name!r} has an infinite label in {name_rows(infinite)}; expected text or finite numbers: "
            "correct the labels or drop the rows."
        )
    return labels


def matrix_columns(matrix: Any, prefix: str) -> dict[str, Any]:
    """Columns by name: a dictionary unchanged; a vector as `prefix`0; a matrix as `prefix`0, `prefix`1, ...

    **Raises:** DataError for arrays with more axes.
    """
    if matrix is None:
        return {}
    if isinstance(matrix, Mapping):
        return dict(matrix)
    values = np.asarray(matrix)
    if values.ndim == 1:
        return {f"{prefix}0": values}
    if values.ndim == 2:
        return {f"{prefix}{k}": values[:, k] for k in range(values.shape[1])}
    raise DataError(f"{prefix} has shape {values.shape}; expected a dictionary, a vector or a matrix.")


def name_list(names: Any, role: str) -> list[str]:
    """One name or several as a list; `role` is for messages. **Raises:** DataError if a name is listed twice."""
    if names is None:
        names = ()
    if isinstance(names, (Mapping, bytes)) or not hasattr(names, "__iter__"):
        raise DataError(f"{role} is {shown(names)}; expected one column name or a list of them, as in {role}=['Time'].")
    listed: list[str] = [names] if isinstance(names, str) else list(names)
    twice = sorted({str(n) for n in listed if listed.count(n) > 1})
    if twice:
        raise DataError(f"{role} lists {', '.join(map(repr, twice))} more than once; name each column once.")
    return listed


def level_names(group: Any) -> list[Any]:
    """The columns of the grouping levels, outermost first, from one name or a list. **Raises:** DataError where there
    is none, or one is listed twice."""
    several = isinstance(group, (list, tuple)) or (hasattr(group, "tolist") and not isinstance(group, str))
    levels = name_list(group, "group") if several else [group]
    for name in levels:
        if isinstance(name, (list, dict, set)):
            raise DataError(f"group lists {shown(name)}; expected column names, as in group=['Subject', 'Occasion'].")
    if not levels:
        raise DataError("group lists no column; expected one name, or those of nested levels from the outermost on.")
    return levels


def object_array(cells: Sequence[Any]) -> np.ndarray:
    """The cells as a one-dimensional array of Python objects; tuples stay single objects."""
    return np.fromiter(cells, dtype=object, count=len(cells))


def _from_pandas(series: Any, name: str) -> Column:
    import pandas as pd

    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return Column(_text(series.astype(object).tolist()), tuple(dtype.categories.tolist()))
    if pd.api.types.is_bool_dtype(dtype):
        return Column(_text(series.tolist()))
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        return Column(np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan)))
    if isinstance(dtype, np.dtype):
        return _from_numpy(series.to_numpy(), name)
    return _from_numpy(series.astype(object).to_numpy(), name)


def _from_polars(series: Any, name: str) -> Column:
    import polars

    dtype = series.dtype
    if dtype.is_numeric():
        return Column(np.array(series.cast(polars.Float64).to_numpy()))
    if dtype.is_temporal():
        raise _dates(name)
    levels = tuple(dtype.categories.to_list()) if dtype == polars.Enum else None
    return Column(_from_numpy(object_array(series.to_list()), name).values, levels)


def _from_numpy(values: np.ndarray, name: str) -> Column:
    kind = values.dtype.kind
    if kind in "iuf":
        return Column(values.astype(np.float64))
    if kind in "mM":
        raise _dates(name)
    if kind == "c":
        raise DataError(f"column {name!r} holds complex numbers; expected real ones: pass its parts as two columns.")
    if kind == "S":
        values = values.astype("U")
    cells = values.tolist()
    types = set(map(type, cells))
    if any(issubclass(t, (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64)) for t in types):
        raise _dates(name)
    real = [t for t in types if _is_real(t)]
    empty = [t for t in types if t.__name__ in _EMPTY]
    if len(real) + len(empty) < len(types):
        return Column(_text(cells))
    if empty:
        cells = [np.nan if type(cell).__name__ in _EMPTY else cell for cell in cells]
    return Column(np.array(cells, dtype=np.float64))


_EMPTY = ("NoneType", "NAType", "NaTType")


def _is_real(kind: type) -> bool:
    return issubclass(kind, (numbers.Real, decimal.Decimal)) and not issubclass(kind, bool)


def _text(cells: Sequence[Any]) -> np.ndarray:
    missing = _missing(cells)
    values = object_array(cells)
    if missing is not None:
        values[missing] = None
    return values


def _missing(cells: Sequence[Any]) -> np.ndarray | None:
    types = set(map(type, cells))
    if not any(t.__name__ in _EMPTY or issubclass(t, (float, np.floating)) for t in types):
        return None
    # NaN is the only number that differs from itself; comparisons with pd.NA return pd.NA, so its type is checked
    # first.
    return np.fromiter((type(c).__name__ in _EMPTY or bool(c != c) for c in cells), dtype=bool, count=len(cells))


def _dates(name: str) -> DataError:
    return DataError(
        f"column {name!r} holds dates or durations; expected numbers or text: convert it first, for instance to hours "
        "since the first dose."
    )
