"""The complete log-likelihood as a function of its statistics, and the steps that maximise it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.estimators.em.m_step import Control, EMState, Simulated, maximise
from jaxnlme.estimators.em.sufficient_statistics import Statistics, expected, layout, of_effects, of_error, weighted
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


def summed(binding, where, xi, squares=None):
    """The Statistics of all groups, weighted."""
    strata = where.strata
    squares = np.tile(0.3 * np.arange(1.0, strata + 1.0), (GROUPS, 1)) if squares is None else squares
    counts = np.full((GROUPS, strata), 2.0)

    def one(group, weight, xi, counts, squares):
        return weighted(weight, of_effects(where.centring.coefficients(group), xi, counts, squares))

    bucket = jax.tree.map(jnp.asarray, binding.problem.buckets[0])
    each = jax.vmap(one)(bucket, jnp.asarray(data().weights), xi, counts, squares)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), each)


@pytest.mark.parametrize("name", ["diagonal", "full", "compound symmetry"])
def test_the_complete_log_likelihood(name):
    """Q is, up to a constant, the weighted sum of log N(xi; C beta, psi)."""
    binding = jn.bind(model(FAMILIES[name][0]), data())
    where, xi = layout(binding, "auto"), effects(binding)
    assert len(where.centring.terms) == 4 and where.strata == 1
    stats = summed(binding, where, xi)
    size = np.asarray(binding.problem.buckets[0].covariates[0])
    rng = np.random.default_rng(0)
    found, direct = [], []
    for _ in range(3):
        packed = np.asarray(binding.start.pack()) + 0.3 * rng.normal(size=where.n)
        params = binding.start.unpack(jnp.asarray(packed))
        names = list(binding.density.beta_names)
        beta = dict(zip(names, np.asarray(params.beta), strict=True))
        apart = xi - np.column_stack(
            [beta["a"] + beta["a ~ size"] * size, np.full(GROUPS, beta["b"]), np.full(GROUPS, beta["c"])]
        )
        psi = np.asarray(binding.density.covariance.psi(params.covariance))
        each = -0.5 * np.linalg.slogdet(psi)[1] - 0.5 * np.sum(apart * np.linalg.solve(psi, apart.T).T, axis=1)
        level = float(params.error[0])
        outcome = -2.0 * level - 0.5 * 0.3 * np.exp(-2.0 * level)
        direct.append(data().weights @ (each + outcome))
        found.append(float(expected(where, binding.density, binding.start, jnp.asarray(packed), stats)))
    np.testing.assert_allclose(found, direct, rtol=1e-10)


@cheap
def at_the_end(where, density, template, begin, fresh, control):
    """The packed vector after 200 M-steps from the same statistics; Q's slope and Hessian with the log prior there."""

    def value(packed):
        return expected(where, density, template, packed, fresh.statistics) + density.log_prior(template.unpack(packed))

    run = jax.lax.fori_loop(
        0, 200, lambda _, em_state: maximise(where, density, template, em_state, fresh, control), begin
    )
    return run.packed, jax.grad(value)(run.packed), jax.hessian(value)(run.packed)


def maximised(binding, m_step):
    where = layout(binding, m_step)
    stats = summed(binding, where, effects(binding))
    g = len(where.bent)
    zero = np.zeros
    fresh = Simulated(stats, zero(len(where.scored)), np.eye(g), None, zero(1), 1.0)
    start = np.asarray(binding.start.pack(), float)
    begin = EMState(start, jax.tree.map(jnp.zeros_like, stats), zero((g, g)))
    control = Control(0, 1.0, True, 0.0, False, 0.0, False, False)
    packed, slope, hessian = at_the_end(where, binding.density, binding.start, begin, fresh, control)
    moves = np.array([k for k in range(where.n) if where.free[k] and k not in where.scored])
    assert np.array_equal(np.delete(packed, moves), np.delete(start, moves))
    return where, moves, np.asarray(packed), np.asarray(slope)[moves], np.asarray(hessian)[np.ix_(moves, moves)]


@pytest.mark.parametrize(
    ("name", "m_step"),
    [(name, "auto") for name in FAMILIES] + [("full", "gradient"), ("compound symmetry", "gradient")],
)
def test_the_maximum_of_every_family(name, m_step):
    """There Q has no slope and bends down: what Newton's step would still gain is rounding."""
    binding = jn.bind(model(FAMILIES[name][0], jn.error.constant(0.5, by="kind")), data())
    where, moves, packed, slope, hessian = maximised(binding, m_step)
    assert where.closed_psi == where.closed_beta == where.closed_error == (m_step == "auto")
    assert len(moves) == where.n - (0 if m_step == "auto" else 3)
    assert np.linalg.eigvalsh(hessian).max() < 0
    assert -slope @ np.linalg.solve(hessian, slope) < 1e-12


@pytest.mark.parametrize("options", [{"fix": True}, {"psi": COVARIANCES["full"][1], "fix_psi": True}])
def test_what_is_fixed_stays_and_the_rest_is_at_its_maximum(options):
    binding = jn.bind(model("full", **options), data())
    where, moves, packed, slope, hessian = maximised(binding, "auto")
    assert len(moves) < where.n
    assert np.linalg.eigvalsh(hessian).max() < 0 and -slope @ np.linalg.solve(hessian, slope) < 1e-12


def test_a_prior_has_its_say():
    """Newton steps then: on the coefficients and the variances together."""
    priors = {"b": jn.priors.Normal(3.0, 0.05), "sd(a)": jn.priors.Normal(2.0, 0.1)}
    binding = jn.bind(model("full", priors=priors), data())
    where, moves, packed, slope, hessian = maximised(binding, "auto")
    assert not (where.closed_beta or where.closed_psi or where.closed_error)
    assert -slope @ np.linalg.solve(hessian, slope) < 1e-12 and np.linalg.eigvalsh(hessian).max() < 0
    plain = maximised(jn.bind(model("full"), data()), "auto")[2]
    assert packed[1] > plain[1] + 0.5


@pytest.mark.parametrize("kind", ["constant", "proportional", "exponential"])
@pytest.mark.parametrize("by", [None, "kind"])
def test_counts_and_squares_stand_for_the_residuals(kind, by):
    """Where scales change, Q changes as the log-density of the responses does."""
    binding = jn.bind(model(error=getattr(jn.error, kind)(0.4, by=by)), data())
    where, density = layout(binding, "auto"), binding.density
    assert where.strata == (3 if by else 1)
    group = jax.tree.map(lambda leaf: jnp.asarray(leaf)[2], binding.problem.buckets[0])
    z = jnp.array([0.4, -0.2, 0.3])
    start = jax.tree.map(jnp.asarray, binding.start)
    f = density.predict(start, z, group)
    counts, squares = of_error(where, density, start, f, group)
    q = density.n_effects
    stats = Statistics(0.0, jnp.zeros((q, q)), jnp.zeros((4, q)), jnp.zeros((4, 4)), counts, squares)
    found, direct = [], []
    for shift in (np.zeros(where.strata), 0.3 * np.arange(1.0, where.strata + 1.0)):
        packed = start.pack().at[where.n - where.strata :].add(shift)
        found.append(expected(where, density, start, packed, stats))
        direct.append(density.error.log_density(f, f, start.unpack(packed).error, group))
    np.testing.assert_allclose(found[1] - found[0], direct[1] - direct[0], rtol=1e-10)


@pytest.mark.parametrize("error", [jn.error.combined(0.3, 0.1), jn.error.power(0.3, 0.5)])
def test_other_errors_have_no_closed_form(error):
    where = layout(jn.bind(model(error=error), data()), "auto")
    assert where.strata == 0 and where.scored == (where.n - 2, where.n - 1)


def test_annealing_holds_variances_up():
    """A variance that would fall to less than its share falls to that; correlations stay those of the moment."""
    binding = jn.bind(model("full", psi=4.0 * np.eye(3)), data())
    where = layout(binding, "auto")
    stats = summed(binding, where, effects(binding))
    fresh = Simulated(stats, np.zeros(0), np.zeros((0, 0)), None, np.zeros(1), 1.0)
    begin = EMState(jnp.asarray(binding.start.pack()), jax.tree.map(jnp.zeros_like, stats), np.zeros((0, 0)))
    controls = [Control(0, 1.0, True, share, False, 0.0, False, False) for share in (0.9, 0.0)]
    held, free = (
        binding.start.unpack(maximise(where, binding.density, binding.start, begin, fresh, control).packed)
        for control in controls
    )
    psi, own = (np.asarray(binding.density.covariance.psi(params.covariance)) for params in (held, free))
    np.testing.assert_allclose(np.diag(psi), 0.9 * 4.0, rtol=1e-9)
    sd, own_sd = np.sqrt(np.diag(psi)), np.sqrt(np.diag(own))
    np.testing.assert_allclose(psi / np.outer(sd, sd), own / np.outer(own_sd, own_sd), rtol=1e-9)
    np.testing.assert_allclose(held.error[0], max(free.error[0], binding.start.error[0] + 0.5 * np.log(0.9)), rtol=1e-9)
