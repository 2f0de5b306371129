"""What is legitimate in a table and yet worth a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._rows import name_groups

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData


def notes_of(data: GroupedData) -> tuple[str, ...]:
    """The notes on `data`, a sentence each: groups without a response, one-row groups, constant columns of x, an
    unsorted first column of x, repeated values in it, text columns that hold numbers."""
    notes = []
    silent = data.labels[~data.observed.any(axis=1)]
    if silent.size:
        notes.append(
            f"{_count(silent.size)} no observed response and add{'s' if silent.size == 1 else ''} nothing to the "
            f"likelihood: {name_groups(silent)}."
        )
    single = data.labels[data.sizes == 1]
    if single.size:
        notes.append(f"{_count(single.size)} a single row: {name_groups(single)}.")
    for name, values in data.x.items():
        if data.n_rows > 1 and (values == values[0, 0]).all():
            notes.append(f"x column {name!r} is constant ({values[0, 0]:g}) in the whole table.")
    if data.x:
        notes += _order(data, *next(iter(data.x.items())))
    for name, text in data.text.items():
        parses = [_is_number(cell) for cell in set(text.ravel().tolist())]
        if any(parses) and not all(parses):
            notes.append(
                f"column {name!r} holds both numbers and text, so it counts as text (a category): convert it if "
                "numbers were meant."
            )
    return tuple(notes)


def _order(data: GroupedData, name: str, values: np.ndarray) -> list[str]:
    """Sentences on groups where the first column of x, mostly time, goes back or repeats."""
    notes = []
    real = data.rows[:, 1:]
    unsorted = data.labels[((np.diff(values, axis=1) < 0) & real).any(axis=1)]
    if unsorted.size:
        notes.append(
            f"x column {name!r} is not sorted within {name_groups(unsorted)}; the rows keep the order of the table."
        )
    # Padding sorts to the end as NaN, which equals nothing.
    ranked = np.sort(np.where(data.rows, values, np.nan), axis=1) if unsorted.size else values
    repeated = data.labels[((np.diff(ranked, axis=1) == 0) & real).any(axis=1)]
    if repeated.size:
        notes.append(f"x column {name!r} has repeated values within {name_groups(repeated)} (replicates).")
    return notes


def _count(number: int) -> str:
    return "1 group has" if number == 1 else f"{number} groups have"


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
