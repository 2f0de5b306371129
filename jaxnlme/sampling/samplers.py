"""The chains of one group: an iteration of every kernel, and what is known of the group's conditional distribution."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.likelihood.mode import ModeSearch
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.implicit import value_gradient_hessian
from jaxnlme.numerics.linalg import cholesky, cholesky_inverse, guarded_cholesky, times
from jaxnlme.numerics.newton import newton
from jaxnlme.sampling.metropolis import Moves, Proposal, tuned, update, words
from jaxnlme.typing import Matrix, Vector

# Evaluations that a search of the mode may use, and the step that ends it: proposals need no more.
SEARCH = ModeSearch(30, 1e-3)
# Starting scales of the random walks, in the unit of the conditional covariance and of z.
WALK_SCALE, COORDINATE_SCALE = 0.8, 0.5


class Chains(eqx.Module):
    """The chains of one group (or, stacked, of all): `xi` (chains, random), b plus the mean that it is written around
    (where psi is at its edge, z); `centre` (random,) of xi given y, `factor` (random, random), C with C C' about its
    covariance, `inverse` of C, from the last search of the mode; `log_scales` (random + 2,) of the random walks;
    `found`, whether that search arrived; `alive`, whether a chain stands where the density is finite; `memory`, what
    the sampler keeps of the group."""

    xi: Any
    centre: Any
    factor: Any
    inverse: Any
    log_scales: Any
    found: Any
    alive: Any
    memory: Any


def resting(groups: int, replicates: int, chains: int, effects: int, memory: Any = ()) -> Chains:
    """Chains (groups, replicates, ...) before their first iteration, on the host; `memory` of one group."""
    shape = (groups, replicates)
    eye = np.broadcast_to(np.eye(effects), (*shape, effects, effects))
    scales = np.concatenate([np.log([WALK_SCALE, COORDINATE_SCALE]), np.full(effects, np.log(COORDINATE_SCALE))])
    return Chains(
        np.zeros((*shape, chains, effects)),
        np.zeros((*shape, effects)),
        eye.copy(),
        eye.copy(),
        np.broadcast_to(scales, (*shape, effects + 2)).copy(),
        np.zeros(shape, bool),
        np.ones(shape, bool),
        jax.tree.map(lambda leaf: np.broadcast_to(leaf, (*shape, *np.shape(leaf))).copy(), memory),
    )


class Frame(eqx.Module):
    """What carries b to z and back at given parameters, the same for all groups: `factor` L, `inverse` of it."""

    factor: Any
    inverse: Any


def frame_at(density: Density, params: Params, whitened: bool = False) -> Frame:
    """The Frame at params: L^-1 = L' psi^-1, for a factor of any form; of chains that hold z itself (`whitened`), z."""
    if whitened or not density.n_effects:
        return Frame(jnp.eye(density.n_effects), jnp.eye(density.n_effects))
    factor = density.covariance.factor(params.covariance)
    return Frame(factor, times(factor.T, cholesky_inverse(cholesky(times(factor, factor.T)))))


def look(
    density: Density, params: Params, frame: Frame, group: Group, mean: Vector, centre: Vector
) -> tuple[Vector, Matrix, Matrix, Any]:
    """The conditional mode of xi (random,) searched from `centre`, a factor of Laplace's covariance there, its inverse,
    and whether the search arrived; the population itself where the density has no mode there."""

    def expand(z):
        return value_gradient_hessian(lambda z: -density.log_joint(params, z, group), z)

    zero = jnp.zeros_like(centre)
    z, result = newton(
        expand, times(frame.inverse, centre - mean), zero, SEARCH.steps, SEARCH.tolerance, with_hessian=True
    )
    hessian = result.hessian
    assert hessian is not None
    sound = result.finite & jnp.all(jnp.isfinite(hessian))
    z = jnp.where(sound, z, zero)
    lower, _ = guarded_cholesky(jnp.where(sound, hessian, jnp.eye(zero.shape[0], dtype=zero.dtype)))
    # H = U U': C = L U'^-1 and C^-1 = U' L^-1.
    back = times(cholesky_inverse(lower), lower)
    at, spread = times(frame.factor, z) + mean, times(frame.factor, back)
    return at, spread, times(lower.T, frame.inverse), result.converged & result.finite


class Draws(eqx.Module):
    """Draws of one group's effects in an iteration: `z` (draws, random); `kept` of the evaluations (draws, ...);
    `shares` (draws,), their weights, which add up to one (NaN where no draw has a finite density); `accepted`
    (updates,), the share of chains that took each update, or of draws that count."""

    z: Any
    kept: Any
    shares: Any
    accepted: Any

    def mean(self, values: Any) -> Any:
        """Means of `values` (draws, ...) over draws whose density is finite; NaN where none is."""

        def weigh(v):
            shares = self.shares.reshape((-1,) + (1,) * (v.ndim - 1))
            return jnp.sum(shares * jnp.where(shares != 0, v, 0.0), axis=0)

        return jax.tree.map(weigh, values)


class AbstractSampler(eqx.Module):
    """How a group's effects are drawn given its responses."""

    @property
    @abc.abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The name of each entry of `Draws.accepted`."""

    def memory(self) -> Any:
        """What is remembered of a group before the first iteration, a pytree of arrays."""
        return ()

    @abc.abstractmethod
    def draw(
        self, log_density: Any, frame: Frame, chains: Chains, mean: Vector, empty: Any, key: Any, gain: Any
    ) -> tuple[Chains, Draws]:
        """One iteration of one group at given parameters.

        **Arguments:** `log_density(z)`: the log joint of z and y, and what is kept of the evaluation, like `empty`;
        `mean` (random,) that xi is written around; `key` of this iteration and group; `gain` of the tuning, 0 to leave
        everything as it is.
        """


class Metropolis(AbstractSampler):
    """Markov chains: every kernel of `moves`, of `effects` random effects."""

    moves: Moves
    effects: int = eqx.field(static=True)

    @property
    def labels(self):
        return self.moves.labels(self.effects)

    def draw(self, log_density, frame, chains, mean, empty, key, gain):
        kinds, which = self.moves.listing(self.effects)
        proposal = Proposal(
            times(frame.inverse, chains.centre - mean),
            times(frame.inverse, chains.factor),
            times(chains.inverse, frame.factor),
            chains.log_scales,
        )
        z = times(chains.xi - mean[None, :], frame.inverse.T)
        numbers = words(key, (z.shape[0], len(kinds), z.shape[1] + 3))
        z, value, kept, accepted = jax.vmap(
            lambda z, numbers: update(log_density, z, empty, numbers, proposal, kinds, which)
        )(z, numbers)
        accepted = jnp.mean(accepted.astype(z.dtype), axis=0)
        fine = jnp.isfinite(value)
        moved = eqx.tree_at(
            lambda c: (c.xi, c.log_scales, c.alive),
            chains,
            (
                times(z, frame.factor.T) + mean[None, :],
                tuned(chains.log_scales, accepted, kinds, which, gain),
                jnp.any(fine),
            ),
        )
        # Written out: XLA takes a truth value over zero for zero.
        shares = jnp.where(jnp.any(fine), fine / jnp.maximum(jnp.sum(fine), 1), jnp.nan)
        return moved, Draws(z, kept, shares, accepted)
