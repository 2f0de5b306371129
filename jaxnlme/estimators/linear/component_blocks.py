"""Symmetric matrices that are block diagonal by connected components of the design, stored as one array.

The columns are random effects of several crossed factors. Two columns are connected where rows, or units of the factor
that was eliminated, have both; the components are often one (all students and lecturers of a university), and many
where factors are crossed within the units of an outer one. Blocks of one size follow each other, so that many small
ones are factored by one call, and a large one in place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from jaxnlme.estimators.linear.inverse_root import inverse_in_place, inverse_root_in_place
from jaxnlme.estimators.linear.settings import LINEAR

# Coefficients of a block diagonal matrix with small blocks by distance d from the diagonal: entry j is that of row
# j + d in column j, zero outside the blocks.
Bands = Mapping[int, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Places of columns, which are in the order of their components, those in the order of their sizes.

    **Fields:** `local`, `size`, `offset` (columns,): a column's number in its component, the columns of that, and where
    its block begins; `groups`: (first column, number of blocks, size) of the components of one size.
    """

    local: np.ndarray
    size: np.ndarray
    offset: np.ndarray
    groups: tuple[tuple[int, int, int], ...]

    @property
    def n_columns(self) -> int:
        """The number of columns."""
        return len(self.local)

    @property
    def n_entries(self) -> int:
        """The number of stored entries."""
        return sum(count * size * size for _, count, size in self.groups)

    @property
    def whole(self) -> bool:
        """True if all columns are one component."""
        return len(self.groups) == 1 and self.groups[0][1] == 1

    def place(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Places of entries whose row and column are in one component."""
        return self.offset[rows] + self.local[rows] * self.size[rows] + self.local[columns]

    def blocks(self, flat: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """For each group its columns, and a view of its blocks (blocks, size, size)."""
        start = 0
        for first, count, size in self.groups:
            stop = start + count * size * size
            yield slice(first, first + count * size), flat[start:stop].reshape(count, size, size)
            start = stop


def layout(sizes: np.ndarray) -> Layout:
    """The Layout of components with `sizes` (components,), which do not decrease."""
    starts = np.cumsum(sizes) - sizes
    squares = sizes * sizes
    distinct, first, counts = np.unique(sizes, return_index=True, return_counts=True)
    groups = tuple((int(starts[k]), int(n), int(size)) for size, k, n in zip(distinct, first, counts, strict=True))
    local = np.arange(int(sizes.sum())) - np.repeat(starts, sizes)
    return Layout(local, np.repeat(sizes, sizes), np.repeat(np.cumsum(squares) - squares, sizes), groups)


def inverse_roots(where: Layout, flat: np.ndarray) -> float:
    """Replace positive definite blocks by the inverses of their lower Cholesky factors C; the log-determinant.

    **Raises:** numpy.linalg.LinAlgError where a block is not positive definite.
    """
    total = 0.0
    for _, blocks in where.blocks(flat):
        if _small(blocks):
            roots = np.linalg.cholesky(blocks)
            total += 2.0 * float(np.sum(np.log(np.diagonal(roots, axis1=1, axis2=2))))
            blocks[:] = np.tril(np.linalg.inv(roots))
        else:
            total += sum(inverse_root_in_place(block) for block in blocks)
    return total


def inverses(where: Layout, roots: np.ndarray) -> None:
    """Replace the C^-1 of `inverse_roots` by the inverses of C C'."""
    for _, blocks in where.blocks(roots):
        if _small(blocks):
            blocks[:] = np.swapaxes(blocks, 1, 2) @ blocks
        else:
            for block in blocks:
                inverse_in_place(block)


def times_columns(where: Layout, flat: np.ndarray, bands: Bands) -> np.ndarray:
    """M B, with M stored in `flat` and B by its `bands`."""
    return _banded(where, flat, bands, lambda band: band[:, None, :], 2)


def times_rows(where: Layout, bands: Bands, flat: np.ndarray) -> np.ndarray:
    """B' M, with M stored in `flat` and B by its `bands`."""
    return _banded(where, flat, bands, lambda band: band[:, :, None], 1)


def add_identity(where: Layout, flat: np.ndarray) -> None:
    """Add one to the diagonals."""
    every = np.arange(where.n_columns)
    flat[where.place(every, every)] += 1.0


def multiply(where: Layout, flat: np.ndarray, right: np.ndarray, transposed: bool = False) -> np.ndarray:
    """M `right` (columns, k), or M' `right` if `transposed`."""
    out = np.empty_like(right)
    for columns, blocks in where.blocks(flat):
        part = right[columns].reshape(len(blocks), -1, right.shape[1])
        matrices = np.swapaxes(blocks, 1, 2) if transposed else blocks
        out[columns] = np.reshape(matrices @ part, (-1, right.shape[1]))
    return out


def row_products(where: Layout, first: np.ndarray, second: np.ndarray, d: int) -> np.ndarray:
    """Scalar products (columns,) of row j + d of `first` with row j of `second`, zero where the component has none."""
    out = np.zeros(where.n_columns)
    for (columns, a), (_, b) in zip(where.blocks(first), where.blocks(second), strict=True):
        theirs, ours = _shifted(a.shape[1], d)
        values = np.zeros(a.shape[:2])
        values[:, ours] = np.einsum("gjk,gjk->gj", a[:, theirs], b[:, ours])
        out[columns] = values.ravel()
    return out


def _banded(where: Layout, flat: np.ndarray, bands: Bands, spread: Callable, axis: int) -> np.ndarray:
    out = np.empty_like(flat)
    for (columns, source), (_, target) in zip(where.blocks(flat), where.blocks(out), strict=True):
        np.multiply(source, spread(bands[0][columns].reshape(source.shape[:2])), out=target)
        for d, band in bands.items():
            if d and abs(d) < source.shape[1]:
                theirs, ours = _shifted(source.shape[1], d)
                weights = spread(band[columns].reshape(source.shape[:2])[:, ours])
                if axis == 2:
                    target[:, :, ours] += source[:, :, theirs] * weights
                else:
                    target[:, ours] += source[:, theirs] * weights
    return out


def _shifted(size: int, d: int) -> tuple[slice, slice]:
    """The entries j + d and j that both lie within `size`."""
    return slice(max(d, 0), max(size + min(d, 0), 0)), slice(max(-d, 0), max(size - max(d, 0), 0))


def _small(blocks: np.ndarray) -> bool:
    """True where numpy's calls for many matrices are faster than one call each."""
    return blocks.shape[1] <= LINEAR.small_block
