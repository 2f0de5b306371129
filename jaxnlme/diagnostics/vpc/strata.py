"""Strata: the classes of rows by columns, derived labels, or quantile classes of a column."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.data._columns import column_names, read_column, take_column
from jaxnlme.data._rows import name_rows
from jaxnlme.diagnostics.vpc.settings import VPC
from jaxnlme.errors import DataError, OptionError, check_whole_number, shown


@dataclasses.dataclass(frozen=True, eq=False)
class Strata:
    """Classes of rows.

    **Fields:** `names` of the columns; `labels`: for each stratum its value of each column; `code` (rows,): the number
    of the stratum of each row, -1 for a row of another one.
    """

    names: tuple[str, ...]
    labels: tuple[tuple[Any, ...], ...]
    code: np.ndarray

    @property
    def titles(self) -> list[str]:
        """The strata in words, as "ISM 1, DOSE 150"; one empty text without strata."""
        return [", ".join(f"{name} {_text(value)}" for name, value in zip(self.names, label, strict=True))
                for label in self.labels]  # fmt: skip

    def columns(self, stratum: int) -> dict[str, Any]:
        """The value of each column in a stratum, by name."""
        return dict(zip(self.names, self.labels[stratum], strict=True))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


Specification = list[tuple[str, Any]]


def check_stratify(stratify: Any) -> Specification:
    """The option `stratify` as pairs: a name, and None for the column of this name, a function of the table, an array,
    or a number of quantile classes of the column.

    **Raises:** OptionError for anything else.
    """
    if stratify is None:
        return []
    if isinstance(stratify, str):
        return [(stratify, None)]
    if isinstance(stratify, Mapping):
        for name, value in stratify.items():
            is_count = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if is_count:
                check_whole_number(f"stratify: {name}", value, 2, "the number of classes")
            elif not (callable(value) or (np.ndim(value) == 1 and not isinstance(value, (str, Mapping)))):
                raise OptionError(
                    f"stratify: {name!r} must be a number of classes, a function of the table, or a value for each "
                    f"row; received {shown(value)}."
                )
        return [(str(name), value) for name, value in stratify.items()]
    if isinstance(stratify, Sequence) and all(isinstance(name, str) for name in stratify):
        return [(name, None) for name in dict.fromkeys(stratify)]
    raise OptionError(
        "stratify must be the name of a column, a list of names, or a dictionary from a name to a number of classes, a "
        f"function of the table, or a value for each row; received {shown(stratify)}."
    )


def strata_of(frame: Any, specification: Specification, rows: np.ndarray) -> Strata:
    """The strata of the `rows` (a mask) of a table.

    Columns of numbers and truth values are sorted, categories in their declared order, text in natural order (Pat 2
    before Pat 10).

    **Raises:** DataError for unknown columns and rows without a value; OptionError for more than 40 strata.
    """
    if not specification:
        return Strata((), ((),), np.where(rows, 0, -1))
    values, orders = [], []
    for name, given in specification:
        column, order = _classes(frame, name, given, rows)
        values.append(column)
        orders.append(order)
    codes = np.stack([np.array([order.get(value, -1) for value in column]) for column, order in
                      zip(values, orders, strict=True)])  # fmt: skip
    present, code = np.unique(codes[:, rows], axis=1, return_inverse=True)
    names = tuple(name for name, _ in specification)
    if present.shape[1] > VPC.most_strata:
        raise OptionError(
            f"stratify divides the rows into {present.shape[1]} strata by {' and '.join(names)}, more than "
            f"{VPC.most_strata}; for a column of numbers give a number of classes, as in stratify={{{names[0]!r}: 3}}."
        )
    listed = [list(order) for order in orders]
    labels = tuple(tuple(listed[k][c] for k, c in enumerate(column)) for column in present.T)
    out = np.full(rows.shape, -1)
    out[rows] = code.ravel()
    return Strata(names, labels, out)


def matched_strata(frame: Any, specification: Specification, strata: Strata, table: Any) -> np.ndarray:
    """The number (rows,) of the stratum of each row of another table, -1 for a row of none of `strata`.

    **Arguments:** `table`: the one that `strata` are of, whose quantiles divide both.
    **Raises:** DataError for unknown columns; OptionError for labels given by row, which another table cannot have.
    """
    size = len(frame[column_names(frame)[0]])
    everywhere = np.ones(size, bool)
    if not specification:
        return np.zeros(size, int)
    columns = []
    for name, given in specification:
        if given is not None and not callable(given) and np.ndim(given):
            raise OptionError(
                f"stratify: {name!r} has a value for each observed row, and the simulated table has other rows; add "
                "the labels to both tables as a column and name it."
            )
        source = table if isinstance(given, (int, np.integer)) else None
        columns.append(_classes(frame, name, given, everywhere, source)[0])
    number = {label: k for k, label in enumerate(strata.labels)}
    return np.array([number.get(label, -1) for label in zip(*columns, strict=True)])


def _classes(
    frame: Any, name: str, given: Any, rows: np.ndarray, table: Any = None
) -> tuple[list[Any], dict[Any, int]]:
    """The class of each row, and the number of each class in order. **Arguments:** `table`: see `matched_strata`."""
    if isinstance(given, (int, np.integer)):
        return _quantile_classes(frame, name, int(given), rows, table)
    if callable(given):
        raw = given(frame)
    elif given is None:
        raw = take_column(frame, name, "stratify")
    else:
        raw = given
    column = read_column(raw, name)
    if len(column.values) != rows.size:
        raise DataError(
            f"stratify: {name!r} has {len(column.values)} values and the table {rows.size} rows; expected one for each."
        )
    missing = np.array([value is None or value != value for value in column.values.tolist()]) & rows
    if missing.any():
        raise DataError(f"stratify: {name!r} is empty in {name_rows(missing)}; fill it in, or drop the rows.")
    plain = [_plain(value) for value in column.values.tolist()]
    present = {value for value, use in zip(plain, rows, strict=True) if use}
    if column.levels is not None:
        ordered = [_plain(level) for level in column.levels if _plain(level) in present]
    else:
        ordered = sorted(present, key=natural_key)
    return plain, {value: k for k, value in enumerate(ordered)}


def natural_key(value: Any) -> tuple[Any, ...]:
    """A key that sorts numbers by size, and text by the numbers in it: Pat 2 before Pat 10."""
    if isinstance(value, (bool, int, float)):
        return (0, float(value))
    parts, text, digits = [], "", ""
    for character in str(value) + "\0":
        if character.isdigit():
            digits += character
        else:
            if digits:
                parts += [(text.lower(), int(digits))]
                text, digits = "", ""
            text += character
    return (1, tuple(parts), text.lower(), str(value))


def _plain(value: Any) -> Any:
    """Whole numbers as int, so that labels read 1 and not 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.item() if isinstance(value, np.generic) else value


def _quantile_classes(
    frame: Any, name: str, count: int, rows: np.ndarray, table: Any
) -> tuple[list[Any], dict[Any, int]]:
    """Classes of about equally many rows of a column of numbers, named by their limits."""
    values, of_cuts = _numbers(frame, name), None
    if table is not None:
        of_cuts = _numbers(table, name)
    used = values[rows] if of_cuts is None else of_cuts
    missing = np.isnan(values) & rows
    if missing.any():
        raise DataError(f"stratify: {name!r} is empty in {name_rows(missing)}; fill it in, or drop the rows.")
    limits = np.unique(np.quantile(used[~np.isnan(used)], np.linspace(0.0, 1.0, count + 1)))
    if limits.size < 2:
        limits = np.repeat(limits, 2)
    labels = [f"{low:.3g} to {high:.3g}" for low, high in itertools.pairwise(limits)]
    code = np.clip(np.searchsorted(limits, values, side="right") - 1, 0, len(labels) - 1)
    return [labels[k] for k in code], {label: k for k, label in enumerate(labels)}


def _numbers(frame: Any, name: str) -> np.ndarray:
    column = read_column(take_column(frame, name, "stratify"), name)
    if column.is_text:
        raise DataError(f"stratify: column {name!r} holds text, which has no quantiles; name it without a number.")
    return column.values
