"""Markov chains and their state for one group's random effects: one iteration of all kernels, and the Laplace
approximation used by the proposals."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.likelihood.mode import ModeSearch
from jaxnlme.likelihood.nested import NestedGroup, is_nested
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import value_gradient_hessian
from jaxnlme.model.levels import Levels
from jaxnlme.model.params import Params
from jaxnlme.numerics.linalg import cholesky, cholesky_inverse, guarded_cholesky, small_product
from jaxnlme.numerics.newton import NewtonResult, newton
from jaxnlme.sampling.control_variates import NestedControlVariates
from jaxnlme.sampling.metropolis import Moves, Proposal, random_bits, tuned_scales, update_chain
from jaxnlme.sampling.settings import TUNING
from jaxnlme.typing import Matrix, Scalar, Vector

# Search of the conditional mode.
MODE_SEARCH = ModeSearch(TUNING.mode_steps, TUNING.mode_tolerance)


class Chains(eqx.Module):
    """Chains of one group (or, with leading axes, of all groups).

    `xi` (chains, random): b plus its mean C beta (z itself in a `whitened` layout). `centre` (random,): the conditional
    mode of xi given y; `factor` (random, random): C with C C' Laplace's covariance of xi there; `inverse` of C; these
    three are from the last search for the mode. `log_scales` (scales,): log step lengths of the random walks.
    `mode_found`: true if that search converged. `any_finite`: true if some chain is at a point of finite density.
    `sampler_state`: the sampler's own state for the group.
    """

    xi: Any
    centre: Any
    factor: Any
    inverse: Any
    log_scales: Any
    mode_found: Any
    any_finite: Any
    sampler_state: Any


def initial_chains(
    groups: int,
    replicates: int,
    chains: int,
    effects: int,
    sampler_state: Any = (),
    log_scales: np.ndarray | None = None,
) -> Chains:
    """Chains (groups, replicates, ...) before their first iteration, as numpy arrays on the host.

    **Arguments:** numbers of `groups`, `replicates`, `chains` and random `effects`; `sampler_state` of one group;
    `log_scales` (scales,) of one group, None: those of a sampler without nested levels.
    """
    shape = (groups, replicates)
    eye = np.broadcast_to(np.eye(effects), (*shape, effects, effects))
    scales = initial_log_scales(effects) if log_scales is None else log_scales
    return Chains(
        np.zeros((*shape, chains, effects)),
        np.zeros((*shape, effects)),
        eye.copy(),
        eye.copy(),
        np.broadcast_to(scales, (*shape, len(scales))).copy(),
        np.zeros(shape, bool),
        np.ones(shape, bool),
        jax.tree.map(lambda leaf: np.broadcast_to(leaf, (*shape, *np.shape(leaf))).copy(), sampler_state),
    )


def initial_log_scales(effects: int) -> np.ndarray:
    """Log step lengths (random + 2,) of the random walks of all effects, of pairs and of each effect, at first."""
    walk, coordinate = TUNING.walk_scale, TUNING.coordinate_scale
    return np.concatenate([np.log([walk, coordinate]), np.full(effects, np.log(coordinate))])


class Whitening(eqx.Module):
    """Linear map b = L z between random effects and whitened effects at given parameters, the same for all groups:
    `factor` L and its `inverse`; with nested `levels`, those of the distinct effects, which every unit has."""

    factor: Any
    inverse: Any
    levels: Levels | None = None

    def effects(self, z: Any) -> Any:
        """L z for rows of `z` (..., random)."""
        return self._rows(self.factor, z)

    def solve(self, b: Any) -> Any:
        """L^-1 b for rows of `b` (..., random)."""
        return self._rows(self.inverse, b)

    def solve_columns(self, matrix: Matrix) -> Matrix:
        """L^-1 times `matrix` (random, random)."""
        if self.levels is None:
            return small_product(self.inverse, matrix)
        return self.levels.map_blocks(self.inverse, matrix.T).T

    def times_factor(self, matrix: Matrix) -> Matrix:
        """`matrix` (random, random) times L."""
        return (
            small_product(matrix, self.factor) if self.levels is None else self.levels.map_blocks(self.factor.T, matrix)
        )

    def times_inverse(self, matrix: Matrix) -> Matrix:
        """`matrix` (random, random) times L^-1."""
        if self.levels is None:
            return small_product(matrix, self.inverse)
        return self.levels.map_blocks(self.inverse.T, matrix)

    def columns(self, matrix: Matrix) -> Matrix:
        """L times `matrix` (random, random)."""
        if self.levels is None:
            return small_product(self.factor, matrix)
        return self.levels.map_blocks(self.factor, matrix.T).T

    def dense(self) -> tuple[Matrix, Matrix]:
        """L and its inverse as matrices (random, random)."""
        if self.levels is None:
            return self.factor, self.inverse
        return self.levels.expanded(self.factor), self.levels.expanded(self.inverse)

    def _rows(self, matrix: Matrix, rows: Any) -> Any:
        if self.levels is not None:
            return self.levels.map_blocks(matrix, rows)
        return small_product(matrix, rows) if rows.ndim == 1 else small_product(rows, matrix.T)


def whitening_at(density: Density, params: Params, whitened: bool = False) -> Whitening:
    """Whitening at `params`: L^-1 = L' psi^-1, for a factor L of any form; the identity if the chains hold z itself
    (`whitened`)."""
    q = density.covariance.size
    if whitened or not density.n_effects:
        return Whitening(jnp.eye(q), jnp.eye(q), density.levels)
    factor = density.covariance.factor(params.covariance)
    inverse = small_product(factor.T, cholesky_inverse(cholesky(small_product(factor, factor.T))))
    return Whitening(factor, inverse, density.levels)


def laplace_approximation(
    density: Density, params: Params, whitening: Whitening, group: Group, mean: Vector, centre: Vector, again: Scalar
) -> tuple[Vector, Matrix, Matrix, Any]:
    """Laplace approximation of the conditional distribution of xi given y, at its mode.

    **Arguments:** `mean` (random,), C beta of the group; `centre` (random,), the start of the search; `again`: search
    from the mean as well, and take that mode where its density is higher by a margin, so that the chains of a group
    with two modes do not stay at the lower one.
    **Returns:** the mode of xi (random,); a factor (random, random) of the covariance there; the inverse of the factor;
    and whether the search converged. Where the search ends in a point that is not finite, mean and covariance of the
    population are returned. With nested levels the factor is lower triangular in blocks of the levels.
    """
    zero = jnp.zeros_like(centre)

    def search(start: Vector, from_mean: Scalar) -> tuple[Vector, tuple[Vector, NewtonResult, Matrix]]:
        found = _mode_and_hessian(density, params, group, jnp.where(from_mean, zero, start))
        return found[0], found

    # Both by one program; where the second is not wanted it starts, and ends, at the first mode.
    _, searches = jax.lax.scan(search, whitening.solve(centre - mean), jnp.stack([again & ~again, again]))
    value, converged = searches[1].value, searches[1].converged & searches[1].finite
    higher = again & converged[1] & ~(value[1] >= value[0] - TUNING.higher_mode_margin)
    z, result, hessian = jax.tree.map(lambda leaf: jnp.where(higher, leaf[1], leaf[0]), searches)
    usable = result.finite & jnp.all(jnp.isfinite(hessian))
    z = jnp.where(usable, z, zero)
    hessian = jnp.where(usable, hessian, jnp.eye(zero.shape[0], dtype=zero.dtype))
    found = result.converged & result.finite
    if density.levels is not None:
        # With rows and columns in reverse order the factor of H is U upper triangular, and U'^-1 lower triangular.
        lower, _ = guarded_cholesky(hessian[::-1, ::-1])
        inverse_upper = (cholesky_inverse(lower) @ lower)[::-1, ::-1]
        lower = lower[::-1, ::-1]
    else:
        lower, _ = guarded_cholesky(hessian)
        inverse_upper = small_product(cholesky_inverse(lower), lower)
    # H = U U': C = L U'^-1 and C^-1 = U' L^-1.
    mode, factor = whitening.effects(z) + mean, whitening.columns(inverse_upper)
    return mode, factor, whitening.times_inverse(lower.T), found


def _mode_and_hessian(
    density: Density, params: Params, group: Group, start: Vector
) -> tuple[Vector, NewtonResult, Matrix]:
    """The conditional mode of z (random,) searched from `start`, the NewtonResult, and the Hessian there."""
    zero, limits = jnp.zeros_like(start), (MODE_SEARCH.steps, MODE_SEARCH.tolerance)
    if is_nested(density, 2):
        units = NestedGroup(None, density, params, group)
        expand = units.expand(None)
        z, result = newton(expand, start, zero, *limits, solve=units.solve)
        return z, result, units.layout.dense(expand(z)[2])

    def expand_all(z):
        return value_gradient_hessian(lambda z: -density.log_joint(params, z, group), z)

    z, result = newton(expand_all, start, zero, *limits, with_hessian=True)
    assert result.hessian is not None
    return z, result, result.hessian


def nested_control_variates(
    whitening: Whitening, chains: Chains, mean: Vector, levels: Levels | None, entries: Any
) -> NestedControlVariates | None:
    """The control variates of a group with nested `levels` and many effects, around its last mode; None for others.

    **Arguments:** `whitening` at the parameters; `chains` of the group; `mean` (random,), contained in xi; `entries`
    (random,): those that the data inform.
    """
    if levels is None or levels.size <= TUNING.most_effects_second_degree:
        return None
    both = entries[:, None] & entries[None, :]
    centre = whitening.solve(chains.centre - mean)
    factor, inverse = whitening.solve_columns(chains.factor), whitening.times_factor(chains.inverse)
    return NestedControlVariates(levels, entries, centre, jnp.where(both, factor, 0.0), jnp.where(both, inverse, 0.0))


class Draws(eqx.Module):
    """Draws of one group's random effects in an iteration: `z` (draws, random); `aux`, auxiliary results of the
    evaluations (draws, ...); `weights` (draws,), which add up to one (NaN if no draw has a finite density); `accepted`
    (updates,), the acceptance rate of each update over the chains, or the effective fraction of weighted draws."""

    z: Any
    aux: Any
    weights: Any
    accepted: Any

    def mean(self, values: Any) -> Any:
        """Weighted means of `values` (draws, ...), a pytree, over the draws of finite density; NaN if there is none."""

        def weigh(v):
            weights = self.weights.reshape((-1,) + (1,) * (v.ndim - 1))
            return jnp.sum(weights * jnp.where(weights != 0, v, 0.0), axis=0)

        return jax.tree.map(weigh, values)


class AbstractSampler(eqx.Module):
    """Sampler of a group's random effects from their conditional distribution given its responses."""

    @property
    def by_unit(self) -> bool:
        """True if `draw` takes the terms of the log-density of z given y by unit of the nested levels (`unit_tree.py`),
        without the prior of z."""
        return False

    @property
    @abc.abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Name of each entry of `Draws.accepted`."""

    def initial_state(self) -> Any:
        """The sampler's state for a group before the first iteration, a pytree of arrays."""
        return ()

    def initial_log_scales(self, effects: int) -> np.ndarray:
        """Log step lengths (scales,) before the first iteration, for a group with `effects` random effects."""
        return initial_log_scales(effects)

    @abc.abstractmethod
    def draw(
        self,
        log_density: Any,
        whitening: Whitening,
        chains: Chains,
        mean: Vector,
        empty: Any,
        key: Any,
        gain: Any,
        tree: Any = None,
    ) -> tuple[Chains, Draws]:
        """One iteration of one group at given parameters.

        **Arguments:** `log_density(z)`, the log joint density of z and y, and auxiliary results of the evaluation, a
        pytree like `empty`; `whitening` at the parameters; `chains` of the group; `mean` (random,), C beta of the
        group, contained in xi; `key`, a random key of this iteration and group; `gain`, the step size of the adaptation
        (0: none); `tree`, the UnitTree of a group with nested levels.
        **Returns:** the updated chains, and the draws.
        """


class Metropolis(AbstractSampler):
    """Markov chains of `effects` random effects, updated by the Metropolis-Hastings kernels of `moves`."""

    moves: Moves
    effects: int = eqx.field(static=True)

    @property
    def labels(self):
        return self.moves.labels(self.effects)

    def draw(self, log_density, whitening, chains, mean, empty, key, gain, tree=None):
        kernels, coordinates = self.moves.update_sequence(self.effects)
        proposal = Proposal(
            whitening.solve(chains.centre - mean),
            whitening.solve_columns(chains.factor),
            whitening.times_factor(chains.inverse),
            chains.log_scales,
        )
        z = whitening.solve(chains.xi - mean[None, :])
        numbers = random_bits(key, (z.shape[0], len(kernels), z.shape[1] + 3))
        z, value, aux, accepted = jax.vmap(
            lambda z, numbers: update_chain(log_density, z, empty, numbers, proposal, kernels, coordinates)
        )(z, numbers)
        accepted = jnp.mean(accepted.astype(z.dtype), axis=0)
        finite = jnp.isfinite(value)
        moved = eqx.tree_at(
            lambda c: (c.xi, c.log_scales, c.any_finite),
            chains,
            (
                whitening.effects(z) + mean[None, :],
                tuned_scales(chains.log_scales, accepted, kernels, coordinates, gain),
                jnp.any(finite),
            ),
        )
        # Division by zero is avoided explicitly: XLA evaluates a boolean divided by zero as zero.
        weights = jnp.where(jnp.any(finite), finite / jnp.maximum(jnp.sum(finite), 1), jnp.nan)
        return moved, Draws(z, aux, weights, accepted)
