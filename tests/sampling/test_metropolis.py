"""Invariance of the conditional distribution under every kernel: moments of many chains against quadrature."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.sampling.metropolis import (
    KERNELS,
    Moves,
    Proposal,
    tuned_scales,
    update_chain,
)
from jaxnlme.sampling.samplers import Chains, Metropolis, Whitening, initial_chains
from jaxnlme.sampling.settings import TUNING
from tests.problems import cheap

CHAINS, ITERATIONS = 3000, 80
# Chains are independent of each other, so that standard errors of their means are known. Of the fifty moments compared
# here one lies beyond 4.5 of them in 3,000 runs.
BEYOND = 4.5


def counts(z):
    """Three Poisson counts with skewed, correlated information on up to three effects; z ~ N(0, I)."""
    loads = jnp.array([[1.0, 0.6, -0.5], [0.4, -1.0, 0.7], [0.8, 0.5, 0.9]])[:, : z.shape[0]]
    eta = 0.3 + loads @ z
    return jnp.sum(jnp.array([4.0, 0.0, 2.0]) * eta - jnp.exp(eta)) - 0.5 * jnp.sum(z**2)


def cut(z):
    """Not a number beyond 0.4 in the first effect, -inf beyond 1 in the second."""
    value = jnp.log(0.4 - z[0]) * 0.5 - 0.5 * jnp.sum(z**2)
    return value if z.shape[0] == 1 else jnp.where(z[1] > 1.0, -jnp.inf, value)


def only(kernel):
    return Moves(**({name: 0 for name in KERNELS} | {kernel: 1}))


@functools.partial(cheap, static_argnames=("target", "moves"))
def run(target, moves, key, start, proposal):
    """Chains (chains, random) after ITERATIONS, the acceptance rate of each update, and the largest difference between
    the auxiliary result and the state."""
    kernels, coordinates = moves.update_sequence(start.shape[1])

    def iteration(z, key):
        numbers = jax.random.bits(key, (z.shape[0], len(kernels), z.shape[1] + 3), jnp.uint32)
        z, _, aux, accepted = jax.vmap(
            lambda z, n: update_chain(
                lambda z: (target(z), z), z, jnp.zeros(z.shape), n, proposal, kernels, coordinates
            )
        )(z, numbers)
        return z, (jnp.mean(accepted.astype(float), axis=0), jnp.max(jnp.abs(aux - z)))

    z, (accepted, mismatch) = jax.lax.scan(iteration, start, jax.random.split(key, ITERATIONS))
    return z, jnp.mean(accepted, axis=0), jnp.max(mismatch)


def proposal(q, scale=0.9):
    """Proposal that fits badly: off the mode, with correlations, and step lengths that differ."""
    factor = np.linalg.cholesky(0.5 * np.eye(q) + 0.2)
    lengths = np.log(scale) + 0.3 * np.arange(q + 2)
    return Proposal(np.full(q, 0.2), factor, np.linalg.inv(factor), lengths)


@functools.cache
def moments(target, q):
    """Means of z, z^2, z^3 and of products, by sums over a fine grid: the integrands fall off like normal ones."""
    axis = np.linspace(-7.0, 7.0, {1: 20001, 2: 701, 3: 121}[q])
    grid = np.stack([part.ravel() for part in np.meshgrid(*[axis] * q, indexing="ij")], axis=1)
    value = np.asarray(jax.jit(jax.vmap(target))(grid))
    weight = np.where(np.isfinite(value), np.exp(np.where(np.isfinite(value), value, 0.0)), 0.0)
    return (weight / weight.sum()) @ powers(grid)


def powers(z):
    """Functions of the draws whose means are compared (draws, moments)."""
    pairs = [z[:, i] * z[:, j] for i in range(z.shape[1]) for j in range(i)]
    return np.column_stack([z, z**2, z**3, np.exp(-(z**2)), *pairs])


def assert_moments(z, target):
    values = powers(np.asarray(z))
    error = values.mean(axis=0) - moments(target, z.shape[1])
    assert np.abs(error / (values.std(axis=0) / np.sqrt(len(values)))).max() < BEYOND


@pytest.mark.parametrize(("kernel", "q"), [(kernel, q) for kernel in KERNELS for q in (1, 3)] + [("blocks", 2)])
def test_each_kernel_separately(kernel, q):
    """From one point to the distribution; the auxiliary result belongs to the state at which the chain ends."""
    for seed in (0, 1):
        z, accepted, mismatch = run(counts, only(kernel), jax.random.key(seed), np.zeros((CHAINS, q)), proposal(q))
        assert_moments(z, counts)
        # Neither a chain that never moves nor one that accepts every proposal.
        assert accepted[0] == 1.0 and (accepted[1:] > 0.05).all() and (accepted[1:] < 0.95).all()
        assert mismatch == 0.0


@pytest.mark.parametrize("scale", [0.2, 6.0])
def test_any_scale_of_the_walks(scale):
    """Chains that move slowly start from draws of the distribution, which they must leave invariant."""
    moves = Moves(population=0, walk=1, coordinates=1, blocks=1, mode=0)
    rng = np.random.default_rng(5)
    pool = rng.standard_normal((200_000, 2))
    weight = np.exp(np.asarray(jax.vmap(counts)(pool)) + 0.5 * np.sum(pool**2, axis=1))
    start = pool[rng.choice(len(pool), CHAINS, p=weight / weight.sum())]
    z, accepted, _ = run(counts, moves, jax.random.key(3), start, proposal(2, scale))
    assert_moments(z, counts)
    assert (accepted[1:] > 0.6).all() if scale < 1 else (accepted[1:] < 0.4).all()


@pytest.mark.parametrize("q", [1, 2])
def test_where_the_density_is_not_finite(q):
    """Chains that start where the density is not finite reach finite density, and none returns."""
    start = np.where(np.arange(CHAINS)[:, None] % 2, 0.0, 1.5) * np.ones(q)
    z, _, _ = run(cut, Moves(), jax.random.key(4), start, proposal(q))
    assert np.isfinite(np.asarray(jax.vmap(cut)(z))).all()
    assert_moments(z, cut)


def test_no_chain_remains_at_a_point_of_infinite_density():
    """The density may be infinite where a residual scale underflows: no chain may remain there."""

    def spike(z):
        return jnp.where(z[0] > 1.5, jnp.inf, -0.5 * z[0] ** 2)

    z, _, _ = run(spike, Moves(), jax.random.key(5), np.zeros((50, 1)), proposal(1))
    assert (np.asarray(z) <= 1.5).all()


@functools.partial(cheap, static_argnames=("sampler",))
def tuning(sampler, chains, whitening, mean, key):
    def log_density(z):
        return counts(z), ()

    def iteration(chains, k):
        gain = jnp.where(k < 400, 1.0 / jnp.sqrt(1.0 + k), 0.0)
        chains, draws = sampler.draw(log_density, whitening, chains, mean, (), jax.random.fold_in(key, k), gain)
        return chains, (draws.accepted, draws.z, chains.xi, chains.log_scales)

    return jax.lax.scan(iteration, chains, jnp.arange(900))


class AsStatic:
    """A sampler as a static argument, hashed by identity."""

    def __init__(self, sampler):
        self.sampler = sampler
        self.draw = sampler.draw


def test_tuning_reaches_its_targets():
    """Step lengths a hundred times too long or too short reach their targets, and are constant at zero gain."""
    q, n = 3, 40
    sampler = Metropolis(Moves(population=0, walk=1, coordinates=1, blocks=1, mode=0), q)
    static_sampler = AsStatic(sampler)
    mean = np.array([3.0, -2.0, 0.5])
    factor = np.array([[0.2, 0.0, 0.0], [1.0, 5.0, 0.0], [0.0, 0.3, 1.0]])
    whitening = Whitening(factor, np.linalg.inv(factor))
    initial = jax.tree.map(lambda leaf: leaf[0, 0], initial_chains(1, 1, n, q))
    # C of the chains is the identity: in z it is the inverse of the factor, which fits badly enough.
    for start in (np.log(60.0), np.log(0.006)):
        chains = Chains(
            np.tile(mean, (n, 1)),
            mean,
            factor,
            whitening.inverse,
            np.full(q + 2, start),
            initial.mode_found,
            initial.any_finite,
            (),
        )
        chains, (accepted, z, xi, scales) = tuning(static_sampler, chains, whitening, mean, jax.random.key(0))
        rates = np.asarray(accepted)[450:].mean(axis=0)
        targets = np.select(
            [np.array(sampler.labels) == "coordinates", np.array(sampler.labels) == ""],
            [TUNING.target_acceptance_single, 1.0],
            TUNING.target_acceptance,
        )
        np.testing.assert_allclose(rates, targets, atol=0.06)  # the noise of scales tuned by 400 iterations
        assert (scales[400:] == scales[400][None]).all() and (scales[0] != start).all()
        np.testing.assert_allclose(xi[-1], np.asarray(z)[-1] @ factor.T + mean, rtol=1e-12)
        batches = np.asarray(z)[450:].mean(axis=1).reshape(9, 50, q).mean(axis=1)
        error = batches.mean(axis=0) - moments(counts, q)[:q]
        # A t variable of 8 degrees of freedom beyond 5.5: one in 1,700.
        assert (np.abs(error) < 5.5 * batches.std(axis=0, ddof=1) / 3.0).all()


def test_scales_without_updates_are_unchanged():
    moves = only("population")
    kernels, coordinates = moves.update_sequence(2)
    initial = jnp.array([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(tuned_scales(initial, jnp.ones(len(kernels)), kernels, coordinates, 1.0), initial)
    kernels, coordinates = only("coordinates").update_sequence(2)
    tuned = tuned_scales(initial, jnp.array([1.0, 1.0, 0.0]), kernels, coordinates, 0.5)
    np.testing.assert_allclose(
        tuned - initial,
        [0.0, 0.0, 0.5 * (1 - TUNING.target_acceptance_single), -0.5 * TUNING.target_acceptance_single],
        atol=1e-15,
    )


@pytest.mark.parametrize("wrong", [{"walk": -1}, {"mode": 1.5}, {"blocks": True}, dict.fromkeys(KERNELS, 0)])
def test_invalid_numbers_of_updates_are_refused(wrong):
    with pytest.raises(jn.OptionError, match="Moves"):
        Moves(**wrong)
