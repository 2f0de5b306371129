"""Sampling importance resampling and cross-validation against integrals and separate fits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn


def mean(phi, x):
    return phi.a + 0.0 * x.x


@pytest.fixture(scope="module")
def fit():
    """One-way layout: 8 groups of 3, residual SD held, mean and SD between groups estimated."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(8), 3)
    table = pd.DataFrame({"g": g, "x": 0.0, "y": 5 + rng.normal(0, 1.0, 8)[g] + rng.normal(0, 0.5, 24)})
    data = jn.GroupedData.from_frame(table, group="g", y="y", x=["x"])
    model = jn.NLMEModel(mean, [jn.Parameter("a", 4.0, random=True)], error=jn.error.constant(a=jn.fixed(0.5)))
    return jn.fit(model, data, "focei")


def test_draws_have_the_distribution_of_the_likelihood(fit) -> None:
    """Against the likelihood on a grid of the mean and the log SD, in closed form for group means."""
    record = fit.sir((2000, 8000), (400, 800), seed=1)
    means = fit.data.to_frame().groupby("g")["y"].mean().to_numpy()
    a, log_sd = np.meshgrid(np.linspace(2, 8, 801), np.linspace(-2.5, 2.0, 801), indexing="ij")
    variance = np.exp(2 * log_sd) + 0.25 / 3
    log_likelihood = sum(-0.5 * np.log(variance) - 0.5 * (m - a) ** 2 / variance for m in means)
    weight = np.exp(log_likelihood - log_likelihood.max())
    of_sd, values = weight.sum(axis=0) / weight.sum(), np.exp(log_sd[0])
    drawn = record.values["sd(a)"]
    probabilities = [0.05, 0.25, 0.5, 0.75, 0.95]
    exact = values[np.searchsorted(np.cumsum(of_sd), probabilities)]
    np.testing.assert_allclose(drawn.quantile(probabilities), exact, rtol=0.1)
    assert record.iterations["dOFV resampled"].iloc[-1] == pytest.approx(2.0, abs=0.6)
    assert np.min(record.draws["dOFV"]) > -1e-6
    assert list(record.values.columns) == ["a", "sd(a)"] and "resampled" in str(record)
    again = fit.sir((2000, 8000), (400, 800), seed=1)
    pd.testing.assert_frame_equal(record.draws, again.draws)


def test_sir_refuses(fit) -> None:
    with pytest.raises(jn.OptionError, match="one number for each iteration"):
        fit.sir((100, 200), 50)
    with pytest.raises(jn.OptionError, match="would repeat draws"):
        fit.sir(50, 100)


def test_cross_validation_is_that_of_separate_fits(fit) -> None:
    record = fit.cross_validate(4, seed=2, progress=False)
    fold = record.groups["fold"].to_numpy()
    assert sorted(np.bincount(fold)[1:].tolist()) == [2, 2, 2, 2]
    weights = np.where(fold == 1, 0.0, 1.0)
    other = jn.fit(fit.model, fit.data.with_weights(weights), "focei")
    a, sd = other.values["a"], other.values["sd(a)"]
    for label in record.groups.index[fold == 1]:
        y = fit.data.to_frame().query("g == @label")["y"].to_numpy()
        covariance = 0.25 * np.eye(3) + sd**2
        exact = -0.5 * (np.linalg.slogdet(2 * np.pi * covariance)[1] + (y - a) @ np.linalg.solve(covariance, y - a))
        np.testing.assert_allclose(record.groups.loc[label, "log_likelihood"], exact, rtol=1e-7)
    np.testing.assert_allclose(record.log_likelihood, record.folds["log_likelihood"].sum(), rtol=1e-12)
    np.testing.assert_allclose(record.se, np.sqrt(8) * record.groups["log_likelihood"].std(), rtol=1e-12)
    np.testing.assert_allclose(record.groups["fitted"].sum(), fit.log_likelihood, rtol=1e-12)
    difference, se = record.difference(record)
    assert difference == 0.0 and se == 0.0
    with pytest.raises(jn.OptionError, match="at most one fold for each group"):
        fit.cross_validate(9)
    with pytest.raises(jn.OptionError, match=r"record of fit\.cross_validate"):
        record.difference(fit)
