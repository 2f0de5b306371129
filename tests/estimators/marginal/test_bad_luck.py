"""Fits that fail, or nearly: bad groups, overflow, tiny data, interruption, limits."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from tests.estimators import catalogue

PARAMETERS = [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 0.5)]
LINE = jn.NLMEModel(catalogue.line, PARAMETERS)


def frame(groups=8, rows=5):
    rng = np.random.default_rng(3)
    group, t = np.repeat(np.arange(groups), rows), np.tile(np.arange(float(rows)), groups)
    y = 2.0 + rng.normal(size=groups)[group] + 0.7 * t + 0.3 * rng.normal(size=group.size)
    return pd.DataFrame({"g": [f"g{k}" for k in group], "t": t, "y": y, "bad": 1.0 * (group == 2)})


def table(rows=None, **changes):
    made = frame().assign(**changes)
    return jn.GroupedData.from_frame(made if rows is None else made[rows], "g", "y", ["t", "bad"])


@pytest.fixture(scope="module")
def good():
    fit = jn.fit(LINE, table(), "focei")
    assert fit.converged
    return fit


def breaks_down(phi, x):
    return phi.mu + phi.slope * x.t + jnp.log(1.0 - x.bad)


def test_one_bad_group_stops_the_fit_by_name():
    fit = jn.fit(jn.NLMEModel(breaks_down, PARAMETERS), table(), "focei")
    assert not fit.converged
    assert "did not begin" in fit.status.sentences[0]
    assert "group g2." in fit.status.sentences[1] and "on_bad_group='leave out'" in fit.status.sentences[1]
    assert list(fit.status.groups.index[fit.status.groups.status != "ok"]) == ["g2"]
    # Nothing that looks like a result.
    assert np.isnan(fit.log_likelihood) and fit.information is None
    assert fit.beta.isna().all() and np.isnan(fit.psi).all(axis=None)
    assert fit.estimates["estimate"].isna().all()
    with pytest.raises(jn.FitError, match="g2"):
        fit.throw()


def test_or_it_is_left_out_on_record():
    fit = jn.fit(jn.NLMEModel(breaks_down, PARAMETERS), table(), "focei", on_bad_group="leave out")
    without = jn.fit(LINE, table(frame()["bad"] == 0), "focei")
    assert fit.converged, fit.status
    assert fit.log_likelihood == pytest.approx(without.log_likelihood, abs=1e-7)
    for name, value in without.values.items():
        assert fit.values[name] == pytest.approx(value, rel=1e-5)
    assert [label for label, _ in fit.status.left_out] == ["g2"]
    assert any("Left out at your request: group g2" in s for s in fit.status.sentences)
    assert fit.status.groups.status["g2"] == "left_out"
    assert "g2" not in fit.random_effects.index


def explodes(phi, x):
    return phi.mu + jnp.exp(jnp.exp(phi.slope) * x.t)


def test_a_start_where_every_group_overflows():
    model = jn.NLMEModel(explodes, [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 8.0)])
    fit = jn.fit(model, table(), "focei")
    assert not fit.converged and np.isnan(fit.log_likelihood)
    assert "No group is finite" in fit.status.sentences[1] and "other starting values" in fit.status.sentences[1]
    assert (
        "an exponential" in fit.status.sentences[1] and "jnp.exp(jnp.exp(phi.slope) * x.t)" in fit.status.sentences[1]
    )
    fit = jn.fit(model, table(), "focei", on_bad_group="leave out")
    assert not fit.converged and "No group is finite" in fit.status.sentences[1]
    assert jn.fit(model, table(), "focei", start={"slope": -1.0}).history


def test_a_group_with_one_observation(good):
    """It adds the information of one response, and nothing fails."""
    keep = ~((frame()["g"] == "g7") & (frame()["t"] > 0))
    fit = jn.fit(LINE, table(keep), "focei")
    assert fit.converged, fit.status
    assert fit.values["slope"] == pytest.approx(good.values["slope"], abs=0.1)
    assert fit.random_effects.loc["g7", "mu"] != 0.0
    assert fit.random_effects_se.loc["g7", "mu"] > fit.random_effects_se.loc["g0", "mu"]


def test_a_single_group():
    """Its level is the fixed effect: no variance between groups can be estimated but zero."""
    fit = jn.fit(LINE, table(frame()["g"] == "g0"), "focei")
    assert fit.converged, fit.status
    assert fit.values["sd(mu)"] == 0.0 and fit.at_zero
    part = frame()[frame()["g"] == "g0"]
    slope, level = np.polyfit(part.t, part.y, 1)
    assert fit.values["slope"] == pytest.approx(slope, rel=1e-5)
    assert fit.values["mu"] == pytest.approx(level, rel=1e-5)


def test_no_random_effects_is_nonlinear_least_squares():
    from scipy.optimize import least_squares

    data = catalogue.theophylline_mg()
    parameters = [jn.Parameter("ka", 1.5, "log"), jn.Parameter("cl", 2.8, "log"), jn.Parameter("v", 32.0, "log")]
    fit = jn.fit(jn.NLMEModel(catalogue.one_compartment, parameters), data, "focei")
    assert fit.converged, fit.status

    def residuals(log_phi):
        ka, cl, v = np.exp(log_phi)
        ke = cl / v
        time, dose = data.x["Time"], data.x["Dose"]
        f = dose * ka / (v * (ka - ke)) * (np.exp(-ke * time) - np.exp(-ka * time))
        return (data.y - f)[data.observed]

    best = least_squares(residuals, np.log([1.5, 2.8, 32.0]), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    np.testing.assert_allclose(fit.beta, best.x, rtol=1e-6)
    assert fit.values["a"] == pytest.approx(np.sqrt(2 * best.cost / data.n_obs), rel=1e-6)
    # The information of a normal regression: J'J / sigma^2 for beta, up to the curvature of f.
    se = fit.values["a"] * np.sqrt(np.diag(np.linalg.inv(best.jac.T @ best.jac)))
    np.testing.assert_allclose(fit.estimates["se"].iloc[:3], se, rtol=0.1)
    assert fit.random_effects.shape == (12, 0) and fit.psi.shape == (0, 0)


def test_interruption_returns_the_best_so_far(good):
    def interrupt(iteration):
        if iteration.iteration == 3:
            raise KeyboardInterrupt

    fit = jn.fit(LINE, table(), "focei", callbacks=[interrupt])
    assert fit.interrupted and not fit.converged
    assert "NOT CONVERGED" in fit.status.sentences[0] and "Interrupted by the user" in fit.status.sentences[1]
    assert len(fit.history) == 4
    assert fit.history[0]["log_likelihood"] < fit.log_likelihood < good.log_likelihood
    assert fit.log_likelihood == pytest.approx(fit.history[-1]["log_likelihood"], abs=1e-9)
    assert all(np.isfinite(value) for value in fit.values.values())
    assert np.isfinite(fit.random_effects).all(axis=None)
    # A fit can start from it.
    again = jn.fit(LINE, table(), "focei", start=fit)
    assert again.converged and again.log_likelihood == pytest.approx(good.log_likelihood, abs=1e-6)


def test_a_callback_that_stops():
    calls = []

    def stop(iteration):
        calls.append((iteration.iteration, iteration.log_likelihood, iteration.values["mu"]))
        return iteration.iteration == 2

    fit = jn.fit(LINE, table(), "focei", callbacks=[stop])
    assert not fit.converged and not fit.interrupted
    assert "Stopped by a callback" in fit.status.sentences[1]
    assert [k for k, _, _ in calls] == [0, 1, 2]
    assert calls[-1][2] == pytest.approx(fit.values["mu"], rel=1e-12)


def test_errors_of_a_callback_surface():
    def raises(iteration):
        raise ZeroDivisionError("from the callback")

    with pytest.raises(ZeroDivisionError, match="from the callback"):
        jn.fit(LINE, table(), "focei", callbacks=[raises])


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_too_few_iterations(limit):
    """Far from the maximum of a full psi: the limit holds over all rounds, and the fit reports the remaining gain."""
    fit = jn.fit(catalogue.oral(covariance="full"), catalogue.theophylline_mg(), "focei", max_iterations=limit)
    assert not fit.converged
    assert any(f"The {limit} iterations allowed were used up" in s for s in fit.status.sentences)
    assert sum(entry["iteration"] > 0 for entry in fit.history) == limit
    assert "NOT CONVERGED" in repr(fit)


def test_throw():
    with pytest.raises(jn.FitError, match="iterations allowed") as caught:
        jn.fit(LINE, table(), "focei", max_iterations=1, throw=True)
    assert caught.value.fit.log_likelihood < 0
    assert jn.fit(LINE, table(), "focei", throw=True).converged
