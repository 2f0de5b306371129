"""Metropolis-Hastings updates of one group's whitened effects z, with several kernels and one evaluation of the model
per update.

All updates of an iteration run in one loop, so that the model is traced once however many kernels there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError, shown
from jaxnlme.numerics.linalg import small_product
from jaxnlme.sampling.settings import TUNING
from jaxnlme.signatures import check_call
from jaxnlme.typing import Matrix, Scalar, Vector

KERNELS = ("population", "walk", "coordinates", "blocks", "mode")
STAY, POPULATION, WALK, COORDINATE, BLOCK, MODE = range(6)


class Moves(eqx.Module):
    """Number of updates that each Metropolis-Hastings kernel makes in an iteration.

    - `population`: independent proposals from the population distribution.
    - `walk`: random-walk proposals of all effects, along their conditional covariance.
    - `coordinates`: sweeps of random-walk proposals of one effect each.
    - `blocks`: sweeps of random-walk proposals of random pairs of effects.
    - `mode`: independent proposals from a t distribution around the conditional mode with Laplace's covariance.

    With nested levels `population`, `walk` and `mode` make as many updates at each level, for all of its units at once,
    and `coordinates` one of each distinct effect in all units (`nested_metropolis.py`).

    **Raises:** OptionError for counts that are not whole numbers >= 0, or all zero.
    **Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038, for the first three;
    Karimi, Lavielle and Moulines (2020), Computational Statistics and Data Analysis 141, 123-138, for the last.

    **Example:**

    ```python
    jn.SAEM(moves=jn.Moves(population=2, walk=2))
    ```
    """

    population: int = eqx.field(static=True, default=1)
    walk: int = eqx.field(static=True, default=1)
    coordinates: int = eqx.field(static=True, default=0)
    blocks: int = eqx.field(static=True, default=0)
    mode: int = eqx.field(static=True, default=2)

    def __new__(cls, *args: Any, **options: Any) -> Moves:
        """A new object. **Raises:** ArgumentError for arguments that `__init__` does not take."""
        check_call(cls, args, options)
        return super().__new__(cls)

    def __check_init__(self):
        for name in KERNELS:
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 0:
                raise OptionError(f"Moves: {name} is a number of updates, at least 0; received {shown(count)}.")
        if not any(getattr(self, name) for name in KERNELS):
            raise OptionError("Moves: at least one kernel must make an update; all are 0.")

    def update_sequence(self, effects: int) -> tuple[np.ndarray, np.ndarray]:
        """Updates of an iteration in order.

        **Arguments:** `effects`, the number of random effects.
        **Returns:** the kernel of each update (updates,), and its coordinate (updates,), 0 where the kernel has none.
        The first update does not move: it evaluates the density at the current point.
        """
        pairs = max(effects // 2, 1)
        kernels = [STAY] + [POPULATION] * self.population + [WALK] * self.walk
        coordinates = [0] * len(kernels)
        kernels += [COORDINATE] * (effects * self.coordinates)
        coordinates += list(range(effects)) * self.coordinates
        kernels += [BLOCK] * (pairs * self.blocks) + [MODE] * self.mode
        coordinates += [0] * (pairs * self.blocks + self.mode)
        return np.array(kernels), np.array(coordinates)

    def labels(self, effects: int) -> tuple[str, ...]:
        """Name of the kernel of each update of `update_sequence` with `effects` random effects; empty for the first."""
        kernels, _ = self.update_sequence(effects)
        return tuple(("", *KERNELS)[kernel] for kernel in kernels)


class Proposal(eqx.Module):
    """Parameters of a group's proposals: `centre` (random,) of z given y; `factor` (random, random), C with C C' the
    approximate conditional covariance of z; `inverse` (random, random) of C; `log_scales` (random + 2,), log step
    lengths of the walk of all effects, of the pairs, and of each coordinate."""

    centre: Any
    factor: Any
    inverse: Any
    log_scales: Any


def random_bits(key: Any, shape: tuple[int, int, int]) -> Any:
    """Random 32-bit integers of `shape` (chains, updates, ...), with zeros for the first update, which does not move.
    Each 64-bit draw gives two: a generator of 32-bit numbers would discard half of its work."""
    chains, updates, per_update = shape
    total = chains * (updates - 1) * per_update
    long = jax.random.bits(key, (-(-total // 2),), jnp.uint64)
    short = jnp.stack([long, long >> 32]).astype(jnp.uint32).reshape(-1)[:total]
    return jnp.pad(short.reshape(chains, updates - 1, per_update), ((0, 0), (1, 0), (0, 0)))


def uniform_from_bits(numbers: Any, dtype: Any) -> Any:
    """Uniform numbers in (0, 1) from 32-bit integers: 32 bits suffice to decide on acceptance."""
    return (numbers.astype(dtype) + 0.5) * 2.0**-32


def normal_from_bits(numbers: Any, dtype: Any) -> Any:
    """Standard normal numbers from 32-bit integers, in single precision and cut off at 5.4: the accuracy of a
    proposal's distribution is not critical, and they cost a third."""
    centred = (numbers.astype(jnp.float32) + 0.5) * 2.0**-31 - 1.0
    bound = 1.0 - 2.0**-24
    return np.sqrt(2.0) * jax.lax.erf_inv(jnp.clip(centred, -bound, bound)).astype(dtype)


def update_chain(
    log_density: Callable[[Vector], tuple[Scalar, Any]],
    z: Vector,
    empty: Any,
    numbers: Matrix,
    proposal: Proposal,
    kernels: np.ndarray,
    coordinates: np.ndarray,
) -> tuple[Vector, Scalar, Any, Vector]:
    """One iteration's updates of one chain.

    **Arguments:** `log_density(z)`, the log joint density of z and y, and auxiliary results of the evaluation (a pytree
    like `empty`); `z` (random,), the current point; `numbers` (updates, random + 3), random 32-bit integers; `kernels`,
    `coordinates` (updates,) as returned by `Moves.update_sequence`.
    **Returns:** the final z (random,); its log joint density (-inf where it is not finite); the auxiliary results
    there; and, for each update, whether it was accepted (updates,).
    **Source:** Metropolis et al. (1953), Journal of Chemical Physics 21, 1087-1092; Hastings (1970), Biometrika 57,
    97-109.
    """
    uniforms, normals = uniform_from_bits(numbers[:, :3], z.dtype), normal_from_bits(numbers[:, 3:], z.dtype)
    branches = _proposals(proposal, z.shape[0], z.dtype)
    used = sorted(set(kernels.tolist()))
    branch_index = np.array([used.index(kernel) for kernel in kernels])

    def move(state, inputs):
        z, value, aux = state
        branch, k, u, v = inputs
        proposed, log_ratio = jax.lax.switch(branch, [branches[kernel] for kernel in used], z, u, v, k)
        new, new_aux = log_density(proposed)
        # NaN and +inf count as -inf: a chain would never leave a point of infinite density again.
        new = jnp.where(new < jnp.inf, new, -jnp.inf)
        accept = jnp.log(v[0]) < new - value + log_ratio
        accept = accept | jnp.isposinf(log_ratio)  # the first update, which does not move

        def take(new, old):
            return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old)

        return take((proposed, new, new_aux), state), accept

    initial = (z, jnp.asarray(-jnp.inf, z.dtype), empty)
    inputs = (jnp.asarray(branch_index), jnp.asarray(coordinates), normals, uniforms)
    (z, value, aux), accepted = jax.lax.scan(move, initial, inputs)
    return z, value, aux, accepted


def _proposals(proposal: Proposal, q: int, dtype: Any) -> list[Callable[..., tuple[Vector, Scalar]]]:
    """For each kernel, in the order of STAY to MODE, the function (z, u, v, k) -> (proposed point, log of the ratio of
    the proposal densities there and back).

    The functions take the current point `z` (q,), standard normal `u` (q,), uniform `v` (3,), of which the first
    decides on acceptance, and the coordinate `k`.
    """
    scales = jnp.exp(proposal.log_scales)

    def stay(z, u, v, k):
        return z, jnp.asarray(jnp.inf, dtype)

    def population(z, u, v, k):
        return u, 0.5 * jnp.sum(u**2) - 0.5 * jnp.sum(z**2)

    def walk(z, u, v, k):
        return z + scales[0] * small_product(proposal.factor, u), jnp.zeros((), dtype)

    def coordinate(z, u, v, k):
        return z + jnp.where(jnp.arange(q) == k, scales[2:] * u, 0.0), jnp.zeros((), dtype)

    def block(z, u, v, k):
        # The two coordinates whose normal numbers have the largest fractional parts: a random pair, independent of the
        # state.
        rank = jnp.abs(u - jnp.trunc(u))
        chosen = rank >= jnp.sort(rank)[max(q - 2, 0)]
        return z + jnp.where(chosen, scales[1] * u, 0.0), jnp.zeros((), dtype)

    def mode(z, u, v, k):
        df = TUNING.mode_proposal_df
        radius = -2.0 * (jnp.log(v[1]) + jnp.log(v[2]))
        u = u * jnp.sqrt(df / radius)
        old = small_product(proposal.inverse, z - proposal.centre)
        tail = jnp.log1p(jnp.sum(u**2) / df) - jnp.log1p(jnp.sum(old**2) / df)
        return proposal.centre + small_product(proposal.factor, u), 0.5 * (df + q) * tail

    return [stay, population, walk, coordinate, block, mode]


def tuned_scales(
    log_scales: Vector, accepted: Matrix, kernels: np.ndarray, coordinates: np.ndarray, gain: Scalar
) -> Vector:
    """Log step lengths (random + 2,) of the random walks after an iteration: raised where the acceptance rate is above
    its target, lowered where it is below, by steps of size `gain`.

    **Arguments:** `log_scales` (random + 2,); `accepted` (updates,), acceptance rates over the chains; `kernels`,
    `coordinates` (updates,) as returned by `Moves.update_sequence`; `gain`, the step size of the adaptation.
    **Source:** Andrieu and Thoms (2008), Statistics and Computing 18, 343-373, algorithm 4.
    """
    n = log_scales.shape[0]
    scale_index = np.select([kernels == WALK, kernels == BLOCK, kernels == COORDINATE], [0, 1, 2 + coordinates], -1)
    steps = []
    for k in range(n):
        rates = [accepted[row] for row in np.flatnonzero(scale_index == k)]
        target = TUNING.target_acceptance if k < 2 else TUNING.target_acceptance_single
        steps.append(sum(rates[1:], rates[0]) / len(rates) - target if rates else jnp.zeros_like(gain))
    return log_scales + gain * jnp.stack(steps)
