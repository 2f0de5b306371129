"""Residual models with limits of quantification: every family against numpy, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import jaxnlme as jn

KINDS = {0: 0, 1: 1, 2: -1, 3: 1}


def table(n: int = 3) -> pd.DataFrame:
    """Per group an observed, a left-censored, a right-censored and an interval row."""
    rows = []
    for i in range(n):
        for t, (y, cens, low) in enumerate([(1.4, 0, np.nan), (0.5, 1, np.nan), (2.5, -1, np.nan), (0.5, 1, 0.2)]):
            rows.append({"id": i, "t": float(t + 1), "y": y, "cens": cens, "low": low, "part": "ab"[t % 2]})
    return pd.DataFrame(rows)


def predicted(phi, x):
    return phi.f * (0.5 + 0.3 * x.t)


def declared(error, method="M3", **options) -> jn.NLMEModel:
    return jn.NLMEModel(
        predicted, [jn.Parameter("f", 1.1, "log", random=True)], error=error, censoring=method, **options
    )


def value(model: jn.NLMEModel, data: jn.GroupedData, method: str = "laplace") -> float:
    """The log-likelihood at the starting values."""
    return float(jax.jit(lambda params: jn.log_likelihood(model, params, data, method))(model.params(data)))


def read(frame: pd.DataFrame, **limits) -> jn.GroupedData:
    return jn.GroupedData.from_frame(frame, "id", "y", ["t", "part"], **limits)


ERRORS = {
    "constant": (lambda: jn.error.constant(0.4), lambda f, t: 0.4 + 0 * f, lambda y: y),
    "proportional": (lambda: jn.error.proportional(0.3), lambda f, t: 0.3 * f, lambda y: y),
    "combined": (lambda: jn.error.combined(0.2, 0.3), lambda f, t: 0.2 + 0.3 * f, lambda y: y),
    "power": (lambda: jn.error.power(0.3, 0.7), lambda f, t: 0.3 * f**0.7, lambda y: y),
    "exponential": (lambda: jn.error.exponential(0.3), lambda f, t: 0.3 + 0 * f, np.log),
    "box-cox": (
        lambda: jn.error.transform_both_sides("box-cox", jn.error.constant(0.4), shape=0.5),
        lambda f, t: 0.4 + 0 * f,
        lambda y: (np.sqrt(y) - 1.0) / 0.5,
    ),
    "strata": (lambda: jn.error.constant(0.4, by="part"), lambda f, t: 0.4 + 0 * f, lambda y: y),
    "variance function": (
        lambda: jn.error.gaussian(jn.variance.exponential("t", rate=0.2)), lambda f, t: np.exp(0.2 * t), lambda y: y
    ),
    "logit": (
        lambda: jn.error.gaussian("constant", response="logit(0, 9)"), lambda f, t: 1.0 + 0 * f,
        lambda y: np.log(y / (9.0 - y)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("method", ["M3", "M4"])
def test_terms_of_every_residual_model(name: str, method: str):
    make, scale, h = ERRORS[name]
    data = read(table(), censoring="cens", limit="low")
    model = declared(make(), method)
    density = jn.bind(model, data).density
    params = jax.tree.map(jnp.asarray, model.params(data))
    group = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), jn.bind(model, data).problem.buckets[0])
    terms, constant = density.error.row_terms(density.predict(params, jnp.zeros(1), group), params.error, group)
    t = np.arange(1.0, 5.0)
    f = 1.1 * (0.5 + 0.3 * t)
    s = scale(f, t)

    def cdf(limit, row):
        return norm.cdf((h(limit) - h(f[row])) / s[row])

    slope = (h(1.4 + 1e-6) - h(1.4 - 1e-6)) / 2e-6
    positive = method == "M4" and density.error.response.domain[0] < 0
    zero = [cdf(0.0, row) if positive else 0.0 for row in range(4)]
    expected = [
        norm.logpdf(h(1.4), h(f[0]), s[0]) + np.log(slope), np.log(cdf(0.5, 1) - zero[1]), np.log(1.0 - cdf(2.5, 2)),
        np.log(cdf(0.5, 3) - cdf(0.2, 3)),
    ]  # fmt: skip
    np.testing.assert_allclose(terms, np.array(expected) - np.log1p(-np.array(zero)), rtol=1e-7)
    assert float(constant) == 0.0


def test_m2_and_dropped_rows():
    data = read(table(), censoring="cens", lloq=0.5, uloq=2.5)
    model = declared(jn.error.constant(0.4), "M2")
    problem = jn.bind(model, data).problem
    assert np.asarray(problem.buckets[0].x.observed).sum() == 3  # one row of each group
    f = 1.1 * 0.8
    probability = norm.cdf((2.5 - f) / 0.4) - norm.cdf((0.5 - f) / 0.4)
    expected = norm.logpdf(1.4, f, 0.4) - np.log(probability)
    params = jax.tree.map(jnp.asarray, model.params(data))
    group = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), problem.buckets[0])
    density = problem.density
    value = density.error.log_density(*[density.predict(params, jnp.zeros(1), group)] * 2, params.error, group)
    assert float(value) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("error", ["proportional", "exponential"])
def test_predictions_of_zero(error: str):
    """A censored row before the drug arrives, whose prediction and residual SD are zero: probability one, no NaN."""

    def late(phi, x):
        return jnp.where(x.t > 2.5, phi.f * x.t, 0.0)

    frame = table().assign(y=[0.5, 0.5, 3.0, 4.0] * 3, cens=[1, 1, 0, 0] * 3)
    data = read(frame, censoring="cens")
    model = jn.NLMEModel(late, [jn.Parameter("f", 1.1, "log", random=True)], error=error, censoring="M3")
    rows = jn.NLMEModel(late, [jn.Parameter("f", 1.1, "log", random=True)], error=error, censoring="M1")
    values = [value(m, data) for m in (model, rows)]
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    gradient = jax.jit(jax.grad(lambda p: jn.log_likelihood(model, p, data, "laplace")))(
        jax.tree.map(jnp.asarray, model.params(data))
    )
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_units_do_not_matter():
    """All of y in other units: the log-likelihood moves by N log(factor), N the observed rows."""
    factor, values = 1000.0, []
    for scale in (1.0, factor):
        frame = table()
        frame[["y", "low"]] *= scale
        data = read(frame, censoring="cens", limit="low")
        model = jn.NLMEModel(
            predicted, [jn.Parameter("f", 1.1 * scale, "log", random=True)], error=jn.error.combined(0.2 * scale, 0.3),
            censoring="M4",
        )  # fmt: skip
        values.append([value(model, data, method) for method in ("laplace", "focei")])
    np.testing.assert_allclose(np.array(values[0]) - 3 * np.log(factor), values[1], rtol=1e-9)


def with_y(y: list[float]) -> jn.GroupedData:
    """The table with other values of y in every group."""
    return read(table().assign(y=y * 3), censoring="cens")


def censored_data() -> jn.GroupedData:
    return read(table(), censoring="cens", limit="low")


@pytest.mark.parametrize(
    ("action", "kind", "words"),
    [
        (lambda: declared("constant", "M5"), jn.OptionError, "'M3'"),
        (lambda: declared(jn.GroupLogLikelihood(lambda y, f, p, x, v: y)), jn.OptionError, "needs a Gaussian residual"),
        (
            lambda: declared(jn.error.gaussian("constant", jn.correlation.CAR1("t"))), jn.OptionError,
            "residuals that are correlated",
        ),
        (lambda: jn.bind(declared("constant", None), censored_data()), jn.ModelError, "censoring='M3'"),
        (lambda: jn.bind(declared("constant"), read(table())), jn.ModelError, "the data have no limits"),
        (lambda: jn.fit(declared("constant"), censored_data(), "fo"), jn.ModelError, "FO linearises"),
        (lambda: jn.fit(declared("constant"), censored_data(), "lme"), jn.ModelError, "LME linearises"),
        (
            lambda: jn.bind(declared("exponential"), with_y([1.4, -0.5, 2.5, 0.5])),
            jn.ModelError, "rows 2, 6 and 10 is known to lie below -0.5",
        ),
        (
            lambda: jn.bind(declared("constant", "M4"), with_y([-1.4, 0.5, 2.5, 0.5])),
            jn.ModelError, "conditions on responses above 0",
        ),
        (
            lambda: jn.bind(declared("constant", "M2"), with_y([1.4, 0.5, 2.5, 0.6])),
            jn.ModelError, "has no limit: give lloq=",
        ),
    ],
)  # fmt: skip
def test_refused(action, kind, words):
    with pytest.raises(kind, match=words):
        action()


def test_m1_is_the_data_without_the_rows():
    """By every method, FO and LME too, and with correlated residuals."""
    frame = pd.concat([table(), table().assign(t=lambda rows: rows.t + 4)])
    data = read(frame, censoring="cens", limit="low")
    without = read(frame[frame.cens == 0])
    error = jn.error.gaussian("constant", jn.correlation.CAR1("t"))
    for method in ("fo", "laplace"):
        for residual in ("constant", error):
            model, plain = declared(residual, "M1"), declared(residual, None)
            values = [value(m, d, method) for m, d in ((model, data), (plain, without))]
            assert values[0] == pytest.approx(values[1], rel=1e-12)
