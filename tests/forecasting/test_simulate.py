"""Simulation of new subjects: moments, uncertainty, seeds and batches."""

from __future__ import annotations

import dataclasses

import matplotlib
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.errors import JaxnlmeError
from jaxnlme.forecasting import simulate as module
from jaxnlme.results.parameter_draws import parameter_draws

matplotlib.use("Agg")
TIMES = (1.0, 6.0, 12.0, 24.0)


def steady(fit, seed, subjects=1000, **options):
    doses = jn.pkpd.regimen(500, 12, steady_state=True)
    return jn.pkpd.simulate(fit, doses, TIMES, subjects, {"WT": 70.0}, seed=seed, **options)


def test_moments(fit):
    """Means of log-normal parameters, of a steady state's area and of residuals, over seeds, against closed forms."""
    v, n = fit.values, 1000
    b = v[fit.binding.density.error_names[0]]
    scores = []
    for seed in range(6):
        simulation = steady(fit, seed, n)
        log_cl = np.log(simulation.individual["cl"][0])
        residual = simulation.response[0] / simulation.prediction[0] - 1.0
        scores += [
            (log_cl.mean() - np.log(v["cl"])) / (v["sd(cl)"] / np.sqrt(n)),
            (log_cl.var(ddof=1) / v["sd(cl)"] ** 2 - 1.0) * np.sqrt((n - 1) / 2),
            ((500 / simulation.individual["cl"][0]).mean() / (500 / v["cl"] * np.exp(v["sd(cl)"] ** 2 / 2)) - 1)
            / (np.sqrt(np.expm1(v["sd(cl)"] ** 2)) / np.sqrt(n)),
            np.sqrt(residual.size) * residual.mean() / b,
            (residual.var() / b**2 - 1.0) * np.sqrt(residual.size / 2),
        ]
    scores = np.array(scores)
    assert np.abs(scores).max() < 4.0
    assert 0.5 < scores.std() < 1.5
    correlation = np.corrcoef(np.log([simulation.individual["cl"][0], simulation.individual["v"][0]]))[0, 1]
    assert abs(correlation - v["corr(cl, v)"]) < 0.1


def test_predictions_are_those_of_the_model(fit):
    simulation = steady(fit, 0, 50, residual=False)
    k = (simulation.individual["cl"] / simulation.individual["v"])[0][:, None]
    peak = 500 / simulation.individual["v"][0][:, None] / (1 - np.exp(-12 * k))
    np.testing.assert_allclose(simulation.prediction[0][:, :3], peak * np.exp(-k * np.array([1, 6, 12])), rtol=1e-12)
    assert simulation.response is None and "response" not in simulation.frame


def test_numbers_do_not_depend_on_batches_or_subjects(fit, monkeypatch):
    whole = steady(fit, 3, 12, uncertainty=5)
    monkeypatch.setattr(module, "SIMULATION", dataclasses.replace(module.SIMULATION, cells_per_call=12 * 4 * 2))
    chunks = steady(fit, 3, 12, uncertainty=5)
    np.testing.assert_allclose(chunks.response, whole.response, rtol=1e-12)
    fewer = steady(fit, 3, 7, uncertainty=3)
    np.testing.assert_allclose(fewer.response, whole.response[:3, :7], rtol=1e-12)
    other = steady(fit, 4, 12, uncertainty=5)
    assert np.abs(other.response - whole.response).min() > 0


def test_uncertainty(fit):
    """Draws have the covariance of the estimates; intervals are those over draws, and wider ranges result."""
    packed, redrawn = parameter_draws(fit, 4000, 1, "a test")
    covariance = fit.information.covariance
    active = fit.information.active
    se = np.sqrt(np.diag(covariance))
    centre = np.asarray(fit.params.pack())[active]
    assert redrawn == 0
    assert np.abs((packed[:, active].mean(axis=0) - centre) / se).max() < 4 / np.sqrt(4000)
    np.testing.assert_allclose(np.cov(packed[:, active].T) / np.outer(se, se), covariance / np.outer(se, se), atol=0.08)
    simulation = steady(fit, 0, 200, uncertainty=40)
    assert simulation.prediction.shape == (40, 200, 4)
    table = simulation.percentiles((5, 50), level=0.8)
    assert [*table.columns] == ["5%", "5% lower", "5% upper", "50%", "50% lower", "50% upper"]
    by_draw = np.percentile(simulation.response, 50, axis=1)
    np.testing.assert_allclose(table["50% upper"], np.percentile(by_draw, 90, axis=0))
    assert (table["50% lower"] < table["50%"]).all() and (table["50%"] < table["50% upper"]).all()
    assert "40 draws of the parameters" in str(simulation)
    assert simulation.parameters.shape == (8000, 2) and simulation.frame.shape[0] == 32000


def test_covariates_are_resampled_and_plots_drawn(fit):
    table = {"WT": np.array([50.0, 70.0, 90.0])}
    doses = jn.pkpd.regimen(7, 12, doses=3, per="WT")
    simulation = jn.pkpd.simulate(fit, doses, [0, 6, 12], 60, table)
    weights = simulation.covariates["WT"]
    assert set(weights) == {50, 70, 90}
    amounts = simulation.binding.data.tables["events"][0]["amount"]
    np.testing.assert_allclose(amounts[:, 0], 7 * weights)
    assert (simulation.prediction[0][:, 0] == 0).all()  # before the first dose
    first = simulation.prediction[0][:, 2] / (7 * weights)
    after = jn.pkpd.simulate(fit, doses, [0, 6, 12], 60, table, at_dose="after").prediction[0]
    np.testing.assert_allclose(after[:, 0] * simulation.individual["v"][0], 7 * weights, rtol=1e-12)
    assert (after[:, 2] / (7 * weights) > first).all()
    axes = simulation.plot(log=False, threshold=3.0)
    assert axes.get_xlabel() == "TIME" and len(axes.lines) == 4
    assert simulation.plot(axes, of="prediction", percent=(10, 90)) is axes
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"times": None}, "times= is needed"),
        ({"subjects": 0}, "subjects must be a whole number >= 1"),
        ({"covariates": None}, "'WT'"),
        ({"uncertainty": 1}, "number of parameter draws, must be a whole number >= 2"),
        ({"uncertainty": "yes"}, "True, False, or a number of draws"),
        ({"seed": -1}, "seed must be"),
        ({"regimen": "500 mg"}, "made by jn.pkpd.regimen"),
        ({"rows": {"WT": 70}}, "in covariates and in rows"),
        ({"fit": 3}, "takes a fit of jn.fit"),
    ],
)
def test_bad_input(fit, options, words):
    calls = {"fit": fit, "regimen": jn.pkpd.regimen(500, 12), "times": [1, 2], "subjects": 3, "covariates": {"WT": 70}}
    with pytest.raises(JaxnlmeError) as error:
        jn.pkpd.simulate(**(calls | options))
    assert words in str(error.value)
