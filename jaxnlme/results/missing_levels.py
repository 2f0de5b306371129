"""Tables to predict that lack the columns of grouping levels whose random effects are not used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import DataError, some


def with_levels(fitted: GroupedData, frame: Any, v: Sequence[str], depth: int) -> Any:
    """The table with a column for every grouping level.

    Without a column of groups, rows with equal values of the columns of v are one group; without that of a nested
    level, the rows of the unit around it are one unit.

    **Arguments:** `fitted`: the data of the fit; `frame`: a table whose columns are read by name; `v`: names of the
    group-level columns; `depth`: the number of levels, from the outermost on, whose random effects are used.
    **Returns:** `frame` itself where it has all columns, otherwise a dictionary of columns.
    **Raises:** DataError for a nested level without a column where a group has to be found from its responses.
    """
    names = fitted.level_names
    missing = [name for name in names[depth:] if name not in frame]
    columns = {name: frame[name] for name in (frame.columns if hasattr(frame, "columns") else frame)}
    if not missing or not columns or not all(name in columns for name in names[:depth]):
        return frame
    rows, added = len(next(iter(columns.values()))), {}
    if depth:
        known = set(fitted.labels.tolist())
        labels = columns[names[0]]
        labels = labels.tolist() if hasattr(labels, "tolist") else list(labels)
        new = list(dict.fromkeys(label for label in labels if label not in known))
        if new and fitted.y_name in columns:
            raise DataError(
                f"the table has no column {missing[0]!r}, which is needed to find the random effects of "
                f"{names[0]} {some([repr(label) for label in new])} from its responses: the fit does not have it. Add "
                "the column, leave the responses out, or use level='population'."
            )
    for name in missing:
        if name == names[0]:
            of_rows = [np.unique(np.asarray(columns[c]).astype(str), return_inverse=True)[1].ravel() for c in v]
            keys = np.stack(of_rows, axis=1) if of_rows else np.zeros((rows, 1), int)
            added[name] = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
        else:
            # A label that the fit has, for strata and series that go by it.
            level = next(level for level in fitted.nested if level.name == name)
            added[name] = [level.labels[0, 0]] * rows
    return frame.assign(**added) if hasattr(frame, "assign") else columns | added  # with the index of the table
