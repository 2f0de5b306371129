"""The layout of a long table in padded arrays, and the division of groups into buckets of similar size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnlme.data._columns import object_array
from jaxnlme.data.settings import BUCKETS
from jaxnlme.errors import DataError


@dataclass(frozen=True)
class TableLayout:
    """Positions of the rows of a table in padded arrays (groups, obs).

    **Fields:** `codes` (rows,): group number of each row; `labels` (groups,): in order of first appearance; `sizes`
    (groups,): rows of each group; `first` (groups,): first row of each group; `source` (groups, obs): the row of the
    table in each cell, the group's last row in padding; `rows` (groups, obs): true on real rows.
    """

    codes: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    first: np.ndarray
    source: np.ndarray
    rows: np.ndarray


def factorize(labels: Sequence[Any], name: str) -> tuple[np.ndarray, list[Any]]:
    """The group number (rows,) of each row, and the distinct labels in order of first appearance.

    **Arguments:** `labels`: hashable, one per row; `name`: of the column, for messages.
    **Raises:** DataError for labels that are not hashable.
    """
    try:
        distinct = list(dict.fromkeys(labels))
    except TypeError as error:
        raise DataError(
            f"group column {name!r} holds labels that cannot be compared ({error}); expected numbers, text or tuples."
        ) from None
    number = {label: k for k, label in enumerate(distinct)}
    return np.fromiter(map(number.__getitem__, labels), dtype=np.intp, count=len(labels)), distinct


def lay_out(codes: np.ndarray, labels: Sequence[Any]) -> TableLayout:
    """The padded layout of rows with group numbers `codes` (rows,); rows of a group keep their order.

    A group without rows (possible in further tables) is filled with row 0, and all its cells are masked."""
    groups = len(labels)
    sizes = np.bincount(codes, minlength=groups)
    order = np.argsort(codes, kind="stable")
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    slot = np.arange(max(int(sizes.max()), 1))
    cell = start[:, None] + np.minimum(slot, np.maximum(sizes - 1, 0)[:, None])
    source = np.where((sizes > 0)[:, None], order[np.minimum(cell, len(order) - 1)], 0)
    return TableLayout(codes, object_array(labels), sizes, source[:, 0], source, slot < sizes[:, None])


def next_size(n: int, bits: int) -> int:
    """The smallest whole number from `n` on with at most `bits` significant bits: for three 1 to 8, 10, 12, 14, 16, 20,
    ... The increase is a fraction of less than 1 / 2^(bits - 1)."""
    step = 1 << max(int(n).bit_length() - bits, 0)
    return -(-int(n) // step) * step


def pad_rows(values: np.ndarray, width: int, mask: bool = False) -> np.ndarray:
    """Values (groups, obs, ...) padded to at least `width` rows per group.

    **Arguments:** `values`; those of shape (groups,) are returned unchanged; `width`; `mask`: padding is false, else it
    repeats the last row.
    """
    if values.ndim < 2 or values.shape[1] >= width:
        return values
    end = np.zeros_like(values[:, -1:]) if mask else values[:, -1:]
    return np.concatenate([values, np.repeat(end, width - values.shape[1], axis=1)], axis=1)


def split_by_size(sizes: np.ndarray, count: int | None) -> list[np.ndarray]:
    """Index arrays that split groups into `count` buckets by size, with the fewest padded cells.

    **Arguments:** `sizes` (groups,): rows of each group; `count`: number of buckets. None chooses: one bucket, unless
    the cells exceed both 2e6 and three times the real rows; then the smallest number from two to four with which the
    cells are at most one and a half times the real rows (a heuristic: every bucket is another copy of the compiled
    program).
    """
    levels, number = np.unique(sizes, return_inverse=True)
    if count is not None:
        return _buckets(number, _cuts(levels, np.bincount(number), count)[0])
    real = int(sizes.sum())
    cells = int(sizes.size * levels[-1])
    cuts: list[int] = []
    if cells > BUCKETS.most_cells and cells > BUCKETS.padding_of_one * real:
        for buckets in BUCKETS.counts:
            cuts, cells = _cuts(levels, np.bincount(number), buckets)
            if cells <= BUCKETS.padding_accepted * real:
                break
    return _buckets(number, cuts)


def _buckets(number: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    """Positions of the groups in each bucket, from the index of each group's size among the sizes and the cuts."""
    bucket = np.searchsorted(np.asarray(cuts), number, side="right") if cuts else np.zeros_like(number)
    return [np.flatnonzero(bucket == k) for k in range(len(cuts) + 1)]


def _cuts(levels: np.ndarray, counts: np.ndarray, buckets: int) -> tuple[list[int], int]:
    """Positions in the sorted sizes `levels` where a new bucket starts, and the total number of cells.

    Dynamic programming: exact up to 500 different sizes; more are first merged into 500.

    **Arguments:** `levels`: the different sizes, sorted; `counts`: groups of each; `buckets`: their number.
    """
    if levels.size > BUCKETS.most_sizes:
        boundaries = np.unique(np.linspace(0, levels.size, BUCKETS.most_sizes + 1).astype(int))
        ends = boundaries[1:]
        merged = np.add.reduceat(counts, boundaries[:-1])
        cuts, cells = _cuts(levels[ends - 1], merged, buckets)
        return [int(boundaries[c]) for c in cuts], cells
    size = levels.size
    groups_before = np.concatenate([[0], np.cumsum(counts)])
    # cost[i, j]: cells of a bucket with the sizes i, ..., j - 1, padded to the largest of them
    top = np.concatenate([[0], levels])
    cost = np.where(
        np.arange(size + 1)[:, None] < np.arange(size + 1),
        (groups_before[None, :] - groups_before[:, None]) * top[None, :],
        np.inf,
    )
    best = cost[0]
    previous_cut: list[np.ndarray] = []
    for _ in range(min(buckets, size) - 1):
        total = best[:, None] + cost
        previous_cut.append(total.argmin(axis=0))
        best = total.min(axis=0)
    cuts, end = [], size
    for step in reversed(previous_cut):
        end = int(step[end])
        cuts.append(end)
    return cuts[::-1], int(best[size])
