"""The master test: with f linear in b and constant error, every approximation is the Gaussian marginal likelihood."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import jaxnlme as jn
from jaxnlme.binding.bind import Binding, bind
from tests.problems import COVARIANCES, linear_data, linear_model, mean, results, slopes, values

# Rounding of sums of some ten terms of order one and of one or two Cholesky factors: at most 1e-13. The error of a mode
# is `mode_tolerance` squared, 1e-12.
EXACT = 1e-10

EXACT_APPROXIMATIONS = [
    jn.FO(),
    jn.FOCE(),
    jn.FOCEI(),
    jn.Laplace(),
    jn.AGQ(1),
    jn.AGQ(3),
    jn.AGQ(5, curvature="gauss-newton"),
]


def closed_form(
    data: jn.GroupedData, designs: np.ndarray, beta: np.ndarray, random: np.ndarray, psi: np.ndarray, sd: float
):
    """log N(y_i; A_i beta, B_i psi B_i' + sd^2 I) of every group; A (groups, obs, fixed), B (groups, obs, random)."""
    out = []
    for i in range(data.n_groups):
        observed = data.observed[i]
        a, b = designs[i][observed], random[i][observed]
        out.append(
            multivariate_normal.logpdf(data.y[i][observed], a @ beta, b @ psi @ b.T + sd**2 * np.eye(observed.sum()))
        )
    return np.array(out)


def design(data: jn.GroupedData) -> np.ndarray:
    return np.stack([np.ones_like(data.y), data.x["t"], data.x["s"]], axis=-1)


@pytest.fixture(scope="module")
def data() -> jn.GroupedData:
    return linear_data()


def bound(name: str, data: jn.GroupedData) -> tuple[Binding, jn.Params, np.ndarray]:
    spec, psi = COVARIANCES[name]
    binding = bind(linear_model(spec), data)
    return binding, binding.params(psi=psi), psi


@pytest.mark.parametrize("name", COVARIANCES)
def test_every_approximation_is_the_gaussian_marginal(name: str, data: jn.GroupedData) -> None:
    binding, params, psi = bound(name, data)
    expected = closed_form(data, design(data), params.beta, design(data), psi, 0.7)
    for approximation in EXACT_APPROXIMATIONS:
        result = results(binding.problem, approximation, params)
        assert result.value == pytest.approx(expected, rel=EXACT), approximation.name
        assert (np.asarray(result.status) == jn.Status.ok).all(), approximation.name
        # an exactly quadratic joint density: one step, and one evaluation to confirm convergence
        assert np.max(result.evaluations) <= 2, approximation.name


def test_gaussian_proposals_have_no_monte_carlo_error(data: jn.GroupedData) -> None:
    binding, params, psi = bound("full", data)
    expected = closed_form(data, design(data), params.beta, design(data), psi, 0.7)
    result = results(binding.problem, jn.ImportanceSampling(50, df=0.0), params)
    assert result.value == pytest.approx(expected, rel=EXACT)
    assert np.asarray(result.monte_carlo.variance) == pytest.approx(0.0, abs=1e-12)
    assert np.asarray(result.monte_carlo.ess) == pytest.approx(50.0, rel=1e-9)


def test_monte_carlo_errors_of_t_proposals_are_those_reported(data: jn.GroupedData) -> None:
    binding, params, psi = bound("full", data)
    expected = closed_form(data, design(data), params.beta, design(data), psi, 0.7)
    scores = []
    for seed in range(20):
        result = results(binding.problem, jn.ImportanceSampling(400, seed=seed), params)
        assert (np.asarray(result.monte_carlo.variance) > 0).all()
        scores.append((np.asarray(result.value) - expected) / np.sqrt(result.monte_carlo.variance))
    # 100 standardised errors: mean and SD within four of their own standard errors of 0 and 1
    assert abs(np.mean(scores)) < 4 / np.sqrt(100)
    assert abs(np.std(scores) - 1) < 4 / np.sqrt(200)
    assert np.max(np.abs(scores)) < 5


def test_weights_multiply_the_groups(data: jn.GroupedData) -> None:
    binding, params, psi = bound("diagonal", data)
    expected = closed_form(data, design(data), params.beta, design(data), psi, 0.7)
    total = jn.log_likelihood(binding.model, params, data, "focei")
    assert total == pytest.approx(np.sum(data.weights * expected), rel=EXACT)
    weights = np.arange(5.0)
    assert jn.log_likelihood(binding.model, params, data, "focei", weights) == pytest.approx(
        weights @ expected, rel=EXACT
    )


@pytest.mark.parametrize(
    "approximation", [jn.FO(), jn.FOCEI(), jn.Laplace()], ids=lambda approximation: approximation.name
)
def test_explicit_designs_per_observation(approximation, data: jn.GroupedData) -> None:
    full = design(data)
    psi = np.array([[0.3, 0.1], [0.1, 0.2]])
    beta = np.array([1.0, 0.4, -0.2])
    model = jn.NLMEModel(
        mean,
        {"mu": 0.0},
        "full",
        jn.error.constant(0.7),
        fixed_design=full[:, :, None, :],
        random_design=full[:, :, None, :2],
        beta=beta,
        psi=psi,
    )
    binding = bind(model, data)
    expected = closed_form(data, full, beta, full[..., :2], psi, 0.7)
    assert values(binding.problem, approximation, binding.start) == pytest.approx(expected, rel=EXACT)


def test_covariate_that_varies_within_the_group(data: jn.GroupedData) -> None:
    parameters = [jn.Parameter("mu", 1.0, random=True, sd=0.6, covariates={"t": 0.4, "s": -0.2})]
    binding = bind(jn.NLMEModel(mean, parameters, error=jn.error.constant(0.7)), data)
    assert binding.density.beta_names == ("mu", "mu ~ t", "mu ~ s")
    expected = closed_form(data, design(data), np.array([1.0, 0.4, -0.2]), design(data)[..., :1], np.eye(1) * 0.36, 0.7)
    assert values(binding.problem, jn.FOCEI(), binding.start) == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize(
    "approximation",
    [jn.FO(), jn.FOCE(), jn.FOCEI(), jn.Laplace(), jn.AGQ(3)],
    ids=lambda approximation: approximation.name,
)
def test_zero_variances_have_finite_derivatives(approximation, data: jn.GroupedData) -> None:
    binding, params, _ = bound("full", data)
    one_zero = np.array([[0.3, 0.0, -0.06], [0.0, 0.0, 0.0], [-0.06, 0.0, 0.2]])
    for psi in (one_zero, np.zeros((3, 3))):
        params = binding.params(psi=psi)
        assert np.isneginf(params.covariance[1])
        expected = closed_form(data, design(data), params.beta, design(data), psi, 0.7)
        value, gradient = slopes(binding.problem, approximation, params, params.pack()[None])
        assert value == pytest.approx(np.array([data.weights @ expected]), rel=EXACT)
        assert np.isfinite(np.asarray(gradient)).all()
        # the likelihood must still depend on beta and the residual SD
        assert (np.abs(np.asarray(gradient)[0, [0, 1, 2, -1]]) > 1e-3).all()


def test_model_without_random_effects_is_a_regression(data: jn.GroupedData) -> None:
    parameters = [jn.Parameter(name, start) for name, start in zip("abc", (1.2, 0.4, -0.2), strict=True)]
    binding = bind(jn.NLMEModel(linear_model().structure, parameters, error=jn.error.constant(0.7)), data)
    expected = closed_form(data, design(data), binding.start.beta, design(data), np.zeros((3, 3)), 0.7)
    for approximation in (jn.FO(), jn.FOCEI(), jn.AGQ(3)):
        assert values(binding.problem, approximation, binding.start) == pytest.approx(expected, rel=EXACT)


def test_host_numbers_and_traced_numbers_agree(data: jn.GroupedData) -> None:
    binding, params, psi = bound("diagonal", data)
    expected = closed_form(data, design(data), params.beta, design(data), psi, 0.7)
    assert isinstance(params.beta, np.ndarray)
    for method in ("fo", "focei"):
        value = jn.group_log_likelihoods(binding.model, params, binding.problem, method)
        assert value == pytest.approx(expected, rel=EXACT)


def test_likelihood_under_vmap_and_jit(data: jn.GroupedData) -> None:
    binding, params, psi = bound("full", data)
    many = np.stack([params.beta + shift for shift in (-0.3, 0.0, 0.4)])

    @jax.jit
    def total(beta):
        at = jn.Params(beta, params.covariance, params.error)
        return jn.log_likelihood(binding.model, at, data, "laplace")

    expected = [data.weights @ closed_form(data, design(data), beta, design(data), psi, 0.7) for beta in many]
    assert np.asarray(jax.vmap(total)(many)) == pytest.approx(np.array(expected), rel=EXACT)
