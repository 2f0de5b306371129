"""The whitened effects of one group with nested levels, as a vector and by unit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.levels import Levels, Units
from jaxnlme.numerics.block_arrow import Nesting, dense
from jaxnlme.numerics.written_out import Entries
from jaxnlme.typing import Matrix, Vector


class UnitLayout:
    """The whitened effects of one group, as a vector and by unit.

    **Fields:** `nesting`: the units of the group by level with random effects, after a root with the effects of the
    group (possibly none); `index` (obs,): the innermost unit of each row; `first_row` (units,): a row of each.
    """

    def __init__(self, levels: Levels, units: tuple[Units, ...]):
        self.levels = levels
        inner = [level for level in levels.levels if level.depth]
        self.has_root = levels.levels[0].depth == 0
        sizes = (len(levels.levels[0].effects) if self.has_root else 0, *(len(level.effects) for level in inner))
        parents = []
        for k, level in enumerate(inner):
            around = inner[k - 1].depth if k else 0
            unit = jnp.arange(units[level.depth - 1].parent.shape[0])
            for depth in range(level.depth, around, -1):
                unit = units[depth - 1].parent[unit]
            parents.append(unit)
        self.nesting = Nesting(sizes, tuple(parents))
        innermost = units[levels.innermost.depth - 1]
        self.index, self.first_row = innermost.index, innermost.first_row

    @property
    def units(self) -> int:
        """Number of innermost units."""
        return self.nesting.units[-1]

    def parts(self, z: Vector) -> list[Any]:
        """`z` (random,) by level (units, effects), without the units that no group here has."""
        parts = self.levels.split(z)
        parts = parts if self.has_root else [jnp.zeros((1, 0), z.dtype), *parts]
        return [part[:count] for part, count in zip(parts, self.nesting.units, strict=True)]

    def vector(self, parts: list[Any]) -> Vector:
        """The vector (random,) of parts by level, zero for the units that no group here has."""
        parts = parts if self.has_root else parts[1:]
        padded = [
            jnp.pad(part, ((0, level.units - part.shape[0]), (0, 0)))
            for part, level in zip(parts, self.levels.levels, strict=True)
        ]
        return self.levels.join(padded)

    def sum_rows(self, rows: list[Any]) -> list[Any]:
        """Sums over the rows of each unit (units,), one for each of `rows`, (obs,) arrays."""
        sums = jax.ops.segment_sum(jnp.stack(rows, axis=1), self.index, self.units)
        return [sums[:, k] for k in range(len(rows))]

    def dense(self, blocks: Any) -> Matrix:
        """The matrix (random, random) with these `blocks` (units, local, local), as in `block_arrow.dense`; the
        identity for units that no group here has."""
        matrix, at = dense(self.nesting, blocks), self.positions
        return jnp.eye(self.levels.size, dtype=matrix.dtype).at[at[:, None], at[None, :]].set(matrix)

    @property
    def positions(self) -> np.ndarray:
        """Positions in the vector (random,) of the effects that groups here have, ordered by level and unit."""
        skip = 0 if self.has_root else 1
        places, start = [], 0
        for level, size, count in zip(
            self.levels.levels, self.nesting.sizes[skip:], self.nesting.units[skip:], strict=True
        ):
            places.append(np.arange(start, start + size * count))
            start += level.size
        return np.concatenate(places)


def by_unit(entries: Entries, units: int, rows: int, columns: int, dtype: Any) -> Any:
    """A matrix (units, rows, columns) of each unit from its entries, each a number, () or (units,)."""
    zero = jnp.zeros((units,), dtype)
    stacked = [
        jnp.stack([zero + entries.get((j, k), 0.0) for k in range(columns)], axis=1)
        if columns
        else jnp.zeros((units, 0), dtype)
        for j in range(rows)
    ]
    return jnp.stack(stacked, axis=1)
