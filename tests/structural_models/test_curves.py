"""The curves of `jn.models.curves`: formulas, limits, derivatives; the same in the form that least squares uses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.structural_models import linear_parts as parts
from jaxnlme.structural_models.linear_parts import MeasurementUnits
from tests.problems import cheap

curves = jn.models.curves
X = np.array([0.0, 1e-9, 0.3, 1.0, 4.0, 50.0, 1e4])

# The formulas as they are written in R's help pages, and parameters.
FORMULAS = {
    "logistic": (lambda x, A, m, s: A / (1 + np.exp((m - x) / s)), [5.0, 2.0, 0.7]),
    "four_parameter_logistic": (lambda x, A, B, m, s: A + (B - A) / (1 + np.exp((m - x) / s)), [1.0, 5.0, 2.0, 0.7]),
    "gompertz": (lambda x, A, b2, b3: A * np.exp(-b2 * b3**x), [5.0, 2.0, 0.7]),
    "weibull_growth": (lambda x, A, D, k, p: A - D * np.exp(-np.exp(k) * x**p), [5.0, 4.0, -1.0, 1.7]),
    "michaelis_menten": (lambda x, V, K: V * x / (K + x), [5.0, 0.7]),
    "asymptotic": (lambda x, A, R, k: A + (R - A) * np.exp(-np.exp(k) * x), [5.0, -1.0, -0.5]),
    "asymptotic_offset": (lambda x, A, k, c: A * (1 - np.exp(-np.exp(k) * (x - c))), [5.0, -0.5, 0.4]),
    "asymptotic_origin": (lambda x, A, k: A * (1 - np.exp(-np.exp(k) * x)), [5.0, -0.5]),
    "biexponential": (
        lambda x, A, k, B, q: A * np.exp(-np.exp(k) * x) + B * np.exp(-np.exp(q) * x),
        [3.0, 0.9, 0.6, -1.0],
    ),
    "first_order_absorption": (
        lambda x, e, a, c: (
            4.0 * np.exp(e + a - c) * (np.exp(-np.exp(e) * x) - np.exp(-np.exp(a) * x)) / (np.exp(a) - np.exp(e))
        ),
        [-2.5, 0.5, -3.2],
    ),
}  # fmt: skip


def curve(name: str, x, parameters) -> jax.Array:
    inputs = (4.0, x) if name == "first_order_absorption" else (x,)
    return getattr(curves, name)(*inputs, *parameters)


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_and_derivatives(name: str) -> None:
    """Values by R's formula; first derivatives against differences of it; all second ones finite, also at x = 0 and far
    in the tails."""
    formula, parameters = FORMULAS[name]
    point = np.array(parameters)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(curve(name, X, point), formula(X, *point), rtol=1e-7, atol=1e-13)
        steps = 1e-6 * np.eye(len(point))
        differences = np.array([(formula(X, *(point + s)) - formula(X, *(point - s))) / 2e-6 for s in steps]).T

    def f(p):
        return curve(name, X, p)

    slopes, backwards, second = cheap(lambda p: (jax.jacfwd(f)(p), jax.jacrev(f)(p), jax.hessian(f)(p)))(point)
    np.testing.assert_allclose(slopes, differences, rtol=1e-5, atol=2e-8)
    np.testing.assert_allclose(backwards, slopes, rtol=1e-10, atol=1e-300)
    assert np.isfinite(second).all()


@pytest.mark.parametrize("scal", [1e-3, -1e-3])
def test_steep_logistic_curves(scal: float) -> None:
    """exp((xmid - x) / scal) overflows; the curve and its derivatives do not."""
    slopes = cheap(jax.jacfwd(lambda p: curves.logistic(X, *p)))(np.array([5.0, 2.0, scal]))
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[:, 0], X > 2.0 if scal > 0 else X < 2.0)


def test_equal_rate_constants() -> None:
    """At Ka = Ke the curve is dose Ke^2 x exp(-Ke x) / Cl; derivatives to the second order are continuous there, and
    where the series gives way to the difference."""
    x = np.array([0.0, 0.5, 3.0, 20.0])

    def f(p):
        return curves.first_order_absorption(4.0, x, p[0], p[1], -1.0)

    k = np.exp(-0.3)
    np.testing.assert_allclose(f(np.array([-0.3, -0.3])), 4.0 * k**2 * x * np.exp(-k * x) / np.exp(-1.0), rtol=1e-14)
    at, beside = np.array([-0.3, -0.3]), np.array([-0.3, -0.3 + 1e-6])
    for derivative in (cheap(f), cheap(jax.jacfwd(f)), cheap(jax.hessian(f))):
        exact = np.asarray(derivative(at))
        assert np.isfinite(exact).all()
        np.testing.assert_allclose(derivative(beside), exact, rtol=1e-4, atol=1e-4)
    # Differences of the formula, where it is not singular, on both sides of the series' limit |h| = 0.5 at x = 3.
    for gap in (0.32, 0.36):
        p = np.array([-0.3, np.log(k + gap)])
        formula = FORMULAS["first_order_absorption"][0]
        np.testing.assert_allclose(f(p), formula(x, p[0], p[1], -1.0), rtol=1e-12)
        steps = 1e-5 * np.eye(2)
        numeric = [(formula(x, *(p + s), -1.0) - formula(x, *(p - s), -1.0)) / 2e-5 for s in steps]
        np.testing.assert_allclose(cheap(jax.jacfwd(f))(p), np.array(numeric).T, rtol=1e-7, atol=1e-8)
    exchanged = curves.first_order_absorption(4.0, x, 0.7, -2.0, -1.0)
    np.testing.assert_allclose(curves.first_order_absorption(4.0, x, -2.0, 0.7, -1.0), exchanged, rtol=1e-13)


def test_extreme_rates_do_not_overflow() -> None:
    """Concentrations with rate constants far apart, either way round: finite, and the elimination phase right."""
    x = np.array([0.0, 1.0, 1000.0])
    for ke, ka in ((-1.0, 7.0), (7.0, -1.0)):
        slopes = cheap(jax.jacfwd(lambda p: curves.first_order_absorption(1.0, x, *p, 0.0)))(np.array([ke, ka]))
        assert np.isfinite(slopes).all()


PARTS = {
    "logistic": (parts.Sigmoid(two_asymptotes=False), [0.4, np.log(0.2)]),
    "four_parameter_logistic": (parts.Sigmoid(two_asymptotes=True), [0.4, np.log(0.2)]),
    "gompertz": (parts.Gompertz(), [0.3, np.log(4.0)]),
    "weibull_growth": (parts.Weibull(), [np.log(0.4), np.log(1.5)]),
    "michaelis_menten": (parts.MichaelisMenten(), [np.log(0.3)]),
    "asymptotic": (parts.Approach("asymptote"), [np.log(2.0)]),
    "asymptotic_offset": (parts.Approach("offset"), [np.log(2.0)]),
    "asymptotic_origin": (parts.Approach("origin"), [np.log(2.0)]),
    "biexponential": (parts.Biexponential(), [np.log(9.0), np.log(0.8)]),
    "first_order_absorption": (parts.Absorption(), [np.log(9.0), np.log(0.8)]),
}


@pytest.mark.parametrize("name", PARTS)
def test_linear_parts_are_the_curves(name: str) -> None:
    """Coefficients times columns in scaled units equal the curve at the parameters that belong to them."""
    part, theta = PARTS[name]
    x = np.array([2.0, 3.0, 4.5, 9.0])
    units = MeasurementUnits(2.0 if part.shifted else 0.0, 7.0, 30.0, 2.0)
    u = (x - units.x0) / units.sx
    if isinstance(part, parts.Absorption):
        part = part.with_dose(np.full(4, 4.0 / units.dose))
    for signs in part.variants:
        columns = part.columns(u, theta, signs)
        c = np.array([1.3, -0.4][: len(columns)])
        values = part.parameters(theta, signs, c, units)
        np.testing.assert_allclose(curve(name, x, values), units.sy * np.stack(columns, axis=1) @ c, rtol=1e-10)
        assert len(values) == len(FORMULAS[name][1])


def test_curves_inside_a_model_function() -> None:
    """jn.models.curves in a function of the user; the same numbers as the ready model."""

    def growth(phi, x):
        return curves.logistic(x.age, jnp.exp(phi.log_asym), phi.xmid, phi.scal)

    data = jn.GroupedData.from_frame(jn.datasets.orange(), "Tree", "circumference", ["age"])
    ready = jn.models.logistic("age", data, random=["Asym"], transforms={"Asym": "log"})
    start = {p.name: float(p.start) for p in ready.parameters}
    own = jn.NLMEModel(
        growth,
        [
            jn.Parameter("log_asym", np.log(start["Asym"]), random=True, sd=0.5),
            jn.Parameter("xmid", start["xmid"]),
            jn.Parameter("scal", start["scal"]),
        ],
    )
    values = []
    for model in (ready, own):
        value = cheap(lambda params, model=model: jn.log_likelihood(model, params, data, "fo"))(model.params(data))
        values.append(float(value))
    assert values[0] == pytest.approx(values[1], rel=1e-12)
