"""Cross-products of a linear mixed model with crossed grouping factors.

The factor with most effects is eliminated first: Z_1'Z_1 is block diagonal by its units. The columns of the other
factors, `rest`, are ordered by connected component of the design; Z_1'Z_rest is stored by pairs of a unit and a column
that occur in one row, or as a dense array where most do.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from jaxnlme.errors import ModelError
from jaxnlme.estimators.linear.component_blocks import Layout, layout
from jaxnlme.estimators.linear.crossed_problem import transformed_right
from jaxnlme.estimators.linear.problem import Level, LinearProblem
from jaxnlme.estimators.linear.relative_factor import AbstractRelativeFactor
from jaxnlme.estimators.linear.settings import LINEAR


@dataclasses.dataclass(frozen=True, eq=False)
class Incidence:
    """Z_1'Z_rest by effect of the first factor: rows are its units, columns those of rest.

    **Fields:** `values` (effects, entries), or (effects, units, columns) where `dense`; `unit` (entries,): the row of
    each entry; `columns` (entries,) and `starts` (units + 1,): the pattern by rows, one for all effects, as scipy's
    CSR; `n_columns`.
    """

    values: np.ndarray
    unit: np.ndarray
    columns: np.ndarray
    starts: np.ndarray
    n_columns: int

    @property
    def dense(self) -> bool:
        """True where `values` is an array over all units and columns."""
        return self.values.ndim == 3

    def combined(self, weights: np.ndarray) -> np.ndarray:
        """Values of W = K Z_1'Z_rest, with `weights` K (units, effects, effects)."""
        if self.dense:
            return np.einsum("uij,juk->iuk", weights, self.values, optimize=True)
        if len(self.values) == 1:
            return self.values * weights[self.unit, 0, 0]
        return np.einsum("eij,je->ie", weights[self.unit], self.values)

    def gram(self, first: np.ndarray, second: np.ndarray) -> sp.csr_array | np.ndarray:
        """first' second (columns, columns) of the values of one effect each."""
        if self.dense:
            return first.T @ second
        order, columns, starts = self._turned
        turned = sp.csr_array((first[order], columns, starts), shape=(self.n_columns, len(self.starts) - 1))
        return turned @ self._matrix(second)

    @functools.cached_property
    def _turned(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The order of the entries by columns, and the pattern of the transposed matrix."""
        order = np.argsort(self.columns, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.columns, minlength=self.n_columns))])
        return order, self.unit[order].astype(self.columns.dtype), starts.astype(self.starts.dtype)

    def total_gram(self, values: np.ndarray) -> sp.csr_array | np.ndarray:
        """The sum over effects of the products W'W."""
        if self.dense:
            stacked = values.reshape(-1, self.n_columns)
            return stacked.T @ stacked
        total = self.gram(values[0], values[0])
        for row in values[1:]:
            total = total + self.gram(row, row)
        return total

    def transposed_times(self, values: np.ndarray, right: np.ndarray) -> np.ndarray:
        """W' `right` (units, effects, k), summed over effects: (columns, k)."""
        if self.dense:
            return sum(row.T @ right[:, i] for i, row in enumerate(values))  # pyright: ignore[reportReturnType]
        return sum(self._matrix(row).T @ right[:, i] for i, row in enumerate(values))  # pyright: ignore[reportReturnType]

    def times(self, right: np.ndarray) -> np.ndarray:
        """Z_1'Z_rest `right` (columns, k): (units, effects, k)."""
        rows = self.values if self.dense else [self._matrix(row) for row in self.values]
        return np.stack([row @ right for row in rows], axis=1)

    def _matrix(self, values: np.ndarray) -> sp.csr_array:
        return sp.csr_array((values, self.columns, self.starts), shape=(len(self.starts) - 1, self.n_columns))


@dataclasses.dataclass(frozen=True, eq=False)
class CrossedProducts:
    """Cross-products of the transformed columns, f = fixed + 1 of them [Q y].

    **Fields:** `factors` of all grouping factors, in the order of theta; `first`: the number of the factor that is
    eliminated first, with `gram` (units, effects, effects), `right` (units, effects, f) and `incidence`; `where`: the
    Layout of the other columns; `columns`: for each factor (units, effects), where its columns are among these, None
    for the first; `rest`: places and values of the entries of Z_rest'Z_rest; `rest_right` (columns, f); `cross` (f, f).
    """

    factors: tuple[AbstractRelativeFactor, ...]
    first: int
    gram: np.ndarray
    right: np.ndarray
    incidence: Incidence
    where: Layout
    columns: tuple[np.ndarray | None, ...]
    rest: tuple[np.ndarray, np.ndarray]
    rest_right: np.ndarray
    cross: np.ndarray

    @property
    def work(self) -> int:
        """The number of entries that one evaluation reads."""
        return self.gram.size + self.right.size + self.incidence.values.size + self.where.n_entries


def crossed_products(problem: LinearProblem) -> CrossedProducts:
    """The CrossedProducts of a problem.

    **Raises:** ModelError where the matrix of the factors that are not eliminated first would be too large.
    """
    levels = problem.levels
    effects = [level.design.n_units * level.size for level in levels]
    first = int(np.argmax(effects))
    where, columns = _arranged(levels, first)
    matrices = [level.matrix @ level.transform for level in levels]
    right = transformed_right(problem)
    codes = levels[first].design.codes
    own = _rows(codes, matrices[first], np.arange(effects[first]).reshape(-1, levels[first].size), effects[first])
    units, size = levels[first].design.n_units, levels[first].size
    others = [
        _rows(level.design.codes, matrices[k], place, where.n_columns)
        for k, (level, place) in enumerate(zip(levels, columns, strict=True))
        if place is not None
    ]
    rest = others[0]
    for other in others[1:]:
        rest = rest + other
    product = sp.coo_array(rest.T @ rest)
    gram = np.empty((units, size, size))
    for i in range(size):
        for j in range(size):
            gram[:, i, j] = np.bincount(codes, matrices[first][:, i] * matrices[first][:, j], units)
    return CrossedProducts(
        tuple(level.factor for level in levels),
        first,
        gram,
        (own.T @ right).reshape(units, size, right.shape[1]),
        _incidence(codes, matrices[first], rest, units, where),
        where,
        columns,
        (where.place(product.row, product.col), product.data),
        rest.T @ right,
        right.T @ right,
    )


def _rows(codes: np.ndarray, matrix: np.ndarray, columns: np.ndarray, width: int) -> sp.csr_array:
    """Z (rows, width) of a factor whose unit u has its effects in the columns `columns[u]`."""
    starts = np.arange(0, matrix.size + 1, matrix.shape[1])
    return sp.csr_array((matrix.ravel(), columns[codes].ravel(), starts), shape=(len(matrix), width))


def _incidence(codes: np.ndarray, matrix: np.ndarray, rest: sp.csr_array, units: int, where: Layout) -> Incidence:
    """The Incidence of the first factor's units with the columns of Z_rest (rows, columns)."""
    rows = np.arange(len(codes) + 1)
    pattern = sp.csr_array(
        sp.csr_array((np.ones(len(codes)), codes, rows), shape=(len(codes), units)).T
        @ sp.csr_array((np.ones(rest.nnz), rest.indices, rest.indptr), shape=rest.shape)
    )
    pattern.sort_indices()
    starts, columns = pattern.indptr, pattern.indices
    lengths = np.diff(starts).astype(float)
    unit = np.repeat(np.arange(units), np.diff(starts))
    products = [
        sp.csr_array(sp.csr_array((column, codes, rows), shape=(len(codes), units)).T @ rest) for column in matrix.T
    ]
    if where.whole and LINEAR.sparse_cost * float(lengths @ lengths) > units * float(where.n_columns) ** 2:
        values = np.stack([product.toarray() for product in products])
    else:
        # A sum that is zero by cancellation may be missing in a product, but is in the pattern.
        keys = unit * where.n_columns + columns
        values = np.zeros((len(products), len(keys)))
        for row, product in zip(values, products, strict=True):
            of_entry = np.repeat(np.arange(units), np.diff(product.indptr)) * where.n_columns + product.indices
            row[np.searchsorted(keys, of_entry)] = product.data
    return Incidence(values, unit, columns, starts, where.n_columns)


def _arranged(levels: Sequence[Level], first: int) -> tuple[Layout, tuple[np.ndarray | None, ...]]:
    """The Layout of the columns of all factors but the first, and the columns of each factor's units.

    **Raises:** ModelError where the blocks are too large.
    """
    counts = np.array([level.design.n_units for level in levels])
    node = np.cumsum(counts) - counts
    codes = [level.design.codes + start for level, start in zip(levels, node, strict=True)]
    pairs = [(codes[first], codes[k]) for k in range(len(levels)) if k != first]
    ends = np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])
    graph = sp.coo_array((np.ones(len(ends[0]), bool), ends), shape=(int(counts.sum()),) * 2)
    n_components, component = connected_components(graph, directed=False)
    of_unit = [component[start : start + count] for start, count in zip(node, counts, strict=True)]
    others = [k for k in range(len(levels)) if k != first]
    owner = np.concatenate([np.repeat(of_unit[k], levels[k].size) for k in others])
    sizes = np.bincount(owner, minlength=n_components)
    entries = float(np.sum(sizes.astype(float) ** 2))
    if entries > float(LINEAR.most_crossed_effects) ** 2:
        raise ModelError(_too_large(levels, first, int(sizes.max()), entries))
    order = np.lexsort((np.arange(len(owner)), owner, sizes[owner]))
    position = np.empty(len(owner), int)
    position[order] = np.arange(len(owner))
    columns: list[np.ndarray | None] = [None] * len(levels)
    start = 0
    for k in others:
        width = int(counts[k]) * levels[k].size
        columns[k] = position[start : start + width].reshape(-1, levels[k].size)
        start += width
    return layout(np.sort(sizes[sizes > 0])), tuple(columns)


def _too_large(levels: Sequence[Level], first: int, largest: int, entries: float) -> str:
    """The sentence on a matrix that is too large."""
    parts = [f"{lv.design.label!r} ({lv.design.n_units:,} units x {lv.size})" for lv in levels]
    others = " and ".join(part for k, part in enumerate(parts) if k != first)
    gib = LINEAR.crossed_copies * 8.0 / 2.0**30
    most = LINEAR.most_crossed_effects
    return (
        f"the crossed grouping factors are too large: the effects of {parts[first]} are eliminated one unit at a time, "
        f"and those of {others} remain in dense symmetric matrices, the largest of {largest:,} x {largest:,}, which "
        f"need about {gib * entries:.1f} GiB of memory; the limit is {most:,} effects ({gib * most**2:.1f} GiB). Leave "
        "out a factor or its slopes, take a factor of few units as a fixed effect, or fit parts of the table that "
        "share no units."
    )
