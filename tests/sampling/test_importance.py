"""Importance draws: weighted moments against quadrature, what remains of their bias, and what is learnt from them."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnlme.numerics.quadrature import normal_grid
from jaxnlme.sampling.importance import ImportanceSampler, resampled, weights
from jaxnlme.sampling.samplers import Frame, resting
from tests.problems import cheap

KEPT = 8
FRAME = Frame(np.array([[0.8, 0.0], [0.3, 0.5]]), np.linalg.inv(np.array([[0.8, 0.0], [0.3, 0.5]])))
MEAN = np.array([1.5, -0.5])


def counts(z):
    """Two Poisson counts, one of them zero: a skewed density of two correlated effects."""
    eta = jnp.array([[1.0, 0.6], [0.4, -1.0]]) @ z
    return jnp.sum(jnp.array([4.0, 0.0]) * eta - jnp.exp(eta)) - 0.5 * jnp.sum(z**2), z


def nowhere(z):
    return jnp.nan, z


def chains(sampler, centre=(0.0, 0.0)):
    """The chains of one group around `centre` of z, as wide as the population."""
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 0]), resting(1, 1, KEPT, 2, sampler.memory()))
    place = FRAME.factor @ np.array(centre) + MEAN
    return eqx.tree_at(
        lambda c: (c.xi, c.centre, c.factor, c.inverse),
        one,
        (one.xi + place[None, :], place, FRAME.factor, FRAME.inverse),
    )


@functools.cache
def exact() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of z, by 60 x 60 Gauss-Hermite nodes."""
    points, log_weights = normal_grid(60, 2)
    points, log_weights = np.asarray(points), np.asarray(log_weights)
    value = np.asarray(jax.vmap(lambda z: counts(z)[0] + 0.5 * jnp.sum(z**2))(jnp.asarray(points))) + log_weights
    share = np.exp(value - value.max()) / np.exp(value - value.max()).sum()
    mean = share @ points
    return mean, (points * share[:, None]).T @ points - np.outer(mean, mean)


@functools.partial(cheap, static_argnames=("sampler", "target"))
def draw(sampler, target, start, key, gain):
    return sampler.draw(target, FRAME, start, MEAN, jnp.zeros(2), key, gain)


@functools.partial(cheap, static_argnames=("sampler",))
def means(sampler, start, keys):
    """Means of z and z_1^2 over the draws of each key, by the weights handed on and by plain ones; and of samples."""

    def one(key):
        moved, draws = sampler.draw(counts, FRAME, start, MEAN, jnp.zeros(2), key, 0.0)
        values = jnp.concatenate([draws.z, draws.z[:, :1] ** 2], axis=1)
        # s (1 + s - sum s^2) = t for plain shares s: recovered by fixed-point iterations, as s - sum s^2 is small.
        plain = draws.shares
        for _ in range(30):
            plain = draws.shares / (1.0 + plain - jnp.sum(plain**2))
        return draws.shares @ values, plain @ values, jnp.mean((moved.xi - MEAN[None, :]) @ FRAME.inverse.T, axis=0)

    return jax.vmap(one)(keys)


def test_weighted_means_are_unbiased_to_the_first_order() -> None:
    """50 draws a time, 20,000 times: means by plain weights are ten standard errors off, those handed on are not (their
    bias is of order 1 / 50^2, half a standard error). Five of them for six comparisons."""
    sampler = ImportanceSampler(50, 2)
    start = chains(sampler, (0.9, 0.9))
    ours, plain, kept = (
        np.asarray(part) for part in means(sampler, start, jax.random.split(jax.random.key(1), 20_000))
    )
    mean, spread = exact()
    wanted = np.array([*mean, spread[0, 0] + mean[0] ** 2])

    def off(values, wanted):
        return np.abs(values.mean(axis=0) - wanted) / (values.std(axis=0) / np.sqrt(len(values)))

    assert off(ours, wanted).max() < 5.0
    assert off(plain, wanted).max() > 8.0
    # Resampled draws follow the weights that are handed on.
    assert off(kept, mean).max() < 5.0


def test_the_mixture_learns_from_its_draws() -> None:
    sampler = ImportanceSampler(400, 2)
    state = chains(sampler, (-2.0, 2.5))
    shares = []
    for k in range(15):
        state, draws = draw(sampler, counts, state, jax.random.key(k), 1.0)
        shares.append(1.0 / np.sum(np.asarray(draws.shares) ** 2) / 400)
    mean, spread = exact()
    memory = state.memory
    factor = FRAME.inverse @ np.asarray(memory.factor)
    # 300 effective draws behind each: means are known to 0.06 of their SD, variances to 8%; four of these.
    assert FRAME.inverse @ (np.asarray(memory.centre) - MEAN) == pytest.approx(mean, abs=0.24 * np.sqrt(spread.max()))
    assert np.diag(factor @ factor.T) == pytest.approx(np.diag(spread), rel=0.35)
    assert np.asarray(memory.inverse) @ np.asarray(memory.factor) == pytest.approx(np.eye(2), abs=1e-10)
    assert shares[0] < 0.15 and shares[-1] > 0.4
    # A better mode is near the best draw, and the next search begins there.
    apart = np.linalg.solve(np.linalg.cholesky(spread), FRAME.inverse @ (np.asarray(state.centre) - MEAN) - mean)
    assert np.linalg.norm(apart) < 2.5
    stays, draws = draw(sampler, counts, state, jax.random.key(99), 0.0)
    assert np.array_equal(stays.memory.centre, memory.centre)
    assert np.asarray(stays.memory.factor) == pytest.approx(np.asarray(memory.factor), rel=1e-14)
    assert float(jnp.sum(draws.shares)) == pytest.approx(1.0, rel=1e-12)


def test_where_no_density_is_finite_all_stays() -> None:
    sampler = ImportanceSampler(400, 2)
    start = chains(sampler)
    moved, draws = draw(sampler, nowhere, start, jax.random.key(0), 1.0)
    assert not moved.alive and np.isnan(draws.shares).all() and float(draws.accepted[0]) == 0.0
    assert np.array_equal(moved.xi, start.xi) and np.isfinite(moved.memory.factor).all()


def test_weights_and_resampling() -> None:
    terms = jnp.log(jnp.array([0.0, 3.0, 1.0, 4.0, jnp.nan]))
    shares, effective = weights(terms)
    s = np.array([0.0, 3.0, 1.0, 4.0, 0.0]) / 8.0
    assert np.asarray(shares) == pytest.approx(s * (1.0 + s - np.sum(s**2)), rel=1e-12)
    assert float(effective) == pytest.approx(1.0 / np.sum(s**2), rel=1e-12)
    # Systematic: each draw as often as its share says, rounded down or up, one of share zero never.
    for uniform in (0.0, 0.37, 1.0 - 1e-12):
        often = np.bincount(np.asarray(resampled(shares, 100, uniform)), minlength=5)
        assert (np.abs(often - 100.0 * np.asarray(shares)) < 1.0 + 1e-9).all() and often[0] == often[4] == 0
