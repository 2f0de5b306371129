"""Checks of a table before it becomes GroupedData; each error names column and rows, what was expected, and the
remedy."""

from __future__ import annotations

import keyword
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.data._columns import Column, refuse_traced
from jaxnlme.data._layout import TableLayout
from jaxnlme.data._rows import name_groups, name_rows
from jaxnlme.errors import DataError, MissingFileError, shown


def check_roles(group: list[str], y: str, x: list[str], v: list[str]) -> None:
    """Check that every column has one role. **Raises:** DataError naming the column and its two roles."""
    roles = dict.fromkeys(group, "the group")
    for role, names in (("the response y", [y]), ("x", x), ("v", v)):
        for name in names:
            if name in roles:
                raise DataError(
                    f"column {name!r} is both {roles[name]} and in {role}; expected one role per column: drop one, or "
                    "copy the column under another name."
                )
            roles[name] = role


def check_single_names(y: Any, need_response: Any) -> None:
    """Check that `y` is a single name, and `need_response` a flag. **Raises:** DataError."""
    if isinstance(y, (list, tuple)):
        raise DataError(
            f"y is {shown(y)}; expected one column name: several responses go below each other, in one column, with a "
            "column that says which is which."
        )
    if not isinstance(need_response, (bool, np.bool_)):
        raise DataError(f"need_response must be True or False; received {shown(need_response)}.")


def check_table_name(name: Any, used: Mapping[str, Any]) -> None:
    """**Raises:** DataError where a model could not read a table of that `name` as `v.name`, or the name is `used`."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise DataError(f"a table must have a Python name, which the model reads as v.name; received {shown(name)}.")
    if name in used:
        raise DataError(f"the data already have a column or table {name!r}; expected a new name for the table.")


def check_csv_path(path: Any) -> None:
    """**Raises:** DataError where `path` is neither a path nor a file, MissingFileError where there is no such file."""
    if not isinstance(path, (str, os.PathLike)) and not hasattr(path, "read"):
        raise DataError(f"path is {shown(path)}; expected the path of a CSV file.")
    is_path = isinstance(path, os.PathLike) or (isinstance(path, str) and "://" not in path)
    if is_path and not os.path.exists(os.path.expanduser(path)):
        raise MissingFileError(f"there is no file {os.fspath(path)}.")


def check_buckets(count: Any) -> None:
    """**Raises:** DataError where `count` is neither None nor a whole number >= 1."""
    whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
    if count is not None and not (whole and count >= 1):
        raise DataError(f"{shown(count)} buckets were asked for; expected at least 1, or None to choose.")


def check_lengths(lengths: Mapping[str, int]) -> int:
    """The number of rows, from the lengths of the columns by name. **Raises:** DataError if they differ or are zero."""
    first, rows = next(iter(lengths.items()))
    for name, length in lengths.items():
        if length != rows:
            raise DataError(
                f"column {name!r} has length {length} and column {first!r} has length {rows}; expected one value per "
                "row in every column."
            )
    if rows == 0:
        raise DataError("the table is empty (no rows); expected at least one row: check how it was read or filtered.")
    return rows


def check_response(column: Column, name: str, needed: bool = True) -> np.ndarray:
    """The response (rows,) as float64, NaN where missing; truth values become 0 and 1.

    **Arguments:** `column`; `name`: for messages; `needed`: at least one response must be observed.
    **Raises:** DataError for text, for infinite values, and if `needed` where no response is observed."""
    values = column.values
    if column.is_text:
        if {type(v) for v in values.tolist()} <= {bool, np.bool_, type(None)}:
            values = np.array([np.nan if v is None else float(v) for v in values.tolist()])
        else:
            bad = np.array([v is not None and not _parses(v) for v in values.tolist()])
            bad = bad if bad.any() else values != None  # noqa: E711
            raise DataError(
                f"response {name!r} is not numeric: {name_rows(bad)} {_hold(bad)} text "
                f"({values[np.flatnonzero(bad)[0]]!r}); expected numbers, empty where missing: convert the column (for "
                "a CSV file na_values='.' reads a dot as missing)."
            )
    infinite = np.isinf(values)
    if infinite.any():
        raise DataError(
            f"response {name!r} is infinite in {name_rows(infinite)}; expected finite numbers: correct them, or leave "
            "them empty (NaN) if missing."
        )
    if needed and not (~np.isnan(values)).any():
        raise DataError(
            f"response {name!r} has no observed value in any of {values.size} rows; expected at least one: check the "
            "column and how missing values were read."
        )
    return values


def check_predictor(column: Column, name: str, role: str) -> None:
    """Check that a column of x, v or a further table is complete and finite. **Raises:** DataError naming the rows."""
    if column.is_text:
        missing = np.fromiter((v is None for v in column.values.tolist()), dtype=bool, count=column.values.size)
        if missing.any():
            raise DataError(
                f"{role} column {name!r} is missing in {name_rows(missing)}; expected a category in every row: fill it "
                "in (a category 'unknown' will do) or drop the rows."
            )
        return
    bad = ~np.isfinite(column.values)
    if bad.any():
        problem = "missing (NaN)" if np.isnan(column.values[bad]).all() else "missing or infinite"
        raise DataError(
            f"{role} column {name!r} is {problem} in {name_rows(bad)}; expected finite numbers, also in rows without a "
            "response: fill them in (0 for the dose on rows without one) or drop the rows."
        )


def check_constant(values: np.ndarray, layout: TableLayout, name: str, role: str) -> np.ndarray:
    """The value of each group (groups,) in a column that must be constant within groups.

    **Arguments:** `values` (rows,); `layout`; `name` and `role` of the column, for messages.
    **Raises:** DataError naming the group and the rows that differ from its first row."""
    first_values = values[layout.first]
    differs = values != first_values[layout.codes]
    if differs.any():
        code = layout.codes[np.flatnonzero(differs)[0]]
        rows = np.flatnonzero(differs & (layout.codes == code))
        others = np.unique(layout.codes[differs]).size - 1
        more = f" (and {others} more {'group' if others == 1 else 'groups'})" if others else ""
        advice = "list the column in x" if role == "v" else "give every row of the group the same weight"
        raise DataError(
            f"{role} column {name!r} varies within group {layout.labels[code]!r}: {name_rows(rows)} "
            f"{'differs' if rows.size == 1 else 'differ'} from its first row, {name_rows(layout.first[[code]])} "
            f"({values[rows[0]]!s} against {first_values[code]!s}){more}; expected one value per group: {advice}."
        )
    return first_values


def check_selection(groups: Any, n_groups: int) -> np.ndarray:
    """Positions of the groups chosen by `groups`, positions or a boolean mask, among `n_groups`.

    **Raises:** DataError if no group is chosen, or for a mask or positions that do not fit.
    """
    chosen = np.asarray(groups)
    if chosen.dtype == bool and chosen.shape != (n_groups,):
        raise DataError(f"the mask has shape {chosen.shape}; expected one entry per group, {(n_groups,)}.")
    chosen = np.flatnonzero(chosen) if chosen.dtype == bool else np.atleast_1d(chosen)
    if chosen.size == 0:
        raise DataError("no group is selected; expected at least one.")
    if chosen.dtype.kind not in "iu" or chosen.min() < -n_groups or chosen.max() >= n_groups:
        raise DataError(
            f"groups are chosen by position, 0 to {n_groups - 1}, or by a boolean mask; got {groups!r}. "
            "For labels pass np.isin(data.labels, [...])."
        )
    return chosen


def numeric_response(y: Any) -> np.ndarray:
    """Responses of any shape as float64.

    **Raises:** DataError where they are not numeric, or traced.
    """
    refuse_traced(y, "y")
    try:
        return np.array(y, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("y is not numeric; expected a number for every row, NaN if missing.") from None


def check_weights(weights: Any, labels: np.ndarray) -> np.ndarray:
    """Group weights (groups,) as float64, for the group `labels` (groups,).

    **Raises:** DataError unless they are finite, not negative and not all zero.
    """
    try:
        weights = np.array(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("weights are not numeric; expected a number >= 0 for every group.") from None
    if weights.shape != labels.shape:
        raise DataError(f"weights have shape {weights.shape}; expected one per group, {labels.shape}.")
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        at = np.flatnonzero(bad)
        raise DataError(
            f"weights of {name_groups(labels[at])} are negative, infinite or missing (first: {weights[at[0]]}); "
            "expected finite numbers >= 0: correct them (0 leaves a group out)."
        )
    if not weights.any():
        raise DataError("the weights of all groups are zero; expected at least one positive weight.")
    return weights


def check_row_weights(column: Column, name: str) -> np.ndarray:
    """The values (rows,) of a weights column. **Raises:** DataError unless they are finite numbers, not negative."""
    if column.is_text:
        raise DataError(f"weights column {name!r} is not numeric; expected a number >= 0, constant within each group.")
    bad = ~(np.isfinite(column.values) & (column.values >= 0))
    if bad.any():
        raise DataError(
            f"weights column {name!r} is negative, infinite or missing in {name_rows(bad)}; expected finite numbers "
            ">= 0: correct them (0 leaves a group out)."
        )
    return column.values


def _parses(value: Any) -> bool:
    """True if `value` converts to a float."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _hold(bad: np.ndarray) -> str:
    """The verb for the rows marked by `bad`, in singular or plural."""
    return "holds" if bad.sum() == 1 else "hold"
