"""Covariates of records: constant or varying within a subject, and the values of records without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnlme.data._columns import Column
from jaxnlme.data._rows import name_groups
from jaxnlme.errors import some


@dataclass(frozen=True, eq=False)
class Covariate:
    """A covariate of records.

    **Fields:** `values` (rows,): numbers, or text as objects; missing ones are filled in but for subjects without any;
    `levels`: the order of categories, None without; `varies`: not constant within every subject; `before`, `after`:
    numbers of missing values taken from the record before and after; `absent`: subjects (positions) without a value.
    """

    values: np.ndarray
    levels: tuple[Any, ...] | None
    varies: bool
    before: int
    after: int
    absent: np.ndarray

    def note(self, name: Any) -> str | None:
        """A sentence on the missing values that were filled in, None where none was."""
        parts = [
            f"{count} from the record {where}"
            for count, where in ((self.before, "before"), (self.after, "after"))
            if count
        ]
        return (
            f"missing values of {name!r} were taken from the subject's other records: {', '.join(parts)}."
            if parts
            else None
        )


def fill(column: Column, group: np.ndarray, carry: str) -> Covariate:
    """The covariate of a column of cells.

    A missing value is that of the subject's next record with carry "nocb" and of the record before with "locf"; where
    there is none, that of the other neighbour.

    **Arguments:** `column`; `group` (rows,): number of the subject; `carry`.
    """
    values = column.values
    text = values.dtype == object
    missing = np.fromiter((v is None for v in values), bool, len(values)) if text else np.isnan(values)
    n_groups = int(group.max()) + 1
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=n_groups)
    before = after = 0
    absent = np.array([], int)
    if missing.any():
        g, valid = group[order], ~missing[order]
        position = np.arange(len(order))
        last = np.maximum.accumulate(np.where(valid, position, -1))
        following = np.minimum.accumulate(np.where(valid, position, len(order))[::-1])[::-1]
        start = (np.cumsum(sizes) - sizes)[g]
        has_last, has_following = last >= start, following < start + sizes[g]
        forward = has_last if carry == "locf" else has_last & ~has_following
        source = np.where(valid, position, np.where(forward, last, np.where(has_following, following, position)))
        before = int((~valid & forward).sum())
        after = int((~valid & ~forward & has_following).sum())
        absent = np.unique(g[~valid & ~has_last & ~has_following])
        filled = values.copy()
        filled[order] = values[order][source]
        values = filled
    first = order[(np.cumsum(sizes) - sizes)][group]
    differs = values != values[first]
    if not text:
        differs &= ~np.isnan(values)
    return Covariate(values, column.levels, bool(differs.any()), before, after, absent)


def without_value(name: Any, covariate: Covariate, labels: list[Any], id_name: Any) -> str:
    """The beginning of a sentence on subjects without any value of a covariate."""
    groups = name_groups([labels[k] for k in covariate.absent]).partition(" ")[2]
    return f"covariate {name!r} has no value in any record of {id_name} {groups}"


def listed(names: list[Any]) -> str:
    """Names of columns for a sentence."""
    return some([repr(name) for name in names])
