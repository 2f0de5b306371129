"""Random effects at several nested levels: their layout in the vector of a group, and their values on its rows.

The random effects of a group are those of the outermost level, then those of every unit of the first nested level, and
so on: b = (b_0, b_11, ..., b_1n, b_21, ...). Units of one level have the same covariance matrix, so psi holds one block
for each level. Units that a group lacks keep effects that change nothing, standard normal in the whitened coordinates.

**Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, sections 2.1.2 and 7.1.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError
from jaxnlme.records import Record, Rows
from jaxnlme.typing import Matrix, Vector


class Units(eqx.Module):
    """The units of one nested level in one group.

    **Fields:** `index` (obs,): the unit of each row; `first_row` (units,): a row of each unit; `parent` (units,): the
    unit of the level above (0 in the first nested level); `present` (units,): true where the group has the unit.
    """

    index: Any
    first_row: Any
    parent: Any
    present: Any


def units_with_response(unit: np.ndarray, observed: np.ndarray, units: int) -> np.ndarray:
    """True for the units (groups, units) of a level that have a response, on the host.

    **Arguments:** `unit` (groups, obs): the unit of each row; `observed` (groups, obs): rows with a response; `units`:
    number of columns of the result.
    """
    return ((unit[:, :, None] == np.arange(units)) & observed[:, :, None]).any(axis=1)


class EffectLevel(eqx.Module):
    """The random effects of one level.

    **Fields:** `name`; `depth`: 0 for the groups themselves, 1 for the first nested level, ...; `effects`: positions
    of its effects among all distinct ones; `units`: the most units that a group has.
    """

    name: str = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    effects: tuple[int, ...] = eqx.field(static=True)
    units: int = eqx.field(static=True)

    @property
    def size(self) -> int:
        """Length of its part of the vector of a group."""
        return self.units * len(self.effects)


class Levels(eqx.Module):
    """The levels with random effects, outermost first.

    **Fields:** `levels`: an EffectLevel each; `separable`: true if the log-density of a group is a sum over the units
    of the innermost level with random effects, each a function of the parameters of that unit's rows only; `coupling`:
    a clause on why it is not, empty where it is or has not been looked at.
    """

    levels: tuple[EffectLevel, ...] = eqx.field(static=True)
    separable: bool = eqx.field(static=True, default=False)
    coupling: str = eqx.field(static=True, default="")

    @property
    def size(self) -> int:
        """Length of the vector of the random effects of a group."""
        return sum(level.size for level in self.levels)

    @property
    def innermost(self) -> EffectLevel:
        """The last level with random effects."""
        return self.levels[-1]

    @property
    def n_units(self) -> int:
        """Number of units of a group, those of all levels together."""
        return sum(level.units for level in self.levels)

    @property
    def unit_of_entry(self) -> np.ndarray:
        """The unit (size,), among those of all levels, that each entry of the vector of a group belongs to."""
        ends = np.cumsum([0, *(level.units for level in self.levels)])
        parts = zip(self.levels, ends, strict=False)
        return np.concatenate([first + np.repeat(np.arange(level.units), len(level.effects)) for level, first in parts])

    @property
    def effect_of_entry(self) -> np.ndarray:
        """The distinct effect (size,) that each entry of the vector of a group is."""
        return np.concatenate([np.tile(np.array(level.effects, int), level.units) for level in self.levels])

    @property
    def entries_of_effect(self) -> np.ndarray:
        """True (distinct effects, size) for the entries of the vector of a group that are a distinct effect."""
        return np.arange(len(self.level_of_effect))[:, None] == self.effect_of_entry[None, :]

    @property
    def level_of_effect(self) -> np.ndarray:
        """The position among the levels of each distinct effect (distinct effects,)."""
        pairs = sorted((effect, k) for k, level in enumerate(self.levels) for effect in level.effects)
        return np.array([k for _, k in pairs], int)

    @property
    def has_effect(self) -> np.ndarray:
        """True where a unit has a distinct effect (units of all levels, distinct effects)."""
        of_unit = np.repeat(np.arange(len(self.levels)), [level.units for level in self.levels])
        return of_unit[:, None] == self.level_of_effect[None, :]

    def table(self, vector: Any) -> Any:
        """The table (..., units of all levels, distinct effects) of vectors (..., size), zero where a unit lacks an
        effect."""
        out = jnp.zeros((*vector.shape[:-1], self.n_units, len(self.level_of_effect)), vector.dtype)
        return out.at[..., self.unit_of_entry, self.effect_of_entry].set(vector)

    def vector(self, table: Any) -> Any:
        """The vectors (..., size) of tables (..., units of all levels, distinct effects), the inverse of `table`."""
        return table[..., self.unit_of_entry, self.effect_of_entry]

    def of_units(self, values: Any, depth: int, units: Sequence[Units]) -> Any:
        """The values of the units of a level, (units,) of the level: from `values` (obs,) those of a row of each unit,
        from a number () the same for all.

        **Arguments:** `depth` of the level; `units`: of the nested levels of the data, outermost first.
        """
        level = next(level for level in self.levels if level.depth == depth)
        if jnp.ndim(values):
            values = values[units[depth - 1].first_row] if depth else values[:1]
            return jnp.pad(values, (0, level.units - values.shape[0]))
        return jnp.broadcast_to(jnp.asarray(values), (level.units,))

    def informative(self, units: Sequence[Units], observed: Any) -> Any:
        """True for the units (units of all levels,) whose random effects the data of the group may inform: those that
        the group has and, where the log-density is a sum over units, that have a response.

        **Arguments:** `units`: of the nested levels of the data, outermost first; `observed` (obs,).
        """
        parts = []
        for level in self.levels:
            if level.depth == 0:
                parts.append(jnp.any(observed)[None])
            elif self.separable:
                own = units[level.depth - 1].index[:, None] == np.arange(level.units)[None, :]
                parts.append(jnp.any(own & observed[:, None], axis=0))
            else:
                present = units[level.depth - 1].present
                parts.append(jnp.pad(present, (0, level.units - present.shape[0])))
        return jnp.concatenate(parts)

    def split(self, vector: Any) -> list[Any]:
        """The parts (..., units, effects of the level) of vectors (..., size), one for each level."""
        out, start = [], 0
        for level in self.levels:
            part = vector[..., start : start + level.size]
            out.append(part.reshape(*part.shape[:-1], level.units, len(level.effects)))
            start += level.size
        return out

    def join(self, parts: Sequence[Any]) -> Any:
        """The vector (..., size) of the parts (..., units, effects of the level), the inverse of `split`."""
        xp = np if all(isinstance(part, np.ndarray) for part in parts) else jnp
        return xp.concatenate([part.reshape(*part.shape[:-2], -1) for part in parts], axis=-1)

    def map_blocks(self, matrix: Matrix, vector: Any) -> Any:
        """The product of each level's block of `matrix` (distinct effects, distinct effects) with its effects in
        `vector` (..., size)."""
        parts = []
        for level, part in zip(self.levels, self.split(vector), strict=True):
            block = matrix[np.ix_(level.effects, level.effects)]
            parts.append(part @ block.T)
        return self.join(parts)

    def expanded(self, matrix: Any) -> Any:
        """The block diagonal matrix (size, size) with the blocks of `matrix` (distinct effects, distinct effects)
        repeated for every unit."""
        xp = np if isinstance(matrix, np.ndarray) else jnp
        out = xp.zeros((self.size, self.size), matrix.dtype)
        start = 0
        for level in self.levels:
            block = xp.kron(xp.eye(level.units, dtype=matrix.dtype), matrix[np.ix_(level.effects, level.effects)])
            place = np.zeros((self.size, level.size))
            place[start : start + level.size] = np.eye(level.size)
            out = out + place @ block @ place.T
            start += level.size
        return out

    def on_rows(self, b: Vector, units: Sequence[Units]) -> list[Any]:
        """The value of each distinct effect, () for the outermost level, (obs,) for others: that of each row's unit.

        **Arguments:** `b` (size,); `units`: of the nested levels of the data, outermost first.
        """
        values: dict[int, Any] = {}
        for level, part in zip(self.levels, self.split(b), strict=True):
            for k, effect in enumerate(level.effects):
                values[effect] = part[0, k] if level.depth == 0 else part[:, k][units[level.depth - 1].index]
        return [values[effect] for effect in range(len(values))]


class LevelRecord(Record):
    """Individual parameters of a group with nested levels: a Record of values () or (obs,), those of each row's unit.

    `phi.on("Occasion")` gives the parameters of the units of a level, each (units,), and `phi.on(v.dose)` those of the
    rows of a further table that has labels of the levels, each (k,), as a model with carry-over between occasions needs
    them.
    """

    level_names: tuple[str, ...] = eqx.field(static=True, default=(), kw_only=True)
    units: tuple[Units, ...] = eqx.field(default=(), kw_only=True)

    def on(self, axis: Any) -> Record:
        """The parameters on another axis.

        **Arguments:** `axis`: the name of a nested level, or a further table such as `v.dose`.
        **Returns:** a Record with values (units,) or (k,); a parameter that is one number in the group stays one.
        **Raises:** UnknownNameError for a level that the data do not have; ModelError for a table without labels of the
        levels.
        """
        if isinstance(axis, Rows):
            if not isinstance(axis.units, Record) or not len(axis.units):
                raise ModelError(
                    "this further table has no labels of the nested levels: add it by data.with_table(name, frame, "
                    f"group=[..., {', '.join(map(repr, self.level_names))}], columns=...)."
                )
            rows = self.units[-1].first_row[axis.units[self.level_names[-1]]]
        else:
            rows = Record(self.level_names, self.units, "nested level")[axis].first_row
        return Record(self.names, tuple(v[rows] if jnp.ndim(v) else v for v in self.values), self.entry_kind)
