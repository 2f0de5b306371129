"""Fits of censored responses: SAEM beside quadrature, residuals, criteria, simulation, files."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

LIMIT = 0.5


def bolus(phi, x):
    return 100.0 / phi.vol * jnp.exp(-phi.cl / phi.vol * x.Time)


@pytest.fixture(scope="module")
def data() -> jn.GroupedData:
    """30 subjects, CL 4 and V 40 with log SDs 0.35 and 0.25, additive SD 0.2, a quarter below the limit."""
    rng = np.random.default_rng(11)
    times = np.array([1.0, 3.0, 6.0, 10.0, 16.0, 24.0])
    cl, vol = (value * np.exp(sd * rng.standard_normal((30, 1))) for value, sd in ((4.0, 0.35), (40.0, 0.25)))
    y = 100.0 / vol * np.exp(-cl / vol * times) + 0.2 * rng.standard_normal((30, 6))
    frame = pd.DataFrame({"id": np.repeat(np.arange(30), 6), "Time": np.tile(times, 30), "y": y.ravel()})
    return jn.GroupedData.from_frame(frame, "id", "y", "Time", lloq=LIMIT)


@pytest.fixture(scope="module")
def model() -> jn.NLMEModel:
    parameters = [jn.Parameter(name, start, "log", random=True) for name, start in (("cl", 3.0), ("vol", 30.0))]
    return jn.NLMEModel(bolus, parameters, error="constant", censoring="M3")


@pytest.fixture(scope="module")
def fit(model: jn.NLMEModel, data: jn.GroupedData) -> jn.Fit:
    return jn.fit(model, data, jn.AGQ(7))


def test_saem_is_the_maximum_by_quadrature(model: jn.NLMEModel, data: jn.GroupedData, fit: jn.Fit):
    saem = jn.fit(model, data, jn.SAEM(seed=3))
    assert fit.converged and saem.converged
    difference = (saem.estimates["estimate"] - fit.estimates["estimate"]) / fit.estimates["se"]
    assert difference.abs().max() < 0.1
    assert saem.log_likelihood == pytest.approx(fit.log_likelihood, abs=0.1)
    # Rows below the limit left out: clearance is too low, by more than its standard error.
    without = jn.fit(jn.NLMEModel(bolus, list(model.parameters), error="constant", censoring="M1"), data, "laplace")
    assert fit.values["cl"] > 1.03 * without.values["cl"]
    assert without.criteria.n_obs == data.n_obs - data.limits.censored.sum()


def test_residuals_criteria_and_files(fit: jn.Fit, data: jn.GroupedData, tmp_path: Path):
    residuals = fit.residuals(["iwres", "cwres"])
    censored = data.rows_to_column(data.limits.censored)
    assert (residuals["censored"].to_numpy() == censored).all()
    assert (residuals["cwres"].isna().to_numpy() == censored).all()
    y, f = data.rows_to_column(data.y), np.asarray(fit.predict())
    np.testing.assert_allclose(residuals["iwres"][~censored], ((y - f) / fit.values["a"])[~censored])
    counted = data.n_obs - censored.sum()
    assert fit.criteria.objective == pytest.approx(-2.0 * fit.log_likelihood - counted * np.log(2.0 * np.pi))
    path = tmp_path / "fit.zip"
    fit.save(path)
    loaded = jn.load(path, trust_code=True)
    assert loaded.criteria == fit.criteria and loaded.data.fingerprint() == data.fingerprint()


def test_simulated_responses_are_censored(fit: jn.Fit, data: jn.GroupedData):
    raw, reported = fit.simulate(20, key=5), fit.simulate(20, key=5, limits=True)
    np.testing.assert_array_equal(reported, np.maximum(raw, LIMIT))
    below = (raw < LIMIT).mean()
    assert below == pytest.approx(data.limits.censored[data.rows].mean(), abs=0.06)
    drawn = data.with_response(raw[0])
    assert (drawn.rows_to_column(drawn.limits.censored) == (raw[0] < LIMIT)).all()
    assert drawn.fingerprint() == data.with_response(reported[0]).fingerprint()
    binding = jn.bind(fit.model, data)
    cells = np.zeros(data.y.shape)
    cells[data.rows] = raw[0][np.argsort(np.argsort(data.row_index[data.rows]))]
    problem = jn.with_responses(binding.problem, [jnp.asarray(cells)])
    expected = jn.bind(fit.model, drawn).problem.buckets[0]
    np.testing.assert_array_equal(problem.buckets[0].y, expected.y)
    np.testing.assert_array_equal(problem.buckets[0].limits.kind, expected.limits.kind)


def test_limits_of_observed_rows_are_needed(fit: jn.Fit, data: jn.GroupedData):
    frame = data.to_frame().drop(columns="LLOQ")
    frame.loc[frame.index[frame.CENS == 1][0], "y"] = 0.45  # another limit: that of observed rows is not known
    other = jn.GroupedData.from_frame(frame, "id", "y", "Time", censoring="CENS")
    with pytest.raises(jn.OptionError, match="known in censored rows only"):
        fit.simulate(1, data=other, limits=True)
