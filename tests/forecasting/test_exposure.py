"""Exposure against closed forms: areas, peaks, troughs, times above a threshold."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.errors import JaxnlmeError
from jaxnlme.forecasting.curves import AFTER, BEFORE, Curves
from jaxnlme.forecasting.exposure import Exposure

regimen = jn.pkpd.regimen


def population(fit, doses, times, n=200):
    simulation = jn.pkpd.simulate(fit, doses, times, n, {"WT": 70.0}, residual=False)
    return simulation, simulation.individual["cl"][0], simulation.individual["v"][0]


def test_steady_state_bolus(fit):
    simulation, cl, v = population(fit, regimen(500, 12, steady_state=True), [1.0, 6.0])
    e, k = simulation.exposure(threshold=5.0), cl / v
    peak = 500 / v / (1 - np.exp(-12 * k))
    np.testing.assert_allclose(e["auc"], 500 / cl, rtol=1e-10)
    np.testing.assert_allclose(e["cmax"], peak, rtol=1e-12)
    np.testing.assert_allclose(e["ctrough"], peak * np.exp(-12 * k), rtol=1e-12)
    np.testing.assert_allclose(e["cmin"], e["ctrough"], rtol=1e-12)
    np.testing.assert_allclose(e["cavg"], 500 / cl / 12, rtol=1e-10)
    np.testing.assert_allclose(e["time_above"], np.clip(np.log(peak / 5) / k, 0, 12), atol=1e-7)
    assert (e["tmax"] == 0).all() and (e["auc_error"] < 1e-8 * e["auc"]).all()
    assert 0 < (e["part_above"] < 1).mean() < 1


def test_single_infusion_to_infinity(fit):
    simulation, cl, v = population(fit, regimen(500, duration=2), [1.0, 24.0])
    e, k = simulation.exposure(threshold=3.0), cl / v
    peak = 250 / cl * (1 - np.exp(-2 * k))
    np.testing.assert_allclose(e["auc"], 500 / cl, rtol=1e-7)
    np.testing.assert_allclose(e["cmax"], peak, rtol=1e-12)
    np.testing.assert_allclose(e["tmax"], 2.0, rtol=1e-12)
    rising = -np.log(1 - 3.0 * cl / 250) / k
    np.testing.assert_allclose(e["time_above"], 2 - rising + np.log(peak / 3) / k, atol=1e-6)
    assert "cmin" not in e


def test_accumulation_beyond_the_observed_times(fit):
    """Doses of a regimen without end go on to the end of the window, and its last dose is not in it."""
    simulation, cl, v = population(fit, regimen(500, 12), [1.0], 50)
    e, k = simulation.exposure(between=(48, 60)), cl / v
    accumulated = 500 / v * (1 - np.exp(-60 * k)) / (1 - np.exp(-12 * k))
    np.testing.assert_allclose(e["cmax"], accumulated, rtol=1e-12)
    np.testing.assert_allclose(e["ctrough"], accumulated * np.exp(-12 * k), rtol=1e-12)
    np.testing.assert_allclose(e["auc"], accumulated / k * (1 - np.exp(-12 * k)), rtol=1e-10)


def test_subjects_of_a_fit(fit):
    """Conditional modes: on the doses of the fit, and under another regimen with other covariates."""
    phi = fit.parameters()
    own = jn.pkpd.exposure(fit, between=(0, np.inf))
    np.testing.assert_allclose(own["auc"], 3000 / phi["cl"], rtol=1e-7)
    assert own.index.equals(phi.index)
    other = jn.pkpd.exposure(fit, regimen(100, 8, steady_state=True))
    np.testing.assert_allclose(other["auc"], 100 / phi["cl"], rtol=1e-10)
    heavier = jn.pkpd.exposure(fit, regimen(100, 8, steady_state=True), covariates={"WT": 2 * fit.data.v["WT"]})
    np.testing.assert_allclose(heavier["auc"] / other["auc"], 2 ** -fit.values["cl ~ log(WT / 70)"], rtol=1e-10)


def oral(phi, x, v):
    k, ka = phi.cl / phi.v, phi.ka
    return 100 * ka / (phi.v * (ka - k)) * (jnp.exp(-k * x.hour) - jnp.exp(-ka * x.hour))


def curves_of(model, data, time, phi):
    """Curves of subjects at given parameters, one for each row of the table phi."""
    binding = jn.bind(model, data)
    effects = np.log(np.stack([phi[p.name] / p.start for p in model.parameters], axis=1))
    params = binding.params({f"sd({p.name})": 1.0 for p in model.parameters})
    n = len(effects)
    return Curves(binding, params, time, np.asarray(params.pack())[None], effects, np.zeros(n, int), np.zeros(n, int))


def test_oral_dose_without_events():
    """A model of time only, with any name: peak, area to infinity and time above, by closed forms."""
    rng = np.random.default_rng(0)
    phi = {"cl": rng.uniform(2, 6, 40), "v": rng.uniform(20, 60, 40), "ka": rng.uniform(0.4, 3, 40)}
    names = [jn.Parameter(name, 2.0, "log", random=True) for name in ("cl", "v", "ka")]
    data = jn.GroupedData.from_frame({"s": [1, 1], "hour": [1.0, 8.0], "y": [1.0, 1.0]}, "s", "y", ["hour"])
    curves = curves_of(jn.NLMEModel(oral, names), data, "hour", phi)
    e = Exposure.of(curves, np.zeros(40), np.full(40, np.inf)).table(0.5)
    k, ka = phi["cl"] / phi["v"], phi["ka"]
    tmax = np.log(ka / k) / (ka - k)
    np.testing.assert_allclose(e["auc"], 100 / phi["cl"], rtol=1e-7)
    np.testing.assert_allclose(e["tmax"], tmax, rtol=1e-5)
    np.testing.assert_allclose(e["cmax"], 100 / phi["v"] * np.exp(-k * tmax), rtol=1e-10)

    def concentration(t):
        return 100 * ka / (phi["v"] * (ka - k)) * (np.exp(-k * t) - np.exp(-ka * t))

    def crossing(low, high, rising):
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = concentration(middle) > 0.5
            low, high = np.where(above == rising, low, middle), np.where(above == rising, middle, high)
        return low

    span = crossing(tmax, np.full(40, 1e3), False) - crossing(np.zeros(40), tmax, True)
    np.testing.assert_allclose(e["time_above"], span, rtol=1e-7)


def test_jump_at_a_time_that_data_do_not_give():
    """A lag of each subject's own: the jump is found by halving panels, wherever it is."""

    def lagged(phi, x, v):
        since = x.hour - phi.lag
        return jnp.where(since >= 0, 10.0 * jnp.exp(-0.1 * jnp.maximum(since, 0.0)), 0.0)

    data = jn.GroupedData.from_frame({"s": [1, 1], "hour": [1.0, 8.0], "y": [1.0, 1.0]}, "s", "y", ["hour"])
    lag = np.concatenate([np.linspace(0.001, 5, 100), [1e-6, 2.4, 7.2]])
    model = jn.NLMEModel(lagged, [jn.Parameter("lag", 1.0, "log", random=True)])
    curves = curves_of(model, data, "hour", {"lag": lag})
    e = Exposure.of(curves, np.zeros(len(lag)), np.full(len(lag), 24.0)).table(2.0)
    np.testing.assert_allclose(e["auc"], 100 * (1 - np.exp(-0.1 * (24 - lag))), rtol=1e-8)
    np.testing.assert_allclose(e["cmax"], 10.0, rtol=1e-6)
    np.testing.assert_allclose(e["time_above"], np.minimum(np.log(5) / 0.1, 24 - lag), atol=1e-6)
    np.testing.assert_allclose(e["cmin"], 0.0)


def test_curves_where_doses_are_rows():
    """Parameters that vary within a subject are known at the doses: the row of a dose follows it to the new rows."""

    def stays(phi, x, v):
        e = v.events
        rows = jnp.arange(x.TIME.shape[0])
        acts = e.mask[None, :] & (e.rows_before[None, :] <= rows[:, None]) & (e.time[None, :] <= x.TIME[:, None])
        return jnp.sum(jnp.where(acts, (e.amount * phi.f[e.row.astype(int)])[None, :], 0.0), axis=1)

    records = pd.DataFrame(
        {"ID": 1, "TIME": [0.0, 1, 12, 20], "AMT": [9.0, 0, 5, 0], "EVID": [1, 0, 1, 0], "DV": [0, 2.0, 0, 2.0],
         "W": [1.0, 2, 3, 4]}
    )  # fmt: skip
    data = jn.GroupedData.from_nonmem(records)
    model = jn.NLMEModel(stays, [jn.Parameter("f", 1.0, random=False, covariates=["W"])])
    binding = jn.bind(model, data)
    params = binding.params({"f": 0.0, "f ~ W": 1.0})
    curves = Curves(binding, params, "TIME", np.asarray(params.pack())[None], np.zeros((1, 0)), np.zeros(1, int),
                    np.zeros(1, int))  # fmt: skip
    times = np.array([[0.0, 0.0, 5.0, 12.0, 12.0, 20.0]])
    side = np.array([[BEFORE, AFTER, AFTER, BEFORE, AFTER, BEFORE]])
    np.testing.assert_allclose(curves(np.zeros(1, int), times, side), [[0, 9, 9, 9, 24, 24]])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"between": (5, 5)}, "begin < end"),
        ({"between": 3}, "must be a pair"),
        ({"between": (0, np.inf)}, "no area to infinity"),
        ({"threshold": "x"}, "threshold must be"),
        ({"covariates": {"WT": 70}, "regimen": None}, "covariates go with a regimen"),
    ],
)
def test_bad_input(fit, options, words):
    with pytest.raises(JaxnlmeError) as error:
        jn.pkpd.exposure(fit, **({"regimen": regimen(500, 12)} | options))
    assert words in str(error.value)
