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
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import value_gradient_hessian
from jaxnlme.model.params import Params
from jaxnlme.numerics.linalg import cholesky, cholesky_inverse, guarded_cholesky, small_product
from jaxnlme.numerics.newton import newton
from jaxnlme.sampling.metropolis import Moves, Proposal, random_bits, tuned_scales, update_chain
from jaxnlme.sampling.settings import TUNING
from jaxnlme.typing import Matrix, Vector

# Search of the conditional mode.
MODE_SEARCH = ModeSearch(TUNING.mode_steps, TUNING.mode_tolerance)


class Chains(eqx.Module):
    """Chains of one group (or, with leading axes, of all groups).

    `xi` (chains, random): b plus its mean C beta (z itself in a `whitened` layout). `centre` (random,): the conditional
    mode of xi given y; `factor` (random, random): C with C C' Laplace's covariance of xi there; `inverse` of C; these
    three are from the last search for the mode. `log_scales` (random + 2,): log step lengths of the random walks.
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


def initial_chains(groups: int, replicates: int, chains: int, effects: int, sampler_state: Any = ()) -> Chains:
    """Chains (groups, replicates, ...) before their first iteration, as numpy arrays on the host.

    **Arguments:** numbers of `groups`, `replicates`, `chains` and random `effects`; `sampler_state` of one group.
    """
    shape = (groups, replicates)
    eye = np.broadcast_to(np.eye(effects), (*shape, effects, effects))
    walk, coordinate = TUNING.walk_scale, TUNING.coordinate_scale
    scales = np.concatenate([np.log([walk, coordinate]), np.full(effects, np.log(coordinate))])
    return Chains(
        np.zeros((*shape, chains, effects)),
        np.zeros((*shape, effects)),
        eye.copy(),
        eye.copy(),
        np.broadcast_to(scales, (*shape, effects + 2)).copy(),
        np.zeros(shape, bool),
        np.ones(shape, bool),
        jax.tree.map(lambda leaf: np.broadcast_to(leaf, (*shape, *np.shape(leaf))).copy(), sampler_state),
    )


class Whitening(eqx.Module):
    """Linear map b = L z between random effects and whitened effects at given parameters, the same for all groups:
    `factor` L and its `inverse`."""

    factor: Any
    inverse: Any


def whitening_at(density: Density, params: Params, whitened: bool = False) -> Whitening:
    """Whitening at `params`: L^-1 = L' psi^-1, for a factor L of any form; the identity if the chains hold z itself
    (`whitened`)."""
    if whitened or not density.n_effects:
        return Whitening(jnp.eye(density.n_effects), jnp.eye(density.n_effects))
    factor = density.covariance.factor(params.covariance)
    return Whitening(factor, small_product(factor.T, cholesky_inverse(cholesky(small_product(factor, factor.T)))))


def laplace_approximation(
    density: Density, params: Params, whitening: Whitening, group: Group, mean: Vector, centre: Vector
) -> tuple[Vector, Matrix, Matrix, Any]:
    """Laplace approximation of the conditional distribution of xi given y, at its mode.

    **Arguments:** `mean` (random,), C beta of the group; `centre` (random,), the start of the search.
    **Returns:** the mode of xi (random,); a factor (random, random) of the covariance there; the inverse of the factor;
    and whether the search converged. Where the search ends in a point that is not finite, mean and covariance of the
    population are returned.
    """

    def expand(z):
        return value_gradient_hessian(lambda z: -density.log_joint(params, z, group), z)

    zero = jnp.zeros_like(centre)
    z, result = newton(
        expand,
        small_product(whitening.inverse, centre - mean),
        zero,
        MODE_SEARCH.steps,
        MODE_SEARCH.tolerance,
        with_hessian=True,
    )
    hessian = result.hessian
    assert hessian is not None
    usable = result.finite & jnp.all(jnp.isfinite(hessian))
    z = jnp.where(usable, z, zero)
    lower, _ = guarded_cholesky(jnp.where(usable, hessian, jnp.eye(zero.shape[0], dtype=zero.dtype)))
    # H = U U': C = L U'^-1 and C^-1 = U' L^-1.
    inverse_upper = small_product(cholesky_inverse(lower), lower)
    mode, factor = small_product(whitening.factor, z) + mean, small_product(whitening.factor, inverse_upper)
    return mode, factor, small_product(lower.T, whitening.inverse), result.converged & result.finite


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
    @abc.abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Name of each entry of `Draws.accepted`."""

    def initial_state(self) -> Any:
        """The sampler's state for a group before the first iteration, a pytree of arrays."""
        return ()

    @abc.abstractmethod
    def draw(
        self, log_density: Any, whitening: Whitening, chains: Chains, mean: Vector, empty: Any, key: Any, gain: Any
    ) -> tuple[Chains, Draws]:
        """One iteration of one group at given parameters.

        **Arguments:** `log_density(z)`, the log joint density of z and y, and auxiliary results of the evaluation, a
        pytree like `empty`; `whitening` at the parameters; `chains` of the group; `mean` (random,), C beta of the
        group, contained in xi; `key`, a random key of this iteration and group; `gain`, the step size of the adaptation
        (0: none).
        **Returns:** the updated chains, and the draws.
        """


class Metropolis(AbstractSampler):
    """Markov chains of `effects` random effects, updated by the Metropolis-Hastings kernels of `moves`."""

    moves: Moves
    effects: int = eqx.field(static=True)

    @property
    def labels(self):
        return self.moves.labels(self.effects)

    def draw(self, log_density, whitening, chains, mean, empty, key, gain):
        kernels, coordinates = self.moves.update_sequence(self.effects)
        proposal = Proposal(
            small_product(whitening.inverse, chains.centre - mean),
            small_product(whitening.inverse, chains.factor),
            small_product(chains.inverse, whitening.factor),
            chains.log_scales,
        )
        z = small_product(chains.xi - mean[None, :], whitening.inverse.T)
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
                small_product(z, whitening.factor.T) + mean[None, :],
                tuned_scales(chains.log_scales, accepted, kernels, coordinates, gain),
                jnp.any(finite),
            ),
        )
        # Division by zero is avoided explicitly: XLA evaluates a boolean divided by zero as zero.
        weights = jnp.where(jnp.any(finite), finite / jnp.maximum(jnp.sum(finite), 1), jnp.nan)
        return moved, Draws(z, aux, weights, accepted)
