"""Nested levels inside the groups, such as the occasions of a subject: the unit that each row belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxnlme.data._columns import object_array
from jaxnlme.data._layout import factorize
from jaxnlme.data._rows import name_groups
from jaxnlme.errors import DataError


@dataclass(frozen=True, eq=False)
class NestedLevel:
    """A grouping inside the groups. Its units are numbered within each group, in order of first appearance; units of
    different groups, or of different units of the level above, are different even where their labels are equal.

    **Fields:**

    - `name`: of the column.
    - `unit` (groups, obs): the unit of each row; padding repeats that of the group's last row.
    - `labels` (groups, units): label of each unit, None where a group has fewer.
    - `parent` (groups, units): the unit of the nested level above that each unit lies in; 0 for the first nested level,
      and where a group has fewer units.
    """

    name: str
    unit: np.ndarray
    labels: np.ndarray
    parent: np.ndarray

    @cached_property
    def counts(self) -> np.ndarray:
        """Units of each group (groups,)."""
        return self.unit.max(axis=1) + 1

    @property
    def present(self) -> np.ndarray:
        """True where a group has the unit (groups, units)."""
        return np.arange(self.labels.shape[1]) < self.counts[:, None]

    @property
    def first_row(self) -> np.ndarray:
        """The first row of each unit (groups, units), as a position among the rows of its group; 0 where a group has
        fewer units."""
        units = self.labels.shape[1]
        return (self.unit[:, :, None] == np.arange(units)).argmax(axis=1)

    @property
    def row_labels(self) -> np.ndarray:
        """Label of each row's unit (groups, obs)."""
        return np.take_along_axis(self.labels, self.unit, axis=1)

    def of_groups(self, chosen: np.ndarray, cells: Any) -> NestedLevel:
        """The level of the `chosen` groups (positions), with the units that they have.

        **Arguments:** `cells`: index of their rows among all (groups, obs).
        """
        unit = self.unit[cells]
        units = int(unit.max()) + 1
        return replace(self, unit=unit, labels=self.labels[chosen, :units], parent=self.parent[chosen, :units])


def nested_levels(
    names: Sequence[str], columns: Sequence[Sequence[Any]], source: np.ndarray
) -> tuple[NestedLevel, ...]:
    """The nested levels of a table, outermost first.

    **Arguments:** `names`: of the columns; `columns`: their labels by row; `source` (groups, obs): the row of the table
    in each cell, the group's last row in padding.
    """
    out: list[NestedLevel] = []
    groups = np.arange(len(source))[:, None]
    above = np.zeros(source.shape, np.intp)
    for name, labels in zip(names, columns, strict=True):
        codes, distinct = factorize(labels, name)
        key = (groups * (above.max() + 1) + above) * len(distinct) + codes[source]
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        order = np.argsort(first)
        number = np.empty(len(order), np.intp)
        number[order] = np.arange(len(order))
        unit = number[inverse].reshape(source.shape)  # numbered through all groups, which follow each other
        group_of = first[order] // source.shape[1]
        start = np.searchsorted(group_of, np.arange(len(source)))
        unit = unit - start[:, None]
        position = np.arange(len(order)) - start[group_of]
        label_table = np.full((len(source), int(unit.max()) + 1), None, object)
        parent = np.zeros(label_table.shape, np.intp)
        cells = first[order]
        label_table[group_of, position] = object_array([distinct[k] for k in codes[source].ravel()[cells]])
        parent[group_of, position] = above.ravel()[cells]
        out.append(NestedLevel(name, unit, label_table, parent))
        above = unit
    return tuple(out)


def unit_positions(
    levels: Sequence[NestedLevel],
    columns: Sequence[Sequence[Any]],
    codes: np.ndarray,
    table: str,
    groups: Sequence[Any],
) -> list[np.ndarray]:
    """The units (rows,), one array for each level, that the rows of a further table belong to.

    **Arguments:** `columns`: labels by row, one column for each of `levels`; `codes` (rows,): group of each row;
    `table`: its name, and `groups`: labels of the groups, for messages.
    **Raises:** DataError for a unit that the data do not have.
    """
    out, above = [], np.zeros(len(codes), np.intp)
    for level, labels in zip(levels, columns, strict=True):
        known = [
            {(int(parents[k]), row[k]): k for k in range(count)}
            for parents, row, count in zip(level.parent, level.labels, level.counts, strict=True)
        ]
        unit = np.zeros(len(codes), np.intp)
        for k, (code, outer, label) in enumerate(zip(codes, above, labels, strict=True)):
            position = known[code].get((int(outer), label))
            if position is None:
                here = [other for _, other in known[code]]
                raise DataError(
                    f"table {table!r}: {level.name} {label!r} of group {groups[code]!r} (row {k + 1}) is not in the "
                    f"data, where the group has {level.name} {name_groups(here).partition(' ')[2]}; add a row with an "
                    f"empty response for it to the data, or correct the label."
                )
            unit[k] = position
        out.append(unit)
        above = unit
    return out


def check_nesting(group: Any, names: Sequence[str], labels: Sequence[Any], columns: Sequence[Sequence[Any]]) -> None:
    """Check that each level can lie inside the one before it.

    **Arguments:** `group`: name of the outermost; `names`: of the nested ones; `labels`, `columns`: of the rows.
    **Raises:** DataError where the two are declared in the wrong order: every unit of the outer level lies in one unit
    of the inner one, which has several of them.
    """
    outer_name, outer = group, list(labels)
    for name, column in zip(names, columns, strict=True):
        inner_of: dict[Any, set] = {}
        outer_of: dict[Any, set] = {}
        for a, b in zip(outer, column, strict=True):
            inner_of.setdefault(a, set()).add(b)
            outer_of.setdefault(b, set()).add(a)
        single = all(len(inside) == 1 for inside in inner_of.values())
        if single and all(len(around) > 1 for around in outer_of.values()) and len(inner_of) > len(outer_of) > 1:
            raise DataError(
                f"level {name!r} is declared inside {outer_name!r}, but every {outer_name} lies in one {name}, and "
                f"every {name} has several: list the outer level first, group=[{name!r}, {outer_name!r}], or give "
                f"{name!r} as a column of v if it is a property of the groups."
            )
        outer_name, outer = name, list(zip(outer, column, strict=True))


def nesting_notes(group: str, labels: np.ndarray, levels: Sequence[NestedLevel]) -> list[str]:
    """Sentences on nested levels that may be mistakes: one unit in every group, and labels that occur in several
    groups and are no running numbers.

    **Arguments:** `group`: name of the outermost level; `labels` (groups,); `levels`.
    """
    notes, outer_name, outer_counts = [], group, np.ones(len(labels), int)
    for level in levels:
        if (level.counts == outer_counts).all():
            notes.append(
                f"every {outer_name} has one {level.name}: a random effect by {level.name} beside the same one by "
                f"{outer_name} cannot be distinguished from it, and is left out of a model."
            )
        where: dict[Any, int] = {}
        for row in level.labels:
            for label in {label for label in row if label is not None}:
                where[label] = where.get(label, 0) + 1
        shared = [label for label, count in where.items() if count > 1]
        if shared and not _running_numbers(where):
            notes.append(
                f"labels of {level.name} ({name_groups(shared).partition(' ')[2]}) occur in several {group}s and "
                f"count as different units in each: {level.name} is nested in {group}. If they are the same units "
                "everywhere, the two are crossed: random effects of crossed factors are fitted in linear models only, "
                f"by jn.lme('y ~ x + (1 | {group}) + (1 | {level.name})', data=frame)."
            )
        outer_name, outer_counts = level.name, level.counts
    return notes


def _running_numbers(labels: Any) -> bool:
    """True if the labels are numbers, or text that ends in a digit, as numbers of occasions are."""
    return all(str(label)[-1:].isdigit() for label in labels)
