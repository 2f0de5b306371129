"""The expected complete log-likelihood Q as a function of sufficient statistics, and the M-steps that maximise it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.estimators.em.m_step import EMState, Schedule, SimulationSums, maximise
from jaxnlme.estimators.em.parameter_layout import parameter_layout
from jaxnlme.estimators.em.sufficient_statistics import (
    SufficientStatistics,
    complete_curvature,
    effect_statistics,
    expected_log_likelihood,
    residual_statistics,
    weighted_contribution,
)
from tests.problems import COVARIANCES, cheap, linear

GROUPS, ROWS = 30, 4
FAMILIES = COVARIANCES | {"log-matrix": ("log-matrix", COVARIANCES["full"][1])}


@functools.cache
def data():
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(GROUPS), ROWS)
    frame = {
        "id": group,
        "y": rng.uniform(1.0, 3.0, len(group)),
        "t": rng.uniform(size=len(group)),
        "s": rng.normal(size=len(group)),
        "kind": np.array(["u", "v", "w"])[np.arange(len(group)) % 3],
        "size": rng.normal(size=GROUPS)[group],
    }
    weights = rng.choice([0.0, 0.5, 1.0, 3.0], GROUPS)
    return jn.GroupedData.from_frame(
        frame, group="id", y="y", x=["t", "s", "kind"], v=["size"]
    ).with_weights(weights)  # fmt: skip


def model(covariance="diagonal", error="constant", fix=False, **options):
    parameters = [
        jn.Parameter("a", 2.0, random=True, covariates=["size"]),
        jn.Parameter("b", 0.4, random=True, fix=fix),
        jn.Parameter("c", 0.2, random=True),
    ]
    return jn.NLMEModel(linear, parameters, covariance, error, **options)


def effects(binding):
    """xi (groups, random) drawn about other values than the start."""
    rng = np.random.default_rng(4)
    chol = np.linalg.cholesky(COVARIANCES["full"][1])
    return np.array([1.7, 0.6, 0.1]) + rng.normal(size=(GROUPS, 3)) @ chol.T


def sum_statistics(binding, layout, xi, squares=None):
    """SufficientStatistics summed over groups, weighted."""
    strata = layout.strata
    squares = np.tile(0.3 * np.arange(1.0, strata + 1.0), (GROUPS, 1)) if squares is None else squares
    counts = np.full((GROUPS, strata), 2.0)

    def per_group(group, weight, xi, counts, squares):
        coefficients = layout.centring.coefficients(group)
        return weighted_contribution(weight, effect_statistics(layout, group, coefficients, xi, counts, squares))

    bucket = jax.tree.map(jnp.asarray, binding.problem.buckets[0])
    each = jax.vmap(per_group)(bucket, jnp.asarray(data().weights), xi, counts, squares)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), each)


@pytest.mark.parametrize("name", ["diagonal", "full", "compound symmetry"])
def test_the_complete_log_likelihood(name):
    """Q is, up to a constant, the weighted sum of log N(xi; C beta, psi)."""
    binding = jn.bind(model(FAMILIES[name][0]), data())
    layout, xi = parameter_layout(binding, "auto"), effects(binding)
    assert len(layout.centring.terms) == 4 and layout.strata == 1
    stats = sum_statistics(binding, layout, xi)
    size = np.asarray(binding.problem.buckets[0].covariates[0])
    rng = np.random.default_rng(0)
    actual, direct = [], []
    for _ in range(3):
        packed = np.asarray(binding.start.pack()) + 0.3 * rng.normal(size=layout.n)
        params = binding.start.unpack(jnp.asarray(packed))
        names = list(binding.density.beta_names)
        beta = dict(zip(names, np.asarray(params.beta), strict=True))
        deviation = xi - np.column_stack(
            [beta["a"] + beta["a ~ size"] * size, np.full(GROUPS, beta["b"]), np.full(GROUPS, beta["c"])]
        )
        psi = np.asarray(binding.density.covariance.psi(params.covariance))
        each = -0.5 * np.linalg.slogdet(psi)[1] - 0.5 * np.sum(deviation * np.linalg.solve(psi, deviation.T).T, axis=1)
        level = float(params.error[0])
        outcome = -2.0 * level - 0.5 * 0.3 * np.exp(-2.0 * level)
        direct.append(data().weights @ (each + outcome))
        value = expected_log_likelihood(layout, binding.density, binding.start, jnp.asarray(packed), stats)
        actual.append(float(value))
    np.testing.assert_allclose(actual, direct, rtol=1e-10)


@cheap
def after_many_m_steps(layout, density, template, begin, fresh, schedule):
    """The packed vector after 200 M-steps from the same statistics; Q's slope and Hessian with the log prior there."""

    def value(packed):
        return expected_log_likelihood(layout, density, template, packed, fresh.statistics) + density.log_prior(
            template.unpack(packed)
        )

    run = jax.lax.fori_loop(
        0, 200, lambda _, em_state: maximise(layout, density, template, em_state, fresh, schedule), begin
    )
    return run.packed, jax.grad(value)(run.packed), jax.hessian(value)(run.packed)


def maximised(binding, m_step):
    layout = parameter_layout(binding, m_step)
    stats = sum_statistics(binding, layout, effects(binding))
    g = len(layout.hessian_entries)
    zero = np.zeros
    fresh = SimulationSums(stats, zero(len(layout.scored)), np.eye(g), None, zero(1), 1.0)
    start = np.asarray(binding.start.pack(), float)
    begin = EMState(start, jax.tree.map(jnp.zeros_like, stats), zero((g, g)))
    schedule = Schedule(0, 1.0, True, 0.0, False, 0.0, False, False, False)
    packed, slope, hessian = after_many_m_steps(layout, binding.density, binding.start, begin, fresh, schedule)
    packed, hessian = np.asarray(packed), np.asarray(hessian)
    if not binding.density.priors:  # second derivatives by matrix products against automatic differentiation
        numbers = jax.tree.map(np.asarray, stats)
        curvature = complete_curvature(layout, binding.density, binding.start, packed, numbers)
        np.testing.assert_allclose(curvature, -hessian, rtol=1e-9, atol=1e-11 * np.abs(hessian).max())
    updated = np.array([k for k in range(layout.n) if layout.free[k] and k not in layout.scored])
    assert np.array_equal(np.delete(packed, updated), np.delete(start, updated))
    return layout, updated, packed, np.asarray(slope)[updated], hessian[np.ix_(updated, updated)]


@pytest.mark.parametrize(
    ("name", "m_step"),
    [(name, "auto") for name in FAMILIES] + [("full", "gradient"), ("compound symmetry", "gradient")],
)
def test_the_maximum_of_every_family(name, m_step):
    """At the maximum of Q its slope is zero and its Hessian negative definite: a Newton step would gain no more than
    rounding error."""
    binding = jn.bind(model(FAMILIES[name][0], jn.error.constant(0.5, by="kind")), data())
    layout, updated, packed, slope, hessian = maximised(binding, m_step)
    assert layout.closed_psi == layout.closed_beta == layout.closed_error == (m_step == "auto")
    assert len(updated) == layout.n - (0 if m_step == "auto" else 3)
    assert np.linalg.eigvalsh(hessian).max() < 0
    assert -slope @ np.linalg.solve(hessian, slope) < 1e-12


@pytest.mark.parametrize("options", [{"fix": True}, {"psi": COVARIANCES["full"][1], "fix_psi": True}])
def test_fixed_parameters_stay_and_the_others_are_at_their_maximum(options):
    binding = jn.bind(model("full", **options), data())
    layout, updated, packed, slope, hessian = maximised(binding, "auto")
    assert len(updated) < layout.n
    assert np.linalg.eigvalsh(hessian).max() < 0 and -slope @ np.linalg.solve(hessian, slope) < 1e-12


def test_priors_change_the_maximum():
    """With priors, Newton steps are taken in the coefficients and the variances together."""
    priors = {"b": jn.priors.Normal(3.0, 0.05), "sd(a)": jn.priors.Normal(2.0, 0.1)}
    binding = jn.bind(model("full", priors=priors), data())
    layout, updated, packed, slope, hessian = maximised(binding, "auto")
    assert not (layout.closed_beta or layout.closed_psi or layout.closed_error)
    assert -slope @ np.linalg.solve(hessian, slope) < 1e-12 and np.linalg.eigvalsh(hessian).max() < 0
    plain = maximised(jn.bind(model("full"), data()), "auto")[2]
    assert packed[1] > plain[1] + 0.5


@pytest.mark.parametrize("kind", ["constant", "proportional", "exponential"])
@pytest.mark.parametrize("by", [None, "kind"])
def test_counts_and_squares_are_sufficient_for_the_residuals(kind, by):
    """As scales change, Q changes as the log-density of the responses does."""
    binding = jn.bind(model(error=getattr(jn.error, kind)(0.4, by=by)), data())
    layout, density = parameter_layout(binding, "auto"), binding.density
    assert layout.strata == (3 if by else 1)
    group = jax.tree.map(lambda leaf: jnp.asarray(leaf)[2], binding.problem.buckets[0])
    z = jnp.array([0.4, -0.2, 0.3])
    start = jax.tree.map(jnp.asarray, binding.start)
    f = density.predict(start, z, group)
    counts, squares = residual_statistics(layout, density, start, f, group)
    q = density.n_effects
    stats = SufficientStatistics(jnp.zeros(q), jnp.zeros((q, q)), jnp.zeros((4, q)), jnp.zeros((4, 4)), counts, squares)
    actual, direct = [], []
    for shift in (np.zeros(layout.strata), 0.3 * np.arange(1.0, layout.strata + 1.0)):
        packed = start.pack().at[layout.n - layout.strata :].add(shift)
        actual.append(expected_log_likelihood(layout, density, start, packed, stats))
        direct.append(density.error.log_density(f, f, start.unpack(packed).error, group))
    np.testing.assert_allclose(actual[1] - actual[0], direct[1] - direct[0], rtol=1e-10)


@pytest.mark.parametrize("error", [jn.error.combined(0.3, 0.1), jn.error.power(0.3, 0.5)])
def test_other_errors_have_no_closed_form(error):
    layout = parameter_layout(jn.bind(model(error=error), data()), "auto")
    assert layout.strata == 0 and layout.scored == (layout.n - 2, layout.n - 1)


def test_annealing_limits_the_decrease_of_variances():
    """A variance falls to the annealing fraction of its last value at least; correlations are those of the moment."""
    binding = jn.bind(model("full", psi=4.0 * np.eye(3)), data())
    layout = parameter_layout(binding, "auto")
    stats = sum_statistics(binding, layout, effects(binding))
    fresh = SimulationSums(stats, np.zeros(0), np.zeros((0, 0)), None, np.zeros(1), 1.0)
    begin = EMState(jnp.asarray(binding.start.pack()), jax.tree.map(jnp.zeros_like, stats), np.zeros((0, 0)))
    schedules = [Schedule(0, 1.0, True, fraction, False, 0.0, False, False, False) for fraction in (0.9, 0.0)]
    held, free = (
        binding.start.unpack(maximise(layout, binding.density, binding.start, begin, fresh, schedule).packed)
        for schedule in schedules
    )
    psi, psi_free = (np.asarray(binding.density.covariance.psi(params.covariance)) for params in (held, free))
    np.testing.assert_allclose(np.diag(psi), 0.9 * 4.0, rtol=1e-9)
    sd, sd_free = np.sqrt(np.diag(psi)), np.sqrt(np.diag(psi_free))
    np.testing.assert_allclose(psi / np.outer(sd, sd), psi_free / np.outer(sd_free, sd_free), rtol=1e-9)
    np.testing.assert_allclose(held.error[0], max(free.error[0], binding.start.error[0] + 0.5 * np.log(0.9)), rtol=1e-9)
