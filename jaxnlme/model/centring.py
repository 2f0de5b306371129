"""Centred parametrisation of the random effects: fixed effects that enter only through the mean of the random effects.

Where a column of A equals B c_i for some c_i (random,) of the group, its coefficient beta_k can be written as part of
the mean of the random effects: xi_i = b_i + sum_k c_ik beta_k, xb_i = B xi_i + (terms of the other coefficients), and

    xi_i ~ N(C_i beta, psi).

Given xi, these "centred" coefficients are estimated by generalised least squares, and changing them leaves xi and the
predictions unchanged.
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

# A centred coefficient: its index in beta, the random effect whose mean it enters, and its factor c_i: a constant times
# a column of the group (None: only the constant).
CentredTerm = tuple[int, int, float, int | None]


class Centring(eqx.Module):
    """The centred coefficients of a model.

    **Fields:** `terms`: one for each; `n_effects`: the number of random effects.
    """

    terms: tuple[CentredTerm, ...] = eqx.field(static=True)
    n_effects: int = eqx.field(static=True)

    @property
    def centred(self) -> np.ndarray:
        """Indices in beta of the centred coefficients, (centred,)."""
        return np.array([k for k, _, _, _ in self.terms], int)

    @property
    def selectors(self) -> np.ndarray:
        """For each centred coefficient a row with a one at its random effect, (centred, random)."""
        out = np.zeros((len(self.terms), self.n_effects))
        for row, (_, effect, _, _) in enumerate(self.terms):
            out[row, effect] = 1.0
        return out

    def coefficients(self, group: Group) -> Vector:
        """The factors c_i (centred,) of one group."""
        dtype = group.y.dtype
        values = [c if column is None else c * group.covariates[column] for _, _, c, column in self.terms]
        return jnp.stack([jnp.asarray(value, dtype) for value in values]) if values else jnp.zeros((0,), dtype)

    def mean(self, beta: Vector, coefficients: Vector) -> Vector:
        """The mean C_i beta (random,) of xi, from `beta` (fixed,) and the factors `coefficients` (centred,) of the
        group."""
        if not self.terms:
            return jnp.zeros((self.n_effects,), beta.dtype)
        zero = jnp.zeros((), beta.dtype)
        parts: list[Any] = [zero] * self.n_effects
        for row, (k, effect, _, _) in enumerate(self.terms):
            parts[effect] = parts[effect] + beta[k] * coefficients[row]
        return jnp.stack(parts)

    def mean_matrix(self, beta: Vector) -> Matrix:
        """The matrix K (centred, random) with C_i beta = c_i' K, at `beta` (fixed,)."""
        return beta[self.centred][:, None] * self.selectors


# The varying columns of the designs on the host: each a sequence of arrays (groups,) or (groups, obs), one per bucket.
Columns = Sequence[Sequence[np.ndarray]]


def centring(individual: AbstractIndividual, n_effects: int, columns: Columns) -> Centring:
    """The centred coefficients of linear designs; none where a function of the user gives the individual parameters.

    **Arguments:** `individual`; `n_effects`: number of random effects; `columns`: the varying columns of the designs.
    """
    if not isinstance(individual, LinearIndividual):
        return Centring((), n_effects)
    fixed, random = by_coefficient(individual.fixed), by_coefficient(individual.random)
    terms = []
    for k in range(individual.fixed.columns):
        effect_and_factor = _centred_on(fixed.get(k, {}), random, columns)
        if effect_and_factor is not None:
            terms.append((k, *effect_and_factor))
    return Centring(tuple(terms), n_effects)


Entry = tuple[float, int | None]


def by_coefficient(design: Design) -> dict[int, dict[int, Entry]]:
    """For each column of a design its entries by row: (constant, None), or (1, number of a varying column)."""
    out: dict[int, dict[int, Entry]] = {}
    for row, terms in enumerate(design.terms):
        for index, constant, column in terms:
            out.setdefault(index, {})[row] = (1.0 if constant is None else float(constant), column)
    return out


def _centred_on(
    coefficient: dict[int, Entry], random: dict[int, dict[int, Entry]], columns: Columns
) -> tuple[int, float, int | None] | None:
    """The random effect, and the factor c_i, for a column of A with the entries `coefficient`; None if there is
    none."""
    for effect, entries in random.items():
        if entries.keys() == coefficient.keys() and all(
            _same(coefficient[row], entries[row], columns) for row in coefficient
        ):
            return effect, 1.0, None
    if len(coefficient) != 1:
        return None
    ((row, (constant, column)),) = coefficient.items()
    if column is not None and columns[column][0].ndim != 1:
        return None
    # An effect that enters only this row, with the same factor in all groups; other effects may enter the row as well.
    for effect, entries in random.items():
        if entries.keys() == {row} and entries[row][1] is None:
            return effect, constant / entries[row][0], column
    return None


def _same(a: Entry, b: Entry, columns: Columns) -> bool:
    """True if two entries have the same value in every group."""
    if a[0] != b[0] or (a[1] is None) != (b[1] is None):
        return False
    if a[1] is None or b[1] is None or a[1] == b[1]:
        return True
    return all(np.array_equal(left, right) for left, right in zip(columns[a[1]], columns[b[1]], strict=True))
