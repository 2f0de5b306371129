"""Importance draws: weighted moments against quadrature, their remaining bias, and the proposal fitted to them."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnlme.numerics.quadrature import normal_grid
from jaxnlme.sampling.importance import ImportanceSampler, normalised_weights, systematic_resample
from jaxnlme.sampling.samplers import Whitening, initial_chains
from tests.problems import cheap

SAMPLES = 8
WHITENING = Whitening(np.array([[0.8, 0.0], [0.3, 0.5]]), np.linalg.inv(np.array([[0.8, 0.0], [0.3, 0.5]])))
MEAN = np.array([1.5, -0.5])


def counts(z):
    """Two Poisson counts, one of them zero: a skewed density of two correlated effects."""
    eta = jnp.array([[1.0, 0.6], [0.4, -1.0]]) @ z
    return jnp.sum(jnp.array([4.0, 0.0]) * eta - jnp.exp(eta)) - 0.5 * jnp.sum(z**2), z


def undefined(z):
    return jnp.nan, z


def chains(sampler, centre=(0.0, 0.0)):
    """Chains of one group around `centre` of z, with the covariance of the population."""
    initial = jax.tree.map(
        lambda leaf: jnp.asarray(leaf[0, 0]), initial_chains(1, 1, SAMPLES, 2, sampler.initial_state())
    )
    location = WHITENING.factor @ np.array(centre) + MEAN
    return eqx.tree_at(
        lambda c: (c.xi, c.centre, c.factor, c.inverse),
        initial,
        (initial.xi + location[None, :], location, WHITENING.factor, WHITENING.inverse),
    )


@functools.cache
def exact() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of z, by 60 x 60 Gauss-Hermite nodes."""
    points, log_weights = normal_grid(60, 2)
    points, log_weights = np.asarray(points), np.asarray(log_weights)
    value = np.asarray(jax.vmap(lambda z: counts(z)[0] + 0.5 * jnp.sum(z**2))(jnp.asarray(points))) + log_weights
    weight = np.exp(value - value.max()) / np.exp(value - value.max()).sum()
    mean = weight @ points
    return mean, (points * weight[:, None]).T @ points - np.outer(mean, mean)


@functools.partial(cheap, static_argnames=("sampler", "target"))
def draw(sampler, target, start, key, gain):
    return sampler.draw(target, WHITENING, start, MEAN, jnp.zeros(2), key, gain)


@functools.partial(cheap, static_argnames=("sampler",))
def means(sampler, start, keys):
    """Means of z and z_1^2 over the draws of each key, by the corrected weights and by plain ones; and means of the
    resampled draws."""

    def per_key(key):
        moved, draws = sampler.draw(counts, WHITENING, start, MEAN, jnp.zeros(2), key, 0.0)
        values = jnp.concatenate([draws.z, draws.z[:, :1] ** 2], axis=1)
        # s (1 + s - sum s^2) = t for plain weights s: recovered by fixed-point iterations, as s - sum s^2 is small.
        plain = draws.weights
        for _ in range(30):
            plain = draws.weights / (1.0 + plain - jnp.sum(plain**2))
        return (
            draws.weights @ values,
            plain @ values,
            jnp.mean((moved.xi - MEAN[None, :]) @ WHITENING.inverse.T, axis=0),
        )

    return jax.vmap(per_key)(keys)


def test_weighted_means_are_unbiased_to_the_first_order() -> None:
    """50 draws, 20,000 times: means by plain weights are ten standard errors off, those by the corrected weights are
    not (their bias is of order 1 / 50^2, half a standard error). Limit of five standard errors for six comparisons."""
    sampler = ImportanceSampler(50, 2)
    start = chains(sampler, (0.9, 0.9))
    weighted, plain, resampled = (
        np.asarray(part) for part in means(sampler, start, jax.random.split(jax.random.key(1), 20_000))
    )
    mean, spread = exact()
    expected = np.array([*mean, spread[0, 0] + mean[0] ** 2])

    def standard_errors_off(values, expected):
        return np.abs(values.mean(axis=0) - expected) / (values.std(axis=0) / np.sqrt(len(values)))

    assert standard_errors_off(weighted, expected).max() < 5.0
    assert standard_errors_off(plain, expected).max() > 8.0
    # Resampled draws follow the corrected weights.
    assert standard_errors_off(resampled, mean).max() < 5.0


def test_a_component_of_the_mixture_is_fitted_to_earlier_draws() -> None:
    sampler = ImportanceSampler(400, 2)
    state = chains(sampler, (-2.0, 2.5))
    fractions = []
    for k in range(15):
        state, draws = draw(sampler, counts, state, jax.random.key(k), 1.0)
        fractions.append(1.0 / np.sum(np.asarray(draws.weights) ** 2) / 400)
    mean, spread = exact()
    learned = state.sampler_state
    factor = WHITENING.inverse @ np.asarray(learned.factor)
    # 300 effective draws behind each: means are known to 0.06 of their SD, variances to 8%; four of these.
    assert WHITENING.inverse @ (np.asarray(learned.centre) - MEAN) == pytest.approx(
        mean, abs=0.24 * np.sqrt(spread.max())
    )
    assert np.diag(factor @ factor.T) == pytest.approx(np.diag(spread), rel=0.35)
    assert np.asarray(learned.inverse) @ np.asarray(learned.factor) == pytest.approx(np.eye(2), abs=1e-10)
    assert fractions[0] < 0.15 and fractions[-1] > 0.4
    # The best draw is near a higher mode, and the next search for the mode starts from it.
    standardised = np.linalg.solve(
        np.linalg.cholesky(spread), WHITENING.inverse @ (np.asarray(state.centre) - MEAN) - mean
    )
    assert np.linalg.norm(standardised) < 2.5
    unchanged, draws = draw(sampler, counts, state, jax.random.key(99), 0.0)
    assert np.array_equal(unchanged.sampler_state.centre, learned.centre)
    assert np.asarray(unchanged.sampler_state.factor) == pytest.approx(np.asarray(learned.factor), rel=1e-14)
    assert float(jnp.sum(draws.weights)) == pytest.approx(1.0, rel=1e-12)


def test_nothing_changes_if_no_density_is_finite() -> None:
    sampler = ImportanceSampler(400, 2)
    start = chains(sampler)
    moved, draws = draw(sampler, undefined, start, jax.random.key(0), 1.0)
    assert not moved.any_finite and np.isnan(draws.weights).all() and float(draws.accepted[0]) == 0.0
    assert np.array_equal(moved.xi, start.xi) and np.isfinite(moved.sampler_state.factor).all()


def test_weights_and_resampling() -> None:
    log_ratios = jnp.log(jnp.array([0.0, 3.0, 1.0, 4.0, jnp.nan]))
    weights, effective = normalised_weights(log_ratios)
    s = np.array([0.0, 3.0, 1.0, 4.0, 0.0]) / 8.0
    assert np.asarray(weights) == pytest.approx(s * (1.0 + s - np.sum(s**2)), rel=1e-12)
    assert float(effective) == pytest.approx(1.0 / np.sum(s**2), rel=1e-12)
    # Systematic: each draw as often as its weight times 100, rounded down or up; one of weight zero never.
    for uniform in (0.0, 0.37, 1.0 - 1e-12):
        counts_of_draws = np.bincount(np.asarray(systematic_resample(weights, 100, uniform)), minlength=5)
        assert (np.abs(counts_of_draws - 100.0 * np.asarray(weights)) < 1.0 + 1e-9).all() and counts_of_draws[
            0
        ] == counts_of_draws[4] == 0
