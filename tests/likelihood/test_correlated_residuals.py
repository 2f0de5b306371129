"""Residual covariance S C S: closed forms, dense matrices, and derivatives, for every correlation and approximation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal

import jaxnlme as jn
from jaxnlme.binding.bind import Binding, bind
from jaxnlme.estimators.core.objective import flatten, partial_sums
from jaxnlme.estimators.lindstrom_bates.objective import partial_sums_linearised
from tests.problems import (
    cheap,
    decay_data,
    decay_model,
    differences,
    linear,
    linear_data,
    mean,
    slopes,
    stencil,
    values,
)

# Rounding, as in test_linear.py.
EXACT = 1e-10
STEP = 1e-3


def exponential_kernel(s: Any, t: Any, length: Any) -> Any:
    return jnp.exp(-jnp.abs(s - t) / length)


def lags(t: np.ndarray) -> np.ndarray:
    return np.abs(t[:, None] - t[None, :])


def arma(ar: list[float], ma: list[float]) -> Callable[[np.ndarray], np.ndarray]:
    """Correlations of an ARMA process from the first 3,000 coefficients of its moving-average form."""
    psi = np.zeros(3000)
    for j in range(len(psi)):
        psi[j] = ([1.0, *ma] + [0.0] * len(psi))[j] + sum(ar[i] * psi[j - 1 - i] for i in range(min(len(ar), j)))
    acf = np.array([psi[: len(psi) - k] @ psi[k:] for k in range(60)]) / (psi @ psi)
    return lambda t: acf[lags(t).astype(int)]


OCCASION = "occasion"
# The correlation, values of its parameters, and its matrix at times t.
CORRELATIONS: dict[str, tuple[Any, dict[str, float], Callable[[np.ndarray], np.ndarray]]] = {
    "AR1": (jn.correlation.AR1(OCCASION), {"rho": -0.6}, lambda t: (-0.6) ** lags(t)),
    "CAR1": (jn.correlation.CAR1("time"), {"rho": 0.7}, lambda t: 0.7 ** lags(t)),
    "ARMA(2, 1)": (
        jn.correlation.ARMA(2, 1, OCCASION), {"ar1": 0.5, "ar2": 0.3, "ma1": 0.4}, arma([0.5, 0.3], [0.4]),
    ),
    "ARMA(0, 2)": (jn.correlation.ARMA(0, 2, OCCASION), {"ma1": 0.5, "ma2": -0.3}, arma([], [0.5, -0.3])),
    "compound symmetry": (jn.correlation.CompoundSymmetry(), {"rho": -0.1}, lambda t: 1.1 * np.eye(len(t)) - 0.1),
    "exponential": (jn.correlation.Exponential("time"), {"range": 2.0}, lambda t: np.exp(-lags(t) / 2.0)),
    "exponential, nugget": (
        jn.correlation.Exponential("time", nugget=True),
        {"range": 2.0, "nugget": 0.2},
        lambda t: 0.8 * np.exp(-lags(t) / 2.0) + 0.2 * np.eye(len(t)),
    ),
    "Gaussian, nugget": (
        jn.correlation.Gaussian("time", nugget=0.3),
        {"range": 1.5, "nugget": 0.2},
        lambda t: 0.8 * np.exp(-((lags(t) / 1.5) ** 2)) + 0.2 * np.eye(len(t)),
    ),
    "kernel": (
        jn.correlation.Kernel(exponential_kernel, {"length": 1.0}, "time"),
        {"length": 2.0},
        lambda t: np.exp(-lags(t) / 2.0),
    ),
}  # fmt: skip
PSI = np.array([[0.3, 0.1, 0.0], [0.1, 0.2, 0.05], [0.0, 0.05, 0.25]])
APPROXIMATIONS = [jn.FO(), jn.FOCE(), jn.FOCEI(), jn.Laplace(), jn.AGQ(3)]


@functools.cache
def data() -> jn.GroupedData:
    """`linear_data` with occasions (whole numbers with gaps, in no order), times and a column of two methods."""
    base, rng = linear_data(), np.random.default_rng(5)
    occasion = np.stack([rng.permutation(10)[: base.y.shape[1]] for _ in base.labels]).astype(float)
    time = 0.5 * occasion + rng.uniform(0.0, 0.4, occasion.shape)
    method = rng.integers(0, 2, occasion.shape).astype(float)
    return dataclasses.replace(base, x={**base.x, OCCASION: occasion, "time": time, "method": method})


def model(error: Any, covariance: str = "full") -> jn.NLMEModel:
    parameters = [jn.Parameter(n, s, random=True, sd=0.5) for n, s in zip("abc", (1.2, 0.4, -0.2), strict=True)]
    return jn.NLMEModel(linear, parameters, covariance, error)


def closed_form(binding: Binding, matrix: Callable, column: str, sd: Any = 0.7) -> np.ndarray:
    """log N(y_i; A_i beta, A_i psi A_i' + S C S) of every group of `data`."""
    own, out = binding.data, []
    for i in range(own.n_groups):
        seen = own.observed[i]
        a = np.stack([np.ones_like(own.y[i]), own.x["t"][i], own.x["s"][i]], axis=-1)[seen]
        s = np.broadcast_to(sd if np.ndim(sd) == 0 else np.asarray(sd)[i], seen.shape)[seen]
        r = matrix(own.x[column][i][seen]) * np.outer(s, s)
        mean = a @ np.asarray(binding.start.beta)
        out.append(multivariate_normal.logpdf(own.y[i][seen], mean, a @ PSI @ a.T + r))
    return np.array(out)


def column_of(name: str) -> str:
    return "time" if name.split(",")[0] in ("CAR1", "exponential", "Gaussian", "kernel") else OCCASION


@pytest.mark.parametrize("name", CORRELATIONS)
def test_every_approximation_is_the_gaussian_marginal(name: str) -> None:
    correlation, parameters, matrix = CORRELATIONS[name]
    binding = bind(model(jn.error.gaussian(jn.error.constant(0.7), correlation)), data())
    params = binding.params(parameters, psi=PSI)
    expected = closed_form(binding, matrix, column_of(name))
    for approximation in APPROXIMATIONS:
        assert values(binding.problem, approximation, params) == pytest.approx(expected, rel=EXACT), approximation.name
    assert linearised(binding, params)[1] == pytest.approx(expected, rel=EXACT)
    # what was put in comes out, through the parametrisation that is always positive definite
    assert {k: v for k, v in binding.values(params).items() if k in parameters} == pytest.approx(parameters, abs=1e-12)


def linearised(binding: Binding, params: jn.Params, restricted: bool = False) -> tuple[Any, np.ndarray]:
    """Sums and log-likelihoods (groups,) of LME at `params`."""
    x = np.asarray(params.pack())
    method = jn.RELME() if restricted else jn.LME()
    modes = jnp.zeros((binding.data.n_groups, binding.density.n_effects))
    sums, groups = _linearised(binding.problem, (method, binding.start, x, x), modes)
    return sums, np.asarray(groups.values)


@cheap
def _linearised(problem, point, modes):
    return partial_sums_linearised(problem, point, modes)


WITHIN = [
    jn.correlation.AR1("occasion", within="method"),
    jn.correlation.ARMA(1, 0, "occasion", within="method", ar=[0.4]),
    jn.correlation.CompoundSymmetry(within="method"),
]


@pytest.mark.parametrize("correlation", WITHIN, ids=lambda correlation: correlation.description)
def test_rows_of_different_series_are_independent(correlation: Any) -> None:
    own = data()
    binding = bind(model(jn.error.gaussian(jn.error.constant(0.7), correlation)), own)
    expected = []
    for i in range(own.n_groups):
        seen = own.observed[i]
        method, occasion = own.x["method"][i][seen], own.x[OCCASION][i][seen]
        exchangeable = correlation.description.startswith("rho within")
        of_pair = 0.6 * np.eye(len(method)) + 0.4 if exchangeable else 0.4 ** lags(occasion)
        matrix = np.where(method[:, None] == method[None, :], of_pair, 0.0)
        a = np.stack([np.ones_like(own.y[i]), own.x["t"][i], own.x["s"][i]], axis=-1)[seen]
        mean, covariance = a @ np.asarray(binding.start.beta), a @ PSI @ a.T + 0.49 * matrix
        expected.append(multivariate_normal.logpdf(own.y[i][seen], mean, covariance))
    name = "ar1" if "ar1" in binding.density.error_names else "rho"
    params = binding.params({name: 0.4}, psi=PSI)
    assert values(binding.problem, jn.FOCEI(), params) == pytest.approx(np.array(expected), rel=EXACT)


def test_unstructured_correlations_are_those_given() -> None:
    rng = np.random.default_rng(2)
    loading = np.array([0.8, -0.5, 0.6, 0.9])
    matrix = np.outer(loading, loading) + np.diag(1.0 - loading**2)
    visit = np.array([[3, 1, 4, 2], [1, 2, 3, 4], [2, 4, 1, 3]])
    table = {"group": np.repeat(np.arange(3), 4), "visit": visit.ravel(), "y": rng.normal(size=12)}
    table["y"][5] = np.nan
    own = jn.GroupedData.from_frame({**table, "t": np.zeros(12)}, "group", "y", ["visit", "t"])
    error = jn.error.gaussian(jn.error.constant(0.7), jn.correlation.Unstructured("visit"))
    binding = bind(jn.NLMEModel(mean, [jn.Parameter("mu", 0.1, random=True, sd=0.5)], error=error), own)
    pairs = {f"corr({j}, {k})": matrix[j - 1, k - 1] for j in range(1, 5) for k in range(j + 1, 5)}
    params = binding.params(pairs)
    assert {k: v for k, v in binding.values(params).items() if k in pairs} == pytest.approx(pairs, abs=1e-12)
    expected = []
    for i in range(3):
        seen = own.observed[i]
        at = visit[i][seen] - 1
        covariance = 0.25 + 0.49 * matrix[np.ix_(at, at)]
        expected.append(multivariate_normal.logpdf(own.y[i][seen] - 0.1, None, covariance))
    for approximation in (jn.FOCEI(), jn.Laplace()):
        assert values(binding.problem, approximation, params) == pytest.approx(np.array(expected), rel=EXACT)


# ---- a nonlinear model with one random effect, a power of the prediction for scale, and AR(1), with dense matrices


def _group_terms(t: np.ndarray, y: np.ndarray, b: float, error: dict[str, float]) -> tuple[np.ndarray, ...]:
    """Residuals, their covariance R, and the derivatives of the mean and of R in b, for f = 3 exp(-exp(b) t)."""
    rate = np.exp(b)
    f = 3.0 * np.exp(-rate * t)
    slope = -rate * t * f
    scale, scale_slope = error["b"] * f ** error["c"], error["b"] * error["c"] * f ** (error["c"] - 1.0) * slope
    correlation = error["rho"] ** lags(np.arange(len(t)))
    r = np.outer(scale, scale) * correlation
    return y - f, r, slope, (np.outer(scale_slope, scale) + np.outer(scale, scale_slope)) * correlation


def _joint(t: np.ndarray, y: np.ndarray, b: float, error: dict[str, float], sd: float) -> float:
    e, r, _, _ = _group_terms(t, y, b, error)
    quadratic = e @ np.linalg.solve(r, e) + (b / sd) ** 2
    return -0.5 * (quadratic + np.linalg.slogdet(r)[1] + 2.0 * np.log(sd) + (len(e) + 1) * np.log(2.0 * np.pi))


def test_focei_and_laplace_are_those_of_dense_matrices() -> None:
    rng = np.random.default_rng(3)
    t = np.array([0.3, 0.6, 1.0, 1.4, 1.9, 2.5])
    y = 3.0 * np.exp(-np.exp(rng.normal(0.0, 0.3, (4, 1))) * t) + 0.1 * rng.normal(size=(4, 6))
    table = {"group": np.repeat(np.arange(4), 6), "t": np.tile(t, 4), "y": y.ravel()}
    own = jn.GroupedData.from_frame(table, "group", "y", "t")
    error, sd = {"b": 0.15, "c": 0.6, "rho": 0.5}, 0.3
    parameters = [jn.Parameter("rate", 1.0, "log", random=True, sd=sd)]
    binding = bind(jn.NLMEModel(decay_of_rate, parameters, error=jn.error.gaussian("power", jn.correlation.AR1())), own)
    params = binding.params(error)
    focei, laplace = [], []
    for i in range(4):
        args = (t, y[i])
        best = minimize_scalar(lambda b, args=args: -_joint(*args, b, error, sd), (-0.5, 0.5), tol=1e-11).x
        _, r, slope, r_slope = _group_terms(*args, best, error)
        inner = np.linalg.solve(r, r_slope)
        information = slope @ np.linalg.solve(r, slope) + 0.5 * np.trace(inner @ inner) + sd**-2
        # second derivative by differences of sixth order with steps of 0.02: truncation 1e-9, rounding 1e-11
        weights, h = np.array([2.0, -27.0, 270.0, -490.0, 270.0, -27.0, 2.0]) / 180.0, 0.02
        at = [_joint(*args, best + k * h, error, sd) for k in range(-3, 4)]
        curvature = -weights @ np.array(at) / h**2
        value = _joint(*args, best, error, sd) + 0.5 * np.log(2.0 * np.pi)
        focei.append(value - 0.5 * np.log(information))
        laplace.append(value - 0.5 * np.log(curvature))
    assert values(binding.problem, jn.FOCEI(), params) == pytest.approx(np.array(focei), rel=1e-8)
    assert values(binding.problem, jn.Laplace(), params) == pytest.approx(np.array(laplace), rel=1e-8)


def decay_of_rate(phi, x):
    return 3.0 * jnp.exp(-phi.rate * x.t)


def test_quadrature_is_the_integral() -> None:
    """AGQ with many nodes against the integral over a fine grid, AR(1) residuals and one random effect."""
    t, error, sd = np.array([0.3, 0.6, 1.0, 1.4]), {"b": 0.2, "c": 0.6, "rho": -0.4}, 0.4
    y = np.array([2.1, 1.9, 1.0, 0.9])
    own = jn.GroupedData.from_frame({"group": np.zeros(4), "t": t, "y": y}, "group", "y", "t")
    parameters = [jn.Parameter("rate", 1.0, "log", random=True, sd=sd)]
    binding = bind(jn.NLMEModel(decay_of_rate, parameters, error=jn.error.gaussian("power", jn.correlation.AR1())), own)
    grid = np.linspace(-1.5, 1.5, 3001)
    joint = np.array([_joint(t, y, b, error, sd) for b in grid])
    expected = np.log(np.sum(np.exp(joint)) * (grid[1] - grid[0]))
    assert values(binding.problem, jn.AGQ(31), binding.params(error))[0] == pytest.approx(expected, abs=1e-8)


# ---- derivatives

NONLINEAR = {
    "power and AR1": jn.error.gaussian("power", jn.correlation.AR1()),
    "Box-Cox and CAR1 by kind": jn.error.gaussian(
        "proportional", jn.correlation.CAR1("t"), response="box-cox", by="kind"
    ),
    "combined and compound symmetry": jn.error.gaussian("combined", jn.correlation.CompoundSymmetry()),
    "power and ARMA(1, 1)": jn.error.gaussian("power", jn.correlation.ARMA(1, 1)),
    "variance functions": jn.error.gaussian(
        jn.variance.power() * jn.variance.strata("kind"), jn.correlation.Gaussian("t", nugget=True)
    ),
    "more variance functions": jn.error.gaussian(
        jn.variance.constant_power(by="kind") * jn.variance.exponential("t"), jn.correlation.Exponential("t")
    ),
}
SUBSETS = [("FOCEI", "FO"), ("Laplace", "FOCE"), ("FOCEI", "AGQ(3)")]
BY_NAME = {approximation.name: approximation for approximation in APPROXIMATIONS}

sums_of = cheap(lambda problem, point, modes: partial_sums(problem, point, modes)[0])


@pytest.mark.parametrize(("number", "name"), list(enumerate(NONLINEAR)))
def test_scores_are_gradients_and_gradients_are_differences(number: int, name: str) -> None:
    binding = bind(decay_model("diagonal", NONLINEAR[name]), decay_data().pad_to(9))
    template = binding.params(psi=0.05 * np.eye(3))
    x = np.asarray(flatten(template))
    x = x + np.random.default_rng(number).uniform(-0.15, 0.15, len(x))
    problem = jax.tree.map(jnp.asarray, binding.problem)
    modes = jnp.zeros((problem.n_groups, problem.density.n_effects))
    for approximation in SUBSETS[number % 3]:
        method = BY_NAME[approximation]
        at = stencil(x, STEP)
        value, gradient = (np.asarray(a) for a in slopes(binding.problem, method, template, at))
        expected = differences(value, len(x), STEP)
        assert np.isfinite(gradient).all()
        # Fourth-order differences: STEP^4 times a fifth derivative, and rounding of 1e-14 |log L| / STEP.
        np.testing.assert_allclose(gradient[0], expected, rtol=0, atol=1e-8 * np.abs(expected).max())
        actual = sums_of(problem, (method, template, x), modes)
        assert -float(actual.value) == pytest.approx(float(value[0]), rel=1e-11)
        np.testing.assert_allclose(-actual.gradient, gradient[0], rtol=0, atol=1e-9 * np.abs(gradient).max())


@pytest.mark.parametrize("name", ["power and AR1", "combined and compound symmetry"])
def test_scores_of_the_linearised_model_are_differences(name: str) -> None:
    binding = bind(decay_model("diagonal", NONLINEAR[name]), decay_data().pad_to(9))
    params = binding.params(psi=0.05 * np.eye(3))
    x, method = np.asarray(params.pack()), jn.RELME()
    modes = jnp.zeros((binding.data.n_groups, 3))

    def at(point: np.ndarray) -> Any:
        return _linearised(binding.problem, (method, params, x, point), modes)[0]

    sums, points = at(x), stencil(x, STEP)[1:]
    several = [at(point) for point in points]
    values_at = np.array([float(sums.value)] + [float(s.value) for s in several])
    expected = differences(values_at, len(x), STEP)
    np.testing.assert_allclose(sums.gradient, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    information = np.stack([np.asarray(s.information) for s in several]).reshape(len(x), 4, -1)
    slopes_of = np.einsum("k,nkj->nj", np.array([1.0, -8.0, 8.0, -1.0]) / 12.0, information) / STEP
    first = len(binding.density.beta_names)
    np.testing.assert_allclose(
        np.asarray(sums.slopes).reshape(len(x) - first, -1), slopes_of[first:], rtol=0,
        atol=1e-7 * np.abs(slopes_of).max(),
    )  # fmt: skip
