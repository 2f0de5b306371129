"""Simulated responses: moments in closed form, invariances, whole fits of simulated data under vmap."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.results import simulate as simulate_module
from jaxnlme.results.settings import SimulationSettings
from jaxnlme.results.simulate import simulate_responses, with_responses
from tests import problems


@functools.cache
def linear() -> tuple[jn.Problem, jn.Params]:
    """y = a + b t + c s + 0.7 e, b ~ N(0, psi) with correlations."""
    spec, psi = problems.COVARIANCES["full"]
    binding = jn.bind(problems.linear_model(spec), problems.linear_data())
    return jax.tree.map(jnp.asarray, (binding.problem, binding.params(psi=psi)))


@problems.cheap
def draws(problem: jn.Problem, params: jn.Params, keys: jax.Array) -> list[jax.Array]:
    return jax.vmap(lambda key: simulate_responses(problem, params, key))(keys)


def test_moments_of_a_linear_model() -> None:
    """Mean X beta and covariance Z psi Z' + a^2 I, every entry within 5 Monte Carlo standard errors."""
    problem, params = linear()
    n = 20_000
    (y,) = draws(problem, params, jax.random.split(jax.random.key(1), n))
    _, psi = problems.COVARIANCES["full"]
    bucket = problem.buckets[0]
    for group in range(5):
        x = np.stack([np.ones(7), bucket.x.t[group], bucket.x.s[group]], axis=1)
        mean = x @ np.array([1.2, 0.4, -0.2])
        covariance = x @ psi @ x.T + 0.49 * np.eye(7)
        sample = np.asarray(y)[:, group]
        assert np.all(np.abs(sample.mean(0) - mean) < 5.0 * np.sqrt(np.diag(covariance) / n))
        spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / n)
        assert np.all(np.abs(np.cov(sample.T) - covariance) < 5.0 * spread)
    between = np.corrcoef(np.asarray(y)[:, 0, 0], np.asarray(y)[:, 1, 0])[0, 1]
    assert abs(between) < 5.0 / np.sqrt(n)


def test_invariance(fit: jn.Fit, frame: pd.DataFrame, data: jn.GroupedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws depend only on key, replicate and label: not on padding, order of groups, chunks or n."""
    y = fit.simulate(3, key=7)
    assert y.shape == (3, len(frame))
    assert np.isfinite(y).all()
    assert np.unique(y).size == y.size
    np.testing.assert_array_equal(fit.simulate(1, key=jax.random.key(7)), y[:1])
    np.testing.assert_allclose(fit.simulate(3, key=7, data=data.pad_to(13)), y, rtol=1e-12)
    # Other groups first, the order of rows within groups kept.
    order = np.argsort(-frame.Subject.to_numpy(), kind="stable")
    np.testing.assert_allclose(fit.simulate(3, key=7, data=frame.iloc[order].reset_index(drop=True)), y[:, order],
                               rtol=1e-12)  # fmt: skip
    monkeypatch.setattr(simulate_module, "SIMULATION", SimulationSettings(cells_per_call=2 * len(frame)))
    np.testing.assert_allclose(fit.simulate(3, key=7), y, rtol=1e-12)
    assert not np.any(fit.simulate(1, key=8) == y)


def test_simulated_level_of_the_fit(fit: jn.Fit, frame: pd.DataFrame) -> None:
    """The median response over replicates stays near the population prediction: no effect has a shifted mean."""
    y = fit.simulate(400)
    late = frame.Time.to_numpy() > 0.5
    ratio = np.median(y, axis=0)[late] / fit.predict(level="population").to_numpy()[late]
    assert np.all(np.abs(ratio - 1.0) < 0.2)
    assert abs(ratio.mean() - 1.0) < 0.03


def test_options_are_checked(fit: jn.Fit) -> None:
    with pytest.raises(jn.OptionError, match="whole number"):
        fit.simulate(0)
    with pytest.raises(jn.OptionError, match="key"):
        fit.simulate(1, key="seed")
    with pytest.raises(jn.OptionError, match="buckets"):
        with_responses(linear()[0], [])


def draw_poisson(key, f, p, x, v):
    return jax.random.poisson(key, jnp.exp(f), f.shape).astype(float)


def test_outcome_with_a_sampler_of_the_user() -> None:
    """Counts are drawn by the user's sampler: their mean is E exp(a + b t) = exp(beta_a + beta_b t + (s_a^2) / 2)."""
    parameters = [jn.Parameter("a", 1.0, random=True, sd=0.4), jn.Parameter("b", -0.3)]
    data = problems.decay_data()
    model = jn.NLMEModel(problems.log_rate, parameters, error=jn.GroupLogLikelihood(problems.poisson, (), draw_poisson))
    binding = jn.bind(model, data)
    problem, params = jax.tree.map(jnp.asarray, (binding.problem, binding.start))
    n = 10_000
    (y,) = draws(problem, params, jax.random.split(jax.random.key(0), n))
    t = np.asarray(problem.buckets[0].x.t)
    mean = np.exp(1.0 - 0.3 * t + 0.08)
    variance = mean + mean**2 * np.expm1(0.16)
    assert np.all(np.abs(np.asarray(y).mean(0) - mean) < 5.0 * np.sqrt(variance / n))

    without_sampler = jn.bind(jn.NLMEModel(problems.log_rate, parameters, error=problems.OUTCOMES["poisson"]), data)
    with pytest.raises(jn.ModelError, match="sampler"):
        simulate_responses(without_sampler.problem, params, jax.random.key(0))


@problems.cheap
def refit(problem: jn.Problem, params: jn.Params, ys: list[jax.Array]):
    return jax.vmap(lambda ys: jn.estimate(None, params, with_responses(problem, ys), "focei"))(ys)


def test_whole_fits_of_simulated_responses() -> None:
    """A parametric bootstrap in one program: every fit reaches its maximum, known in closed form."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 4)
    data = jn.GroupedData.from_arrays(rng.normal(size=120), group, {"t": np.tile(np.arange(4.0), 30)})
    model = jn.NLMEModel(problems.mean, [jn.Parameter("mu", 2.0, random=True, sd=0.8)], error=jn.error.constant(0.5))
    binding = jn.bind(model, data)
    problem, params = jax.tree.map(jnp.asarray, (binding.problem, binding.start))
    ys = draws(problem, params, jax.random.split(jax.random.key(3), 4))
    fits = refit(problem, params, ys)
    assert np.asarray(fits.ended).all()
    y = np.asarray(ys[0])
    # The balanced one-way layout: Searle, Casella and McCulloch (1992), Variance Components, section 3.7. A gain of
    # 1e-7 log-likelihood units left undone is a step of sqrt(2e-7) = 4e-4 standard errors, themselves up to 30%.
    means = y.mean(axis=2)
    within = np.sum((y - means[..., None]) ** 2, axis=(1, 2)) / (30 * 3)
    between = np.var(means, axis=1) - within / 4
    np.testing.assert_allclose(fits.params.beta[:, 0], means.mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(np.exp(2.0 * fits.params.error[:, 0]), within, rtol=2e-4)
    np.testing.assert_allclose(np.exp(2.0 * fits.params.covariance[:, 0]), between, rtol=3e-4)
    masked = with_responses(binding.problem, [np.full((30, 4), 9.0)])
    assert np.all(np.asarray(masked.buckets[0].y) == 9.0)
