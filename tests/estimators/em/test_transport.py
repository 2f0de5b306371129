"""Score and information in coordinates that move with the parameters, and fits that need them."""

from __future__ import annotations

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.estimators.em.complete_data import coordinates_at
from jaxnlme.estimators.em.louis import ScoreAndInformation, batch_means, mean_and_error, variance_of_mean
from jaxnlme.estimators.em.parameter_layout import parameter_layout, whitened_layout
from jaxnlme.estimators.em.rounds.newton import newton_point, updated_doublings, uphill_point
from jaxnlme.estimators.em.run_state import OuterState
from jaxnlme.estimators.em.settings import STEPS
from jaxnlme.sampling.control_variates import control_variates, n_control_variates, velocity_of

# ---- the pieces


def test_control_variates_are_the_score_along_a_velocity():
    """s - A c(z) = s + g' V + div V, for every A."""
    q, parameters = 3, 4
    rng = np.random.default_rng(0)
    coefficients = jnp.asarray(rng.normal(size=(parameters, n_control_variates(q))))
    z, slope = (jnp.asarray(rng.normal(size=q)) for _ in range(2))
    shift, linear = velocity_of(coefficients, q)
    velocity, divergence = shift + linear @ z, jnp.trace(linear, axis1=1, axis2=2)
    np.testing.assert_allclose(velocity @ slope + divergence, -coefficients @ control_variates(z, slope), rtol=1e-12)


def decline(phi, x):
    return phi.a * jnp.exp(-phi.c * x.t) + phi.d


@pytest.fixture(scope="module")
def binding():
    parameters = [jn.Parameter("a", 2.0, "log", random=True), jn.Parameter("c", 1.0, "log", random=True)]
    model = jn.NLMEModel(decline, [*parameters, jn.Parameter("d", 0.1)], covariance="full")
    t, g = np.tile([0.5, 1.0, 2.0], 3), np.repeat(np.arange(3), 3)
    return bind(model, jn.GroupedData.from_arrays(np.exp(-t), g, {"t": t}))


def moved_params(binding, size):
    params = binding.start
    packed = np.asarray(params.pack(), float) + size * np.random.default_rng(1).normal(size=len(binding.fixed))
    return jax.tree.map(jnp.asarray, params.unpack(jnp.asarray(packed)))


def test_the_same_effects_at_other_parameters(binding):
    layout, density = parameter_layout(binding, "auto"), binding.density
    group = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], binding.problem.buckets[0])
    params, moved, z = moved_params(binding, 0.0), moved_params(binding, 0.3), jnp.array([0.4, -1.2])

    def xi(params, z):
        mean = layout.centring.mean(params.beta, layout.centring.coefficients(group))
        return mean + density.covariance.factor(params.covariance) @ z

    matrix, offset = coordinates_at(layout, density, params, moved, group)
    np.testing.assert_allclose(xi(moved, matrix @ z + offset), xi(params, z), rtol=1e-10)
    on_boundary = whitened_layout(layout, frozenset(), (0,), (0,))
    matrix, offset = coordinates_at(on_boundary, density, params, moved, group)
    there = matrix @ z + offset
    np.testing.assert_allclose(xi(moved, there)[0], xi(params, z)[0], rtol=1e-10)
    assert there[1] == z[1]


def estimate(information, complete, scores, packed=None, transported=True):
    n = len(information)
    at = np.zeros(n) if packed is None else packed
    batches, none = np.zeros((20, n, n)), np.zeros((0, n))
    return ScoreAndInformation(
        at, np.arange(n), scores.mean(axis=0), information, complete, batches, scores, len(scores), none, batches,
        batches, True, transported,
    )  # fmt: skip


def test_the_least_observed_fraction_has_no_coordinates():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(3, 3))
    complete, information = root @ root.T + np.eye(3), root @ root.T
    turned = 10.0 ** np.array([-6.0, 0.0, 6.0])[:, None] * rng.normal(size=(3, 3))
    fractions = [
        estimate(a @ information @ a.T, a @ complete @ a.T, np.zeros((20, 3))).least_observed_fraction
        for a in (np.eye(3), turned)
    ]
    assert fractions[0] == pytest.approx(fractions[1], rel=1e-6) and 0.0 < fractions[0] < 1.0


@pytest.mark.parametrize("memory", [0.0, 0.6])
def test_the_error_of_a_mean_of_dependent_draws(memory):
    """Autoregressive series: the variance of their mean is 1 / (1 - memory)^2 / n."""
    rng = np.random.default_rng(3)
    noise, rows = rng.normal(size=(300, 2000)), np.zeros((300, 2000))
    for k in range(1, 300):
        rows[k] = memory * rows[k - 1] + noise[k]
    rows = rows[100:]
    exact = 1.0 / (1.0 - memory) ** 2 / len(rows)
    assert variance_of_mean(rows).mean() == pytest.approx(exact, rel=0.1)
    if memory:  # batches of ten iterations are too short
        assert (mean_and_error(batch_means(rows))[1] ** 2).mean() < 0.85 * exact


def run_with_steps(state: OuterState, log_scales: tuple = ()) -> Any:
    """A run of two free parameters, the first of them beta unless it is in `log_scales`."""
    density = types.SimpleNamespace(
        covariance=types.SimpleNamespace(log_scales=log_scales),
        error=types.SimpleNamespace(has_location_and_scale=False),
    )
    return types.SimpleNamespace(
        binding=types.SimpleNamespace(density=density),
        outer_state=state,
        interior_layout=types.SimpleNamespace(free=(True, True), beta=0, covariance=2),
    )


@pytest.mark.parametrize(("last", "before", "after"), [(1.0, 1, 2), (1.0, 4, 4), (-1.0, 2, 1), (-1.0, 0, 0)])
def test_the_longest_step_follows_the_steps(last, before, after):
    assert STEPS.most_doublings == 4
    information = np.diag([4.0, 1.0])
    here = estimate(information, 2.0 * information, np.tile([8.0, 0.1], (20, 1)))
    state = OuterState(doublings=before, last_steps=np.array([[last, 0.0]]))
    run = run_with_steps(state)
    assert updated_doublings(run, [here]) == after
    # The step of 2 in the first parameter is four standard errors of it.
    np.testing.assert_allclose(newton_point(run, here, after)[0], 2.0 * min(1.0, 2.0**after / 4.0))


def test_the_logarithm_of_a_scale_moves_by_a_limited_step():
    """A scale that is hardly observed has a standard error of 30, and a step of 20 of its logarithm."""
    here = estimate(np.diag([1e-3, 1.0]), np.diag([2.0, 2.0]), np.tile([0.02, 0.1], (20, 1)))
    assert here.step[0] == pytest.approx(20.0)
    run = run_with_steps(OuterState(), log_scales=((0, (0,), ()),))
    for doublings in (0, 1):
        moved = newton_point(run, here, doublings)
        assert moved[0] == pytest.approx(STEPS.longest_log_scale_newton_step * 2.0**doublings)


def test_uphill_steps_along_a_ridge_grow():
    """A curvature of -1e-4 along the first parameter, complete-data standard errors of 0.5: at first ten of them."""
    here = estimate(np.diag([-4e-4, 1.0]), np.diag([4.0, 2.0]), np.tile([0.1, 0.0], (20, 1)))
    assert here.negative_beyond_error and not here.positive_definite
    run = run_with_steps(OuterState(last_steps=np.array([[1.0, 0.0]])))
    assert updated_doublings(run, [here]) == 1
    for doublings in (0, 1, 2):
        step = uphill_point(run, here, doublings)
        np.testing.assert_allclose(step, [5.0 * 2.0**doublings, 0.0])


# ---- fits


def asymptotic(phi, x):
    return phi.asym + (phi.r0 - phi.asym) * jnp.exp(-jnp.exp(phi.lrc) * x.t)


def gompertz(phi, x):
    return phi.asym * jnp.exp(-phi.b2 * phi.b3**x.t)


def logistic(phi, x):
    return phi.asym / (1.0 + jnp.exp((phi.xmid - x.t) / phi.scal))


def michaelis_menten(phi, x):
    return phi.vm * x.t / (phi.km + x.t)


def emax(phi, x):
    return phi.e0 + phi.emax * x.t / (phi.ec50 + x.t)


# Truth, where the fit starts, times, SD of the random effect (of the first parameter), residual SD. The estimates are
# correlated by 0.9 to 0.998: the last time comes long before the asymptote, or not quite.
CURVES = {
    "asymptotic": (asymptotic, dict(asym=60.0, r0=4.0, lrc=-2.2), dict(asym=70.0, r0=2.0, lrc=-2.5), 9.0, 5.0, 1.0),
    "gompertz": (gompertz, dict(asym=30.0, b2=3.0, b3=0.8), dict(asym=25.0, b2=2.5, b3=0.85), 9.0, 4.0, 0.6),
    "logistic": (logistic, dict(asym=12.0, xmid=9.0, scal=2.5), dict(asym=9.0, xmid=7.0, scal=2.0), 10.0, 2.0, 0.2),
    "michaelis-menten": (michaelis_menten, dict(vm=200.0, km=15.0), dict(vm=150.0, km=10.0), 12.0, 25.0, 4.0),
    "emax": (emax, dict(emax=90.0, e0=5.0, ec50=20.0), dict(emax=70.0, e0=8.0, ec50=15.0), 30.0, 15.0, 3.0),
}


def curve(name, groups, seed):
    f, truth, start, last, sd, noise = CURVES[name]
    rng = np.random.default_rng(seed)
    t, group = np.tile(np.linspace(0.0, last, 7), groups), np.repeat(np.arange(groups), 7)
    first = next(iter(truth))
    values = truth | {first: (truth[first] + sd * rng.normal(size=groups))[group]}
    y = f(types.SimpleNamespace(**values), types.SimpleNamespace(t=t)) + noise * rng.normal(size=len(t))
    model = jn.NLMEModel(f, [jn.Parameter(k, v, random=k == first) for k, v in start.items()])
    return model, jn.GroupedData.from_arrays(np.asarray(y), group, {"t": t})


def assert_at_the_maximum(fit, reference, error=0.05, se_ratio=0.2):
    """Every estimate within `error` standard errors of the maximum by quadrature, every standard error within 20% of
    its."""
    assert reference.converged and fit.converged, fit.status
    se = reference.estimates["se"]
    assert ((fit.estimates["estimate"] - reference.estimates["estimate"]).abs() < error * se).all()
    assert ((fit.estimates["se"] / se - 1.0).abs() < se_ratio).all()
    assert (fit.sampling.errors["monte carlo se"] < 0.05 * fit.sampling.errors["se"]).all()


@pytest.mark.parametrize("groups", [14, 100])
@pytest.mark.parametrize("name", CURVES)
def test_growth_curves_with_one_random_effect(name, groups):
    """Linear in the random effect: FOCEI is exact."""
    model, data = curve(name, groups, seed=groups)
    reference = jn.fit(model, data, "focei")
    for seed in (3, 4):
        assert_at_the_maximum(jn.fit(model, data, jn.SAEM(seed=seed, likelihood="none")), reference)


def test_a_nonlinear_random_effect_beside_fixed_ones():
    rng = np.random.default_rng(8)
    t, group = np.tile(np.linspace(0.5, 8.0, 6), 40), np.repeat(np.arange(40), 6)
    rate = 0.25 * np.exp(0.4 * rng.normal(size=40))
    y = 50.0 - 45.0 * np.exp(-rate[group] * t) + rng.normal(size=len(t))
    model = jn.NLMEModel(
        lambda phi, x: phi.top - phi.span * jnp.exp(-phi.rate * x.t),
        [jn.Parameter("top", 40.0), jn.Parameter("span", 40.0), jn.Parameter("rate", 0.4, "log", random=True)],
    )
    data = jn.GroupedData.from_arrays(y, group, {"t": t})
    assert_at_the_maximum(jn.fit(model, data, jn.SAEM(seed=1)), jn.fit(model, data, jn.AGQ(15)))


def test_a_start_far_along_a_ridge():
    """Two of three parameters without random effect, and a start at twice their size: the information is not positive
    definite for some 150 complete-data standard errors on the way."""
    rng = np.random.default_rng(0)
    group, t = np.repeat(np.arange(30), 7), np.tile(np.linspace(118.0, 700.0, 7), 30)
    asym = 180.0 + 22.0 * rng.normal(size=30)
    y = asym[group] / (1.0 + np.exp((550.0 - t) / 300.0)) + 3.8 * rng.normal(size=len(t))
    data = jn.GroupedData.from_arrays(y, group, {"t": t})
    parameters = [
        jn.Parameter("asym", 360.0, random=True, sd=145.0),
        jn.Parameter("xmid", 1000.0),
        jn.Parameter("scal", 410.0),
    ]
    model = jn.NLMEModel(logistic, parameters)
    exact = jn.fit(model, data, jn.AGQ(9)).estimates
    fit = jn.fit(model, data, jn.SAEM(seed=1))
    assert fit.converged and fit.iterations < 4000
    off = (fit.estimates["estimate"] - exact["estimate"]) / exact["se"]
    # The estimates of this fit have Monte Carlo errors of 1e-4 standard errors.
    assert off.abs().max() < 0.01, off
    np.testing.assert_allclose(fit.estimates["se"], exact["se"], rtol=0.05)


def test_seeds_agree_on_a_correlation_that_is_hardly_known():
    """The correlation is -0.94 with a standard error above one: on the boundary of psi the log-likelihood is 0.001
    lower, which draws do not show, and standard errors are a third."""
    rng = np.random.default_rng(11)
    group, t = np.repeat(np.arange(25), 4), np.tile(np.arange(4.0), 25)
    y = 3.0 + rng.normal(size=25)[group] + 0.5 * t + 0.4 * rng.normal(size=100)
    data = jn.GroupedData.from_arrays(y, group, {"t": t})
    parameters = [jn.Parameter("a", 2.0, random=True), jn.Parameter("b", 0.1, random=True)]
    model = jn.NLMEModel(lambda phi, x: phi.a + phi.b * x.t, parameters, "full")
    exact = jn.fit(model, data, "focei")  # a linear model
    for seed in (0, 3):
        fit = jn.fit(model, data, jn.SAEM(seed=seed, likelihood="none"))
        assert fit.converged and exact.converged
        distance = (fit.estimates["estimate"] - exact.estimates["estimate"]) / exact.estimates["se"]
        assert np.abs(distance).max() < 0.05
        np.testing.assert_allclose(fit.estimates["se"], exact.estimates["se"], rtol=0.2)
