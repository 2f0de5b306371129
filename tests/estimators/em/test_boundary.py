"""Variances of zero and correlations of one, found by SAEM and its kin: at the maximum that quadrature finds there."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.estimators.em import boundary as edge
from jaxnlme.estimators.em import boundary_moves as vanishing
from jaxnlme.estimators.em.boundary import Slope, project_to_face
from jaxnlme.estimators.em.boundary_moves import informative_effects
from jaxnlme.estimators.em.sufficient_statistics import layout
from tests.estimators import catalogue

LEVEL = jn.NLMEModel(catalogue.level, [jn.Parameter("mu", 5.0, random=True)])
# Newton's last step and the draws leave this much of a standard error at most (the default tolerance).
TOLERANCE = 0.05
# Seeds of `data` with a variance of k that is small and inside.
SMALL = (5, 7)


def decline(phi, x):
    return phi.a * jnp.exp(-phi.k * x.t)


def model(covariance):
    parameters = [jn.Parameter("a", 8.0, "log", random=True), jn.Parameter("k", 0.4, "log", random=True)]
    return jn.NLMEModel(decline, parameters, covariance=covariance, error="constant")


@functools.cache
def data(seed=1, spread=0.0):
    """Thirty declines from starts that differ, at rates that do not but for `spread`."""
    rng = np.random.default_rng(seed)
    group, t = np.repeat(np.arange(30), 6), np.tile(np.linspace(0.2, 4.0, 6), 30)
    b = rng.normal(size=(30, 2)) * [0.3, spread]
    y = 10.0 * np.exp(b[group, 0]) * np.exp(-0.5 * np.exp(b[group, 1]) * t) + 0.5 * rng.normal(size=len(t))
    return jn.GroupedData.from_arrays(y, group, {"t": t})


@functools.cache
def maximum(covariance):
    return jn.fit(model(covariance), data(), jn.AGQ(11))


@functools.cache
def fitted(covariance):
    return jn.fit(model(covariance), data(), jn.SAEM())


def agrees(fit, expected):
    """Estimates and standard errors at a maximum where the same entries are free."""
    assert fit.converged, fit.status
    assert fit.at_zero == expected.at_zero and len(fit.at_zero) == 1
    active = expected.information.active
    np.testing.assert_array_equal(fit.information.active, active)
    ours, theirs = (np.asarray(one.params.pack())[active] for one in (fit, expected))
    se = np.sqrt(np.diag(expected.information.covariance))
    errors = fit.sampling.errors["monte carlo se"].to_numpy()
    # Four errors of the worst of five entries, and what is left of the last Newton step.
    assert (np.abs(ours - theirs) <= np.minimum(TOLERANCE * se, 4.0 * errors + 0.005 * se)).all()
    # Standard errors are listened to until they are known to 5%: three of these.
    np.testing.assert_allclose(np.sqrt(np.diag(fit.information.covariance)), se, rtol=0.15)
    assert abs(fit.log_likelihood - expected.log_likelihood) <= 4.0 * fit.sampling.log_likelihood_se


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_at_the_maximum_of_quadrature(covariance):
    fit, expected = fitted(covariance), maximum(covariance)
    agrees(fit, expected)
    if covariance == "diagonal":
        assert fit.values["sd(k)"] == 0.0 and (fit.random_effects["k"] == 0.0).all()
        assert (fit.sampling.samples[..., 1] == 0.0).all()
    else:
        assert fit.values["corr(a, k)"] == pytest.approx(-1.0, abs=1e-12)
    assert "zero" in str(fit.summary())


def test_another_program_begins_where_a_fit_ended():
    """IMP goes on at the edge, without phases; and finds it by itself."""
    for start in (fitted("full"), None):
        agrees(jn.fit(model("full"), data(), jn.IMP(), start=start), maximum("full"))


def test_replicates_at_one_edge():
    fit = jn.fit(model("diagonal"), data(), jn.SAEM(replicates=2, seed=1))
    agrees(fit, maximum("diagonal"))
    assert fit.sampling.rhat.max() < 1.2


def test_one_way_layout_without_variance_between_batches():
    """Nothing is left to chance there: the maximum is that of one normal sample."""
    table = catalogue.data("Dyestuff2")
    y = table.y[table.observed]
    for seed in range(3):
        fit = jn.fit(LEVEL, table, jn.SAEM(seed=seed, likelihood="gq"))
        assert fit.converged and fit.values["sd(mu)"] == 0.0
        se = y.std() / np.sqrt(len(y))
        assert abs(fit.values["mu"] - y.mean()) < TOLERANCE * se
        # The information is that of the last settling run, which stood a few hundredths of an error off.
        assert fit.estimates.se["mu"] == pytest.approx(se, rel=1e-2)
        assert fit.values["a"] == pytest.approx(y.std(), rel=1e-3)
        # Quadrature over z of what does not depend on it, at estimates as near as stated.
        assert fit.log_likelihood == pytest.approx(jn.fit(LEVEL, table, "focei").log_likelihood, abs=2e-3)


@pytest.mark.parametrize("covariance", ["identity", "compound symmetry"])
def test_all_effects_vanish_together(covariance):
    """Groups whose residuals have the same line taken out of them: less varies between them than by chance."""
    rng = np.random.default_rng(4)
    t = np.tile(np.linspace(-1.0, 1.0, 6), 20).reshape(20, 6)
    noise = rng.normal(size=t.shape)
    design = np.stack([np.ones(6), t[0]], axis=1)
    noise -= noise @ design @ np.linalg.inv(design.T @ design) @ design.T
    table = jn.GroupedData.from_arrays((2.0 + t + noise).ravel(), np.repeat(np.arange(20), 6), {"t": t.ravel()})
    parameters = [jn.Parameter("base", 1.0, random=True), jn.Parameter("slope", 0.5, random=True)]
    line = jn.NLMEModel(lambda phi, x: phi.base + phi.slope * x.t, parameters, covariance=covariance)
    fit = jn.fit(line, table, jn.SAEM(likelihood="none"))
    assert fit.converged and fit.values["sd(base)"] == fit.values["sd(slope)"] == 0.0
    assert fit.values["base"] == pytest.approx(2.0, abs=0.01) and fit.values["slope"] == pytest.approx(1.0, abs=0.01)


def test_an_edge_from_which_the_likelihood_rises_is_left():
    """A fit that starts where another one ended with a variance of zero, on data that have one."""
    other = data(5, 0.4)
    fit = jn.fit(model("diagonal"), other, jn.SAEM(), start=fitted("diagonal"))
    expected = jn.fit(model("diagonal"), other, jn.AGQ(11))
    assert fit.converged and fit.at_zero == ()
    se = expected.estimates.se
    for name in expected.values:
        assert abs(fit.estimates.estimate[name] - expected.estimates.estimate[name]) < TOLERANCE * se[name]


LINE = (jn.Parameter("base", 3.0, random=True), jn.Parameter("slope", 1.0, random=True))


def line(**options):
    return jn.NLMEModel(lambda phi, x: phi.base + phi.slope * x.t, LINE, covariance="full", **options)


def lines(slope, seed):
    """Thirty lines whose slopes follow their bases."""
    rng = np.random.default_rng(seed)
    t, b = np.tile(np.linspace(-1.0, 1.0, 6), (30, 1)), rng.normal(size=(30, 1))
    y = 3.0 + b + (1.0 + slope * b) * t + 0.4 * rng.normal(size=t.shape)
    return jn.GroupedData.from_arrays(y.ravel(), np.repeat(np.arange(30), 6), {"t": t.ravel()})


def test_an_edge_that_is_left_on_the_way_is_come_back_to():
    """From a correlation of -1 to one of +1: far from the maximum at the edge its slope says nothing of the edge."""
    first, other = jn.fit(line(), lines(-0.6, 3), "focei"), lines(0.2, 11)
    fit, expected = jn.fit(line(), other, jn.SAEM(), start=first), jn.fit(line(), other, "focei")
    assert first.at_zero and first.values["corr(base, slope)"] < 0 < fit.values["corr(base, slope)"]
    agrees(fit, expected)


def test_priors_keep_a_fit_off_the_edge():
    """The density of such a standard deviation is zero at zero, where the start has it."""
    first = fitted("diagonal")
    kept = jn.NLMEModel(decline, model("diagonal").parameters, priors={"sd(k)": jn.priors.Gamma(2.0, 5.0)})
    fit = jn.fit(kept, data(), jn.SAEM(likelihood="none", max_iterations=300), start=first)
    assert first.values["sd(k)"] == 0.0 < fit.values["sd(k)"] and fit.at_zero == ()


def test_a_singular_psi_that_is_fixed_is_refused():
    fixed = line(psi=[[1.0, -0.6], [-0.6, 0.36]], fix_psi=True)
    with pytest.raises(jn.OptionError, match="psi is fixed where it is singular"):
        jn.fit(fixed, lines(-0.6, 3), "saem")


def test_the_order_of_the_effects_does_not_matter():
    """Where the first of them is a function of the second, and its own entry of the factor is small."""
    expected = maximum("full")
    reversed_model = jn.NLMEModel(decline, model("full").parameters[::-1], covariance="full", error="constant")
    fit = jn.fit(reversed_model, data(), jn.SAEM(seed=1))
    assert fit.converged and fit.at_zero
    near(fit, expected)
    assert fit.values["corr(k, a)"] == pytest.approx(-1.0, abs=1e-12)


def near(fit, expected):
    """Estimates within the tolerance of those of another program, by name."""
    se = expected.estimates.se
    for name in expected.values:
        if name in fit.values and np.isfinite(se[name]):
            assert abs(fit.estimates.estimate[name] - expected.estimates.estimate[name]) < TOLERANCE * se[name], name


@pytest.mark.parametrize("seed", SMALL)
def test_a_small_variance_is_no_zero(seed):
    """Near the edge, but inside, where next to nothing is observed of an effect."""
    table = data(seed, 0.06)
    fit, expected = (jn.fit(model("diagonal"), table, method) for method in (jn.SAEM(), jn.AGQ(11)))
    assert fit.converged and fit.at_zero == expected.at_zero == ()
    near(fit, expected)


def test_a_block_loses_the_direction_with_the_least_variance():
    """The middle effect vanishes but for what it has in common with the last: psi keeps that."""
    binding = jn.bind(three(), data())
    density, where = binding.density, layout(binding, "auto")
    lower = np.array([[0.3, 0.0, 0.0], [0.05, 0.01, 0.0], [0.1, 0.2, 0.003]])
    packed = np.concatenate([np.zeros(3), density.covariance.from_matrix(lower @ lower.T), np.zeros(1)])
    found, held = project_to_face(where, density, packed, {4})
    psi = np.asarray(density.covariance.psi(jnp.asarray(found[3:9])))
    assert held == {5} and found[5] == -np.inf
    np.testing.assert_allclose(psi, lower @ lower.T, atol=2e-4)  # what the direction had: some 0.01 ** 2
    assert np.linalg.eigvalsh(psi)[0] == pytest.approx(0.0, abs=1e-12)


def three():
    parameters = [jn.Parameter(name, 1.0, "log", random=True) for name in ("a", "k", "c")]
    return jn.NLMEModel(lambda phi, x: phi.a * jnp.exp(-phi.k * x.t) + phi.c, parameters, covariance="full")


def test_scores_are_taken_at_effects_that_are_observed():
    lower = np.array([[0.3, 0.0, 0.0], [0.05, 0.01, 0.0], [0.1, 0.2, 0.0]])
    assert informative_effects(lower, np.array([0.9, 0.1, 0.8])) == ((0, 2), (0, 1))  # the second is hardly observed
    lower[1, 1] = 0.002
    assert informative_effects(lower, np.array([0.5, 0.9, 0.1])) == ((1,), (0,))  # the first is nearly a function of it
    assert informative_effects(np.diag([0.3, 0.0]), np.array([0.9, 0.0])) == ((0,), (0,))


def test_the_slope_along_psi(monkeypatch):
    """At a variance of zero between batches it is known: (n mean)^2 / sigma^4 - n / sigma^2, summed and halved."""
    table, seen = catalogue.data("Dyestuff2"), []

    def heard(*given):
        seen.append(edge.slopes(*given))
        return seen[-1]

    monkeypatch.setattr(vanishing, "slopes", heard)
    fit = jn.fit(LEVEL, table, jn.SAEM(likelihood="none", seed=2))
    y = np.where(table.observed, table.y, np.nan)
    mu, sigma = fit.values["mu"], fit.values["a"]
    sums, n = np.nansum(y - mu, axis=1), table.observed.sum(axis=1)
    expected = 0.5 * np.sum(sums**2 / sigma**4 - n / sigma**2)
    assert expected < 0
    # The run stood a few hundredths of a standard error from its estimates.
    assert seen[-1][0].mean == pytest.approx(expected, rel=0.02) and seen[-1][0].error < 1e-9
    h = 1e-3  # the same by differences of the exact likelihood
    at = {"mu": mu, "a": sigma}
    low, high = (jn.fit(LEVEL, table, "focei", start=at | {"sd(mu)": sd}, max_iterations=0) for sd in (0.0, h**0.5))
    assert (high.log_likelihood - low.log_likelihood) / h == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(("mean", "rises", "told"), [(-3.0, False, True), (-1.0, False, False), (5.0, True, True)])
def test_what_a_slope_tells(mean, rises, told):
    slope = Slope(mean, 1.0)
    assert slope.increases == rises and slope.is_clear == told


def test_going_on_from_a_file(tmp_path):
    """A run that is killed at the edge ends with the numbers of one that is not."""
    path, method = tmp_path / "run.npz", jn.SAEM(likelihood="none", seed=3)

    def die(entry):
        if entry.iteration == 380:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        jn.fit(model("diagonal"), data(), method, callbacks=[die], checkpoint=path)
    fit = jn.fit(model("diagonal"), data(), method, checkpoint=path)
    expected = jn.fit(model("diagonal"), data(), method)
    assert fit.at_zero and fit.converged
    np.testing.assert_allclose(fit.params.pack(), expected.params.pack(), rtol=1e-9)
    np.testing.assert_allclose(fit.information.matrix, expected.information.matrix, rtol=1e-7, atol=1e-7)


def test_side_by_side():
    """Of two tables fitted together one ends at the edge."""
    one, other = data(), data(5, 0.4)
    method = jn.SAEM(likelihood="none", seed=1)
    fits = jn.fit_many(model("diagonal"), one, np.stack([one.y, other.y]), method).fits
    for k, (fit, table) in enumerate(zip(fits, (one, other), strict=True)):
        alone = jn.fit(model("diagonal"), table, method.with_seed(1 + k))
        assert fit.converged and alone.converged and bool(fit.at_zero) == (table is one)
        np.testing.assert_allclose(fit.params.pack(), alone.params.pack(), rtol=1e-9)
