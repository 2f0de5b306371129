"""Quadrature, importance sampling and Laplace against independent brute-force integrals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, logsumexp

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.estimators.core.objective import flatten, partial_sums
from jaxnlme.model.residual_error.base import AbstractError
from tests.problems import OUTCOMES, decay, decay_rate, hazard, log_rate, ragged, results, slopes, values

NORMAL = -0.5 * np.log(2.0 * np.pi)


def grid(points: int, dimension: int, limit: float = 8.5) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes (count, dimension) on [-limit, limit]^dimension and their log-weights.

    The prior probability beyond 8.5 standard deviations is 2e-17. Nodes are at most 0.3 apart, and the integrands have
    an SD of at least 0.3: the error is about exp(-2 (pi 0.3 / 0.3)^2) = 3e-9 for the smallest SD."""
    x, w = np.polynomial.legendre.leggauss(points)
    nodes = np.stack(np.meshgrid(*[limit * x] * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)
    log_w = np.stack(np.meshgrid(*[np.log(limit * w)] * dimension, indexing="ij"), axis=-1)
    return nodes, log_w.reshape(-1, dimension).sum(axis=1)


def brute_force(data: jn.GroupedData, log_density, points: int, dimension: int) -> np.ndarray:
    """log of the integral of p(y_i | z) N(z; 0, I) for every group; `log_density(y, x, z)` (count, rows)."""
    z, log_w = grid(points, dimension)
    prior = np.sum(NORMAL - 0.5 * z**2, axis=1)
    out = []
    for i in range(data.n_groups):
        observed = data.observed[i]
        x = {name: column[i][observed] for name, column in data.x.items()}
        out.append(logsumexp(log_density(data.y[i][observed], x, z).sum(axis=1) + prior + log_w))
    return np.array(out)


def gaussian(y, f, sd):
    return NORMAL - np.log(sd) - 0.5 * ((y - f) / sd) ** 2


PSI = np.array([[0.09, 0.03, 0.0], [0.03, 0.06, 0.02], [0.0, 0.02, 0.05]])
STARTS = np.array([2.0, 3.0, 1.0])
SD = 0.25

# numbers of nodes of three quadratures, by the number of random effects
NODES = {1: (1, 5, 61), 2: (1, 5, 21), 3: (1, 5, 19)}


@pytest.mark.parametrize("effects", [1, 2, 3])
def test_quadrature_converges_to_the_integral(effects: int) -> None:
    group, t, rng = ragged((3, 5, 2), 4)
    y = (0.0 if effects == 1 else 2.0) + 3.0 * np.exp(-t) + 0.3 * rng.normal(size=len(t))
    data = jn.GroupedData.from_arrays(y, group, {"t": t})
    psi, lower = PSI[:effects, :effects], np.linalg.cholesky(PSI[:effects, :effects])
    names = ("c", "b", "a")[:effects]
    if effects == 1:
        parameters = [jn.Parameter("c", 1.0, "log", random=True)]
    else:
        # the order of parameters is the order of effects
        parameters = [jn.Parameter(n, STARTS["abc".index(n)], "log", random=n in names) for n in "cba"]
    structure = decay_rate if effects == 1 else decay
    model = jn.NLMEModel(
        structure, parameters, "full" if effects > 1 else "diagonal", jn.error.combined(0.1, 0.05), psi=psi
    )
    binding = bind(model, data)

    def log_density(y, x, z):
        b = z @ lower.T
        c = np.exp(b[:, :1])
        size = 3.0 * (np.exp(b[:, 1:2]) if effects > 1 else 1.0)
        low = 0.0 if effects == 1 else 2.0 * (np.exp(b[:, 2:3]) if effects > 2 else 1.0)
        f = low + size * np.exp(-c * x["t"])
        return gaussian(y, f, 0.1 + 0.05 * f)

    expected = brute_force(data, log_density, {1: 400, 2: 120, 3: 90}[effects], effects)
    errors = []
    for nodes in NODES[effects]:
        approximate = values(binding.problem, jn.AGQ(nodes), binding.start)
        errors.append(float(np.max(np.abs(approximate - expected))))
    assert errors[0] > 1e-5  # the problem is not linear
    assert errors[1] < 0.3 * errors[0]
    assert errors[2] < 1e-8
    assert values(binding.problem, jn.Laplace(), binding.start) == pytest.approx(
        values(binding.problem, jn.AGQ(1), binding.start), rel=1e-12
    )  # AGQ with one node is Laplace: the same sum in another order
    # scaled by another curvature, quadrature converges to the same limit, more slowly
    gauss_newton = values(binding.problem, jn.AGQ(NODES[effects][2], curvature="gauss-newton"), binding.start)
    assert gauss_newton == pytest.approx(expected, abs=1e-6)
    moments = values(binding.problem, jn.AGQ(NODES[effects][2], centre="moments"), binding.start)
    assert moments == pytest.approx(expected, abs=1e-8)
    check_importance_sampling(binding, expected)


def check_importance_sampling(binding, expected: np.ndarray) -> None:
    sampled = results(binding.problem, jn.ImportanceSampling(2000, seed=3), binding.start)
    error = np.sqrt(np.asarray(sampled.monte_carlo.variance))
    assert (error > 0).all()
    assert (error < 0.05).all()
    # five standard errors, in as many groups: one false alarm in 10^6
    assert (np.abs(np.asarray(sampled.value) - expected) < 5 * error).all()
    assert (np.asarray(sampled.monte_carlo.ess) <= 2000).all()


def counts() -> tuple[jn.GroupedData, jn.NLMEModel, callable]:
    group, t, rng = ragged((4, 1, 5), 5)
    data = jn.GroupedData.from_arrays(rng.poisson(np.exp(0.5 + 0.3 * t)).astype(float), group, {"t": t})
    psi = np.array([[0.3, 0.05], [0.05, 0.1]])
    parameters = [jn.Parameter("a", 0.5, random=True), jn.Parameter("b", 0.3, random=True)]
    lower = np.linalg.cholesky(psi)

    def log_density(y, x, z):
        b = z @ lower.T
        rate = 0.5 + b[:, :1] + (0.3 + b[:, 1:]) * x["t"]
        return y * rate - np.exp(rate) - gammaln(y + 1)

    return data, jn.NLMEModel(log_rate, parameters, "full", OUTCOMES["poisson"], psi=psi), log_density


def choices() -> tuple[jn.GroupedData, jn.NLMEModel, callable]:
    group, t, rng = ragged((6, 1, 4), 6)
    data = jn.GroupedData.from_arrays((rng.uniform(size=len(t)) < 0.6).astype(float), group, {"t": t})
    parameters = [jn.Parameter("a", 0.2, random=True, sd=1.2), jn.Parameter("b", 0.4)]

    def log_density(y, x, z):
        f = 0.2 + 1.2 * z + 0.4 * x["t"]
        return -np.log1p(np.exp(np.where(y > 0, -f, f)))

    return data, jn.NLMEModel(log_rate, parameters, error=OUTCOMES["binary"]), log_density


def times() -> tuple[jn.GroupedData, jn.NLMEModel, callable]:
    group, t, rng = ragged((3, 1, 5), 7)
    y = rng.exponential(2.0, len(t)) + 0.05
    event = (rng.uniform(size=len(t)) < 0.7).astype(float)
    y[2] = np.nan
    data = jn.GroupedData.from_arrays(y, group, {"t": t, "event": event})
    parameters = [jn.Parameter("h", 0.5, "log", random=True, sd=0.6)]

    def log_density(y, x, z):
        h = 0.5 * np.exp(0.6 * z)
        return x["event"] * (np.log(1.3) + 1.3 * np.log(h) + 0.3 * np.log(y)) - (h * y) ** 1.3

    return data, jn.NLMEModel(hazard, parameters, error=OUTCOMES["weibull"]), log_density


@pytest.mark.parametrize(("problem", "nodes"), [(counts, 15), (choices, 31), (times, 25)])
def test_outcomes_with_a_log_likelihood_of_the_user(problem, nodes: int) -> None:
    data, model, log_density = problem()
    binding = bind(model, data)
    dimension = binding.density.n_effects
    expected = brute_force(data, log_density, {1: 400, 2: 120}[dimension], dimension)
    assert values(binding.problem, jn.AGQ(nodes), binding.start) == pytest.approx(expected, abs=1e-8)
    laplace = values(binding.problem, jn.Laplace(), binding.start)
    assert np.max(np.abs(laplace - expected)) < 0.1  # a rough approximation for a few discrete outcomes
    if dimension == 1:
        assert laplace == pytest.approx(independent_laplace(data, log_density), abs=1e-6)
    check_importance_sampling(binding, expected)


def independent_laplace(data: jn.GroupedData, log_density) -> np.ndarray:
    """Laplace's approximation by a bracketing search and a second difference, with an error of about 1e-7."""
    out = []
    for i in range(data.n_groups):
        observed = data.observed[i]
        x = {name: column[i][observed] for name, column in data.x.items()}

        def joint(z, y=data.y[i][observed], x=x):
            return float(log_density(y, x, np.array([[z]])).sum() + NORMAL - 0.5 * z**2)

        z = minimize_scalar(lambda z: -joint(z), bounds=(-6, 6), method="bounded", options={"xatol": 1e-9}).x
        h = 1e-2
        curvature = -(-joint(z + 2 * h) + 16 * joint(z + h) - 30 * joint(z) + 16 * joint(z - h) - joint(z - 2 * h)) / (
            12 * h**2
        )
        out.append(joint(z) - NORMAL - 0.5 * np.log(curvature))
    return np.array(out)


@pytest.mark.parametrize(
    "approximation",
    [jn.FO(), jn.FOCE(), jn.FOCEI(), jn.Laplace(curvature="gauss-newton"), jn.AGQ(3, curvature="gauss-newton")],
    ids=["FO", "FOCE", "FOCEI", "Laplace", "AGQ(3)"],
)
@pytest.mark.parametrize("error", OUTCOMES.values(), ids=list(OUTCOMES))
def test_outcomes_without_gaussian_moments_are_refused(error: AbstractError, approximation) -> None:
    data, model, _ = {"poisson": counts, "binary": choices, "weibull": times}[
        error.formula.split("= ")[1].split("(")[0]
    ]()
    with pytest.raises(
        jn.ModelError, match=rf"^{approximation.name.replace('(', '.').replace(')', '.')} needs a Gaussian"
    ):
        jn.log_likelihood(model, bind(model, data).start, data, approximation)


def hyperbola(phi, x):
    """Response to a dose."""
    return 5.0 + phi.a * x.t / (phi.c + x.t)


def test_nodes_around_posterior_moments() -> None:
    """Doses below a half of the half-maximal one: the posterior of maximum and half-maximal dose is a curved ridge, of
    which the curvature at the mode knows little."""
    rng = np.random.default_rng(3)
    group, t = np.repeat(np.arange(6), 3), np.tile([0.0, 1.0, 5.0], 6)
    f = 5.0 + 30.0 * np.exp(0.7 * rng.normal(size=6))[group] * t / (10.0 + t)
    data = jn.GroupedData.from_arrays(f * (1 + 0.1 * rng.normal(size=18)), group, {"t": t})
    parameters = [jn.Parameter("a", 30.0, "log", random=True), jn.Parameter("c", 10.0, "log", random=True)]
    psi = np.array([[0.6, 0.2], [0.2, 0.9]])
    binding = bind(jn.NLMEModel(hyperbola, parameters, "full", jn.error.proportional(0.1), psi=psi), data)
    lower = np.linalg.cholesky(psi)

    def log_density(y, x, z):
        b = z @ lower.T
        f = 5.0 + 30.0 * np.exp(b[:, :1]) * x["t"] / (10.0 * np.exp(b[:, 1:]) + x["t"])
        return gaussian(y, f, 0.1 * f)

    expected = brute_force(data, log_density, 160, 2)
    errors = {}
    for centre, nodes in (("mode", (7, 15)), ("moments", (7, 15, 31))):
        found = [values(binding.problem, jn.AGQ(n, centre=centre), binding.start) for n in nodes]
        errors[centre] = [float(np.max(np.abs(value - expected))) for value in found]
    assert errors["moments"][0] < 0.5 * errors["mode"][0]
    assert errors["moments"][1] < 0.5 * errors["mode"][1]
    assert errors["moments"][2] < 1e-4  # it converges to the integral; the limit is that of 31 nodes on this ridge

    method = jn.AGQ(7, centre="moments")
    x = np.asarray(flatten(binding.start))
    _, gradient = slopes(binding.problem, method, binding.start, x[None])
    step = 1e-4  # of a central difference of a smooth function: its error is about 1e-8 of third derivatives
    around = np.concatenate([x + step * np.eye(len(x)), x - step * np.eye(len(x))])
    value, _ = slopes(binding.problem, method, binding.start, around)
    differences = (value[: len(x)] - value[len(x) :]) / (2 * step)
    np.testing.assert_allclose(gradient[0], differences, rtol=0, atol=1e-6 * np.abs(differences).max())
    problem = jax.tree.map(jnp.asarray, binding.problem)
    modes = jnp.zeros((problem.n_groups, problem.density.n_effects))
    score = partial_sums(problem, (method, binding.start, x), modes)[0].gradient
    np.testing.assert_allclose(-score, gradient[0], rtol=0, atol=1e-9 * np.abs(gradient).max())


def test_options_of_nodes_around_posterior_moments() -> None:
    with pytest.raises(jn.OptionError, match=r"needs 3 or more for each effect; received nodes=2"):
        jn.AGQ(2, centre="moments")
    with pytest.raises(jn.OptionError, match=r"AGQ: centre"):
        jn.AGQ(5, centre="mean")


def test_too_many_nodes_are_refused() -> None:
    data, model, _ = counts()
    with pytest.raises(jn.OptionError, match="300 nodes on 2 random effects make 90,000 points"):
        jn.log_likelihood(model, bind(model, data).start, data, jn.AGQ(300))


def finite_near_zero(phi, x):
    """Finite only near a = 0."""
    return jnp.where(jnp.abs(phi.a) < 1.5, phi.a, jnp.nan) + 0.0 * x.t


def test_status_of_a_node_that_is_not_finite() -> None:
    """The model is not finite at nodes up to 2.9 posterior standard deviations away; its curvature, 1 + n, is."""
    data = jn.GroupedData.from_arrays([0.1, -0.2], [0, 0], {"t": [0.0, 1.0]})
    binding = bind(
        jn.NLMEModel(finite_near_zero, [jn.Parameter("a", 0.0, random=True, sd=1.0)], error="constant"), data
    )
    params = binding.params({"a": 0.0, "sd(a)": 1.0, "error.a": 1.0})
    result = results(binding.problem, jn.AGQ(5), params)
    assert np.isnan(result.value).all()
    assert result.status.tolist() == [jn.Status.non_finite]
    assert "at a node of the integral" in jn.Status.non_finite.sentence
    assert results(binding.problem, jn.Laplace(), params).status.tolist() == [jn.Status.ok]


@pytest.mark.parametrize(
    "approximation",
    [jn.FO(), jn.FOCEI(), jn.AGQ(3), jn.ImportanceSampling(50)],
    ids=lambda approximation: approximation.name,
)
def test_groups_without_an_observed_response_add_nothing(approximation) -> None:
    """Their likelihood is one, and a fit equals that of the other groups."""
    rng = np.random.default_rng(0)
    y, group = 3.0 + np.repeat(rng.normal(size=6), 3) + 0.5 * rng.normal(size=18), np.repeat(np.arange(6), 3)
    y[6:9] = np.nan
    data = jn.GroupedData.from_arrays(y, group, {"t": np.tile(np.arange(3.0), 6)})
    model = jn.NLMEModel(level, [jn.Parameter("a", 3.0, random=True, sd=1.0)], error="constant")
    binding = bind(model, data)
    result = results(binding.problem, approximation, binding.start)
    assert result.status.tolist() == [jn.Status.no_observations if k == 2 else jn.Status.ok for k in range(6)]
    assert (result.value[2], *result.mode[2], result.monte_carlo.variance[2]) == (0.0, 0.0, 0.0)
    fit = jn.fit(model, data, approximation, standard_errors=False)
    assert fit.converged, fit.status
    without_group = jn.fit(model, data.select(np.arange(6) != 2), approximation, standard_errors=False)
    assert fit.log_likelihood == pytest.approx(without_group.log_likelihood, abs=1e-7)
    assert fit.status.groups.status[2] == "no_observations"
    assert "again" not in str(fit.status) or "found again by searches from zero" in str(fit.status)


def level(phi, x):
    """Constant over rows."""
    return phi.a + 0.0 * x.t
