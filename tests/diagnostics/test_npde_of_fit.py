"""`simulated_responses` and `fit.npde()`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.diagnostics.simulations import simulated_responses

# One number of replicates, so that each fit compiles its simulation once.
REPLICATES = 300


def line(phi, x):
    return phi.a + phi.b * x.t


@pytest.fixture(scope="module")
def fit() -> jn.Fit:
    """Straight lines of 30 groups with 4 rows, in an order of rows that is not that of the groups; a row without a
    response, and a table with an index and a covariate of its own."""
    rng = np.random.default_rng(1)
    g, t = np.repeat(np.arange(30), 4), np.tile(np.arange(4.0), 30)
    y = 2.0 + 0.8 * rng.normal(size=30)[g] + (1.0 + 0.3 * rng.normal(size=30)[g]) * t + 0.4 * rng.normal(size=120)
    frame = pd.DataFrame({"id": g, "t": t, "y": y, "w": 50.0 + g})
    frame.loc[7, "y"] = np.nan
    frame = frame.sample(frac=1.0, random_state=3)
    data = jn.GroupedData.from_frame(frame, "id", "y", "t", "w")
    parameters = [jn.Parameter("a", 1.0, random=True), jn.Parameter("b", 0.5, random=True)]
    return jn.fit(jn.NLMEModel(line, parameters), data, "fo")


def test_simulated_responses_are_those_of_simulate(fit: jn.Fit) -> None:
    draws = simulated_responses(fit, REPLICATES, 3)
    missing = fit.data.to_frame()["y"].isna().to_numpy()
    assert draws.shape == (REPLICATES, 120) and missing.sum() == 1
    assert np.isnan(draws[:, missing]).all()
    np.testing.assert_array_equal(draws[:, ~missing], fit.simulate(REPLICATES, 3)[:, ~missing])
    np.testing.assert_array_equal(draws[:2], simulated_responses(fit, 2, 3))
    for arguments in ((0, 1), (2, -1), (2.5, 1)):
        with pytest.raises(jn.OptionError, match="whole number"):
            simulated_responses(fit, *arguments)


def test_npde_of_a_fit(fit: jn.Fit) -> None:
    """It equals jn.npde of the simulations, and npde of this linear model are close to residuals that are standardised
    by the covariance Z psi Z' + sigma^2 I."""
    record = fit.npde(REPLICATES, seed=2)
    table = record.table
    assert table.index.equals(fit.data.row_labels[fit.data.to_frame()["y"].notna().to_numpy()])
    assert {"id", "y", "t", "w", "ypred", "npd", "npde"} <= set(table.columns) and len(table) == 119
    np.testing.assert_array_equal(table["npde"], jn.npde(fit.data, fit.simulate(REPLICATES, 2)).table["npde"])
    psi, sigma = fit.psi.to_numpy(), float(fit.estimates["estimate"].iloc[-1])
    for _, rows in list(table.groupby("id"))[:10]:
        z = np.column_stack([np.ones(len(rows)), rows["t"]])
        covariance = z @ psi @ z.T + sigma**2 * np.eye(len(rows))
        white = np.linalg.solve(np.linalg.cholesky(covariance), rows["y"] - z @ fit.estimates["estimate"].iloc[:2])
        np.testing.assert_allclose(rows["npde"], white, atol=0.5)
    assert record.tests.loc[("npde", "global"), "p_adjusted"] > 0.01
    assert "119 observations of 30 groups (id), 300 simulated data sets, Cholesky" in str(record)
    with pytest.raises(jn.OptionError, match=r"fit\.npde has no option 'n'"):
        fit.npde(n=3)
    with pytest.raises(jn.OptionError, match="replicates, the number of simulated data sets"):
        fit.npde(1)
    few = fit.npde(2, decorrelation="none")
    assert few.kinds == ("npd",) and "2 simulated data sets are few" in str(few)


def test_npde_of_counts_needs_random_ties() -> None:
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(40), 4)
    frame = pd.DataFrame({"id": g, "y": rng.poisson(np.exp(0.3 + 0.5 * rng.normal(size=40)[g]))})
    fit = jn.glmer("y ~ 1 + (1 | id)", frame, family="poisson")
    with pytest.raises(jn.OptionError, match="responses are discrete"):
        fit.npde(REPLICATES)
    record = fit.npde(REPLICATES, ties="random")
    assert record.tests.loc[("npde", "global"), "p_adjusted"] > 0.01 and "ties at random" in record.sentences[0]


def test_npde_of_censored_responses() -> None:
    """Left-censored data of the right model: "cdf" keeps the distribution, and "ipred" is the fit's own prediction."""
    rng = np.random.default_rng(6)
    g, t = np.repeat(np.arange(60), 4), np.tile(np.arange(4.0), 60)
    y = 4.0 + 0.6 * rng.normal(size=60)[g] - t + 0.4 * rng.normal(size=240)
    frame = pd.DataFrame({"id": g, "t": t, "y": np.maximum(y, 1.5), "cens": (y < 1.5).astype(int)})
    data = jn.GroupedData.from_frame(frame, "id", "y", "t", censoring="cens")
    parameters = [jn.Parameter("a", 3.0, random=True), jn.Parameter("b", -0.5)]
    fit = jn.fit(jn.NLMEModel(line, parameters, censoring="M3"), data, "laplace")
    record, replaced = fit.npde(REPLICATES), fit.npde(REPLICATES, censoring="ipred")
    censored = record.table["cens"] == 1
    assert record.tests.loc[("npde", "global"), "p_adjusted"] > 0.01
    assert (record.table.loc[censored, "pd"] <= record.table.loc[censored, "ploq"]).all()
    np.testing.assert_allclose(replaced.table["ycomp"][censored], fit.predict()[censored.to_numpy()])
    assert "censored observations were drawn" in str(record) and "individual prediction" in str(replaced)
    assert np.isnan(fit.npde(REPLICATES, censoring="omit").table["npde"][censored]).all()


def test_npde_of_linear_models() -> None:
    """jn.lme: decorrelated by its outermost factor; crossed factors are refused; jn.gls: rows by themselves."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(12), 4)
    frame = pd.DataFrame({"id": g, "t": np.tile(np.arange(4.0), 12), "item": np.tile(list("abcd"), 12)})
    frame["y"] = 20.0 + 2.0 * rng.normal(size=12)[g] + 0.6 * frame["t"] + rng.normal(size=48)
    frame = frame.sample(frac=1.0, random_state=1)
    fit = jn.lme("y ~ t", random="~ 1 | id", data=frame)
    record = fit.npde(100, seed=4)
    same = jn.npde(frame, fit.simulate(100, 4), group="id", y="y")
    np.testing.assert_array_equal(record.table["npde"], same.table["npde"])
    assert record.table.index.equals(frame.index) and list(record.table.columns[:3]) == ["id", "y", "t"]
    with pytest.raises(jn.OptionError, match="factors id, item are crossed"):
        jn.lme("y ~ t + (1 | id) + (1 | item)", data=frame).npde(100)
    assert "48 groups" in str(jn.gls("log(y) ~ t", data=frame).npde(100))
