"""Random effects written around their means: which fixed effects they carry.

Where a column of A equals B c_i for some c_i (random,) of the group, its coefficient moves the mean of the random
effects and nothing else: xi_i = b_i + sum_k c_ik beta_k, xb_i = B xi_i + (what the other coefficients add), and

    xi_i ~ N(C_i beta, psi),

so that given xi the coefficient is estimated by generalised least squares, and moving it leaves xi, and with it the
prediction, in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.density import Group
from jaxnlme.model.design import Design
from jaxnlme.model.individual_parameters import AbstractIndividual, LinearIndividual
from jaxnlme.typing import Matrix, Vector

# A carried coefficient: its index in beta, the effect that carries it, and c_i: a constant times a column of the group
# (None: the constant alone).
Carried = tuple[int, int, float, int | None]


class Centring(eqx.Module):
    """The carried coefficients of a model: `terms`, one each; `effects`, how many random effects there are."""

    terms: tuple[Carried, ...] = eqx.field(static=True)
    effects: int = eqx.field(static=True)

    @property
    def carried(self) -> np.ndarray:
        """Indices in beta (carried,)."""
        return np.array([k for k, _, _, _ in self.terms], int)

    @property
    def carriers(self) -> np.ndarray:
        """For each carried coefficient a row (carried, random) with a one at its effect."""
        out = np.zeros((len(self.terms), self.effects))
        for row, (_, effect, _, _) in enumerate(self.terms):
            out[row, effect] = 1.0
        return out

    def coefficients(self, group: Group) -> Vector:
        """c_i (carried,) of one group."""
        dtype = group.y.dtype
        values = [c if column is None else c * group.covariates[column] for _, _, c, column in self.terms]
        return jnp.stack([jnp.asarray(value, dtype) for value in values]) if values else jnp.zeros((0,), dtype)

    def mean(self, beta: Vector, coefficients: Vector) -> Vector:
        """The mean C_i beta (random,) of xi."""
        if not self.terms:
            return jnp.zeros((self.effects,), beta.dtype)
        zero = jnp.zeros((), beta.dtype)
        parts: list[Any] = [zero] * self.effects
        for row, (k, effect, _, _) in enumerate(self.terms):
            parts[effect] = parts[effect] + beta[k] * coefficients[row]
        return jnp.stack(parts)

    def spread(self, beta: Vector) -> Matrix:
        """K (carried, random) with C_i beta = c_i' K."""
        return beta[self.carried][:, None] * self.carriers


# The varying columns of the designs on the host: each in pieces (groups,) or (groups, obs), one a bucket of groups.
Columns = Sequence[Sequence[np.ndarray]]


def centring(individual: AbstractIndividual, effects: int, columns: Columns) -> Centring:
    """Which coefficients the effects carry: none under a function of the user's own."""
    if not isinstance(individual, LinearIndividual):
        return Centring((), effects)
    fixed, random = by_coefficient(individual.fixed), by_coefficient(individual.random)
    terms = []
    for k in range(individual.fixed.columns):
        found = _carrier(fixed.get(k, {}), random, columns)
        if found is not None:
            terms.append((k, *found))
    return Centring(tuple(terms), effects)


Entry = tuple[float, int | None]


def by_coefficient(design: Design) -> dict[int, dict[int, Entry]]:
    """The entries of each column of a design by row: (constant, None), or (1, column of the group)."""
    out: dict[int, dict[int, Entry]] = {}
    for row, terms in enumerate(design.terms):
        for index, constant, column in terms:
            out.setdefault(index, {})[row] = (1.0 if constant is None else float(constant), column)
    return out


def _carrier(
    own: dict[int, Entry], random: dict[int, dict[int, Entry]], columns: Columns
) -> tuple[int, float, int | None] | None:
    """Effect and c_i of a column of A with the entries `own`, None where no single effect carries it."""
    for effect, entries in random.items():
        if entries.keys() == own.keys() and all(_same(own[row], entries[row], columns) for row in own):
            return effect, 1.0, None
    if len(own) != 1:
        return None
    ((row, (constant, column)),) = own.items()
    if column is not None and columns[column][0].ndim != 1:
        return None
    # An effect that is added to this row alone, the same for all groups; others may serve the row beside it.
    for effect, entries in random.items():
        if entries.keys() == {row} and entries[row][1] is None:
            return effect, constant / entries[row][0], column
    return None


def _same(a: Entry, b: Entry, columns: Columns) -> bool:
    if a[0] != b[0] or (a[1] is None) != (b[1] is None):
        return False
    if a[1] is None or b[1] is None or a[1] == b[1]:
        return True
    return all(np.array_equal(one, other) for one, other in zip(columns[a[1]], columns[b[1]], strict=True))
