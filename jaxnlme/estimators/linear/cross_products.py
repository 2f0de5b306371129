"""Cross-products of a LinearProblem by unit, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxnlme.estimators.linear.elimination import CrossProducts
from jaxnlme.estimators.linear.problem import Level, LinearProblem
from jaxnlme.estimators.linear.settings import LINEAR


def cross_products(problem: LinearProblem) -> CrossProducts:
    """The CrossProducts of the transformed columns.

    Where the columns are well conditioned, those of the columns as they are, each pair once, then transformed; else of
    transformed rows.
    """
    places = unit_places(problem.levels)
    columns = _Columns([])
    if problem.well_conditioned:
        right, matrices = [problem.X, problem.y[:, None]], [level.matrix for level in problem.levels]
    else:
        Q = problem.X @ np.linalg.inv(problem.R)
        y = (problem.y - problem.X @ problem.ordinary) / problem.scale
        right = [Q, (y - Q @ (Q.T @ y))[:, None]]
        matrices = [level.matrix @ level.transform for level in problem.levels]
    of_right = [columns.number(part[:, k]) for part in right for k in range(part.shape[1])]
    last = _right_transform(problem)
    blocks, outer, transforms = [], [], []
    for level, matrix, (place, size, _) in zip(problem.levels, matrices, places, strict=True):
        own = [columns.number(matrix[:, k]) for k in range(level.size)]
        every = own + outer + of_right
        sums = columns.sums(own, every, level.starts)
        transforms.insert(0, level.transform)
        if problem.well_conditioned:
            sums = _transformed(sums, level.transform, [*transforms, last])
        block = np.zeros((level.size, len(every), size))
        block[:, :, place] = sums
        blocks.append(block)
        outer = own + outer
    stacked = np.column_stack(right)
    cross = stacked.T @ stacked
    if problem.well_conditioned:
        cross = last.T @ cross @ last
    parents = tuple(
        None if slots else level.parents for level, (_, _, slots) in zip(problem.levels, places, strict=True)
    )
    factors = tuple(level.factor for level in problem.levels)
    return CrossProducts(tuple(blocks), cross, parents, factors, tuple(slots for _, _, slots in places))


@dataclasses.dataclass(frozen=True, eq=False)
class _Columns:
    """Columns of rows, each stored once: those of Z are often those of X."""

    columns: list[np.ndarray]

    def number(self, column: np.ndarray) -> int:
        """The number of a column, which is added if it is not there."""
        for k, other in enumerate(self.columns):
            if column[0] == other[0] and column[-1] == other[-1] and np.array_equal(column, other):
                return k
        self.columns.append(np.ascontiguousarray(column))
        return len(self.columns) - 1

    def sums(self, own: Sequence[int], every: Sequence[int], starts: np.ndarray) -> np.ndarray:
        """Sums of products of columns over the rows of each unit, (own, every, units)."""
        of_pair: dict[tuple[int, int], np.ndarray] = {}
        out = np.empty((len(own), len(every), len(starts)))
        for i, first in enumerate(own):
            for j, second in enumerate(every):
                pair = (min(first, second), max(first, second))
                if pair not in of_pair:
                    of_pair[pair] = np.add.reduceat(self._product(*pair), starts)
                out[i, j] = of_pair[pair]
        return out

    def _product(self, first: int, second: int) -> np.ndarray:
        for a, b in ((first, second), (second, first)):
            if self.is_one(a):
                return self.columns[b]
        return self.columns[first] * self.columns[second]

    def is_one(self, number: int) -> bool:
        """True if the column is the intercept."""
        column = self.columns[number]
        return bool(column[0] == 1.0 and column[-1] == 1.0 and (column == 1.0).all())


def _right_transform(problem: LinearProblem) -> np.ndarray:
    """The matrix (fixed + 1, fixed + 1) that maps the columns [X y] to [Q, transformed y]."""
    p = problem.n_fixed
    out = np.zeros((p + 1, p + 1))
    out[:p, :p] = np.linalg.inv(problem.R)
    out[:p, p] = -problem.ordinary / problem.scale
    out[p, p] = 1.0 / problem.scale
    return out


def _transformed(sums: np.ndarray, left: np.ndarray, right: Sequence[np.ndarray]) -> np.ndarray:
    """`sums` (own, every, units) with its first axis mapped by `left` and its second by the block diagonal `right`."""
    sums = np.einsum("ia,iju->aju", left, sums, optimize=True)
    parts, first = [], 0
    for matrix in right:
        width = len(matrix)
        parts.append(np.einsum("jb,iju->ibu", matrix, sums[:, first : first + width], optimize=True))
        first += width
    return np.concatenate(parts, axis=1)


def unit_places(levels: Sequence[Level]) -> list[tuple[np.ndarray, int, int]]:
    """For each level the place of each unit in arrays over units, the length of these, and the number of slots of a
    parent (zero: units in their order)."""
    out: list[tuple[np.ndarray, int, int]] = []
    for k, level in enumerate(levels):
        count = len(level.starts)
        if k == 0:
            out.append((np.arange(count), count, 1))
            continue
        outer_places, outer_size, _ = out[-1]
        parents = outer_places[level.parents]
        first = np.flatnonzero(np.diff(level.parents, prepend=-1))
        sizes = np.diff(np.append(first, count))
        slot = np.arange(count) - np.repeat(first, sizes)
        slots = int(sizes.max())
        if slots * outer_size <= LINEAR.most_padding * count:
            out.append((parents + slot * outer_size, slots * outer_size, slots))
        else:
            out.append((np.arange(count), count, 0))
    return out
