"""Forecasts for one patient against closed forms, a grid, and the fit's own conditional modes."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.errors import JaxnlmeError
from jaxnlme.forecasting.next_dose import _solve

matplotlib.use("Agg")
regimen = jn.pkpd.regimen
GIVEN = regimen(500, 12, doses=2, loading=1000, duration=1.0)
LEVELS = {"TIME": [1.5, 11.0], "DV": [14.0, 7.0]}
WEIGHT = {"WT": 82.0}


def concentration(cl, v, times, doses):
    """One compartment, infusions (time, amount, duration): by superposition, in numpy."""
    k, out = cl / v, 0.0
    for start, amount, duration in doses:
        s = np.maximum(np.asarray(times) - start, 0.0)
        out = out + amount / duration / cl * (np.exp(-k * np.maximum(s - duration, 0.0)) - np.exp(-k * s))
    return out


PAST = [(0.0, 1000.0, 1.0), (12.0, 500.0, 1.0)]


@pytest.fixture(scope="module")
def forecast(fit):
    return jn.pkpd.forecast(fit, LEVELS, doses=GIVEN, covariates=WEIGHT, times=np.linspace(0, 36, 13), draws=4000)


def test_mode_is_that_of_the_fit(fit):
    """A subject of the fit, taken for a new patient, has the fit's conditional mode."""
    one = jn.pkpd.forecast(fit, fit.data.select([4]), times=[60.0], method="laplace", draws=200)
    np.testing.assert_allclose(one.posterior.mode, fit.modes[4], atol=1e-6)
    np.testing.assert_allclose(one.parameters["mode"], fit.parameters().iloc[4], rtol=1e-6)
    # FOCEI's curvature leaves out second derivatives of the curve.
    np.testing.assert_allclose(one.random_effects["se"], fit.random_effects_se.iloc[4], rtol=0.15)


def test_posterior_by_a_grid(fit, forecast):
    """Means and standard deviations of both random effects by brute force, within Monte Carlo error."""
    v = fit.values
    b = v[fit.binding.density.error_names[0]]
    steps = np.linspace(-1.4, 1.4, 281)
    b_cl, b_v = np.meshgrid(steps, steps, indexing="ij")
    cl = v["cl"] * (82 / 70) ** v["cl ~ log(WT / 70)"] * np.exp(b_cl)
    volume = v["v"] * np.exp(b_v)
    effects = np.stack([b_cl, b_v], axis=-1)
    log_p = -0.5 * np.einsum("...i,ij,...j->...", effects, np.linalg.inv(fit.psi.to_numpy()), effects)
    for time, level in zip(*LEVELS.values(), strict=True):
        f = concentration(cl, volume, time, PAST)
        log_p += -0.5 * ((level - f) / (b * f)) ** 2 - np.log(b * f)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = np.array([(p * b_cl).sum(), (p * b_v).sum()])
    sd = np.sqrt([(p * b_cl**2).sum() - mean[0] ** 2, (p * b_v**2).sum() - mean[1] ** 2])
    found = forecast.random_effects
    error = sd / np.sqrt(len(forecast.posterior.effects))
    assert np.abs((found["mean"] - mean) / error).max() < 4
    assert np.abs(found["sd"] / sd - 1).max() < 4 / np.sqrt(2 * 4000)
    peak = np.unravel_index(log_p.argmax(), log_p.shape)
    np.testing.assert_allclose(found["mode"], [steps[peak[0]], steps[peak[1]]], atol=0.006)
    assert forecast.posterior.ess > 0.5 * forecast.posterior.proposals
    # Laplace's approximation differs from it here, and its own mean is the mode.
    laplace = jn.pkpd.forecast(fit, LEVELS, doses=GIVEN, covariates=WEIGHT, times=[36.0], method="laplace")
    np.testing.assert_allclose(laplace.random_effects["mean"], laplace.random_effects["mode"], atol=0.015)
    assert abs(laplace.random_effects["mode"]["cl"] - mean[0]) > 0.02
    i, j = peak
    curvature = -np.array([
        [log_p[i + 1, j] + log_p[i - 1, j] - 2 * log_p[i, j],
         (log_p[i + 1, j + 1] + log_p[i - 1, j - 1] - log_p[i + 1, j - 1] - log_p[i - 1, j + 1]) / 4],
        [0.0, log_p[i, j + 1] + log_p[i, j - 1] - 2 * log_p[i, j]],
    ]) / (steps[1] - steps[0]) ** 2  # fmt: skip
    curvature[1, 0] = curvature[0, 1]
    np.testing.assert_allclose(found["se"], np.sqrt(np.diag(np.linalg.inv(curvature))), rtol=0.02)


def test_predictions(fit, forecast):
    table = forecast.table
    at = forecast.parameters["mode"]
    np.testing.assert_allclose(table["mode"], concentration(at["cl"], at["v"], forecast.times, PAST), rtol=1e-10)
    typical = forecast.parameters["population"]
    np.testing.assert_allclose(typical["cl"], fit.values["cl"] * (82 / 70) ** fit.values["cl ~ log(WT / 70)"])
    later = table.iloc[1:]
    assert (later["predicted lower"] < later["lower"]).all() and (later["upper"] < later["predicted upper"]).all()
    assert (later["lower"] < later["mode"]).all() and (later["mode"] < later["upper"]).all()
    cl, v = forecast.individual["cl"], forecast.individual["v"]
    draws = np.array([concentration(cl, v, t, PAST) for t in forecast.times[1:]])
    np.testing.assert_allclose(later["upper"], np.percentile(draws, 97.5, axis=1), rtol=1e-9)
    assert "held at their estimates" in str(forecast)
    axes = forecast.plot()
    assert len(axes.lines) == 3
    matplotlib.pyplot.close("all")


def test_without_levels_the_posterior_is_the_population(fit):
    none = jn.pkpd.forecast(fit, {"TIME": [5.0], "DV": [np.nan]}, doses=GIVEN, covariates=WEIGHT, times=[12.0])
    np.testing.assert_allclose(none.posterior.mode, 0.0, atol=1e-8)
    np.testing.assert_allclose(none.random_effects["sd"], np.sqrt(np.diag(fit.psi)), rtol=0.08)


def test_uncertainty_of_the_parameters(fit, forecast):
    """The posterior with uncertain parameters is wider, also for a patient without levels."""
    none = {"TIME": [5.0], "DV": [np.nan]}
    one = jn.pkpd.forecast(fit, none, doses=GIVEN, covariates=WEIGHT, times=[12.0], draws=4000, uncertainty=400)
    sd = np.log(one.individual["cl"]).std()
    se = fit.estimates.loc["cl", "se"]
    slope = fit.estimates.loc["cl ~ log(WT / 70)", "se"] * np.log(82 / 70)
    expected = np.sqrt(fit.values["sd(cl)"] ** 2 + fit.estimates.loc["sd(cl)", "se"] ** 2 + se**2 + slope**2)
    assert abs(sd / expected - 1) < 0.06
    assert "uncertainty of the population parameters is in" in str(one)


@pytest.mark.parametrize("doses", [1, 2])
def test_next_dose_closed_forms(forecast, doses):
    """Trough and area by superposition at the mode; the interval is that of the draws at the amount found."""
    at = forecast.parameters["mode"]
    begin = 24.0 + 12 * (doses - 1)

    def trough(amount, cl, v):
        return concentration(cl, v, begin + 12, PAST + [(24.0 + 12 * k, amount, 1.0) for k in range(doses)])

    found = forecast.next_dose(("trough", 8.0), 12, duration=1.0, doses=doses)
    assert found.proportional and found.regimen.start == 24
    assert trough(found.amount, at["cl"], at["v"]) == pytest.approx(8.0, rel=1e-9)
    np.testing.assert_allclose(
        found.exposure, trough(found.amount, forecast.individual["cl"], forecast.individual["v"]), rtol=1e-9
    )
    assert found.lower < found.median < found.upper
    by_median = forecast.next_dose(("trough", 8.0), 12, duration=1.0, doses=doses, by="median")
    assert by_median.median == pytest.approx(8.0, rel=1e-5)


def test_next_dose_area_peak_and_rounding(forecast):
    at = forecast.parameters["mode"]
    steady = forecast.next_dose(("auc24", 250.0), 12, steady_state=True)
    assert steady.amount == pytest.approx(125 * at["cl"], rel=1e-7)
    rounded = forecast.next_dose(("auc24", 250.0), 12, steady_state=True, round_to=25)
    assert rounded.amount == 25 * round(5 * at["cl"]) and rounded.exact == pytest.approx(steady.amount)
    assert rounded.at_mode == pytest.approx(2 * rounded.amount / at["cl"], rel=1e-7)
    peak = forecast.next_dose(("peak", 20.0), 12, duration=1.0, at=26.0)
    assert concentration(at["cl"], at["v"], 27.0, [*PAST, (26.0, peak.amount, 1.0)]) == pytest.approx(20.0, rel=1e-5)
    coarse = forecast.next_dose(("auc24", 250.0), 12, steady_state=True, round_to=10 * steady.amount)
    assert coarse.amount == 0 and coarse.regimen is None and coarse.exact == pytest.approx(steady.amount)
    assert f"the nearest multiple of {10 * steady.amount:g} is 0" in str(coarse)
    assert "would reach the target 250" in str(coarse)
    nothing = forecast.next_dose(("trough", 0.1), 12)
    assert nothing.amount == 0 and nothing.regimen is None and "No dose" in str(nothing)


def test_exposure_of_the_patient(fit):
    coming = regimen(500, 12, start=24, doses=3, duration=1.0)
    one = jn.pkpd.forecast(fit, LEVELS, doses=GIVEN, covariates=WEIGHT, regimen=coming, times=[24.0, 60.0])
    at = one.parameters["mode"]
    doses = PAST + [(24.0 + 12 * k, 500.0, 1.0) for k in range(3)]
    e = one.exposure(threshold=5.0)
    k = at["cl"] / at["v"]
    change = concentration(at["cl"], at["v"], np.array([24.0, 60.0]), doses)
    area = (1500 - at["v"] * (change[1] - change[0])) / at["cl"]
    assert e["mode"]["auc"] == pytest.approx(area, rel=1e-9)
    assert e["mode"]["ctrough"] == pytest.approx(change[1], rel=1e-10) and k > 0
    assert (e["lower"][["auc", "cmax"]] < e["upper"][["auc", "cmax"]]).all()


def test_a_curve_that_saturates_is_searched():
    """A measure that is no linear function of the dose: found by bisection, refused beyond its limit."""

    def saturating(factor):
        return 2.0 + 10.0 * factor / (3.0 + factor)

    factor, linear, sign = _solve(saturating, 8.0)
    assert not linear and sign == 1 and saturating(factor) == pytest.approx(8.0, rel=1e-5)
    assert _solve(saturating, 1.0) == (0.0, False, 1)
    with pytest.raises(JaxnlmeError, match="no dose reaches the target 13"):
        _solve(saturating, 13.0)


def test_a_measure_that_falls_with_the_dose_reaches_its_target_from_above():
    """An inhibited response: no dose where the response is low enough without one."""

    def inhibited(factor):
        return 100.0 * (1.0 - factor / (3.0 + factor))

    factor, linear, sign = _solve(inhibited, 30.0)
    assert not linear and sign == -1 and factor == pytest.approx(7.0, rel=1e-5)
    assert _solve(inhibited, 120.0) == (0.0, False, -1)
    assert _solve(lambda factor: 10.0 - 2.0 * factor, 4.0) == (3.0, True, -1)
    with pytest.raises(JaxnlmeError, match="no dose reaches the target"):
        _solve(lambda factor: 20.0 + inhibited(factor), 10.0)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"patient": [1, 2]}, "a table"),
        ({"patient": {"time": [1.0], "DV": [2.0]}}, "lacks 'TIME'"),
        ({"patient": {"TIME": [1.0], "DV": [np.inf]}}, "finite numbers"),
        ({"patient": {"TIME": [1.0], "DV": [2.0], "AMT": [0.0]}}, "from_nonmem"),
        ({"doses": None}, "doses= must be the regimen"),
        ({"covariates": {}}, "'WT'"),
        ({"method": "mcmc"}, "method must be"),
        ({"method": "laplace", "uncertainty": True}, 'method="importance"'),
        ({"regimen": 500}, "made by jn.pkpd.regimen"),
        ({"draws": 5}, "draws must be"),
        ({"times": "later"}, "finite numbers"),
    ],
)
def test_bad_input(fit, options, words):
    calls = {"patient": LEVELS, "doses": GIVEN, "covariates": WEIGHT}
    with pytest.raises(JaxnlmeError) as error:
        jn.pkpd.forecast(fit, **(calls | options))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "target, options, words",
    [
        (("through", 5), {}, "did you mean 'trough'"),
        (5.0, {}, "must be a pair"),
        (("trough", -1), {}, "must be a pair"),
        (("trough", 8.0), {"at": 3.0}, "before the patient's last dose"),
        (("trough", 8.0), {"doses": 2, "steady_state": True}, "no meaning"),
        (("trough", 8.0), {"round_to": 0}, "round_to must be"),
    ],
)
def test_bad_targets(forecast, target, options, words):
    with pytest.raises(JaxnlmeError) as error:
        forecast.next_dose(target, 12, **options)
    assert words in str(error.value)


def test_other_groups_are_refused(fit):
    with pytest.raises(JaxnlmeError, match="for one patient; the data have 2 groups"):
        jn.pkpd.forecast(fit, fit.data.select([0, 1]))
