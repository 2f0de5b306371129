"""Random effects written around their means: which fixed effects they carry.

Where a column of A equals B c_i for some c_i (random,) of the group, its coefficient moves the mean of the random
effects and nothing else: xi_i = b_i + sum_k c_ik beta_k, xb_i = B xi_i + (what the other coefficients add), and

    xi_i ~ N(C_i beta, psi),

so that given xi the coefficient is estimated by generalised least squares, and moving it leaves xi, and with it the
prediction, in place.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.density import Group
from jaxnlme.model.design import Design
from jaxnlme.model.individual import AbstractIndividual, LinearIndividual
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


def centring(individual: AbstractIndividual, effects: int, columns: list[np.ndarray]) -> Centring:
    """Which coefficients the effects carry: none under a function of the user's own.

    **Arguments:** `columns`: the varying columns of the designs on the host, each (groups,) or (groups, obs).
    """
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
    own: dict[int, Entry], random: dict[int, dict[int, Entry]], columns: list[np.ndarray]
) -> tuple[int, float, int | None] | None:
    """Effect and c_i of a column of A with the entries `own`, None where no single effect carries it."""
    for effect, entries in random.items():
        if entries.keys() == own.keys() and all(_same(own[row], entries[row], columns) for row in own):
            return effect, 1.0, None
    if len(own) != 1:
        return None
    ((row, (constant, column)),) = own.items()
    serving = [effect for effect, entries in random.items() if row in entries]
    if len(serving) != 1 or len(random[serving[0]]) != 1:
        return None
    scale, varying = random[serving[0]][row]
    if varying is not None or (column is not None and columns[column].ndim != 1):
        return None
    return serving[0], constant / scale, column


def _same(a: Entry, b: Entry, columns: list[np.ndarray]) -> bool:
    if a[0] != b[0] or (a[1] is None) != (b[1] is None):
        return False
    return a[1] == b[1] or (a[1] is not None and b[1] is not None and np.array_equal(columns[a[1]], columns[b[1]]))
