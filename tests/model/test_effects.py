"""Transformed random effects: densities by quadrature, the Gaussian limit, agreement of estimators, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import integrate, special, stats

import jaxnlme as jn
from jaxnlme.model.effects import expm1_ratio


def decay(phi, x):
    return phi.a * jnp.exp(-phi.k * x.x)


def model(distribution=None, **options):
    a = jn.Parameter("a", 3.0, "log", random=True, distribution=distribution, **options)
    return jn.NLMEModel(decay, [a, jn.Parameter("k", 0.3, "log")])


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """60 groups whose log a is skewed: 1 + (exp(eta) - 1), eta of SD 0.6."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(60), 5), np.tile(np.arange(5), 60)
    b = np.expm1(rng.normal(0, 0.6, 60))
    return pd.DataFrame({"g": g, "x": x, "y": np.exp(1 + b[g] - 0.2 * x) + 0.1 * rng.normal(size=300)})


@pytest.fixture(scope="module")
def data(table):
    return jn.GroupedData.from_frame(table, group="g", y="y", x=["x"])


def test_ratio_is_smooth_at_zero() -> None:
    """The function and two derivatives against their series, sum x^k / (k + 1)!, on both sides of the switch."""
    x = np.array([0.0, 0.00999, 0.01001, 1.0])
    fn = expm1_ratio
    for order in range(3):
        k = np.arange(order, 25.0)
        terms = special.poch(k - order + 1, order) / special.gamma(k + 2) * x[:, None] ** (k - order)
        np.testing.assert_allclose(jax.jit(jax.vmap(fn))(x), terms.sum(axis=1), rtol=1e-10)
        fn = jax.grad(fn)


def test_student_is_close_to_the_quantiles_of_t() -> None:
    eta = np.array([-2.5, -1.0, 0.5, 2.0, 3.0])
    t = jn.effects.StudentT()
    got = jax.jit(jax.vmap(lambda z: t.transform(z, (0.7, 6.0))))(eta)
    np.testing.assert_allclose(got, 0.7 * stats.t.ppf(stats.norm.cdf(eta), 6.0), rtol=0.01)
    below, above = jax.jit(jax.vmap(jax.grad(lambda z: t.transform(z, (1.0, 4.0)))))(np.array([5.0 - 1e-9, 5.0 + 1e-9]))
    np.testing.assert_allclose(below, above, rtol=1e-7)  # linear beyond, smoothly


def test_shape_zero_is_gaussian_and_the_likelihood_is_the_integral(data, table) -> None:
    at = {"a": 2.7, "k": 0.2, "sd(a)": 0.5, "error.a": 0.11}
    plain, skewed = model(), model(jn.effects.BoxCox(shape=jn.fixed(0.0)))
    data = data.select(np.arange(60) < 8)

    def values(m, at, nodes):
        program = jax.jit(lambda params: jn.group_log_likelihoods(m, params, data, jn.AGQ(nodes)))
        return np.asarray(program(m.params(data, at)))

    of = [values(m, at, 9) for m in (plain, skewed)]
    np.testing.assert_allclose(of[1], of[0], rtol=1e-8)

    free = model(jn.effects.BoxCox())
    at = at | {"shape(a)": 0.8}
    got = values(free, at, 15)
    for g in (0, 7):
        own = table[table["g"] == g]
        y, x = own["y"].to_numpy(), own["x"].to_numpy()

        def density(z, y=y, x=x):
            b = np.expm1(0.8 * 0.5 * z) / 0.8
            return np.exp(stats.norm.logpdf(y, 2.7 * np.exp(b - 0.2 * x), 0.11).sum() + stats.norm.logpdf(z))

        grid = np.linspace(-4, 4, 4001)
        best = grid[np.argmax([density(z) for z in grid])]
        exact = integrate.quad(density, best - 1, best + 1, epsabs=0, epsrel=1e-11, limit=300, points=[best])[0]
        np.testing.assert_allclose(float(got[g]), np.log(exact), rtol=1e-7)


def test_shape_is_estimated_with_a_standard_error(data) -> None:
    fit = jn.fit(model(jn.effects.BoxCox()), data, "focei")
    gaussian = jn.fit(model(), data, "focei")
    row = fit.estimates.loc["shape(a)"]
    assert fit.converged and row["lower"] < 1.0 < row["upper"] and row["lower"] > 0.0 and row["se"] < 0.5
    assert fit.log_likelihood > gaussian.log_likelihood + 5.0
    assert np.isnan(fit.estimates.loc["sd(a)", "cv%"])


def test_estimators_agree(data) -> None:
    fit = jn.fit(model(jn.effects.BoxCox()), data, jn.AGQ(7))
    for method in ("focei", "laplace", jn.ImportanceSampling(500), jn.SAEM(seed=1)):
        other = jn.fit(model(jn.effects.BoxCox()), data, method)
        assert other.converged
        assert abs(other.log_likelihood - fit.log_likelihood) < 0.3
        for name in ("a", "k", "shape(a)", "sd(a)"):
            assert (
                abs(other.estimates.loc[name, "estimate"] - fit.estimates.loc[name, "estimate"])
                < 0.2 * (fit.estimates.loc[name, "se"])
            ), (str(method), name)


def test_student_recovers_heavy_tails() -> None:
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(100), 5), np.tile(np.arange(5), 100)
    b = 0.4 * rng.standard_t(4, 100)
    frame = pd.DataFrame({"g": g, "x": x, "y": np.exp(1 + b[g] - 0.2 * x) + 0.1 * rng.normal(size=500)})
    data = jn.GroupedData.from_frame(frame, group="g", y="y", x=["x"])
    fit, gaussian = jn.fit(model(jn.effects.StudentT()), data, "focei"), jn.fit(model(), data, "focei")
    for name, truth in (("scale(a)", 0.4), ("df(a)", 4.0)):
        row = fit.estimates.loc[name]
        assert row["value_lower"] < truth < row["value_upper"], name
    assert fit.converged and fit.log_likelihood > gaussian.log_likelihood + 1.0
    assert fit.estimates.loc["sd(a)", "fixed"]


def test_refusals(data) -> None:
    for method in ("fo", "lme"):
        with pytest.raises(jn.ModelError, match=r"distribution=.*'focei'"):
            jn.fit(model(jn.effects.BoxCox()), data, method)
    with pytest.raises(jn.ModelError, match=r"jn.effects.BoxCox.*Call it"):
        model(jn.effects.BoxCox)
    with pytest.raises(jn.ModelError, match=r"no random effect; add random=True"):
        jn.Parameter("k", 0.3, distribution=jn.effects.BoxCox())
    with pytest.raises(jn.ModelError, match=r"scale=\.\.\."):
        model(jn.effects.StudentT(), sd=0.3)
    with pytest.raises(jn.OptionError, match=r"df of StudentT.* above 1"):
        jn.effects.StudentT(df=0.5)
    with pytest.raises(jn.ModelError, match="nested levels"):
        jn.Parameter("a", 3.0, random=["g", "occ"], distribution=jn.effects.BoxCox())
