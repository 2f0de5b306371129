"""Centred parametrisation of the random effects: fixed effects that enter only through the mean of the random effects.

Where a column of A equals B c_i for some c_i (random,) of the group, its coefficient beta_k can be written as part of
the mean of the random effects: xi_i = b_i + sum_k c_ik beta_k, xb_i = B xi_i + (terms of the other coefficients), and

    xi_i ~ N(C_i beta, psi).

Given xi, these "centred" coefficients are estimated by generalised least squares, and changing them leaves xi and the
predictions unchanged.

With nested levels the same holds for the effects of every unit: a coefficient shifts the mean of an effect of the
outermost level that has such an effect and in whose units its covariate is constant, c_i being that of the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.density import Group
from jaxnlme.model.design import Design
from jaxnlme.model.individual_parameters import AbstractIndividual, LinearIndividual
from jaxnlme.model.levels import Levels, Units
from jaxnlme.numerics.linalg import small_product
from jaxnlme.typing import Matrix, Vector

# A centred coefficient: its index in beta, the random effect whose mean it enters, and its factor c_i: a constant times
# a column of the group (None: only the constant).
CentredTerm = tuple[int, int, float, int | None]


class Centring(eqx.Module):
    """The centred coefficients of a model.

    **Fields:** `terms`: one for each; `n_effects`: the number of distinct random effects; `levels`: their layout in the
    vector of a group with nested levels, None without. With nested levels the coefficients of a group are those of its
    units, (units of all levels, centred), zero for effects that a unit lacks, and (random,) vectors hold the effects of
    all units.
    """

    terms: tuple[CentredTerm, ...] = eqx.field(static=True)
    n_effects: int = eqx.field(static=True)
    levels: Levels | None = None

    @property
    def size(self) -> int:
        """Number of random effects of a group, those of all its units."""
        return self.n_effects if self.levels is None else self.levels.size

    @property
    def centred(self) -> np.ndarray:
        """Indices in beta of the centred coefficients, (centred,)."""
        return np.array([k for k, _, _, _ in self.terms], int)

    @property
    def selectors(self) -> np.ndarray:
        """For each centred coefficient a row with a one at its random effect, (centred, distinct effects)."""
        out = np.zeros((len(self.terms), self.n_effects))
        for row, (_, effect, _, _) in enumerate(self.terms):
            out[row, effect] = 1.0
        return out

    def coefficients(self, group: Group) -> Any:
        """The factors c_i of one group, (centred,) or, with nested levels, (units of all levels, centred)."""
        dtype = group.y.dtype
        values = [c if column is None else c * group.covariates[column] for _, _, c, column in self.terms]
        if self.levels is not None:
            return self._of_units(values, group)
        return jnp.stack([jnp.asarray(value, dtype) for value in values]) if values else jnp.zeros((0,), dtype)

    def _of_units(self, values: list[Any], group: Group) -> Any:
        """The factors (units of all levels, centred) from those of each term, () or (obs,)."""
        levels, dtype = self.levels, group.y.dtype
        assert levels is not None
        starts = np.cumsum([0, *(level.units for level in levels.levels)])
        columns = []
        for value, (_, effect, _, _) in zip(values, self.terms, strict=True):
            k = int(levels.level_of_effect[effect])
            of_level = levels.of_units(value, levels.levels[k].depth, group.units).astype(dtype)
            columns.append(jnp.pad(of_level, (int(starts[k]), levels.n_units - int(starts[k + 1]))))
        if not columns:
            return jnp.zeros((levels.n_units, 0), dtype)
        return jnp.where(levels.informative(group.units, group.x.observed)[:, None], jnp.stack(columns, axis=1), 0.0)

    def mean(self, beta: Vector, coefficients: Any) -> Vector:
        """The mean C_i beta (random,) of xi, from `beta` (fixed,) and the `coefficients` of the group."""
        if not self.terms:
            return jnp.zeros((self.size,), beta.dtype)
        if self.levels is not None:
            return self.levels.vector(small_product(coefficients, self.mean_matrix(beta)))
        zero = jnp.zeros((), beta.dtype)
        parts: list[Any] = [zero] * self.n_effects
        for row, (k, effect, _, _) in enumerate(self.terms):
            parts[effect] = parts[effect] + beta[k] * coefficients[row]
        return jnp.stack(parts)

    def mean_matrix(self, beta: Vector) -> Matrix:
        """The matrix K (centred, distinct effects) with C_i beta = c_i' K, at `beta` (fixed,)."""
        return beta[self.centred][:, None] * self.selectors


# The varying columns of the designs on the host: each a sequence of arrays (groups,) or (groups, obs), one per bucket.
Columns = Sequence[Sequence[np.ndarray]]


def centring(
    individual: AbstractIndividual,
    n_effects: int,
    columns: Columns,
    levels: Levels | None = None,
    units: Sequence[Sequence[Units]] = (),
) -> Centring:
    """The centred coefficients of linear designs; none where a function of the user gives the individual parameters.

    **Arguments:** `individual`; `n_effects`: number of distinct random effects; `columns`: the varying columns of the
    designs; `levels`: the layout of effects of nested levels, None without; `units`: of the nested levels, for each
    bucket.
    """
    if not isinstance(individual, LinearIndividual):
        return Centring((), n_effects, levels)
    fixed, random = by_coefficient(individual.fixed), by_coefficient(individual.random)

    def is_constant(column: int, effect: int) -> bool:
        depth = 0 if levels is None else levels.levels[int(levels.level_of_effect[effect])].depth
        of_buckets = [bucket[depth - 1] for bucket in units] if depth else [None] * len(columns[column])
        return all(_constant_in_units(*pair) for pair in zip(columns[column], of_buckets, strict=True))

    terms = []
    for k in range(individual.fixed.columns):
        effect_and_factor = _centred_on(fixed.get(k, {}), random, columns, is_constant)
        if effect_and_factor is not None:
            terms.append((k, *effect_and_factor))
    return Centring(tuple(terms), n_effects, levels)


def _constant_in_units(column: np.ndarray, units: Units | None) -> bool:
    """True if a column (groups,) or (groups, obs) of one bucket has one value in each of the `units` (None: the
    groups)."""
    if column.ndim == 1 or units is None:
        return column.ndim == 1
    first = np.take_along_axis(np.asarray(units.first_row), np.asarray(units.index), axis=1)
    return bool((column == np.take_along_axis(column, first, axis=1)).all())


Entry = tuple[float, int | None]


def by_coefficient(design: Design) -> dict[int, dict[int, Entry]]:
    """For each column of a design its entries by row: (constant, None), or (1, number of a varying column)."""
    out: dict[int, dict[int, Entry]] = {}
    for row, terms in enumerate(design.terms):
        for index, constant, column in terms:
            out.setdefault(index, {})[row] = (1.0 if constant is None else float(constant), column)
    return out


def _centred_on(
    coefficient: dict[int, Entry],
    random: dict[int, dict[int, Entry]],
    columns: Columns,
    is_constant: Callable[[int, int], bool],
) -> tuple[int, float, int | None] | None:
    """The random effect, and the factor c_i, for a column of A with the entries `coefficient`; None if there is none.

    **Arguments:** `is_constant(column, effect)`: a varying column has one value in each unit of the effect's level.
    """
    for effect, entries in random.items():
        if entries.keys() == coefficient.keys() and all(
            _same(coefficient[row], entries[row], columns) for row in coefficient
        ):
            return effect, 1.0, None
    if len(coefficient) != 1:
        return None
    ((row, (constant, column)),) = coefficient.items()
    # An effect that enters only this row, with the same factor in all groups; other effects may enter the row as well.
    for effect, entries in random.items():
        constant_factor = entries.keys() == {row} and entries[row][1] is None
        if constant_factor and (column is None or is_constant(column, effect)):
            return effect, constant / entries[row][0], column
    return None


def _same(a: Entry, b: Entry, columns: Columns) -> bool:
    """True if two entries have the same value in every group."""
    if a[0] != b[0] or (a[1] is None) != (b[1] is None):
        return False
    if a[1] is None or b[1] is None or a[1] == b[1]:
        return True
    return all(np.array_equal(left, right) for left, right in zip(columns[a[1]], columns[b[1]], strict=True))
