"""Target attainment and the dose that reaches a share, against normal probabilities."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.errors import JaxnlmeError
from jaxnlme.forecasting import attainment as module

NORMAL = NormalDist()
regimen = jn.pkpd.regimen
STEADY = regimen(500, 12, steady_state=True)


def probability(fit, dose, target):
    """P(dose / CL >= target) for a log-normal clearance."""
    return NORMAL.cdf(np.log(dose / fit.values["cl"] / target) / fit.values["sd(cl)"])


def test_shares(fit):
    """Several regimens on the same subjects, by metric, criterion and band, within Monte Carlo error over seeds."""
    doses = {"low": regimen(400, 12, steady_state=True), "high": STEADY}
    scores = []
    for seed in range(4):
        found = jn.pkpd.attainment(fit, doses, metric="auc", target=110, covariates={"WT": 70}, seed=seed).table
        scores += [(found.share[k] - probability(fit, d, 110)) / found.se[k] for k, d in (("low", 400), ("high", 500))]
        assert ((found.lower < found.share) & (found.share < found.upper)).all()
    assert np.abs(scores).max() < 3.5
    simulation = jn.pkpd.simulate(fit, STEADY, [0, 12], 1000, {"WT": 70}, residual=False, seed=3)
    assert simulation.attainment(lambda e: e.auc >= 110).share == found.share["high"]
    band = simulation.attainment(metric="auc", target=(110, 150))
    assert abs(band.share - (probability(fit, 500, 110) - probability(fit, 500, 150))) < 4 * band.se
    at_most = simulation.attainment(metric="auc", target=(None, 110))
    assert at_most.share + simulation.attainment(metric="auc", target=110).share == pytest.approx(1.0)
    assert "at most 110" in str(at_most)


def test_uncertainty_widens_the_share(fit):
    found = jn.pkpd.attainment(
        fit, STEADY, metric="part_above", target=0.5, threshold=6.0, covariates={"WT": 70}, subjects=100, uncertainty=20
    )
    row = found.table.iloc[0]
    assert row["draws lower"] < row["share"] < row["draws upper"]
    assert row["draws upper"] - row["draws lower"] > 2 * row["se"]


def test_share_of_counts_draws_as_units():
    reached = np.array([[1.0, 1, 0, np.nan], [0, 0, 0, 0], [1, 1, 1, 0]])
    out = module.share_of(reached, 0.95)
    assert out["share"] == pytest.approx(5 / 11)
    assert out["se"] == pytest.approx(np.std([2 / 3, 0, 0.75], ddof=1) / np.sqrt(3))
    one = module.share_of(np.array([[1.0] * 20]), 0.95)
    assert one["upper"] == 1.0 and one["lower"] == pytest.approx(1 / (1 + 1.959964**2 / 20), rel=1e-6)  # Wilson


def test_find_dose(fit):
    """The quantile of log-normal clearances: smallest dose for a lower limit, largest for an upper one."""
    v = fit.values
    found = jn.pkpd.find_dose(fit, STEADY, 0.9, metric="auc", target=100, covariates={"WT": 70})
    exact = 100 * v["cl"] * np.exp(NORMAL.inv_cdf(0.9) * v["sd(cl)"])
    assert found.lower < exact * 1.02 and exact * 0.98 < found.upper
    assert abs(found.amount / exact - 1) < 0.05 and found.share >= 0.9
    again = jn.pkpd.attainment(fit, found.regimen, metric="auc", target=100, covariates={"WT": 70})
    assert again.share == pytest.approx(found.share, abs=1e-9)
    less = jn.pkpd.attainment(fit, found.regimen * 0.9999, metric="auc", target=100, covariates={"WT": 70})
    assert less.share < 0.9
    most = jn.pkpd.find_dose(fit, STEADY, 0.9, metric="auc", target=(None, 100), covariates={"WT": 70})
    exact = 100 * v["cl"] * np.exp(-NORMAL.inv_cdf(0.9) * v["sd(cl)"])
    assert abs(most.amount / exact - 1) < 0.05 and "largest" in str(most)


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "give a criterion"),
        ({"metric": "aucc", "target": 3}, "did you mean 'auc'"),
        ({"metric": "time_above", "target": 3}, "needs threshold="),
        ({"metric": "auc", "target": (5, 3)}, "pair (low, high)"),
        ({"metric": "auc", "target": "x"}, "pair (low, high)"),
        ({"criterion": lambda e: e.auc, "metric": "auc"}, "whole target"),
        ({"criterion": 3}, "must be a function"),
        ({"criterion": lambda e: e.area > 3}, "has the columns auc"),
        ({"criterion": lambda e: e.auc}, "one True or False for each row"),
        ({"metric": "auc", "target": 1, "regimens": []}, "regimens must be"),
        ({"metric": "auc", "target": 1, "subject": 3}, "an option of the simulation"),
        ({"metric": "auc", "target": 1, "level": 95}, "level is a probability"),
    ],
)
def test_bad_input(fit, options, words):
    calls = {"regimens": STEADY, "subjects": 3, "covariates": {"WT": 70}}
    with pytest.raises(JaxnlmeError) as error:
        jn.pkpd.attainment(fit, **(calls | options))
    assert words in str(error.value)


def test_no_dose_reaches_the_share(fit):
    options = {"covariates": {"WT": 70}, "subjects": 20}
    with pytest.raises(JaxnlmeError, match="no dose reaches the share"):
        jn.pkpd.find_dose(fit, STEADY, 0.99, metric="auc", target=(100, 130), **options)
    within = jn.pkpd.find_dose(fit, STEADY * 0.1, 0.3, metric="auc", target=(100, 130), **options)
    assert within.share >= 0.3 and 300 < within.amount < 700
    with pytest.raises(JaxnlmeError, match="for all doses"):
        jn.pkpd.find_dose(fit, STEADY, 0.9, metric="tmax", target=1, **options)
    with pytest.raises(JaxnlmeError, match="below 1"):
        jn.pkpd.find_dose(fit, STEADY, 1.0, metric="auc", target=1, **options)
