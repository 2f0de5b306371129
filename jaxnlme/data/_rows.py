"""Rows and groups as text for messages: rows are counted from 1, and at most five are listed."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.errors import some


def name_rows(rows: Any) -> str:
    """Text for `rows`, a mask or 0-based positions: "row 5", "rows 1, 2, 3, 4, 5 and 12 more"."""
    rows = np.asarray(rows)
    if rows.dtype == bool:
        rows = np.flatnonzero(rows)
    return f"{'row' if rows.size == 1 else 'rows'} {some([str(r + 1) for r in rows])}"


def name_groups(labels: Any) -> str:
    """Text for group `labels`: "group 'a'", "groups 1, 2, 3, 4, 5 and 12 more"."""
    return f"{'group' if len(labels) == 1 else 'groups'} {some([repr(label) for label in labels])}"
