"""Cross-products of a LinearProblem by unit: the columns that are needed, and their sums of products on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnlme.estimators.linear.elimination import CrossProducts
from jaxnlme.estimators.linear.problem import Level, LinearProblem, scalar_product
from jaxnlme.estimators.linear.settings import LINEAR
from jaxnlme.numerics.arrays import xp


@dataclasses.dataclass(frozen=True, eq=False)
class ColumnPlan:
    """The columns of [Z, X, y] that cross-products are formed of, each distinct one once.

    Where the columns are well conditioned they are those of the data, and their cross-products are transformed;
    otherwise the rows are transformed first.

    **Fields:** `columns`: (rows,) each; `own`: for each level the numbers of its columns of Z; `every`: for each level
    those of [Z of this level, Z of the next outer one, ..., X, y]; `right`: those of [X, y]; `transforms`: for each
    level T, and last the matrix (fixed + 1, fixed + 1) that maps [X y] to [Q, transformed y]; None where the rows are
    transformed.
    """

    columns: list[np.ndarray]
    own: tuple[tuple[int, ...], ...]
    every: tuple[tuple[int, ...], ...]
    right: tuple[int, ...]
    transforms: tuple[np.ndarray, ...] | None


def column_plan(problem: LinearProblem) -> ColumnPlan:
    """The ColumnPlan of a problem."""
    if problem.well_conditioned:
        X, y, matrices = problem.X, problem.y, [level.matrix for level in problem.levels]
        transforms = (*(level.transform for level in problem.levels), _right_transform(problem))
    else:
        X = problem.X @ np.linalg.inv(problem.R)
        y = (problem.y - problem.X @ problem.ordinary) / problem.scale
        y = y - X @ (X.T @ y)
        matrices, transforms = [level.matrix @ level.transform for level in problem.levels], None
    columns: list[np.ndarray] = []
    right = tuple(_number(columns, column) for column in (*X.T, y))
    own = tuple(tuple(_number(columns, column) for column in matrix.T) for matrix in matrices)
    every, outer = [], right
    for numbers in own:
        outer = (*numbers, *outer)
        every.append(outer)
    return ColumnPlan(columns, own, tuple(every), right, transforms)


def _number(columns: list[np.ndarray], column: np.ndarray) -> int:
    """The number of a column among `columns`, which it is added to if it is not there."""
    for k, other in enumerate(columns):
        if column[0] == other[0] and column[-1] == other[-1] and np.array_equal(column, other):
            return k
    columns.append(np.ascontiguousarray(column))
    return len(columns) - 1


def cross_products(problem: LinearProblem) -> CrossProducts:
    """The CrossProducts of the transformed columns: each pair of distinct columns is summed once."""
    plan, places = column_plan(problem), unit_places(problem.levels)
    sums, totals = [], {}
    for own, every, level, units in zip(plan.own, plan.every, problem.levels, places, strict=True):
        of_pair: dict[tuple[int, int], np.ndarray] = {}
        block = np.zeros((len(own), len(every), units.size))
        for i, first in enumerate(own):
            for j, second in enumerate(every):
                pair = (min(first, second), max(first, second))
                if pair not in of_pair:
                    of_pair[pair] = np.add.reduceat(_product(plan.columns, *pair), level.starts)
                    totals[pair] = of_pair[pair].sum()
                block[i, j, units.place] = of_pair[pair]
        sums.append(block)
    cross = np.empty((len(plan.right),) * 2)
    for i, first in enumerate(plan.right):
        for j, second in enumerate(plan.right[: i + 1]):
            pair = (min(first, second), max(first, second))
            if pair not in totals:
                totals[pair] = scalar_product(plan.columns[first], plan.columns[second])
            cross[i, j] = cross[j, i] = totals[pair]
    return transformed(sums, cross, plan.transforms, frame(problem, places))


def frame(problem: LinearProblem, places: Sequence[UnitPlaces]) -> CrossProducts:
    """CrossProducts without numbers: factors and places of units."""
    parents = tuple(None if units.slots else units.parents for units in places)
    factors = tuple(level.factor for level in problem.levels)
    sizes = tuple(units.size for units in places)
    return CrossProducts((), None, parents, factors, tuple(units.slots for units in places), sizes)


def transformed(
    sums: Sequence[Any], cross: Any, transforms: Sequence[Any] | None, empty: CrossProducts
) -> CrossProducts:
    """The CrossProducts of transformed columns from `sums` (effects, columns, units) by level and `cross` of the
    columns as they are; `transforms` as in ColumnPlan; `empty`: CrossProducts without numbers."""
    changed: Any = empty
    if transforms is None:
        return dataclasses.replace(changed, blocks=tuple(sums), cross=cross)
    module, last = xp(cross), transforms[-1]
    blocks = []
    for k, block in enumerate(sums):
        block = module.einsum("ia,iju->aju", transforms[k], block)
        parts, first = [], 0
        for matrix in (*transforms[k::-1], last) if k else (transforms[0], last):
            width = len(matrix)
            parts.append(module.einsum("jb,iju->ibu", matrix, block[:, first : first + width]))
            first += width
        blocks.append(module.concatenate(parts, axis=1))
    return dataclasses.replace(changed, blocks=tuple(blocks), cross=last.T @ cross @ last)


def _product(columns: Sequence[np.ndarray], first: int, second: int) -> np.ndarray:
    """The product of two columns, without arithmetic where one is the intercept."""
    for a, b in ((first, second), (second, first)):
        column = columns[a]
        if column[0] == 1.0 and column[-1] == 1.0 and (column == 1.0).all():
            return columns[b]
    return columns[first] * columns[second]


def _right_transform(problem: LinearProblem) -> np.ndarray:
    """The matrix (fixed + 1, fixed + 1) that maps the columns [X y] to [Q, transformed y]."""
    p = problem.n_fixed
    out = np.zeros((p + 1, p + 1))
    out[:p, :p] = np.linalg.inv(problem.R)
    out[:p, p] = -problem.ordinary / problem.scale
    out[p, p] = 1.0 / problem.scale
    return out


class UnitPlaces(NamedTuple):
    """Places of the units of a level in arrays over units: `place` (units,); `size` of the arrays; `slots` of a
    parent, zero where units stand in their order; `parents` (units,): the place of each unit's parent."""

    place: np.ndarray
    size: int
    slots: int
    parents: np.ndarray


def unit_places(levels: Sequence[Level]) -> list[UnitPlaces]:
    """The UnitPlaces of each level, outermost first."""
    out: list[UnitPlaces] = []
    for k, level in enumerate(levels):
        count = len(level.starts)
        if k == 0:
            out.append(UnitPlaces(np.arange(count), count, 1, np.zeros(count, int)))
            continue
        parents = out[-1].place[level.parents]
        first = np.flatnonzero(np.diff(level.parents, prepend=-1))
        sizes = np.diff(np.append(first, count))
        slot = np.arange(count) - np.repeat(first, sizes)
        slots = int(sizes.max())
        padded = slots * out[-1].size
        if padded <= LINEAR.most_padding * count:
            out.append(UnitPlaces(parents + slot * out[-1].size, padded, slots, parents))
        else:
            out.append(UnitPlaces(np.arange(count), count, 0, parents))
    return out
