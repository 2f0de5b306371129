"""Rows and groups in words, for messages: counted from 1, five of them named."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.errors import some


def name_rows(rows: Any) -> str:
    """Rows given as a mask or as 0-based positions, in words: "row 5", "rows 1, 2, 3, 4, 5 and 12 more"."""
    rows = np.asarray(rows)
    if rows.dtype == bool:
        rows = np.flatnonzero(rows)
    return f"{'row' if rows.size == 1 else 'rows'} {some([str(r + 1) for r in rows])}"


def name_groups(labels: Any) -> str:
    """Group labels in words: "group 'a'", "groups 1, 2, 3, 4, 5 and 12 more"."""
    return f"{'group' if len(labels) == 1 else 'groups'} {some([repr(label) for label in labels])}"
