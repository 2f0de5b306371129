"""Notes on a data set: properties that are valid but may be mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._endpoints import endpoint_numbers
from jaxnlme.data._nested import nesting_notes
from jaxnlme.data._rows import name_groups

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData


def notes_of(data: GroupedData) -> tuple[str, ...]:
    """The notes on `data`, one sentence each: groups without a response, one-row groups, constant columns of x, an
    unsorted first column of x, repeated values in it, text columns that hold numbers."""
    notes = list(data.remarks)
    unobserved = data.labels[~data.observed.any(axis=1)]
    if unobserved.size:
        notes.append(
            f"{_count(unobserved.size)} no observed response and add{'s' if unobserved.size == 1 else ''} nothing to "
            f"the likelihood: {name_groups(unobserved)}."
        )
    single = data.labels[data.sizes == 1]
    if single.size:
        notes.append(f"{_count(single.size)} a single row: {name_groups(single)}.")
    for name, values in data.x.items():
        of_records = data.events is not None and name == data.events.facts.compartment
        if data.n_rows > 1 and (values == values[0, 0]).all() and not of_records:
            notes.append(f"x column {name!r} is constant ({values[0, 0]:g}) in the whole table.")
    notes += nesting_notes(data.group_name, data.labels, data.nested)
    if data.x:
        notes += _order(data, *next(iter(data.x.items())))
    for name, text in data.text.items():
        numeric = [_is_number(cell) for cell in set(text.ravel().tolist())]
        if any(numeric) and not all(numeric):
            notes.append(
                f"column {name!r} holds both numbers and text, so it counts as text (a category): convert it if "
                "numbers were meant."
            )
    return tuple(notes)


def _order(data: GroupedData, name: str, values: np.ndarray) -> list[str]:
    """Notes on groups in which the first column of x, usually time, decreases or has equal values; with nested levels
    within a unit of the innermost one, since time may begin anew in each."""
    notes = []
    unit = data.nested[-1].unit if data.nested else np.zeros(values.shape, np.int8)
    if data.endpoint is not None:  # several responses at one time are no replicates
        unit = unit.astype(int) * (1 + data.rows.size) + endpoint_numbers(data)

    def steps(order: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Differences of successive rows in an order of each group's rows, and True for two real rows of one unit."""
        v, u, real = (p if order is None else np.take_along_axis(p, order, axis=1) for p in (values, unit, data.rows))
        return np.diff(v, axis=1), real[:, 1:] & real[:, :-1] & (u[:, 1:] == u[:, :-1])

    difference, within = steps(np.argsort(unit, axis=1, kind="stable") if unit.any() else None)
    unsorted = data.labels[((difference < 0) & within).any(axis=1)]
    if unsorted.size:
        notes.append(
            f"x column {name!r} is not sorted within {name_groups(unsorted)}; the rows keep the order of the table."
        )
        # Padding is put at the end.
        difference, within = steps(np.lexsort((np.where(data.rows, values, np.inf), unit), axis=1))
    repeated = data.labels[((difference == 0) & within).any(axis=1)]
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
