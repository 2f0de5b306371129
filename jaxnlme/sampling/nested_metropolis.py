"""Markov chains of the random effects of one group with nested levels.

With Laplace's approximation of the conditional distribution, z = m + C u, C lower triangular in blocks of the levels
(outermost first), the u are nearly independent standard normal, and a change of u of one level takes the effects inside
it along, as their conditional mean given the others moves. The kernels of `metropolis.py` become, one update for each
level from the outermost on:

1. `population`: the effects of the level and all inside it from the population distribution.
2. `walk`: z + s C e, e standard normal at u of the level.
3. `coordinates`: for each distinct effect, a random walk of it in all units at once.
4. `blocks`: random pairs of effects of the group.
5. `mode`: u of the level from a t distribution, for each unit its own.

Each unit of the level accepts by itself where the log-density is a sum over units (`unit_tree.py`), so that acceptance
rates do not fall with the number of units. Each update evaluates the model once, for all units.

**Source:** Hastings (1970), Biometrika 57, 97-109; Tierney (1994), Annals of Statistics 22, 1701-1762, for updates of
blocks; Papaspiliopoulos, Roberts and Skold (2007), Statistical Science 22, 59-73, for coordinates in which nested
effects are nearly independent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.levels import Levels
from jaxnlme.numerics.linalg import small_product
from jaxnlme.sampling.metropolis import (
    BLOCK,
    COORDINATE,
    KERNELS,
    MODE,
    POPULATION,
    STAY,
    WALK,
    Moves,
    Proposal,
    normal_from_bits,
    random_bits,
    uniform_from_bits,
)
from jaxnlme.sampling.samplers import AbstractSampler, Draws
from jaxnlme.sampling.settings import TUNING
from jaxnlme.sampling.unit_tree import UnitTree
from jaxnlme.typing import Vector

# Kernel, level (one beyond the last for the group as a whole) and distinct effect of each update.
Updates = tuple[tuple[int, int, int], ...]


class NestedMetropolis(AbstractSampler):
    """Markov chains of the random effects of nested `levels`, updated by the kernels of `moves`.

    `draw` takes a `log_density(z)` that returns log p(y | z) by term of a UnitTree (terms,), and auxiliary results with
    the same leading axis.
    """

    moves: Moves
    levels: Levels

    @property
    def updates(self) -> Updates:
        """The updates of an iteration in order; the first does not move: it evaluates the density at the current
        point."""
        moves, n, q = self.moves, len(self.levels.levels), len(self.levels.level_of_effect)
        out = [(STAY, n, 0)]
        for kernel, count in ((POPULATION, moves.population), (WALK, moves.walk)):
            out += [(kernel, level, 0) for _ in range(count) for level in range(n)]
        level_of = self.levels.level_of_effect
        out += [(COORDINATE, int(level_of[k]), k) for _ in range(moves.coordinates) for k in range(q)]
        out += [(BLOCK, n, 0)] * (max(self.levels.size // 2, 1) * moves.blocks)
        out += [(MODE, level, 0) for _ in range(moves.mode) for level in range(n)]
        return tuple(out)

    @property
    def by_unit(self):
        return True

    @property
    def labels(self):
        def label(kernel: int, level: int) -> str:
            if kernel == STAY:
                return ""
            name = KERNELS[kernel - 1]
            return f"{name}, {self.levels.levels[level].name}" if level < len(self.levels.levels) else name

        return tuple(label(kernel, level) for kernel, level, _ in self.updates)

    def initial_log_scales(self, effects):
        walk = np.full(len(self.levels.levels), np.log(TUNING.walk_scale))
        return np.concatenate([walk, np.full(1 + len(self.levels.level_of_effect), np.log(TUNING.coordinate_scale))])

    def draw(self, log_density, whitening, chains, mean, empty, key, gain, tree=None):
        assert tree is not None
        updates = self.updates
        proposal = Proposal(
            whitening.solve(chains.centre - mean),
            whitening.solve_columns(chains.factor),
            whitening.times_factor(chains.inverse),
            chains.log_scales,
        )
        entries = tree.entries
        z = jnp.where(entries[None, :], whitening.solve(chains.xi - mean[None, :]), 0.0)
        # One row of random numbers more than updates, for the effects of units that the data say nothing of.
        width = z.shape[1] + 3 * tree.n_accepting
        numbers = random_bits(key, (z.shape[0], len(updates) + 1, width))
        z, value, aux, accepted = jax.vmap(
            lambda z, numbers: _update_chain(log_density, z, empty, numbers, proposal, tree, updates)
        )(z, numbers[:, :-1])
        z = jnp.where(entries[None, :], z, normal_from_bits(numbers[:, -1, : z.shape[1]], z.dtype))
        accepted = jnp.mean(accepted, axis=0)
        finite = jnp.isfinite(value)
        moved = eqx.tree_at(
            lambda c: (c.xi, c.log_scales, c.any_finite),
            chains,
            (
                whitening.effects(z) + mean[None, :],
                chains.log_scales + gain * self._scale_steps(accepted),
                jnp.any(finite),
            ),
        )
        weights = jnp.where(jnp.any(finite), finite / jnp.maximum(jnp.sum(finite), 1), jnp.nan)
        return moved, Draws(z, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=1), aux), weights, accepted)

    def _scale_steps(self, accepted: Vector) -> Vector:
        """Acceptance rates less their targets, for each step length; zero for those not in use."""
        n = len(self.levels.levels)
        index = [
            level if kernel == WALK else n if kernel == BLOCK else n + 1 + effect if kernel == COORDINATE else -1
            for kernel, level, effect in self.updates
        ]
        steps = []
        for k in range(n + 1 + len(self.levels.level_of_effect)):
            rates = [accepted[row] for row, scale in enumerate(index) if scale == k]
            target = _target(k, n)
            steps.append(sum(rates[1:], rates[0]) / len(rates) - target if rates else jnp.zeros((), accepted.dtype))
        return jnp.stack(steps)


def _target(scale: int, levels: int) -> float:
    """Acceptance rate to which a step length is tuned."""
    return TUNING.target_acceptance if scale <= levels else TUNING.target_acceptance_single


def _update_chain(
    log_density: Callable[[Vector], tuple[Vector, Any]],
    z: Vector,
    empty: Any,
    numbers: Any,
    proposal: Proposal,
    tree: UnitTree,
    updates: Updates,
) -> tuple[Vector, Any, Any, Vector]:
    """One iteration's updates of one chain.

    **Arguments:** as for `metropolis.update_chain`; `z` is zero in units that the data say nothing of; `numbers`
    (updates, random + 3 accepting units).
    **Returns:** the final z (random,); its log-density (), -inf where it is not finite; the auxiliary results there
    (terms, ...); and, for each update, the fraction of its units that accepted (updates,).
    """
    q, units = z.shape[0], tree.n_accepting
    normals = normal_from_bits(numbers[:, :q], z.dtype)
    uniforms = uniform_from_bits(numbers[:, q:], z.dtype).reshape(len(updates), 3, units)
    kinds = sorted({(kernel, level if kernel in (POPULATION, MODE) else 0) for kernel, level, _ in updates})
    branches = [_proposal_of(kernel, level, proposal, tree, z.dtype) for kernel, level in kinds]
    branch_index = [kinds.index((kernel, level if kernel in (POPULATION, MODE) else 0)) for kernel, level, _ in updates]

    def move(state, inputs):
        z, values, aux = state
        branch, level, effect, g, v = inputs
        proposed, log_ratio = jax.lax.switch(branch, branches, z, g, v, level, effect)
        new, new_aux = log_density(proposed)
        new = jnp.where(new < jnp.inf, new, -jnp.inf)  # NaN and +inf count as -inf
        prior = tree.sum_entries(0.5 * (z**2 - proposed**2), level)
        accept = jnp.log(v[0]) < tree.sum_terms(new - values, level) + prior + log_ratio
        accept = accept | jnp.isposinf(log_ratio)  # the first update, which does not move
        in_entries, in_terms = accept[tree.of_entries[level]], accept[tree.of_terms[level]]

        def take(new, old):
            return jnp.where(in_terms.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

        counted = tree.sum_entries(tree.entries.astype(z.dtype), level) > 0
        accepted = jnp.sum(jnp.where(counted, accept, 0.0)) / jnp.maximum(jnp.sum(counted), 1)
        state = jnp.where(in_entries, proposed, z), take(new, values), jax.tree.map(take, new_aux, aux)
        return state, accepted

    initial = (z, jnp.full((tree.n_terms,), -jnp.inf, z.dtype), empty)
    levels, effects = (np.array([update[k] for update in updates]) for k in (1, 2))
    inputs = (jnp.asarray(np.array(branch_index)), jnp.asarray(levels), jnp.asarray(effects), normals, uniforms)
    (z, values, aux), accepted = jax.lax.scan(move, initial, inputs)
    return z, jnp.sum(values), aux, accepted


def _proposal_of(
    kernel: int, level: int, proposal: Proposal, tree: UnitTree, dtype: Any
) -> Callable[..., tuple[Vector, Vector]]:
    """The function (z, g, v, level, effect) -> (proposed point, log of the ratio of the proposal densities there and
    back, for each accepting unit (accepting units,)) of a kernel; `level`: that of a kernel that has one for each."""
    scales, n, units = jnp.exp(proposal.log_scales), len(tree.levels.levels), tree.n_accepting
    effects, level_of_entry, zero = tree.levels.effect_of_entry, tree.level_of_entry, jnp.zeros((units,), dtype)

    def stay(z, g, v, at, effect):
        return z, jnp.full((units,), jnp.inf, dtype)

    def population(z, g, v, at, effect):
        new = jnp.where(tree.entries & (level_of_entry >= level), g, z)
        return new, tree.sum_entries(0.5 * (new**2 - z**2), level)

    def walk(z, g, v, at, effect):
        step = jnp.where(tree.entries & (jnp.asarray(level_of_entry) == at), g, 0.0)
        return z + scales[jnp.minimum(at, n - 1)] * small_product(proposal.factor, step), zero

    def coordinate(z, g, v, at, effect):
        chosen = tree.entries & (jnp.asarray(effects) == effect)
        return z + jnp.where(chosen, scales[n + 1 + effect] * g, 0.0), zero

    def block(z, g, v, at, effect):
        rank = jnp.where(tree.entries, jnp.abs(g - jnp.trunc(g)), -1.0)
        chosen = tree.entries & (rank >= jnp.sort(rank)[max(len(effects) - 2, 0)])
        return z + jnp.where(chosen, scales[n] * g, 0.0), zero

    def mode(z, g, v, at, effect):
        own = tree.entries & (level_of_entry == level)
        df, dimension = TUNING.mode_proposal_df, tree.sum_entries(own.astype(dtype), level)
        radius = -2.0 * (jnp.log(v[1]) + jnp.log(v[2]))
        old = jnp.where(own, small_product(proposal.inverse, z - proposal.centre), 0.0)
        new = jnp.where(own, g * jnp.sqrt(df / radius)[tree.of_entries[level]], 0.0)
        tail = jnp.log1p(tree.sum_entries(new**2, level) / df) - jnp.log1p(tree.sum_entries(old**2, level) / df)
        return z + small_product(proposal.factor, new - old), 0.5 * (df + dimension) * tail

    return {STAY: stay, POPULATION: population, WALK: walk, COORDINATE: coordinate, BLOCK: block, MODE: mode}[kernel]
