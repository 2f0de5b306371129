"""Simulated replicates as matrices by bin, some replicates at a time."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from jaxnlme.diagnostics.vpc.settings import VPC

# A slice of replicates, the number of a cell (a bin of a stratum), the values (replicates, rows), and which simulated
# rows they are: (rows,), or (replicates, rows) with -1 where the value is NaN because there is no row.
CellValues = tuple[slice, int, np.ndarray, np.ndarray]


class AbstractReplicates(abc.ABC):
    """Simulated responses of several replicates."""

    size: int

    @abc.abstractmethod
    def by_cell(self, code: np.ndarray, cells: int) -> Iterator[CellValues]:
        """The values of each cell.

        **Arguments:** `code`: the cell of each simulated row, -1 for none; `cells`: their number.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class SameRows(AbstractReplicates):
    """Replicates of the observed rows.

    **Fields:** `size`: number of replicates; `rows`: number of rows; `draw(start, stop)`: the values (stop - start,
    rows) of these replicates.
    """

    size: int
    rows: int
    draw: Callable[[int, int], np.ndarray]

    @classmethod
    def of_matrix(cls, values: np.ndarray) -> SameRows:
        """The replicates of a matrix (replicates, rows)."""
        return cls(values.shape[0], values.shape[1], lambda start, stop: values[start:stop])

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All values, some replicates (k, rows) at a time."""
        step = max(VPC.cells_per_block // max(self.rows, 1), 1)
        for start in range(0, self.size, step):
            part = slice(start, min(start + step, self.size))
            yield part, self.draw(part.start, part.stop)

    def columns(self, rows: slice) -> np.ndarray:
        """The values (replicates, ...) of some rows in all replicates."""
        return np.concatenate([block[:, rows] for _, block in self.blocks()])

    def by_cell(self, code: np.ndarray, cells: int) -> Iterator[CellValues]:
        positions = [np.flatnonzero(code == cell) for cell in range(cells)]
        for part, block in self.blocks():
            for cell, at in enumerate(positions):
                yield part, cell, block[:, at], at

    def deviations(self, correct: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The standard deviation (rows,) over the replicates of values changed by `correct`."""
        first, total, squares = None, np.zeros(self.rows), np.zeros(self.rows)
        for _, block in self.blocks():
            values = correct(block)
            first = values[0] if first is None else first  # differences from one of the values do not cancel
            total += (values - first).sum(axis=0)
            squares += ((values - first) ** 2).sum(axis=0)
        return np.sqrt(np.maximum(squares - total**2 / self.size, 0.0) / max(self.size - 1, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class OtherRows(AbstractReplicates):
    """Replicates with rows of their own.

    **Fields:** `size`: number of replicates; `values` (rows,); `replicate` (rows,): the number of each row's replicate
    from 0 on.
    """

    size: int
    values: np.ndarray
    replicate: np.ndarray

    def by_cell(self, code: np.ndarray, cells: int) -> Iterator[CellValues]:
        for cell in range(cells):
            rows = np.flatnonzero(code == cell)
            rows = rows[np.argsort(self.replicate[rows], kind="stable")]
            replicate = self.replicate[rows]
            counts = np.bincount(replicate, minlength=self.size)
            at = np.full((self.size, int(counts.max(initial=0))), -1)
            at[replicate, np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)] = rows
            values = np.where(at >= 0, self.values[at], np.nan) if rows.size else np.empty(at.shape)
            yield slice(0, self.size), cell, values, at
