"""Equinox modules in every place of a model, and random effects by a flow, against the same written out."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import integrate, special, stats

import jaxnlme as jn
from jaxnlme.model.networks import Networks

M, ROWS = 6, 3


class Shift(eqx.Module):
    """phi.a = a + weight tanh(w) + b."""

    weight: jax.Array

    def __call__(self, beta, b, v):
        return {"a": beta.a + self.weight[0] * jnp.tanh(v.w) + b.a}


class Spread(eqx.Module):
    """A residual SD that grows with time."""

    rate: jax.Array

    def __call__(self, f, x, sd):
        return sd * jnp.exp(self.rate * x.t)


class Bend(eqx.Module):
    """A transformation of two effects together."""

    strength: jax.Array

    def __call__(self, z):
        return jnp.stack([z[0], z[1] + self.strength * z[0] ** 2])


def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    group, t = np.repeat(np.arange(M), ROWS), np.tile(np.linspace(0.0, 1.0, ROWS), M)
    y = 2.0 + 0.6 * rng.normal(size=M)[group] + t + 0.2 * rng.normal(size=M * ROWS)
    return pd.DataFrame({"id": group, "t": t, "w": rng.normal(size=M)[group], "y": y})


def data() -> jn.GroupedData:
    return jn.GroupedData.from_frame(table(), "id", "y", ["t"], v=["w"])


def line(phi, x, v):
    return phi.a + x.t


A = jn.Parameter("a", 2.0, random=True, sd=0.6)


def densities(b: np.ndarray, rate: float = 0.0, shift: float = 0.0) -> np.ndarray:
    """p(y_i | b) (groups,) at one b for each group, a = 2, residual SD 0.3 exp(rate t)."""
    frame = table()
    sd = 0.3 * np.exp(rate * frame.t)
    mean = 2.0 + shift * np.tanh(frame.w) + b[frame.id.to_numpy()] + frame.t
    return np.exp(pd.Series(stats.norm.logpdf(frame.y, mean, sd)).groupby(frame.id.to_numpy()).sum().to_numpy())


def marginal(effect, **options) -> float:
    """The log-likelihood with b = effect(z), by a fine trapezoidal rule over z."""
    z = np.linspace(-9.0, 9.0, 3601)
    values = np.stack([densities(np.full(M, effect(k)), **options) for k in z]) * stats.norm.pdf(z)[:, None]
    return float(np.log(integrate.trapezoid(values, z, axis=0)).sum())


def test_modules_in_the_individual_function_and_the_residual_scale():
    error = jn.error.custom(Spread(jnp.array(0.4)), {"sd": 0.3})
    model = jn.NLMEModel(line, [A], individual=Shift(jnp.array([0.7])), error=error)
    params = model.params(data())
    assert sorted(params.free.parts) == ["error", "individual"]
    value = jax.jit(lambda p: jn.log_likelihood(model, p, data(), "laplace"))(params)
    expected = marginal(lambda z: 0.6 * z, rate=0.4, shift=0.7)
    assert float(value) == pytest.approx(expected, abs=1e-7)


def flow(steep: float, height: float) -> tuple[jn.NLMEModel, jn.GroupedData, object]:
    """A model with a flow of one step at zero, and its Params."""
    model = jn.NLMEModel(line, [A], error=jn.error.constant(0.3), effects=jn.Flow(steps=1))
    params = model.params(data())
    inverse = [np.log(np.expm1(value)) for value in (height, steep)]
    arrays = {"height": inverse[0], "steepness": inverse[1], "centre": 0.0}
    effects = params.free.effects
    for name, value in arrays.items():
        effects = eqx.tree_at(lambda tree, name=name: getattr(tree, name), effects, np.array([[value]]))
    return model, data(), eqx.tree_at(lambda p: p.free, params, Networks(effects=effects))


def standardised(steep: float, height: float):
    """S(z) of that flow, its variance by scipy."""

    def transformation(z):
        return z + height * np.tanh(steep * z)

    variance = integrate.quad(lambda z: transformation(z) ** 2 * stats.norm.pdf(z), -12, 12)[0]
    return lambda z: transformation(z) / np.sqrt(variance)


def test_a_flow_is_standardised_and_integrated():
    model, groups, params = flow(2.0, 1.5)
    s = standardised(2.0, 1.5)
    density = jn.bind(model, groups).density
    for z in (-1.3, 0.2, 2.0):
        b = density.effects(params, jnp.array([z]))
        assert float(b[0]) == pytest.approx(0.6 * s(z), abs=1e-5)
    expected = marginal(lambda z: 0.6 * s(z))
    value = jax.jit(lambda p: jn.log_likelihood(model, p, groups, jn.AGQ(30)))(params)
    assert float(value) == pytest.approx(expected, abs=1e-4)


def test_a_flow_of_two_effects_has_mean_zero_and_the_covariance_psi():
    b = jn.Parameter("b", 1.0, random=True, sd=0.5)
    model = jn.NLMEModel(
        lambda phi, x, v: phi.a + phi.b * x.t, [A, b], covariance="full", effects=jn.Flow(Bend(jnp.array(0.8)))
    )
    params = model.params(data(), {"corr(a, b)": 0.3})
    density = jn.bind(model, data()).density
    nodes, weights = special.roots_hermitenorm(20)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    weight = (np.outer(weights, weights) / (2 * np.pi)).ravel()
    values = density.effects_at(params, grid)
    np.testing.assert_allclose(weight @ values, 0.0, atol=1e-10)
    psi = [[0.36, 0.09], [0.09, 0.25]]
    np.testing.assert_allclose((weight[:, None] * values).T @ values, psi, atol=1e-10)
    slopes = density.effect_slopes(params, grid[:3])
    step = 1e-6
    for k in range(2):
        up = density.effects_at(params, grid[:3] + step * np.eye(2)[k])
        np.testing.assert_allclose(slopes[:, :, k], (up - values[:3]) / step, atol=1e-4)


def test_a_fit_by_a_flow_reports_and_simulates_its_effects():
    """Random effects, predictions and simulated responses go through the flow."""
    model, groups, params = flow(4.0, 3.0)
    fit = jn.fit(model, groups, "laplace", start=params, max_iterations=3, standard_errors=False)
    s = fit.networks.effects
    assert s.height.shape == (1, 1)
    density = fit.binding.density
    b = density.effects_at(fit.params, fit.conditional[0])
    np.testing.assert_allclose(fit.random_effects.to_numpy(), b)
    assert (
        np.abs(b - density.covariance.factor(np.asarray(fit.params.covariance))[0, 0] * fit.conditional[0]).max() > 0.01
    )
    predictions = fit.predict()
    expected = fit.values["a"] + np.repeat(b[:, 0], ROWS) + table().t
    np.testing.assert_allclose(np.asarray(predictions), expected, rtol=1e-9)
    again = jn.fit(fit.model, groups, "laplace", start=fit, max_iterations=0, standard_errors=False)
    assert again.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-8)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: jn.Flow(steps=0), "steps"),
        (lambda: jn.Flow(lambda z: z), "must be a callable Equinox module"),
        (lambda: jn.NLMEModel(line, [A], effects="flow"), "jn.Flow"),
        (lambda: jn.NLMEModel(line, [A], individual=Shift(jnp.arange(2))), "arrays that cannot be trained: weight"),
        (lambda: jn.error.custom(Spread(jnp.array(True)), {"sd": 0.3}), "arrays that cannot be trained: rate"),
        (lambda: jn.bind(jn.NLMEModel(line, {"a": 2.0}, effects=jn.Flow()), data()), "no random effects"),
        (lambda: jn.bind(jn.NLMEModel(line, [A], effects=jn.Flow(Bend(jnp.array(0.1)))), data()), "shape"),
        (lambda: jn.fit(jn.NLMEModel(line, [A], effects=jn.Flow()), data(), "saem"), "Gaussian random effects"),
        (lambda: jn.fit(jn.NLMEModel(line, [A], effects=jn.Flow()), data(), "lme"), "no free weights|Gaussian"),
    ],
)
def test_what_a_module_cannot_be(make, words):
    with pytest.raises(jn.JaxnlmeError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
