"""Student-t residuals: density, estimators, simulation, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import integrate, special, stats

import jaxnlme as jn
from jaxnlme.model.student_error import log_gamma_ratio


def line(phi, x):
    return phi.a + phi.s * x.x


def model(**options):
    parameters = [jn.Parameter("a", 2.0, random=True), jn.Parameter("s", 0.3)]
    return jn.NLMEModel(line, parameters, **{"error": jn.error.student_t(df=5.0), **options})


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    groups, rows = 12, 6
    g, x = np.repeat(np.arange(groups), rows), np.tile(np.arange(rows), groups)
    y = 3 + rng.normal(0, 1, groups)[g] + 0.5 * x + 0.3 * rng.standard_t(4, len(g))
    return pd.DataFrame({"g": g, "x": x, "y": y})


@pytest.fixture(scope="module")
def data(table):
    return jn.GroupedData.from_frame(table, group="g", y="y", x=["x"])


@pytest.fixture(scope="module")
def fit(data):
    return jn.fit(model(), data, jn.AGQ(15))


def test_gamma_ratio_and_its_derivatives() -> None:
    x = np.array([0.05, 0.5, 2.0, 30.0])
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(log_gamma_ratio)))(x)
    exact = special.gammaln(x + 0.5) - special.gammaln(x) - 0.5 * np.log(x)
    np.testing.assert_allclose(value, exact, atol=5e-15)
    np.testing.assert_allclose(slope, special.digamma(x + 0.5) - special.digamma(x) - 0.5 / x, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("scale, response", [("combined", "identity"), ("constant", "log")])
def test_density_is_that_of_scipy(data, table, scale, response) -> None:
    positive = data.with_response(np.exp(0.3 * table["y"].to_numpy()))
    t = model(error=jn.error.student_t(scale, df=3.0, response=response))
    binding = jn.bind(t, positive)
    params = t.params(positive, {"df": 2.5, "a": 1.5})
    problem, theta = binding.problem, params.error
    group = jax.tree.map(lambda leaf: leaf[0], problem.buckets[0])
    f = jnp.linspace(0.5, 3.0, len(group.y))
    got = problem.density.error.log_density(f, f, theta, group)
    values = dict(zip(binding.density.error_names, problem.density.error.natural(theta).values, strict=True))
    y, f = np.asarray(group.y), np.asarray(f)
    if response == "log":
        expected = stats.t.logpdf(np.log(y), values["df"], np.log(f), float(values["error.a"])) - np.log(y)
    else:
        expected = stats.t.logpdf(y, values["df"], f, float(values["error.a"]) + float(values["b"]) * f)
    np.testing.assert_allclose(float(got), expected.sum(), rtol=1e-12)


def test_likelihood_is_the_integral(fit, table) -> None:
    a, s, sd, scale, df = fit.values.values()
    total = 0.0
    for _, group in table.groupby("g"):
        y, x = group["y"].to_numpy(), group["x"].to_numpy()
        centre = (np.mean(y - s * x) - a) / sd

        def density(z, y=y, x=x):
            return np.exp(stats.t.logpdf(y, df, a + sd * z + s * x, scale).sum() + stats.norm.logpdf(z))

        total += np.log(integrate.quad(density, centre - 3, centre + 3, epsabs=0, epsrel=1e-11, limit=200)[0])
    assert fit.converged
    np.testing.assert_allclose(fit.log_likelihood, total, rtol=1e-9)


def test_estimators_agree(fit, data) -> None:
    """AGQ against simulated likelihoods, within their Monte Carlo errors; Laplace is another approximation."""
    for method in (jn.ImportanceSampling(1000), jn.SAEM(seed=1)):
        other = jn.fit(model(), data, method)
        assert other.converged
        error = np.sqrt(np.sum(other.monte_carlo_variance)) + 0.01
        assert abs(other.log_likelihood - fit.log_likelihood) < 4 * error
        for name in ("a", "s", "sd(a)", "error.a"):
            assert abs(other.values[name] - fit.values[name]) < 0.1 * fit.estimates.loc[name, "se"], name
    laplace = jn.fit(model(), data, "laplace")
    assert laplace.converged
    assert abs(laplace.log_likelihood - fit.log_likelihood) < 0.5


def test_residuals_and_simulation(fit, data) -> None:
    values = fit.values
    residuals = fit.residuals(["ires", "iwres"])
    sd = values["error.a"] * np.sqrt(values["df"] / (values["df"] - 2))
    np.testing.assert_allclose(residuals["iwres"], residuals["ires"] / sd, rtol=1e-10)
    drawn = fit.simulate(400, key=3, level="group") - fit.predict().to_numpy().ravel()[None, :]
    assert stats.kstest(drawn[:, ::5].ravel() / values["error.a"], stats.t(values["df"]).cdf).pvalue > 0.01


def test_endpoints_and_scales(data, table) -> None:
    """t residuals of one endpoint beside Gaussian ones of another; held degrees of freedom."""
    two = table.assign(what=np.where(table["x"] % 2 == 0, "p", "q"))
    both = jn.GroupedData.from_frame(two, group="g", y="y", x=["x"], endpoint="what")
    error = {"p": jn.error.student_t(), "q": "constant"}
    fit = jn.fit(model(error=error), both, "laplace")
    assert fit.converged
    assert fit.estimates.loc["df[p]", "fixed"] and fit.values["df[p]"] == pytest.approx(4.0)
    assert np.isfinite(fit.residuals("iwres")["iwres"]).all()


def test_refusals(data) -> None:
    for method in ("fo", "foce", "focei", "lme"):
        with pytest.raises(jn.ModelError, match=r"Gaussian residual model.*t\(df\).*'laplace'"):
            jn.fit(model(), data, method)
    with pytest.raises(jn.OptionError, match=r"df, the degrees of freedom .* received -1"):
        jn.error.student_t(df=-1.0)
    with pytest.raises(jn.OptionError, match="independent"):
        jn.error.student_t(jn.error.gaussian("constant", jn.correlation.CAR1("x")))
    with pytest.raises(jn.OptionError, match="censoring='M3' needs Gaussian residuals"):
        model(censoring="M3")
