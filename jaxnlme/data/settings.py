"""Tuning constants of the layout of data; the values are choices of this package."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BucketSettings:
    """Division of groups into buckets of one padded size each (`_layout.py`). Every bucket is another copy of the
    compiled program."""

    most_cells: float = 2e6
    """Padded cells (groups times rows) up to which one bucket is used: computing fewer would not repay compiling."""
    padding_of_one: float = 3.0
    """Padded cells, in multiples of the real rows, up to which one bucket is used."""
    padding_accepted: float = 1.5
    """Padded cells, in multiples of the real rows, with which no further bucket is added."""
    counts: tuple[int, ...] = (2, 3, 4)
    """Numbers of buckets that are tried, in this order."""
    most_sizes: int = 500
    """Different sizes up to which the division is exact; more are first merged into so many. The work grows with the
    square of their number."""


BUCKETS = BucketSettings()
