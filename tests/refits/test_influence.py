"""Influence by the implicit function theorem against refits and the closed form."""

from __future__ import annotations

import jax.numpy as jnp
import matplotlib
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

matplotlib.use("Agg")
GROUP, ROW = 3, 10


def growth(phi, x):
    return phi.a * jnp.exp(phi.s * x.x)


PARAMETERS = [jn.Parameter("a", 5.0, "log", random=True), jn.Parameter("s", 0.1)]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(12), 6), np.tile(np.arange(6.0), 12)
    y = 5 * np.exp(0.1 * x + 0.2 * rng.normal(0, 1, 12)[g]) + 0.3 * rng.standard_t(4, 72)
    return pd.DataFrame({"g": g, "x": x, "y": y, "c": 1.0})


@pytest.fixture(scope="module")
def data(table):
    return jn.GroupedData.from_frame(table, group="g", y="y", x=["x", "c"])


@pytest.fixture(scope="module")
def fit(data):
    return jn.fit(jn.NLMEModel(growth, PARAMETERS, error="proportional"), data, "focei")


def refitted(fit, data, model=None, method="focei"):
    model = fit.model if model is None else model
    refit = jn.fit(model, data, method, start=dict(fit.values), tolerance=1e-14, standard_errors=False)
    return pd.Series(refit.values)


def test_groups_against_refits_at_other_weights(fit, data) -> None:
    record = fit.influence()
    values = []
    for w in (1.01, 0.99):
        weights = np.ones(12)
        weights[GROUP] = w
        values.append(refitted(fit, data.with_weights(weights)))
    slope = (values[0] - values[1]) / 0.02
    np.testing.assert_allclose(record.derivatives.loc[GROUP], slope, rtol=1e-4)
    assert list(record.derivatives.index) == list(data.labels)


def test_table_se_and_picture(fit) -> None:
    """The sum over groups of outer products is the sandwich; displacement is p times Cook's distance."""
    record = fit.influence()
    robust = fit.estimates["robust se"].to_numpy() * np.array([fit.values["a"], 1, 1, 1])
    np.testing.assert_allclose(record.se, robust, rtol=1e-10)
    table = record.influence
    np.testing.assert_allclose(table["displacement"], 4 * table["cook"], rtol=1e-12)
    assert table["displacement"].is_monotonic_decreasing
    np.testing.assert_allclose(record.derivatives.sum(), 0.0, atol=1e-5)  # the scores of a maximum sum to zero
    panels = fit.plot.influence(record, most=5)
    assert "implicit derivatives" in panels.figure.get_suptitle() + panels[0].get_title(loc="left") + str(
        panels[0].get_title()
    )
    assert "displacement" in str(record)


def test_correlation_of_estimates_and_condition_number(fit) -> None:
    covariance = fit.covariance.to_numpy()
    se = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(fit.correlation_of_estimates, covariance / np.outer(se, se), rtol=1e-12)
    np.testing.assert_allclose(fit.condition_number, np.linalg.cond(covariance / np.outer(se, se)), rtol=1e-8)
    assert f"condition number {fit.condition_number:.4g}" in " ".join(str(fit.summary()).split())


def test_large_correlations_are_named(table) -> None:
    """A slope against a predictor far from zero: intercept and slope are one number."""
    far = jn.GroupedData.from_frame(table.assign(x=table["x"] + 100), group="g", y="y", x=["x"])
    parameters = [jn.Parameter("b0", -90.0, random=True, sd=0.5), jn.Parameter("b1", 1.0)]
    model = jn.NLMEModel(lambda phi, x: phi.b0 + phi.b1 * x.x, parameters)
    fit = jn.fit(model, far, "focei")
    assert fit.correlation_of_estimates.loc["b0", "b1"] < -0.99
    assert "above 0.95: b1 and b0 (-" in " ".join(str(fit.summary()).split())
    assert fit.condition_number > 100


def test_standard_errors_of_three_kinds(fit) -> None:
    table = fit.standard_errors()
    np.testing.assert_allclose(table["observed"], fit.estimates["se"], rtol=1e-12)
    np.testing.assert_allclose(table["sandwich"], fit.estimates["robust se"], rtol=1e-12)
    scores = fit.information.scores
    inverse = np.linalg.inv(scores.T @ scores)
    np.testing.assert_allclose(table.loc["a", "outer product"], np.sqrt(inverse[0, 0]), rtol=1e-8)


def test_sensitivity_against_refits(data) -> None:
    """To a slope that is held, and to mean and SD of a prior of log a."""

    def model(s, mean, sd):
        prior = jn.priors.Normal(mean, sd)
        parameters = [jn.Parameter("a", 5.0, "log", random=True, prior=prior), jn.Parameter("s", s, fix=True)]
        return jn.NLMEModel(growth, parameters, error="proportional")

    at, h = np.array([0.1, 1.5, 0.1]), 1e-3
    fit = jn.fit(model(*at), data, "focei", tolerance=1e-14)
    record = fit.sensitivity()
    start = {name: value for name, value in fit.values.items() if name != "s"}
    for k, name in enumerate(("s", "prior of a: mean", "prior of a: sd")):
        ends = []
        for sign in (1, -1):
            changed = at + sign * h * np.eye(3)[k]
            ends.append(pd.Series(jn.fit(model(*changed), data, "focei", start=start, tolerance=1e-14).values))
        slope = (ends[0] - ends[1])[record.columns] / (2 * h)
        difference = (record.loc[name] - slope) / fit.standard_errors()["observed"]
        assert abs(difference).max() < 2e-3 * abs(slope / fit.standard_errors()["observed"]).max(), name


def test_against_case_deletion(fit) -> None:
    """The tangent predicts the changes of the refits without a group, to second order."""
    deleted, tangent = fit.jackknife(progress=False).influence, fit.influence().influence
    for name in ("a", "s", "sd(a)", "b"):
        assert np.corrcoef(deleted[name], tangent[name].reindex(deleted.index))[0, 1] > 0.97, name


def test_observations_against_refits_at_other_weights(table, data) -> None:
    """Rows weighted in a log-density of the user, by Laplace, where FOCEI has another curvature."""
    fit = jn.fit(jn.NLMEModel(growth, PARAMETERS, error="proportional"), data, "laplace")

    def weighted(y, f, p, x, v):
        s = p.b * jnp.abs(f)
        return x.c * (-0.5 * ((y - f) / s) ** 2 - jnp.log(s) - 0.5 * jnp.log(2 * jnp.pi))

    error = jn.GroupLogLikelihood(weighted, [jn.ErrorParameter("b", 0.1, "log")])
    model = jn.NLMEModel(growth, PARAMETERS, error=error)
    values = []
    for w in (1.01, 0.99):
        changed = table.assign(c=np.where(table.index == ROW, w, 1.0))
        rows = jn.GroupedData.from_frame(changed, group="g", y="y", x=["x", "c"])
        values.append(refitted(fit, rows, model, "laplace"))
    record = fit.influence("observations")
    slope = (values[0] - values[1]) / 0.02
    se = fit.influence().se  # a refit has an error of its own, of the same size in units of standard errors
    difference = record.derivatives.loc[(ROW // 6, ROW)] - slope
    assert (abs(difference) < 1e-4 * np.max(abs(slope / se)) * se).all()
    assert record.influence.index.names == ["g", "row"] and len(record.influence) == 72


def test_observations_of_focei_against_rows_left_out(fit, table) -> None:
    """FOCEI's curvature is weighted too: a tangent at weight one against the refit without the row."""
    record = fit.influence("observations")
    row = int(record.influence.index[-40][1])  # of moderate influence
    rows = jn.GroupedData.from_frame(table.drop(index=row), group="g", y="y", x=["x", "c"])
    change = refitted(fit, rows) - pd.Series(fit.values)
    tangent = -record.derivatives.xs(row, level="row").iloc[0]
    assert (abs(change - tangent) < 0.12 * np.linalg.norm(change / fit.influence().se) * fit.influence().se).all()


def test_refusals(fit, data) -> None:
    with pytest.raises(jn.OptionError, match=r"by must be .*'groups'.*'observations'"):
        fit.influence("rows")
    correlated = jn.error.gaussian("constant", jn.correlation.CAR1("x"))
    model = jn.NLMEModel(growth, PARAMETERS, error=correlated)
    other = jn.fit(model, data, "focei", max_iterations=0)
    with pytest.raises(jn.FitError, match="needs a fit that converged"):
        other.influence()
