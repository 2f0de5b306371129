"""Variances of zero and correlations of one as estimates of SAEM and IMP: the same maximum as by quadrature."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.estimators.em import boundary
from jaxnlme.estimators.em.boundary import Slope, project_to_face
from jaxnlme.estimators.em.parameter_layout import parameter_layout
from jaxnlme.estimators.em.rounds import boundary_evidence
from jaxnlme.estimators.em.rounds.boundary_moves import informative_effects
from tests.estimators import catalogue

LEVEL = jn.NLMEModel(catalogue.level, [jn.Parameter("mu", 5.0, random=True)])
# Limit of the error of the last Newton step and of the draws, in standard errors (the default tolerance).
TOLERANCE = 0.05
# Seeds of `data` with a small positive variance of k at the maximum.
SEEDS_OF_SMALL_VARIANCES = (5, 7)


def decline(phi, x):
    return phi.a * jnp.exp(-phi.k * x.t)


def model(covariance):
    parameters = [jn.Parameter("a", 8.0, "log", random=True), jn.Parameter("k", 0.4, "log", random=True)]
    return jn.NLMEModel(decline, parameters, covariance=covariance, error="constant")


@functools.cache
def data(seed=1, spread=0.0):
    """Thirty exponential declines; the SD of the log rate is `spread`, that of the log initial value 0.3."""
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


def assert_agrees(fit, expected):
    """Estimates and standard errors agree, with the same entries at zero."""
    assert fit.converged, fit.status
    assert fit.at_zero == expected.at_zero and len(fit.at_zero) == 1
    active = expected.information.active
    np.testing.assert_array_equal(fit.information.active, active)
    estimates, expected_estimates = (np.asarray(result.params.pack())[active] for result in (fit, expected))
    se = np.sqrt(np.diag(expected.information.covariance))
    errors = fit.sampling.errors["monte carlo se"].to_numpy()
    # Four Monte Carlo errors for the worst of five entries, and the remainder after the last Newton step.
    assert (np.abs(estimates - expected_estimates) <= np.minimum(TOLERANCE * se, 4.0 * errors + 0.005 * se)).all()
    # The Monte Carlo error of standard errors is 5% at most: three of these.
    np.testing.assert_allclose(np.sqrt(np.diag(fit.information.covariance)), se, rtol=0.15)
    assert abs(fit.log_likelihood - expected.log_likelihood) <= 4.0 * fit.sampling.log_likelihood_se


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_same_maximum_as_quadrature(covariance):
    fit, expected = fitted(covariance), maximum(covariance)
    assert_agrees(fit, expected)
    if covariance == "diagonal":
        assert fit.values["sd(k)"] == 0.0 and (fit.random_effects["k"] == 0.0).all()
        assert (fit.sampling.samples[..., 1] == 0.0).all()
    else:
        assert fit.values["corr(a, k)"] == pytest.approx(-1.0, abs=1e-12)
    assert "zero" in str(fit.summary())


def test_imp_from_a_fit_on_the_boundary_and_from_the_default_start():
    """IMP continues on the boundary, without phases; and reaches it from the interior."""
    for start in (fitted("full"), None):
        assert_agrees(jn.fit(model("full"), data(), jn.IMP(), start=start), maximum("full"))


def test_replicates_on_the_same_face_of_the_boundary():
    fit = jn.fit(model("diagonal"), data(), jn.SAEM(replicates=2, seed=1))
    assert_agrees(fit, maximum("diagonal"))
    assert fit.sampling.rhat.max() < 1.2


def test_one_way_layout_without_variance_between_batches():
    """The maximum is known exactly: that of one normal sample."""
    table = catalogue.data("Dyestuff2")
    y = table.y[table.observed]
    for seed in range(3):
        fit = jn.fit(LEVEL, table, jn.SAEM(seed=seed, likelihood="gq"))
        assert fit.converged and fit.values["sd(mu)"] == 0.0
        se = y.std() / np.sqrt(len(y))
        assert abs(fit.values["mu"] - y.mean()) < TOLERANCE * se
        # The information is that of the last round, a few hundredths of a standard error from the estimates.
        assert fit.estimates.se["mu"] == pytest.approx(se, rel=1e-2)
        assert fit.values["a"] == pytest.approx(y.std(), rel=1e-3)
        # Quadrature over z of a density that does not depend on it, at estimates within their tolerance.
        assert fit.log_likelihood == pytest.approx(jn.fit(LEVEL, table, "focei").log_likelihood, abs=2e-3)


@pytest.mark.parametrize("covariance", ["identity", "compound symmetry"])
def test_all_variances_are_zero_together(covariance):
    """Groups whose residuals are orthogonal to every line: less variation between groups than by chance."""
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


def test_boundary_is_left_where_the_likelihood_increases_inwards():
    """A fit that starts from one with a variance of zero, on data with a positive one."""
    varying = data(5, 0.4)
    fit = jn.fit(model("diagonal"), varying, jn.SAEM(), start=fitted("diagonal"))
    expected = jn.fit(model("diagonal"), varying, jn.AGQ(11))
    assert fit.converged and fit.at_zero == ()
    se = expected.estimates.se
    for name in expected.values:
        assert abs(fit.estimates.estimate[name] - expected.estimates.estimate[name]) < TOLERANCE * se[name]


LINE = (jn.Parameter("base", 3.0, random=True), jn.Parameter("slope", 1.0, random=True))


def line(**options):
    return jn.NLMEModel(lambda phi, x: phi.base + phi.slope * x.t, LINE, covariance="full", **options)


def lines(slope, seed):
    """Thirty lines whose slopes are linear functions of their bases."""
    rng = np.random.default_rng(seed)
    t, b = np.tile(np.linspace(-1.0, 1.0, 6), (30, 1)), rng.normal(size=(30, 1))
    y = 3.0 + b + (1.0 + slope * b) * t + 0.4 * rng.normal(size=t.shape)
    return jn.GroupedData.from_arrays(y.ravel(), np.repeat(np.arange(30), 6), {"t": t.ravel()})


def test_boundary_is_reached_again_after_it_was_left():
    """From a correlation of -1 to one of +1: far from the maximum on a face, the slope there is no evidence on it."""
    first, table = jn.fit(line(), lines(-0.6, 3), "focei"), lines(0.2, 11)
    fit, expected = jn.fit(line(), table, jn.SAEM(), start=first), jn.fit(line(), table, "focei")
    assert first.at_zero and first.values["corr(base, slope)"] < 0 < fit.values["corr(base, slope)"]
    assert_agrees(fit, expected)


def test_priors_keep_a_fit_off_the_boundary():
    """The prior density of the standard deviation is zero at zero, where the start has it."""
    first = fitted("diagonal")
    with_prior = jn.NLMEModel(decline, model("diagonal").parameters, priors={"sd(k)": jn.priors.Gamma(2.0, 5.0)})
    fit = jn.fit(with_prior, data(), jn.SAEM(likelihood="none", max_iterations=300), start=first)
    assert first.values["sd(k)"] == 0.0 < fit.values["sd(k)"] and fit.at_zero == ()


def test_a_singular_psi_that_is_fixed_is_refused():
    fixed = line(psi=[[1.0, -0.6], [-0.6, 0.36]], fix_psi=True)
    with pytest.raises(jn.OptionError, match="psi is fixed where it is singular"):
        jn.fit(fixed, lines(-0.6, 3), "saem")


def test_the_order_of_the_effects_does_not_matter():
    """The first effect is a function of the second here, and its diagonal entry of the factor is small."""
    expected = maximum("full")
    reversed_model = jn.NLMEModel(decline, model("full").parameters[::-1], covariance="full", error="constant")
    fit = jn.fit(reversed_model, data(), jn.SAEM(seed=1))
    assert fit.converged and fit.at_zero
    assert_within_tolerance(fit, expected)
    assert fit.values["corr(k, a)"] == pytest.approx(-1.0, abs=1e-12)


def assert_within_tolerance(fit, expected):
    """Estimates agree within the tolerance, by name."""
    se = expected.estimates.se
    for name in expected.values:
        if name in fit.values and np.isfinite(se[name]):
            assert abs(fit.estimates.estimate[name] - expected.estimates.estimate[name]) < TOLERANCE * se[name], name


@pytest.mark.parametrize("seed", SEEDS_OF_SMALL_VARIANCES)
def test_a_small_variance_is_not_set_to_zero(seed):
    """Near the boundary, but in the interior, with almost nothing observed of an effect."""
    table = data(seed, 0.06)
    fit, expected = (jn.fit(model("diagonal"), table, method) for method in (jn.SAEM(), jn.AGQ(11)))
    assert fit.converged and fit.at_zero == expected.at_zero == ()
    assert_within_tolerance(fit, expected)


def test_a_block_loses_the_direction_with_the_least_variance():
    """The middle effect varies little but for its common part with the last: psi keeps that part."""
    binding = jn.bind(three(), data())
    density, layout = binding.density, parameter_layout(binding, "auto")
    lower = np.array([[0.3, 0.0, 0.0], [0.05, 0.01, 0.0], [0.1, 0.2, 0.003]])
    packed = np.concatenate([np.zeros(3), density.covariance.from_matrix(lower @ lower.T), np.zeros(1)])
    projected, held = project_to_face(layout, density, packed, {4})
    psi = np.asarray(density.covariance.psi(jnp.asarray(projected[3:9])))
    assert held == {5} and projected[5] == -np.inf
    np.testing.assert_allclose(psi, lower @ lower.T, atol=2e-4)  # the variance removed is about 0.01 ** 2
    assert np.linalg.eigvalsh(psi)[0] == pytest.approx(0.0, abs=1e-12)


def three():
    parameters = [jn.Parameter(name, 1.0, "log", random=True) for name in ("a", "k", "c")]
    return jn.NLMEModel(lambda phi, x: phi.a * jnp.exp(-phi.k * x.t) + phi.c, parameters, covariance="full")


def test_scores_are_taken_at_informative_effects():
    lower = np.array([[0.3, 0.0, 0.0], [0.05, 0.01, 0.0], [0.1, 0.2, 0.0]])
    assert informative_effects(lower, np.array([0.9, 0.1, 0.8])) == ((0, 2), (0, 1))  # little is observed of the second
    lower[1, 1] = 0.002
    assert informative_effects(lower, np.array([0.5, 0.9, 0.1])) == ((1,), (0,))  # the first is nearly a function of it
    assert informative_effects(np.diag([0.3, 0.0]), np.array([0.9, 0.0])) == ((0,), (0,))


def test_the_slope_along_psi(monkeypatch):
    """At a variance of zero between batches it is known: (n mean)^2 / sigma^4 - n / sigma^2, summed and halved."""
    table, recorded = catalogue.data("Dyestuff2"), []

    def recording(*arguments):
        recorded.append(boundary.slopes(*arguments))
        return recorded[-1]

    monkeypatch.setattr(boundary_evidence, "slopes", recording)
    fit = jn.fit(LEVEL, table, jn.SAEM(likelihood="none", seed=2))
    y = np.where(table.observed, table.y, np.nan)
    mu, sigma = fit.values["mu"], fit.values["a"]
    sums, n = np.nansum(y - mu, axis=1), table.observed.sum(axis=1)
    expected = 0.5 * np.sum(sums**2 / sigma**4 - n / sigma**2)
    assert expected < 0
    # The last round was at a few hundredths of a standard error from the estimates.
    assert recorded[-1][0].mean == pytest.approx(expected, rel=0.02) and recorded[-1][0].error < 1e-9
    h = 1e-3  # the same by differences of the exact likelihood
    at = {"mu": mu, "a": sigma}
    low, high = (jn.fit(LEVEL, table, "focei", start=at | {"sd(mu)": sd}, max_iterations=0) for sd in (0.0, h**0.5))
    assert (high.log_likelihood - low.log_likelihood) / h == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(("mean", "increases", "clear"), [(-3.0, False, True), (-1.0, False, False), (5.0, True, True)])
def test_significance_of_a_slope(mean, increases, clear):
    slope = Slope(mean, 1.0)
    assert slope.increases == increases and slope.is_clear == clear


def test_resuming_from_a_checkpoint_on_the_boundary(tmp_path):
    """A run that is killed on the boundary and resumed ends with the numbers of an uninterrupted one."""
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


def test_fit_many_with_one_of_two_on_the_boundary():
    """Of two tables fitted together one ends on the boundary."""
    without_variance, with_variance = data(), data(5, 0.4)
    method = jn.SAEM(likelihood="none", seed=1)
    tables = (without_variance, with_variance)
    fits = jn.fit_many(model("diagonal"), without_variance, np.stack([table.y for table in tables]), method).fits
    for k, (fit, table) in enumerate(zip(fits, tables, strict=True)):
        single = jn.fit(model("diagonal"), table, method.with_seed(1 + k))
        assert fit.converged and single.converged and bool(fit.at_zero) == (table is without_variance)
        np.testing.assert_allclose(fit.params.pack(), single.params.pack(), rtol=1e-9)
