"""RawTable: the rows and columns of a file or frame that are used, with their original row numbers."""

from __future__ import annotations

import inspect
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxnlme.data._checks import check_csv_path
from jaxnlme.data._columns import Column, column_names, read_column, take_column
from jaxnlme.data._rows import name_rows
from jaxnlme.errors import ArgumentError, DataError, near_matches, shown

# Cells that are missing values; NONMEM has the dot.
MISSING = ("", ".", "NA", "NaN", "nan")
# Responses that are reported beyond a limit of quantification.
_BEYOND_LIMIT = re.compile(r"^\s*([<>]|(BLQ|BQL|LLOQ|BLOQ|BLLOQ|ALQ|ULOQ)\b)", re.IGNORECASE)
_FORTRAN = re.compile(r"^\s*([-+]?[\d.]+)[dD]([-+]?\d+)\s*$")


@dataclass(frozen=True, eq=False)
class RawTable:
    """A table whose cells are not yet interpreted.

    **Fields:** `columns`: raw columns by name, with all rows; `at` (rows,): 0-based positions in the original table of
    the rows that are used; `size`: rows of the original table; `index`: of a pandas frame, None for others;
    `na_values`: further missing values, by column name, under None those of every column; `notes`: sentences on how it
    was read.
    """

    columns: dict[Any, Any]
    at: np.ndarray
    size: int
    index: Any
    na_values: dict[Any, tuple[Any, ...]]
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[Any]:
        """The column names."""
        return list(self.columns)

    def __len__(self) -> int:
        return len(self.at)

    def rows(self, mask: np.ndarray) -> str:
        """Text for the rows marked by `mask` (rows,), with their numbers in the original table, from 1."""
        return name_rows(self.at[mask])

    def column(self, name: Any) -> Column:
        """The column `name` with missing values recognised; text that holds numbers only becomes numbers."""
        column = read_column(self.columns[name], str(name))
        values = column.values[self.at]
        missing = {*MISSING, *(str(v) for v in self._missing(name))}
        if column.is_text and column.levels is None:
            empty = np.array([isinstance(cell, str) and cell.strip() in missing for cell in values], bool)
            values[empty] = None
            numbers = _numbers(values)
            values = values if numbers is None else numbers
        if values.dtype != object:
            further = [float(v) for v in self._missing(name) if is_number(v)]
            values = np.where(np.isin(values, further), np.nan, values) if further else values
        return Column(values, column.levels)

    def numbers(self, name: Any, empty: float = np.nan) -> np.ndarray:
        """The numbers (rows,) in the column `name`, true 1 and false 0, `empty` where missing. **Raises:** DataError
        naming rows with text."""
        values = self.column(name).values
        if values.dtype == object and all(isinstance(cell, (bool, np.bool_)) for cell in values):
            values = values.astype(float)
        if values.dtype == object:
            bad = np.array([cell is not None and not is_number(cell) for cell in values])
            bad = bad if bad.any() else np.array([isinstance(cell, bool) for cell in values])
            held = f"column {name!r} holds {values[bad][0]!r} in {self.rows(bad)}; expected numbers"
            if _BEYOND_LIMIT.match(str(values[bad][0])):
                raise DataError(
                    f"{held}: where a response is below (above) a limit of quantification, write the limit there, and "
                    "1 (-1) in a column CENS."
                )
            raise DataError(
                f"{held}, empty or '.' where missing: correct the cells, list the text in na_values if it means "
                "missing, or leave comment rows out by skip (skip='C' as NONMEM's IGNORE=C)."
            )
        infinite = np.isinf(values)
        if infinite.any():
            raise DataError(
                f"column {name!r} is infinite in {self.rows(infinite)}; expected finite numbers: correct the cells."
            )
        return np.where(np.isnan(values), empty, values)

    def _missing(self, name: Any) -> tuple[Any, ...]:
        return (*self.na_values.get(None, ()), *self.na_values.get(name, ()))


def raw_table(source: Any, skip: Any, na_values: Any, id_name: str, read_csv: Mapping[str, Any]) -> RawTable:
    """The table of a file, frame or dictionary.

    **Arguments:** `source`: path or open file of a CSV file, data frame, or dictionary of arrays; `skip`: first letters
    of the cells of the first column in rows that are left out, "@" for every letter; `na_values`: further missing
    values, a list, or a dictionary of lists by column; `id_name`: a name that the header of a file has; `read_csv`:
    options of pandas.read_csv.
    **Raises:** DataError for what is no table, and for one without rows; MissingFileError.
    """
    marks = _marks(skip)
    notes: tuple[str, ...] = ()
    if isinstance(source, (str, os.PathLike)) or hasattr(source, "read"):
        source, notes = _read_file(source, id_name, dict(read_csv))
    elif read_csv:
        raise DataError(f"{', '.join(map(repr, read_csv))}: options of pandas.read_csv are for files, not for a frame.")
    index = getattr(source, "index", None) if hasattr(source, "iloc") else None
    levels = [name for name in column_names(source) if isinstance(name, tuple)]
    if levels:
        raise DataError(f"the columns have several levels of names, as {levels[0]!r}; expected one name per column.")
    columns = {name: take_column(source, name, "from_nonmem") for name in column_names(source)}
    if not columns:
        raise DataError("the table has no columns; expected those of NONMEM: ID, TIME, DV, AMT, ...")
    columns = {_synonym(name): values for name, values in columns.items()}
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"the columns have different lengths ({sizes}); expected one value per row in every column.")
    size = next(iter(sizes.values()))
    keep = np.ones(size, bool)
    if marks:
        keep = ~_marked(next(iter(columns.values())), marks, size)
        notes += (f"{size - int(keep.sum())} rows were left out by skip={skip!r}.",) if not keep.all() else ()
    if not keep.any():
        raise DataError(
            "the table has no rows"
            + (f" but those left out by skip={skip!r}" if size else "")
            + ": check how it was read."
        )
    return RawTable(columns, np.flatnonzero(keep), size, index, _by_column(na_values, list(columns)), notes)


# Words of other calls for arguments of `from_nonmem`.
_OTHER_WORDS = {
    "group": "id", "subject": "id", "y": "dv", "response": "dv", "amount": "amt", "dose": "amt", "compartment": "cmt",
    "duration": "dur", "steady_state": "ss", "interval": "ii", "additional": "addl", "x": "covariates",
    "v": "covariates", "kind": "evid", "dvid": "endpoint", "cens": "censoring", "occ": "occasion", "ignore": "skip",
}  # fmt: skip


def check_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Check that further options are those of pandas.read_csv.

    **Arguments:** `known`: names of the arguments of `from_nonmem`, for the message.
    **Raises:** ArgumentError for another.
    """
    if not options:
        return
    import pandas as pd

    unknown = [name for name in options if name not in inspect.signature(pd.read_csv).parameters]
    if unknown:
        word = _OTHER_WORDS.get(unknown[0].lower())
        hint = f"here it is {word}=..." if word else near_matches(unknown[0], known)
        raise ArgumentError(f"GroupedData.from_nonmem has no option {unknown[0]!r}; {hint}")


def _read_file(source: Any, id_name: str, options: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """A pandas frame from a file, whose header is the first line with a column `id_name`; lines before are titles."""
    import pandas as pd

    check_csv_path(source)
    if hasattr(source, "read"):
        text = source.read()
        source = io.StringIO(text.decode() if isinstance(text, bytes) else text)
    options.setdefault("keep_default_na", False)
    options.setdefault("na_values", list(MISSING))
    options.setdefault("low_memory", False)
    options.setdefault("skipinitialspace", True)
    notes: tuple[str, ...] = ()
    local = not (isinstance(source, str) and "://" in source)
    if local and not {"header", "names", "skiprows"} & options.keys():
        title, separator = _header(_first_lines(source), id_name, options.get("sep"))
        options["skiprows"] = title
        options.setdefault("sep", separator)
        if title:
            which = "line of the file is a title" if title == 1 else f"{title} lines of the file are titles"
            notes = (f"The first {which}.",)
    if options.get("sep") == r"\s+":
        options.pop("skipinitialspace")
    try:
        frame = pd.read_csv(source, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(
            f"the file is no table ({str(error).strip()}); expected a line with the names of the columns and as many "
            "cells in each line: correct the lines, or give options of pandas.read_csv such as sep= and names=."
        ) from None
    frame.columns = [str(name).strip() for name in frame.columns]
    first = frame.columns[0]
    return frame.rename(columns={first: first.lstrip("#").strip()}), notes


def _first_lines(source: Any) -> list[str]:
    if isinstance(source, io.StringIO):
        lines = source.getvalue().splitlines()[:30]
        source.seek(0)
        return lines
    with open(Path(source).expanduser(), encoding="utf-8", errors="replace") as file:
        return [line for line, _ in zip(file, range(30), strict=False)]


def _header(lines: Sequence[str], id_name: str, separator: str | None) -> tuple[int, str]:
    """The number of the line with the column names (the first where none has a column `id_name`) and the separator."""
    for number, line in enumerate(lines):
        mark = separator or _separator(line)
        cells = [cell.strip().strip("\"'").lstrip("#").strip() for cell in re.split(mark, line.strip())]
        if any(_synonym(cell).casefold() == id_name.casefold() for cell in cells):
            return number, mark
    return 0, separator or (_separator(lines[0]) if lines else ",")


def _separator(line: str) -> str:
    return next((mark for mark in (",", ";", "\t") if mark in line), r"\s+")


def _synonym(name: Any) -> Any:
    """The reserved name in NONMEM's spelling of synonyms, "CONC=DV" or "DV=CONC"."""
    parts = [part.strip() for part in name.split("=")] if isinstance(name, str) else []
    reserved = [part for part in parts if part.upper() in ("ID", "TIME", "DV", "AMT", "RATE", "EVID", "MDV", "CMT")]
    return reserved[0] if len(parts) == 2 and len(reserved) == 1 else name


def _marks(skip: Any) -> tuple[str, ...]:
    marks = () if skip is None else tuple(skip) if isinstance(skip, (list, tuple, set)) else (skip,)
    if not all(isinstance(mark, str) and mark for mark in marks):
        raise DataError(f"skip is {shown(skip)}; expected the first letters of rows to leave out, as in skip='C'.")
    return marks


def _marked(first: Any, marks: tuple[str, ...], size: int) -> np.ndarray:
    """True for rows (size,) whose cell in the first column begins with a mark."""
    column = read_column(first, "first")
    if not column.is_text:
        return np.zeros(size, bool)

    def begins(cell: Any) -> bool:
        text = str(cell).lstrip()
        return any(text.startswith(mark) or (mark == "@" and text[:1].isalpha()) for mark in marks)

    return np.fromiter((cell is not None and begins(cell) for cell in column.values), bool, size)


def _by_column(na_values: Any, names: Sequence[Any]) -> dict[Any, tuple[Any, ...]]:
    """Missing values by column, under None those of every column."""
    if not isinstance(na_values, Mapping):
        return {None: _tuple(na_values)}
    out = {}
    for name, values in na_values.items():
        match = [other for other in names if str(other).casefold() == str(name).casefold()]
        if not match:
            raise DataError(f"na_values: the table has no column {name!r}; it has {', '.join(map(str, names))}.")
        out |= dict.fromkeys(match, _tuple(values))
    return out


def _tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, (list, tuple, set, np.ndarray)) else (values,)


def _numbers(values: np.ndarray) -> np.ndarray | None:
    """Text cells as numbers, None where one is no number."""
    import pandas as pd

    if any(isinstance(cell, bool) for cell in values):
        return None
    try:
        return np.asarray(pd.to_numeric(pd.Series(values, dtype=object)), float)
    except (TypeError, ValueError):
        pass
    try:  # Fortran's exponents, 5.0D1
        texts = [_FORTRAN.sub(r"\1e\2", cell) if isinstance(cell, str) else cell for cell in values]
        return np.asarray(pd.to_numeric(pd.Series(texts, dtype=object)), float)
    except (TypeError, ValueError):
        return None


def is_number(value: Any) -> bool:
    """True for a number, or text that holds one."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def is_dates(raw: Any) -> bool:
    """True for an array or pandas column of dates or durations."""
    return getattr(getattr(raw, "dtype", None), "kind", "") in ("M", "m")
