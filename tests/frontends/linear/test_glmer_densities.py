"""Densities, links, draws, starts and separation of generalised linear mixed models, against scipy and closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxnlme.linear.glmm.densities import PROBABILITIES, OutcomeDensity, OutcomeSampler
from jaxnlme.linear.glmm.links import link_of, log_interval
from jaxnlme.linear.glmm.model import LINKS
from jaxnlme.linear.glmm.separation import ordinal_rows, separation, signed_rows
from jaxnlme.linear.glmm.start import pooled_fit
from jaxnlme.records import Record, Rows

ETA = np.array([-2.7, -1.1, -0.3, 0.2, 0.9, 1.6, 2.2])
INVERSE = {
    "logit": lambda e: 1 / (1 + np.exp(-e)),
    "probit": stats.norm.cdf,
    "cloglog": lambda e: 1 - np.exp(-np.exp(e)),
    "cauchit": stats.cauchy.cdf,
    "log": np.exp,
    "identity": lambda e: e,
    "inverse": lambda e: 1 / e,
    "sqrt": np.square,
}
PARAMETERS = {"negative binomial": (1.7,), "gamma": (2.4,), "ordinal": (-0.8, 0.3, 1.5)}
FAMILIES = [(family, link) for family, links in LINKS.items() for link in links]


def predictors(family, link):
    """Linear predictors within the bounds of the link."""
    if link in ("identity", "inverse", "sqrt"):
        return np.abs(ETA) + 0.1
    return -np.abs(ETA) - 0.05 if link == "log" and family in PROBABILITIES else ETA


def arguments(family, n):
    names = ("size",) if family == "negative binomial" else ("shape",) if family == "gamma" else ("1|2", "2|3", "3|4")
    values = PARAMETERS.get(family, ())
    p = Record(names[: len(values)], tuple(jnp.asarray(v) for v in values))
    return p, Rows(("trials",), (jnp.asarray(n),), mask=jnp.ones(len(n), bool))


@pytest.mark.parametrize("family, link", FAMILIES)
def test_log_densities_have_all_constants(family, link):
    eta, n = predictors(family, link), np.array([5.0, 3.0, 8.0, 1.0, 4.0, 6.0, 9.0])
    mu = INVERSE[link](eta)
    y = np.array([0.0, 3.0, 2.0, 1.0, 4.0, 1.0, 7.0])
    if family == "bernoulli":
        y, expected = y % 2, stats.bernoulli.logpmf(y % 2, mu)
    elif family == "binomial":
        expected = stats.binom.logpmf(y, n, mu)
    elif family == "poisson":
        expected = stats.poisson.logpmf(y, mu)
    elif family == "negative binomial":
        expected = stats.nbinom.logpmf(y, 1.7, 1.7 / (1.7 + mu))
    elif family == "gamma":
        y = y + 0.3
        expected = stats.gamma.logpdf(y, 2.4, scale=mu / 2.4)
    else:
        y = np.array([0.0, 3.0, 2.0, 1.0, 3.0, 1.0, 2.0])
        cumulative = INVERSE[link](np.array([-np.inf, *PARAMETERS["ordinal"], np.inf])[None, :] - eta[:, None])
        expected = np.log(np.diff(cumulative)[np.arange(len(y)), y.astype(int)])
    density = OutcomeDensity(family, link, "trials" if family == "binomial" else None)
    p, x = arguments(family, n)
    found = density(jnp.asarray(y), jnp.asarray(eta), p, x, None)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family, link", [f for f in FAMILIES if f[1] in ("identity", "inverse", "sqrt", "log")])
def test_outside_the_bounds_of_a_link(family, link):
    if link == "log" and family not in PROBABILITIES:
        return  # the log link has no bounds there
    p, x = arguments(family, np.ones(2))
    eta = -predictors(family, link)[:2]
    y = jnp.ones(2)
    density = OutcomeDensity(family, link)
    assert np.isneginf(density(y, jnp.asarray(eta), p, x, None)).all()
    slope = jax.grad(lambda f: jnp.sum(jnp.exp(density(y, f, p, x, None))))(jnp.asarray(eta))
    assert np.isfinite(slope).all()


def test_densities_far_out():
    far = jnp.array([40.0, -40.0, 8.0])
    p, x = arguments("bernoulli", np.ones(3))
    logit = OutcomeDensity("bernoulli", "logit")(jnp.array([0.0, 1.0, 1.0]), far, p, x, None)
    np.testing.assert_allclose(logit, [-40.0, -40.0, -np.log1p(np.exp(-8.0))], rtol=1e-12)
    probit = OutcomeDensity("bernoulli", "probit")(jnp.array([0.0, 1.0, 1.0]), far, p, x, None)
    np.testing.assert_allclose(probit, stats.norm.logcdf([-40.0, -40.0, 8.0]), rtol=1e-12, atol=1e-15)
    # A narrow interval far in the upper tail: phi(10) x 1e-3, and its logistic counterpart.
    a = jnp.array([10.0])
    np.testing.assert_allclose(
        log_interval("probit", a, a + 1e-3), np.log(stats.norm.sf(10.0) - stats.norm.sf(10.001)), rtol=1e-9
    )
    logistic = np.log(1 / (1 + np.exp(10.0)) - 1 / (1 + np.exp(10.001)))
    np.testing.assert_allclose(log_interval("logit", a, a + 1e-3), logistic, rtol=1e-9)


@pytest.mark.parametrize("size", [900.0, 1100.0, 1e9])
def test_a_large_size_is_poisson(size):
    """Second order: log nb - log poisson = ((y - mu)^2 - y) / (2 size) + O(size^-2)."""
    y, mu = np.arange(9.0), 3.2
    p = Record(("size",), (jnp.asarray(size),))
    found = OutcomeDensity("negative binomial", "log")(jnp.asarray(y), jnp.full(9, np.log(mu)), p, None, None)
    expected = stats.poisson.logpmf(y, mu) + ((y - mu) ** 2 - y) / (2 * size)
    np.testing.assert_allclose(found, expected, atol=60 / size**2 + 1e-12)


@pytest.mark.parametrize("family", ["binomial", "poisson", "negative binomial", "gamma", "ordinal"])
def test_draws_have_the_moments_of_the_family(family):
    rows = 40_000
    link = {"gamma": "log", "binomial": "cloglog"}.get(family, LINKS[family][0])
    p, x = arguments(family, np.full(rows, 6.0))
    sampler = OutcomeSampler(family, link, "trials" if family == "binomial" else None)
    y = np.asarray(sampler(jax.random.key(3), jnp.full(rows, 0.4), p, x, None))
    mu = INVERSE[link](0.4)
    if family == "ordinal":
        cumulative = INVERSE[link](np.array([-np.inf, *PARAMETERS["ordinal"], np.inf]) - 0.4)
        np.testing.assert_allclose(np.bincount(y.astype(int)) / rows, np.diff(cumulative), atol=0.012)
        return
    mean, variance = {
        "binomial": (6 * mu, 6 * mu * (1 - mu)),
        "poisson": (mu, mu),
        "negative binomial": (mu, mu + mu**2 / 1.7),
        "gamma": (mu, mu**2 / 2.4),
    }[family]
    assert abs(y.mean() - mean) < 4.5 * np.sqrt(variance / rows)
    assert abs(y.var() / variance - 1) < 0.06
    # Each row has a key of its own: padding changes nothing.
    fewer = np.asarray(sampler(jax.random.key(3), jnp.full(7, 0.4), p, Rows(x.names, (x.trials[:7],)), None))
    np.testing.assert_array_equal(fewer, y[:7])


@pytest.mark.parametrize("family, link", [f for f in FAMILIES if f[0] not in ("ordinal", "bernoulli")])
def test_the_pooled_start_solves_the_score_equations(family, link):
    rng = np.random.default_rng(5)
    x = np.stack([np.ones(200), rng.uniform(0, 1, 200)], axis=1)
    function = link_of(link, family in PROBABILITIES)
    eta = x @ ([-2.0, 0.5] if link == "log" and family in PROBABILITIES else [0.7, 0.4])
    mu, n = function.inverse(eta), np.full(200, 5.0 if family == "binomial" else 1.0)
    y = {
        "binomial": lambda: rng.binomial(5, mu) / 5,
        "poisson": lambda: rng.poisson(mu),
        "negative binomial": lambda: rng.poisson(mu * rng.gamma(3.0, 1 / 3.0, 200)),
        "gamma": lambda: mu * rng.gamma(3.0, 1 / 3.0, 200),
    }[family]()
    found = pooled_fit(x, np.asarray(y, float), n, np.zeros(200), family, function, 3.0)
    score = x.T @ (found.weights * found.residuals)
    assert np.abs(score).max() < 1e-3 * np.sqrt(found.weights.sum())
    assert np.abs(found.beta).max() > 0.1


def test_a_separating_direction_is_found_or_shown_not_to_exist():
    rng = np.random.default_rng(2)
    x = np.stack([np.ones(40), rng.normal(size=40), rng.normal(size=40)], axis=1)
    ones = np.ones(40)
    y = (rng.uniform(size=40) < 0.5).astype(float)
    assert separation(*signed_rows(x, y, ones, "bernoulli")) is None
    y = (x @ [0.2, 2.0, -1.0] > 0).astype(float)
    found = separation(*signed_rows(x, y, ones, "bernoulli"))
    assert found is not None and found.complete
    assert (np.where(y > 0, 1, -1) * (x @ found.direction) >= -1e-9).all()
    # Quasi-separation by one column: rows where it is zero stay as they are.
    x[:, 2] = np.arange(40) < 4
    y = np.where(x[:, 2] > 0, 0.0, (rng.uniform(size=40) < 0.5))
    found = separation(*signed_rows(x, y, ones, "bernoulli"))
    assert found is not None and not found.complete
    assert np.flatnonzero(found.direction).tolist() == [2] and found.direction[2] < 0
    # A row between its bounds keeps the coefficient where it is.
    assert separation(*signed_rows(x, y * 3 + (np.arange(40) == 0), 3 * ones, "binomial")) is None


def test_separation_of_ordered_categories():
    category = np.array([0, 1, 2, 0, 1, 2, 2, 2])
    x = np.array([[0.0, 0, 0, 0, 0, 0, 1, 1]]).T
    found = separation(ordinal_rows(x, category, 3))
    assert found is not None and np.flatnonzero(found.direction).tolist() == [2] and found.direction[2] > 0
    category[-1] = 1
    assert separation(ordinal_rows(x, category, 3)) is None
