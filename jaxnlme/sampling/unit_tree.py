"""The units of one group with nested levels, as its samplers see them: which of them accept a proposal by themselves,
and which the data inform.

Given the random effects around them, those of different units are independent where the log-density of the group is a
sum over units. A proposal for all units of a level then is accepted or not unit by unit, each with all that lies inside
it, from one evaluation of the model. Where the log-density is no such sum, the group accepts as a whole.

Units without a response keep effects that change nothing, standard normal in the whitened coordinates: proposals leave
them out, and independent numbers take their place.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.likelihood.unit_layout import UnitLayout
from jaxnlme.model.density import Group
from jaxnlme.model.levels import Levels


class UnitTree(eqx.Module):
    """The units of one group. Accepting units of a level are its units, or the group.

    **Fields:** `levels`; `by_unit`: units accept by themselves; `informative` (units of all levels,): the data may say
    something of their effects; `of_terms` (levels + 1, terms): for each term of the log-density the accepting unit of
    each level that it belongs to, zero in the last row (the group); `of_entries` (levels + 1, random): the same for the
    random effects, that of the unit itself or of one around it.
    """

    levels: Levels
    by_unit: bool = eqx.field(static=True)
    informative: Any
    of_terms: Any
    of_entries: Any

    def __init__(self, levels: Levels, group: Group, by_unit: bool):
        self.levels, self.by_unit = levels, by_unit
        self.informative = levels.informative(group.units, group.x.observed)
        n = len(levels.levels)
        if not by_unit:
            self.of_terms, self.of_entries = jnp.zeros((n + 1, 1), int), jnp.zeros((n + 1, levels.size), int)
            return
        layout = UnitLayout(levels, group.units)
        parents = layout.nesting.parents if layout.has_root else layout.nesting.parents[1:]
        above = [
            jnp.pad(parent, (0, level.units - parent.shape[0]))
            for parent, level in zip(parents, levels.levels[1:], strict=True)
        ]
        of_terms, of_entries = [], []
        for k in range(n):
            unit = jnp.arange(levels.levels[k].units)
            of_level = [jnp.zeros((level.units,), int) for level in levels.levels[:k]] + [unit]
            for parent in above[k:]:
                unit = unit[parent]
                of_level.append(unit)
            of_terms.append(unit)
            of_entries.append(jnp.concatenate(of_level)[levels.unit_of_entry])
        none = jnp.zeros((1, levels.innermost.units), int), jnp.zeros((1, levels.size), int)
        self.of_terms, self.of_entries = (
            jnp.concatenate([jnp.stack(rows), last]) for rows, last in zip((of_terms, of_entries), none, strict=True)
        )

    @property
    def n_terms(self) -> int:
        """Number of terms of the log-density: those of the innermost units, or one."""
        return self.of_terms.shape[1]

    @property
    def n_accepting(self) -> int:
        """The most accepting units of a level."""
        return max(level.units for level in self.levels.levels) if self.by_unit else 1

    @property
    def entries(self) -> Any:
        """`informative` for each random effect (random,)."""
        return self.informative[self.levels.unit_of_entry]

    @property
    def level_of_entry(self) -> np.ndarray:
        """The position of its level, for each random effect (random,)."""
        return self.levels.level_of_effect[self.levels.effect_of_entry]

    def sum_entries(self, values: Any, level: Any) -> Any:
        """Sums (accepting units,) of `values` (random,) over the entries of each accepting unit of a level."""
        return jax.ops.segment_sum(values, self.of_entries[level], self.n_accepting)

    def sum_terms(self, values: Any, level: Any) -> Any:
        """Sums (accepting units,) of `values` (terms,) over the terms of each accepting unit of a level."""
        return jax.ops.segment_sum(values, self.of_terms[level], self.n_accepting)
