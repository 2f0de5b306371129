"""Standard errors: the information matrix, the sandwich, and directions without information."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from tests.estimators import catalogue


@functools.cache
def oral_fit():
    parameters = [
        jn.Parameter("ka", 1.5, "log", random=True),
        jn.Parameter("cl", 2.8, "log", random=True),
        jn.Parameter("v", 32.0, "log"),
    ]
    model = jn.NLMEModel(catalogue.one_compartment, parameters, "full", "combined variance")
    return jn.fit(model, catalogue.theophylline_mg(), "focei")


def test_differences_of_the_gradient_are_the_hessian():
    """Against automatic differentiation, twice through the conditional modes; in units of the diagonal.

    The matrix is taken before the last Newton step, some 1e-3 standard errors from the maximum: a fit that starts at
    the maximum shows only the error of the differences."""
    model, data = catalogue.from_r("Orange_logis_Asym", {"Asym": 192.0, "xmid": 728.0, "scal": 356.0})
    first = jn.fit(model, data, "focei")
    fit = jn.fit(model, data, "focei", start=first)
    template = jax.tree.map(jnp.asarray, fit.params)

    def objective(packed):
        return -jn.log_likelihood(fit.model, template.unpack(packed), fit.data, "focei")

    matrix = np.asarray(jax.jit(jax.hessian(objective))(template.pack()))
    unit = np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
    np.testing.assert_allclose(fit.information.matrix / unit, matrix / unit, atol=1e-6)
    np.testing.assert_allclose(first.information.matrix / unit, matrix / unit, atol=5e-4)
    np.testing.assert_array_equal(fit.information.active, np.arange(len(matrix)))


def test_covariance_by_the_delta_method():
    """Of the reported values, from the inverse information in packed ones: sd(ka) = exp(theta) for the first effect."""
    fit = oral_fit()
    inverse = np.linalg.inv(fit.information.matrix)
    table = fit.estimates
    assert table.se["ka"] == pytest.approx(np.sqrt(inverse[0, 0]))
    assert table.se["sd(ka)"] == pytest.approx(fit.values["sd(ka)"] * np.sqrt(inverse[3, 3]))
    assert table.se["a"] == pytest.approx(fit.values["a"] * np.sqrt(inverse[6, 6]))
    assert fit.covariance.loc["ka", "cl"] == pytest.approx(inverse[0, 1])
    assert (table.lower < table.estimate).all() and (table.estimate < table.upper).all()


def test_sandwich():
    fit = oral_fit()
    scores = fit.information.scores
    assert scores.shape == (12, 8)
    # At the maximum the scores add up to nothing.
    assert np.abs(scores.sum(axis=0)).max() < 1e-3 * np.abs(scores).max()
    inverse = np.linalg.inv(fit.information.matrix)
    np.testing.assert_allclose(fit.information.sandwich, inverse @ scores.T @ scores @ inverse, rtol=1e-8)
    ratio = fit.estimates["robust se"] / fit.estimates["se"]
    assert ((ratio > 0.2) & (ratio < 5)).all()


def confounded(phi, x):
    return (phi.a0 + phi.b0) * x.x + phi.c0


def test_a_singular_direction_is_named_and_is_no_convergence():
    rng = np.random.default_rng(0)
    x = np.tile(np.arange(6.0), 8)
    group = np.repeat(np.arange(8), 6)
    y = (2.0 + 0.3 * rng.normal(size=8)[group]) * x + 1.0 + 0.2 * rng.normal(size=48)
    data = jn.GroupedData.from_frame(pd.DataFrame({"g": group, "x": x, "y": y}), "g", "y", "x")
    parameters = [jn.Parameter("a0", 1.0, random=True), jn.Parameter("b0", 1.5), jn.Parameter("c0", 0.5)]
    fit = jn.fit(jn.NLMEModel(confounded, parameters), data, "focei")
    assert not fit.converged
    assert fit.status.sentences[0] == "NOT CONVERGED."
    [direction] = fit.information.singular
    assert set(direction) == {"a0", "b0"}
    assert direction["a0"] == pytest.approx(-direction["b0"], abs=1e-3)
    assert any("no information along" in s and "a0" in s and "b0" in s for s in fit.status.sentences)
    assert fit.covariance is None and fit.information.sandwich is None
    assert fit.estimates["se"].isna().all()


def test_without_standard_errors():
    fit = oral_fit()
    again = jn.fit(fit.model, fit.data, "focei", start=fit, standard_errors=False)
    assert again.converged and again.information is None and again.covariance is None
    assert again.estimates["se"].isna().all()
    assert again.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-6)
    assert any("not asked for" in s for s in again.status.sentences)
