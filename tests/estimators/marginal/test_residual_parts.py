"""Residual scales of two parts: starts that follow the unit of y, parts that are estimated as zero or start near it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn

GROUPS, ROWS = 15, 6


def decay(phi, x):
    return phi.a * jnp.exp(-phi.k * x.t)


def data(seed, constant, proportional, unit=1.0):
    rng = np.random.default_rng(seed)
    group, t = np.repeat(np.arange(GROUPS), ROWS), np.tile(np.arange(float(ROWS)), GROUPS)
    f = 10.0 * np.exp(0.3 * rng.normal(size=GROUPS)[group]) * np.exp(-0.3 * t)
    y = f + (constant + proportional * f) * rng.normal(size=len(t))
    return jn.GroupedData.from_arrays(unit * y, group, {"t": t})


def model(error, unit=1.0):
    parameters = [jn.Parameter("a", 10.0 * unit, "log", random=True), jn.Parameter("k", 0.3, "log")]
    return jn.NLMEModel(decay, parameters, error=error)


CASES = [(error, method) for error in ("combined", "combined variance") for method in ("focei", "lme")]


@pytest.mark.parametrize(("error", "method"), [*CASES, ("constant plus power", "focei")])
def test_the_unit_of_the_response_does_not_matter(error, method):
    fits = []
    for unit in (1.0, 1e-3, 1e6):
        fit = jn.fit(model(error, unit), data(4, 0.2, 0.1, unit), method)
        shift = GROUPS * ROWS * np.log(unit)
        fits.append((fit.converged, fit.history[0]["log_likelihood"] + shift, fit.log_likelihood + shift))
    for converged, first, last in fits:
        assert converged
        assert first == pytest.approx(fits[0][1], abs=1e-6)  # the start, whose likelihood has no more than rounding
        assert last == pytest.approx(fits[0][2], abs=1e-4)  # the minimiser ends within 1e-8 log units


@pytest.mark.parametrize("start", [(0.2, 1e-7), (1e-8, 0.1), (1e-8, 1e-3)])
@pytest.mark.parametrize("method", ["focei", "lme"])
def test_a_part_that_starts_near_zero_is_found(method, start):
    """The derivative in the logarithm of a part vanishes with the part."""
    expected = jn.fit(model("combined"), data(4, 0.2, 0.1), method)
    fit = jn.fit(model(jn.error.combined(*start)), data(4, 0.2, 0.1), method)
    assert fit.converged and expected.converged
    assert fit.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-4)


@pytest.mark.parametrize("method", ["focei", "lme", "laplace"])
def test_a_part_estimated_as_zero_is_reported(method):
    without = jn.fit(model("constant"), data(1, 0.3, 0.0), method)
    fit = jn.fit(model("combined"), data(1, 0.3, 0.0), method)
    assert fit.converged and fit.log_likelihood == pytest.approx(without.log_likelihood, abs=1e-4)
    (sentence,) = [s for s in fit.status.sentences if "The part b of the residual error is estimated as zero" in s]
    assert "error='constant' fits as well" in sentence
    se, expected = fit.estimates["se"], without.estimates["se"]
    assert np.isnan(se["b"])
    np.testing.assert_allclose(se.drop("b"), expected, rtol=1e-3)  # by differences of the gradient at other points


def test_an_exponent_beside_a_part_estimated_as_zero_has_no_effect():
    without = jn.fit(model("constant"), data(1, 0.3, 0.0), "focei")
    fit = jn.fit(model("constant plus power"), data(1, 0.3, 0.0), "focei")
    assert fit.log_likelihood >= without.log_likelihood - 1e-4
    if "is estimated as zero" in str(fit.status):
        assert fit.converged and np.isnan(fit.estimates["se"][["b", "c"]]).all()


def test_saem_finds_a_part_that_starts_near_zero():
    method = jn.SAEM(seed=1, likelihood="none")
    expected = jn.fit(model("combined"), data(4, 0.2, 0.1), method)
    fit = jn.fit(model(jn.error.combined(0.2, 1e-7)), data(4, 0.2, 0.1), method)
    assert fit.converged and expected.converged
    distance = (fit.estimates["estimate"] - expected.estimates["estimate"]) / expected.estimates["se"]
    assert np.abs(distance).max() < 0.1  # each within 0.05 standard errors of the maximum


def test_saem_holds_a_part_that_is_zero():
    method = jn.SAEM(seed=1, likelihood="none")
    without = jn.fit(model("constant"), data(1, 0.3, 0.0), method)
    fit = jn.fit(model("combined"), data(1, 0.3, 0.0), method)
    assert fit.converged and "The part b of the residual error is estimated as zero" in str(fit.status)
    kept = fit.estimates.drop("b")
    distance = (kept["estimate"] - without.estimates["estimate"]) / without.estimates["se"]
    assert np.abs(distance).max() < 0.1  # each within 0.05 standard errors of the maximum
    np.testing.assert_allclose(kept["se"], without.estimates["se"], rtol=0.1)
