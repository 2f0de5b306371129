"""Rows and groups as text for messages: rows are counted from 1, and at most five are listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from jaxnlme.errors import some

# The rows of the user's table, where a part of it is read as a table of its own.
_ORIGINAL: ContextVar[np.ndarray | None] = ContextVar("rows of the original table", default=None)


@contextmanager
def numbered(at: np.ndarray) -> Iterator[None]:
    """Within it, messages have the row numbers of the table that the rows were taken from, at the positions `at`."""
    token = _ORIGINAL.set(np.asarray(at))
    try:
        yield
    finally:
        _ORIGINAL.reset(token)


def name_rows(rows: Any) -> str:
    """Text for `rows`, a mask or 0-based positions: "row 5", "rows 1, 2, 3, 4, 5 and 12 more"."""
    rows = np.asarray(rows)
    if rows.dtype == bool:
        rows = np.flatnonzero(rows)
    original = _ORIGINAL.get()
    rows = rows if original is None else original[rows]
    return f"{'row' if rows.size == 1 else 'rows'} {some([str(r + 1) for r in rows])}"


def name_groups(labels: Any) -> str:
    """Text for group `labels`: "group 'a'", "groups 1, 2, 3, 4, 5 and 12 more"."""
    return f"{'group' if len(labels) == 1 else 'groups'} {some([repr(label) for label in labels])}"
