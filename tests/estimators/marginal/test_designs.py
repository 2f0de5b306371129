"""Covariates, explicit designs, individual functions, user-defined log-likelihoods and networks, through `fit`."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import gammaln

import jaxnlme as jn
from tests.estimators import catalogue

NAMES = ("ka", "cl", "v")
STARTS = (1.5, 2.8, 32.0)


def oral(**changes):
    """Three log-normal parameters, effects on ka and cl."""
    covariates = changes.pop("covariates", {})
    parameters = [
        jn.Parameter(n, s, "log", random=n != "v" and "random_design" not in changes, covariates=covariates.get(n, ()))
        for n, s in zip(NAMES, STARTS, strict=True)
    ]
    return jn.NLMEModel(catalogue.one_compartment, parameters, **changes)


@functools.cache
def theophylline():
    frame = catalogue.table("Theoph")
    frame = frame.assign(Dose=frame.Dose * frame.Wt, Sex=np.where(frame.Subject % 3 == 0, "F", "M"))
    return jn.GroupedData.from_frame(frame, "Subject", "conc", ["Time", "Dose"], ["Wt", "Sex"])


@functools.cache
def with_weight():
    return jn.fit(oral(covariates={"cl": ["log(Wt / 70)"]}), theophylline(), "focei")


def agree(fit, expected, rel=1e-5):
    assert fit.converged, fit.status
    assert fit.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-7)
    np.testing.assert_allclose(fit.params.pack(), expected.params.pack(), rtol=rel, atol=rel)


def test_covariates_lower_the_objective_by_what_they_explain():
    plain = jn.fit(oral(), theophylline(), "focei")
    fit = with_weight()
    assert fit.converged, fit.status
    assert fit.log_likelihood >= plain.log_likelihood
    names = list(fit.estimates.index)
    assert names[:4] == ["ka", "cl", "v", "cl ~ log(Wt / 70)"]
    # The covariate explains part of b: the remaining modes are less correlated with the weight.
    weight = np.log(theophylline().v["Wt"] / 70)
    before, after = (np.corrcoef(weight, f.random_effects["cl"])[0, 1] for f in (plain, fit))
    assert abs(after) < 0.5 * abs(before)
    assert fit.estimates.se["cl ~ log(Wt / 70)"] > 0


def test_categorical_covariate():
    fit = jn.fit(oral(covariates={"cl": ["Sex"]}), theophylline(), "focei")
    assert fit.converged, fit.status
    assert "cl ~ Sex[T.M]" in fit.values
    centred = np.array(theophylline().text["Sex"] == "M", float)
    numeric = jn.GroupedData.from_frame(
        theophylline().to_frame().assign(male=np.repeat(centred, 11)), "Subject", "conc", ["Time", "Dose"], ["male"]
    )
    agree(jn.fit(oral(covariates={"cl": ["male"]}), numeric, "focei"), fit)


def test_explicit_designs_are_the_formula():
    weight = np.log(theophylline().v["Wt"] / 70)
    fixed = np.zeros((12, 3, 4))
    fixed[:, [0, 1, 2], [0, 1, 2]] = 1.0
    fixed[:, 1, 3] = weight
    random = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    model = oral(fixed_design=fixed, random_design=random, beta=[*np.log(STARTS), 0.0])
    agree(jn.fit(model, theophylline(), "focei"), with_weight())


def with_mixed_effect(phi, x):
    return phi.a0 + phi.a1 * x.t


def test_a_random_design_may_mix_effects_per_group():
    """b enters with a known weight a group: y = a0 + w_i b_i + a1 t is a linear mixed model with group scales."""
    rng = np.random.default_rng(8)
    group, t = np.repeat(np.arange(20), 4), np.tile(np.arange(4.0), 20)
    w = rng.uniform(0.5, 2.0, 20)
    y = 1.0 + (w * rng.normal(size=20))[group] + 0.5 * t + 0.2 * rng.normal(size=80)
    data = jn.GroupedData.from_arrays(y, group, {"t": t})
    design = np.zeros((20, 2, 1))
    design[:, 0, 0] = w
    parameters = [jn.Parameter("a0", 0.5), jn.Parameter("a1", 1.0)]
    fit = jn.fit(jn.NLMEModel(with_mixed_effect, parameters, random_design=design), data, "focei")
    assert fit.converged, fit.status
    from scipy.stats import multivariate_normal

    [sd] = np.sqrt(np.diag(fit.psi))
    exact = sum(
        multivariate_normal.logpdf(
            y[group == k] - fit.values.get("a0", fit.beta["a0"]) - fit.beta["a1"] * np.arange(4.0),
            cov=(sd * w[k]) ** 2 + fit.values["a"] ** 2 * np.eye(4),
        )
        for k in range(20)
    )
    assert fit.log_likelihood == pytest.approx(exact, abs=1e-8)
    assert 0.5 < sd < 1.6


def individual(beta, b, v):
    return {
        "ka": beta.ka * jnp.exp(b.ka),
        "cl": beta.cl * jnp.exp(b.cl + beta.power * jnp.log(v.Wt / 70.0)),
        "v": beta.v,
    }


def test_an_individual_function_is_the_linear_design():
    parameters = [jn.Parameter(n, s, "log", random=n != "v") for n, s in zip(NAMES, STARTS, strict=True)]
    model = jn.NLMEModel(catalogue.one_compartment, [*parameters, jn.Parameter("power", 0.0)], individual=individual)
    agree(jn.fit(model, theophylline(), "focei"), with_weight())


def poisson(y, f, p, x, v):
    return y * jnp.log(f) - f - gammaln(y + 1.0)


def rate(phi, x):
    return jnp.exp(phi.level + phi.slope * x.t)


def bernoulli(y, f, p, x, v):
    return jnp.where(y > 0.5, jax.nn.log_sigmoid(f), jax.nn.log_sigmoid(-f))


def log_odds(phi, x):
    return phi.level + phi.slope * x.t


@functools.cache
def discrete(kind):
    rng = np.random.default_rng(6)
    group, t = np.repeat(np.arange(60), 6), np.tile(np.linspace(-1, 1, 6), 60)
    eta = 0.4 + 0.8 * rng.normal(size=60)[group] + 0.7 * t
    y = rng.poisson(np.exp(eta)) if kind == "poisson" else rng.uniform(size=eta.size) < 1 / (1 + np.exp(-eta))
    return jn.GroupedData.from_arrays(y.astype(float), group, {"t": t})


@pytest.mark.parametrize("kind", ["poisson", "binary"])
def test_user_defined_likelihoods(kind):
    """Laplace and quadrature recover a simulated truth; more quadrature nodes do not change it."""
    f, density = (rate, poisson) if kind == "poisson" else (log_odds, bernoulli)
    parameters = [jn.Parameter("level", 0.1, random=True, sd=0.5), jn.Parameter("slope", 0.1)]
    model = jn.NLMEModel(f, parameters, error=jn.GroupLogLikelihood(density))
    with pytest.raises(jn.ModelError, match=r"FOCEI needs a Gaussian residual model.*'laplace'"):
        jn.fit(model, discrete(kind), "focei")
    laplace = jn.fit(model, discrete(kind), "laplace")
    agq = jn.fit(model, discrete(kind), jn.AGQ(7), start=laplace)
    assert laplace.converged and agq.converged, laplace.status
    for name, truth in {"level": 0.4, "slope": 0.7, "sd(level)": 0.8}.items():
        assert abs(agq.values[name] - truth) < 3 * agq.estimates.se[name], name
        assert agq.values[name] != laplace.values[name]
    assert agq.log_likelihood == pytest.approx(laplace.log_likelihood, abs=3.0)
    finer = jn.log_likelihood(model, agq.params, discrete(kind), jn.AGQ(15))
    assert agq.log_likelihood == pytest.approx(float(finer), abs=1e-3)


class Network(eqx.Module):
    """y = level + network(t): the curve is learnt, the level varies between groups."""

    mlp: eqx.nn.MLP

    def __call__(self, phi, x):
        return phi.level + jax.vmap(self.mlp)(x.t[:, None])[:, 0]


def test_a_network_inside_the_model():
    # Three hidden units: with six, the likelihood has no finite maximum here and rises by 1e-3 over 15,000 iterations.
    rng = np.random.default_rng(4)
    group, t = np.repeat(np.arange(12), 15), np.tile(np.linspace(-1, 1, 15), 12)
    y = 1.0 + 0.6 * rng.normal(size=12)[group] + np.sin(3 * t) + 0.1 * rng.normal(size=180)
    data = jn.GroupedData.from_arrays(y, group, {"t": t})
    mlp = eqx.nn.MLP(1, 1, 3, 1, activation=jnp.tanh, use_final_bias=False, key=jax.random.key(0))
    model = jn.NLMEModel(Network(mlp), [jn.Parameter("level", 0.0, random=True)])
    fit = jn.fit(model, data, "focei", max_iterations=3000)
    assert fit.converged
    assert any("9 free weights" in sentence for sentence in fit.status.sentences)
    loose = jn.fit(model, data, "focei", tolerance=1e-2)
    assert not loose.converged and "free weights" in str(loose.status)
    before, after = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))])
        for tree in (mlp, fit.params.free)
    )
    assert before.shape == after.shape == (9,)
    assert np.abs(after - before).max() > 0.1
    assert fit.log_likelihood > fit.history[0]["log_likelihood"] + 50
    assert fit.values["a"] == pytest.approx(0.1, rel=0.3)
    # Standard errors of the dense block only; all weights count as parameters.
    assert list(fit.estimates.index) == ["level", "sd(level)", "a"]
    assert (fit.estimates.se > 0).all()
    assert fit.criteria.n_parameters == 3 + 9
