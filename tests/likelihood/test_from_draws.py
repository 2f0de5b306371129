"""Likelihoods from given conditional means and covariances, and the information of the model linearised there."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, multivariate_normal

import jaxnlme as jn
from jaxnlme.binding.bind import Binding, bind
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.errors import ModelError, OptionError
from jaxnlme.estimators.core.centred_likelihood import centred_log_likelihood
from jaxnlme.estimators.core.linearised_information import linearised_information
from jaxnlme.estimators.lindstrom_bates.objective import partial_sums_linearised
from jaxnlme.likelihood.from_draws import QuadratureFromDraws, curvature_from_covariance, likelihood_from_draws
from jaxnlme.likelihood.integrals import chi_squared
from jaxnlme.likelihood.lindstrom_bates import Linearised
from jaxnlme.numerics.quadrature import normal_grid
from tests.problems import (
    COVARIANCES,
    ERRORS,
    OUTCOMES,
    cheap,
    decay_data,
    decay_model,
    differences,
    gradients_and_hessians,
    linear_data,
    linear_model,
    log_rate,
    one_compartment,
    results,
    stencil,
    values,
)

# Rounding of sums of some ten terms of order one, and of a factor and its inverse: at most 1e-13.
EXACT = 1e-10
PSI, SD = COVARIANCES["full"][1], 0.7


@functools.cache
def bound() -> tuple[Binding, jn.Params]:
    binding = bind(linear_model("full"), linear_data())
    return binding, binding.params(psi=PSI)


@functools.cache
def closed_form() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the linear model: mean (groups, random) and covariance of z given y, and log p(y)."""
    binding, params = bound()
    data = binding.data
    factor = np.asarray(binding.density.covariance.factor(np.asarray(params.covariance)))
    out = []
    for y, t, s, observed in zip(data.y, data.x["t"], data.x["s"], data.observed, strict=True):
        design = np.stack([np.ones_like(t), t, s], axis=-1)[observed]
        along, e = design @ factor, y[observed] - design @ params.beta
        covariance = np.linalg.inv(np.eye(3) + along.T @ along / SD**2)
        value = multivariate_normal.logpdf(e, np.zeros_like(e), along @ along.T + SD**2 * np.eye(len(e)))
        out.append((covariance @ along.T @ e / SD**2, covariance, value))
    mean, covariance, value = (np.array(part) for part in zip(*out, strict=True))
    return mean, covariance, value


def evaluated(method, binding: Binding, params: jn.Params, mean: np.ndarray, covariance: np.ndarray):
    """The sums over groups and the results by group of a method."""
    return centred_log_likelihood(PlacedProblem(binding.problem), method, params, mean, covariance)


# --- the linear model, with closed forms


@pytest.mark.parametrize(
    "method",
    [
        likelihood_from_draws("lin"),
        likelihood_from_draws("gq"),
        likelihood_from_draws("gq", nodes=1),
        likelihood_from_draws("is", draws=50, df=0.0, batch=20),
    ],
    ids=["lin", "gq", "gq of one node", "is, Gaussian"],
)
def test_a_linear_model_is_exact(method) -> None:
    binding, params = bound()
    mean, covariance, expected = closed_form()
    sums, groups = evaluated(method, binding, params, mean, covariance)
    assert groups.values == pytest.approx(expected, rel=EXACT)
    assert sums.log_likelihood == pytest.approx(binding.data.weights @ expected, rel=EXACT)
    # Proposals equal to the conditional distribution give equal weights, up to rounding.
    assert sums.variance == pytest.approx(0.0, abs=1e-12)
    assert (groups.status == jn.Status.ok).all()


def test_the_linearisation_of_a_linear_model_does_not_depend_on_the_mean() -> None:
    mean, covariance, expected = closed_form()
    _, groups = evaluated(likelihood_from_draws("lin"), *bound(), mean + 3.0, np.full_like(covariance, np.nan))
    assert groups.values == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.5])
def test_monte_carlo_errors_are_those_reported(factor: float) -> None:
    """Also if the covariance is wrong by a factor of two, and the mean by half a standard deviation."""
    binding, params = bound()
    mean, covariance, expected = closed_form()
    mean = mean + (factor != 1.0) * 0.5 * np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    scores, totals = [], []
    for seed in range(20):
        sums, groups = evaluated(
            likelihood_from_draws("is", draws=400, seed=seed), binding, params, mean, factor * covariance
        )
        scores.append((groups.values - expected) / np.sqrt(groups.variance))
        totals.append((sums.log_likelihood - binding.data.weights @ expected) / np.sqrt(sums.variance))
        assert ((groups.ess > 1) & (groups.ess <= 400)).all()
    # 100 standardised errors, and 20 of the sum: mean and SD within four of their own standard errors of 0 and 1
    for errors in (np.ravel(scores), np.array(totals)):
        assert abs(np.mean(errors)) < 4 / np.sqrt(len(errors))
        assert abs(np.std(errors) - 1) < 4 / np.sqrt(2 * len(errors))


def test_draws_do_not_depend_on_how_many_are_computed_at_a_time() -> None:
    mean, covariance, _ = closed_form()
    _, at_once = evaluated(likelihood_from_draws("is", draws=100, batch=100), *bound(), mean, covariance)
    _, in_batches = evaluated(likelihood_from_draws("is", draws=100, batch=7), *bound(), mean, covariance)
    assert in_batches.values == pytest.approx(at_once.values, rel=1e-12)


def test_quadrature_with_a_wrong_covariance_has_the_same_limit() -> None:
    mean, covariance, expected = closed_form()
    errors = []
    for nodes in (5, 15):
        _, groups = evaluated(likelihood_from_draws("gq", nodes=nodes), *bound(), mean, 2.0 * covariance)
        errors.append(np.max(np.abs(groups.values - expected)))
    assert errors[0] > 1e-3
    assert errors[1] < 1e-4


def test_unusable_covariances() -> None:
    """Chains that did not move, chains that moved along a line, and none: correct within the reported error."""
    mean, covariance, expected = closed_form()
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    for poor in (0.0 * covariance, sd[:, :, None] * sd[:, None, :], np.full_like(covariance, np.nan)):
        _, groups = evaluated(likelihood_from_draws("is"), *bound(), mean, poor)
        # four standard errors, 15 times: one false alarm in a thousand, and the seed is fixed
        assert (np.abs(groups.values - expected) < 4 * np.sqrt(groups.variance)).all()
        assert (groups.ess > 100).all()


def test_a_repaired_covariance_is_wider() -> None:
    definite = np.array([[0.3, 0.1], [0.1, 0.2]])
    assert curvature_from_covariance(jnp.asarray(definite)) == pytest.approx(np.linalg.inv(definite), rel=1e-13)
    assert curvature_from_covariance(jnp.zeros((2, 2))) == pytest.approx(np.eye(2))
    stuck = jnp.array([[0.3, 0.0], [0.0, 0.0]])
    assert curvature_from_covariance(stuck) == pytest.approx(np.diag([1 / 0.3, 1.0]))
    # Two effects on a line, x2 = 2 x1: the second gets its own variance, given the first.
    line = np.linalg.inv(np.asarray(curvature_from_covariance(jnp.array([[0.1, 0.2], [0.2, 0.4]]))))
    assert line == pytest.approx(np.array([[0.1, 0.2], [0.2, 0.8]]))


@pytest.mark.parametrize("df", [1.0, 2.0, 5.0])
def test_distribution_of_chi_squared_draws(df: float) -> None:
    """Kolmogorov and Smirnov's test at 0.1%."""
    draws = np.asarray(chi_squared(jax.random.key(3), df, 20_000, float))
    assert kstest(draws, "chi2", args=(df,)).pvalue > 1e-3


# --- theophylline


def theophylline(table: pd.DataFrame, columns: tuple[str, str, str, str], error) -> Binding:
    """One-compartment kinetics with three log-normal parameters; columns: subject, concentration, time, dose in mg."""
    subject, y, time, dose = columns
    table = table.rename(columns={time: "TIME", dose: "AMT"})
    data = jn.GroupedData.from_frame(table, subject, y, x=["TIME"], v=["AMT"])
    parameters = [
        jn.Parameter(name, start, "log", random=True, sd=sd)
        for name, start, sd in (("ka", 1.6, 0.6), ("v", 32.0, 0.15), ("cl", 2.8, 0.26))
    ]
    return bind(jn.NLMEModel(one_compartment, parameters, "diagonal", error), data)


@cheap
def _moments(problem, params, z, curvature):
    """Mean and covariance of z given y of every group, by quadrature around its mode."""
    points, log_weights = normal_grid(15, 3)

    def per_group(group, z, curvature):
        at = z[None] + points @ jnp.linalg.inv(jnp.linalg.cholesky(curvature))
        logs = jax.vmap(lambda at, u: problem.density.log_joint(params, at, group) + 0.5 * jnp.sum(u**2))(at, points)
        weights = jax.nn.softmax(logs + log_weights)
        mean = weights @ at
        return mean, (at - mean[None]).T @ (weights[:, None] * (at - mean[None]))

    return problem.map(per_group, z, curvature)


def test_theophylline() -> None:
    table = jn.datasets.theophylline()
    table["dose"] = table.Dose * table.Wt
    binding = theophylline(table, ("Subject", "conc", "Time", "dose"), jn.error.constant(0.7))
    best = results(binding.problem, jn.AGQ(21), binding.start)
    around = results(binding.problem, jn.AGQ(15), binding.start)
    mean, covariance = (
        np.asarray(part) for part in _moments(binding.problem, binding.start, best.mode, best.curvature)
    )
    sums, groups = evaluated(likelihood_from_draws("gq"), binding, binding.start, mean, covariance)
    # 15 nodes around the mode differ by 1.4e-5 from 21; around the mean, scaled by the true covariance, by less.
    assert groups.values == pytest.approx(np.asarray(best.value), abs=5e-6)
    assert groups.values == pytest.approx(np.asarray(around.value), abs=3e-5)
    for factor in (1.0, 2.0, 0.5):
        drawn, by_group = evaluated(likelihood_from_draws("is"), binding, binding.start, mean, factor * covariance)
        assert abs(drawn.log_likelihood - np.sum(best.value)) < 3 * np.sqrt(drawn.variance)
        # four standard errors, for 36 values of which some share their draws
        assert (np.abs(by_group.values - best.value) < 4 * np.sqrt(by_group.variance)).all()
        assert (by_group.ess > 500).all()


# saemix's residual models; combined is y = f + sqrt(a^2 + b^2 f^2) e.
SAEMIX = {
    "constant": lambda r: jn.error.constant(r["a"]),
    "proportional": lambda r: jn.error.proportional(r["b"]),
    "combined": lambda r: jn.error.combined_variance(r["a"], r["b"]),
}


@pytest.mark.parametrize("error", SAEMIX)
def test_linearisation_equals_that_of_saemix(error: str, reference: Path) -> None:
    """saemix 3.4 at its own estimates and conditional means: -2 log L by linearisation, and standard errors of fixed
    effects from the linearised model. Its derivatives are forward differences, with errors of 2e-3 in 344 and of 1e-4
    in a standard error."""
    saemix = json.loads((reference / "saemix" / f"theo_nocov_{error}.json").read_text())
    table = pd.read_csv(reference / "saemix" / "data" / "theo.csv")
    binding = theophylline(table, ("Id", "Concentration", "Time", "Dose"), SAEMIX[error](saemix["residual"]))
    natural, psi = np.array(list(saemix["fixed_effects"].values())), np.array(saemix["omega"])
    params = binding.params(dict(zip(("ka", "v", "cl"), natural, strict=True)), psi=psi)
    mean = (np.log(saemix["cond_mean_psi"]) - params.beta) / np.sqrt(np.diag(psi))
    covariance = np.broadcast_to(np.eye(3), (12, 3, 3))
    sums, _ = evaluated(likelihood_from_draws("lin"), binding, params, mean, covariance)
    assert -2.0 * sums.log_likelihood == pytest.approx(saemix["m2ll"]["linearisation"], abs=3e-3)
    matrix, _ = linearised_information(binding, PlacedProblem(binding.problem), params, mean, block_diagonal=True)
    errors = natural * np.sqrt(np.diag(np.linalg.inv(matrix)))[:3]
    assert errors == pytest.approx([row["se"] for row in saemix["table_with_se"][:3]], rel=1e-4)


# --- properties of all methods


def test_invariance_to_the_order_of_groups() -> None:
    model = decay_model("full", ERRORS["combined"])
    order = [2, 0, 3, 1]
    table = decay_data().to_frame()
    reordered = pd.concat([table[table["group"] == k] for k in order])
    binding = bind(model, decay_data())
    permuted = bind(model, jn.GroupedData.from_frame(reordered, "group", "y", x=["t", "kind"]))
    at = results(binding.problem, jn.Laplace(), binding.start)
    mean, covariance = np.asarray(at.mode), np.linalg.inv(np.asarray(at.curvature))
    for method in (
        likelihood_from_draws("is", draws=100),
        likelihood_from_draws("gq", nodes=3),
        likelihood_from_draws("lin"),
    ):
        _, expected = evaluated(method, binding, binding.start, mean, covariance)
        sums, groups = evaluated(method, permuted, permuted.start, mean[order], covariance[order])
        assert groups.values == pytest.approx(expected.values[order], rel=1e-12)
        assert sums.log_likelihood == pytest.approx(np.sum(expected.values), rel=1e-12)


def test_outcomes_without_gaussian_moments() -> None:
    group = np.repeat([0, 1, 2], [4, 1, 3])
    data = jn.GroupedData.from_arrays([2.0, 1, 0, 3, 1, np.nan, np.nan, np.nan], group, {"t": np.arange(8.0) / 4})
    parameters = [jn.Parameter("a", 0.5, random=True), jn.Parameter("b", 0.3)]
    binding = bind(jn.NLMEModel(log_rate, parameters, error=OUTCOMES["poisson"]), data)
    expected = values(binding.problem, jn.AGQ(25), binding.start)
    mean, covariance = np.zeros((3, 1)), np.full((3, 1, 1), 0.5)
    _, groups = evaluated(likelihood_from_draws("gq", nodes=41), binding, binding.start, mean, covariance)
    assert groups.values == pytest.approx(
        expected, abs=1e-8
    )  # 41 nodes around zero have converged, as have 25 at the mode
    assert groups.status.tolist() == [jn.Status.ok, jn.Status.ok, jn.Status.no_observations]
    with pytest.raises(ModelError, match=r"'lin'.* needs a Gaussian residual model"):
        evaluated(likelihood_from_draws("lin"), binding, binding.start, mean, covariance)
    with pytest.raises(ModelError, match="information by linearisation needs a Gaussian"):
        linearised_information(binding, PlacedProblem(binding.problem), binding.start, mean)


def test_a_mean_that_is_not_finite_has_a_status() -> None:
    mean, covariance, expected = closed_form()
    mean = mean.copy()
    mean[1] = np.nan
    for method in (likelihood_from_draws("is"), likelihood_from_draws("gq"), likelihood_from_draws("lin")):
        _, groups = evaluated(method, *bound(), mean, covariance)
        assert groups.status.tolist() == [0, jn.Status.non_finite, 0, 0, 0], method.name
        assert np.isfinite(np.delete(groups.values, 1)).all()


def test_options() -> None:
    assert [QuadratureFromDraws().nodes_of(q) for q in range(1, 10)] == [15, 15, 15, 11, 7, 5, 3, 3, 3]
    with pytest.raises(OptionError, match="10 random effects needs more than 20,000 points"):
        QuadratureFromDraws().nodes_of(10)
    with pytest.raises(OptionError, match="40 nodes on 3 random effects make 64,000 points"):
        evaluated(likelihood_from_draws("gq", nodes=40), *bound(), *closed_form()[:2])
    with pytest.raises(OptionError, match="'lap' is not known"):
        likelihood_from_draws("lap")
    with pytest.raises(OptionError, match="draws >= 2"):
        likelihood_from_draws("is", draws=1)
    with pytest.raises(OptionError, match=r"must have shapes \(5, 3\) and \(5, 3, 3\)"):
        evaluated(likelihood_from_draws("lin"), *bound(), np.zeros((4, 3)), np.zeros((4, 3, 3)))


# --- information by linearisation


def test_the_information_of_a_linear_model_is_exact() -> None:
    """Against the Hessian by automatic differentiation, for arbitrary conditional means; and against a maximum
    likelihood fit, whose differences of exact gradients have an error of 1e-6."""
    data = bound()[0].data
    fit = jn.fit(linear_model("diagonal"), data, "focei")
    assert fit.converged
    information, binding = fit.information, fit.binding
    matrix, scores = linearised_information(
        binding, PlacedProblem(binding.problem), fit.params, np.full((5, 3), 0.3), information.active
    )
    _, hessian = gradients_and_hessians(binding.problem, jn.FOCEI(), fit.params, np.asarray(fit.params.pack())[None])
    exact = -np.asarray(hessian)[0][np.ix_(information.active, information.active)]
    size = np.sqrt(np.diag(matrix))
    scaled = [unscaled / np.outer(size, size) for unscaled in (matrix, exact, information.matrix)]
    assert scaled[0] == pytest.approx(scaled[1], abs=1e-9)
    assert scaled[0] == pytest.approx(scaled[2], abs=1e-5)
    assert scores == pytest.approx(information.scores, abs=1e-8)


def exponentials(beta, b, v):
    """The log-normal parameters of `decay_model` by a function."""
    return {name: getattr(beta, name) * jnp.exp(getattr(b, name)) for name in "abc"}


@cheap
def _scores(problem, template, about, x):
    modes = jnp.zeros((problem.n_groups, problem.density.n_effects))
    _, groups = partial_sums_linearised(problem, (Linearised(), template, about, x), modes)
    return groups.scores, groups.modes


@pytest.mark.parametrize("function", [False, True], ids=["designs", "function"])
def test_information_with_priors_fixed_values_and_functions(function: bool) -> None:
    """Minus the derivatives of LME's scores with a constant linearisation, by differences with errors of 1e-9, and the
    prior."""
    plain = decay_model("diagonal", ERRORS["combined"])
    parameters = [dataclasses.replace(plain.parameters[0], fix=True)]
    parameters.append(dataclasses.replace(plain.parameters[1], prior=jn.priors.Normal(1.0, 0.5)))
    parameters.append(plain.parameters[2])
    individual = exponentials if function else None
    binding = bind(
        jn.NLMEModel(plain.structure, parameters, "diagonal", ERRORS["combined"], individual=individual), decay_data()
    )
    packed, n = np.asarray(binding.start.pack()), 8
    expected_scores, mean = _scores(binding.problem, binding.start, packed, packed)
    placed = PlacedProblem(binding.problem)
    matrix, scores = linearised_information(binding, placed, binding.start, np.asarray(mean))
    around = [_scores(binding.problem, binding.start, packed, x)[0].sum(axis=0) for x in stencil(packed, 1e-3)]
    expected = -differences(np.array(around), n, 1e-3)
    expected[1, 1] += 1.0 / 0.5**2
    assert matrix == pytest.approx(expected[1:, 1:], rel=1e-6, abs=1e-6)
    assert scores == pytest.approx(np.asarray(expected_scores)[:, 1:], rel=1e-9, abs=1e-9)
    blocks, _ = linearised_information(binding, placed, binding.start, np.asarray(mean), block_diagonal=True)
    assert (blocks[:2, 2:] == 0.0).all()
    assert blocks[2:, 2:] == pytest.approx(matrix[2:, 2:], rel=1e-14)
