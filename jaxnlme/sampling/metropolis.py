"""Metropolis-Hastings updates of one group's whitened effects z: several kernels, one evaluation of the model.

All updates of an iteration run in one loop, so that the model is traced once however many kernels there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.numerics.linalg import times
from jaxnlme.typing import Matrix, Scalar, Vector

# Degrees of freedom of the proposals around the mode: a chi-squared variable of four is -2 log(u v).
DF = 4.0
# Acceptance that the scales of the random walks are tuned to: Roberts, Gelman and Gilks (1997), Annals of Applied
# Probability 7, 110-120, for several coordinates at a time and for one.
WANTED, WANTED_ALONE = 0.3, 0.44
KERNELS = ("population", "walk", "coordinates", "blocks", "mode")
STAY, POPULATION, WALK, COORDINATE, BLOCK, MODE = range(6)


class Moves(eqx.Module):
    """How many updates of each kernel an iteration makes: `population`, independent draws from the population;
    `walk`, a random walk of all effects along their conditional covariance; `coordinates`, sweeps of random walks of
    one effect each; `blocks`, sweeps of random walks of random pairs; `mode`, independent draws from a t distribution
    around the conditional mode with Laplace's covariance (Karimi, Lavielle and Moulines 2020, Computational Statistics
    and Data Analysis 141, 123-138)."""

    population: int = eqx.field(static=True, default=1)
    walk: int = eqx.field(static=True, default=1)
    coordinates: int = eqx.field(static=True, default=0)
    blocks: int = eqx.field(static=True, default=0)
    mode: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        for name in KERNELS:
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 0:
                raise OptionError(f"Moves: {name} is a number of updates, at least 0; received {count!r}.")
        if not any(getattr(self, name) for name in KERNELS):
            raise OptionError("Moves: at least one kernel must make an update; all are 0.")

    def listing(self, effects: int) -> tuple[np.ndarray, np.ndarray]:
        """The updates of an iteration in order: kernel (updates,), and which coordinate (0 where none). The first one
        stays, and evaluates the density where the chain stands."""
        pairs = max(effects // 2, 1)
        kinds = [STAY] + [POPULATION] * self.population + [WALK] * self.walk
        which = [0] * len(kinds)
        kinds += [COORDINATE] * (effects * self.coordinates)
        which += list(range(effects)) * self.coordinates
        kinds += [BLOCK] * (pairs * self.blocks) + [MODE] * self.mode
        which += [0] * (pairs * self.blocks + self.mode)
        return np.array(kinds), np.array(which)

    def labels(self, effects: int) -> tuple[str, ...]:
        """The kernel of each update of `listing`."""
        kinds, _ = self.listing(effects)
        return tuple(("", *KERNELS)[kind] for kind in kinds)


class Proposal(eqx.Module):
    """What the kernels know of a group: `centre` (random,) of z given y; `factor` (random, random), C with C C' about
    its covariance; `inverse` (random, random) of C; `log_scales` (random + 2,): of the walk, of the pairs, and of each
    coordinate's walk."""

    centre: Any
    factor: Any
    inverse: Any
    log_scales: Any


def words(key: Any, shape: tuple[int, int, int]) -> Any:
    """Random 32-bit integers (chains, updates, ...), zeros for the first update, which stays. Two come from each
    64-bit one: for a short one the generator throws half of its work away."""
    chains, updates, each = shape
    total = chains * (updates - 1) * each
    long = jax.random.bits(key, (-(-total // 2),), jnp.uint64)
    short = jnp.stack([long, long >> 32]).astype(jnp.uint32).reshape(-1)[:total]
    return jnp.pad(short.reshape(chains, updates - 1, each), ((0, 0), (1, 0), (0, 0)))


def uniform(numbers: Any, dtype: Any) -> Any:
    """Random numbers in (0, 1) from 32-bit integers: whether to accept needs no more digits."""
    return (numbers.astype(dtype) + 0.5) * 2.0**-32


def normal(numbers: Any, dtype: Any) -> Any:
    """Standard normal numbers from 32-bit integers, with the digits of single precision and cut off at 5.4: a proposal
    is as good with them, and they cost a third."""
    centred = (numbers.astype(jnp.float32) + 0.5) * 2.0**-31 - 1.0
    edge = 1.0 - 2.0**-24
    return np.sqrt(2.0) * jax.lax.erf_inv(jnp.clip(centred, -edge, edge)).astype(dtype)


def update(
    log_density: Callable[[Vector], tuple[Scalar, Any]],
    z: Vector,
    empty: Any,
    numbers: Matrix,
    proposal: Proposal,
    kinds: np.ndarray,
    which: np.ndarray,
) -> tuple[Vector, Scalar, Any, Vector]:
    """One chain's updates of an iteration.

    **Arguments:** `log_density(z)`: the log joint of z and y, and anything else worth keeping of the evaluation (like
    `empty`); `numbers` (updates, random + 3), random 32-bit integers; `kinds`, `which` (updates,) as `Moves.listing`
    gives them.
    **Returns:** z (random,) at the end, its log joint (-inf where it is no finite number) and what was kept of it, and
    whether each update was accepted (updates,).
    """
    q = z.shape[0]
    uniforms, normals = uniform(numbers[:, :3], z.dtype), normal(numbers[:, 3:], z.dtype)
    scales = jnp.exp(proposal.log_scales)

    def stay(z, u, v, k):
        return z, jnp.asarray(jnp.inf, z.dtype)

    def population(z, u, v, k):
        return u, 0.5 * jnp.sum(u**2) - 0.5 * jnp.sum(z**2)

    def walk(z, u, v, k):
        return z + scales[0] * times(proposal.factor, u), jnp.zeros((), z.dtype)

    def coordinate(z, u, v, k):
        return z + jnp.where(jnp.arange(q) == k, scales[2:] * u, 0.0), jnp.zeros((), z.dtype)

    def block(z, u, v, k):
        # The two coordinates whose further random numbers are largest: any pair, whatever the state.
        rank = jnp.abs(u - jnp.trunc(u))
        chosen = rank >= jnp.sort(rank)[max(q - 2, 0)]
        return z + jnp.where(chosen, scales[1] * u, 0.0), jnp.zeros((), z.dtype)

    def mode(z, u, v, k):
        radius = -2.0 * (jnp.log(v[1]) + jnp.log(v[2]))
        u = u * jnp.sqrt(DF / radius)
        old = times(proposal.inverse, z - proposal.centre)
        tail = jnp.log1p(jnp.sum(u**2) / DF) - jnp.log1p(jnp.sum(old**2) / DF)
        return proposal.centre + times(proposal.factor, u), 0.5 * (DF + q) * tail

    branches = [stay, population, walk, coordinate, block, mode]
    used = sorted(set(kinds.tolist()))
    place = np.array([used.index(kind) for kind in kinds])

    def move(state, given):
        z, value, kept = state
        kind, k, u, v = given
        there, log_ratio = jax.lax.switch(kind, [branches[one] for one in used], z, u, v, k)
        new, kept_new = log_density(there)
        # Not a number, or infinite, which no chain would leave again.
        new = jnp.where(new < jnp.inf, new, -jnp.inf)
        accept = jnp.log(v[0]) < new - value + log_ratio
        accept = accept | jnp.isposinf(log_ratio)  # stays

        def take(new, old):
            return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old)

        return take((there, new, kept_new), state), accept

    begin = (z, jnp.asarray(-jnp.inf, z.dtype), empty)
    (z, value, kept), accepted = jax.lax.scan(move, begin, (jnp.asarray(place), jnp.asarray(which), normals, uniforms))
    return z, value, kept, accepted


def tuned(log_scales: Vector, accepted: Matrix, kinds: np.ndarray, which: np.ndarray, gain: Scalar) -> Vector:
    """Scales (random + 2,) of the random walks after an iteration whose updates were `accepted` (updates,), shares over
    chains: raised where more is accepted than wanted, by steps of size `gain`.

    **Source:** Andrieu and Thoms (2008), Statistics and Computing 18, 343-373, algorithm 4.
    """
    n = log_scales.shape[0]
    place = np.select([kinds == WALK, kinds == BLOCK, kinds == COORDINATE], [0, 1, 2 + which], -1)
    steps = []
    for k in range(n):
        tells = [accepted[row] for row in np.flatnonzero(place == k)]
        wanted = WANTED if k < 2 else WANTED_ALONE
        steps.append(sum(tells[1:], tells[0]) / len(tells) - wanted if tells else jnp.zeros_like(gain))
    return log_scales + gain * jnp.stack(steps)
