"""New subjects of models with several endpoints, occasions, and covariates that change in time."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.errors import DataError, OptionError
from jaxnlme.results.evaluate import rebind

RECORDS = pd.DataFrame(
    {
        "ID": [1] * 5 + [2] * 5,
        "TIME": [0.0, 1, 6, 12, 20] * 2,
        "AMT": [100.0, 0, 0, 100, 0] * 2,
        "EVID": [1, 0, 0, 1, 0] * 2,
        "DV": [0.0, 2, 1.5, 0, 2] * 2,
    }
)
DOSES = jn.pkpd.regimen(100, 12, doses=2)
TIMES = [1.0, 6.0, 12.0, 20.0]


def concentration(phi, x, v):
    """Each row by its own parameters."""
    e = v.events
    rows = jnp.arange(x.TIME.shape[0])
    acts = e.mask[None, :] & (e.rows_before[None, :] <= rows[:, None]) & (e.time[None, :] <= x.TIME[:, None])
    k = jnp.broadcast_to(phi.cl / phi.v, x.TIME.shape)[:, None]
    since = jnp.maximum(x.TIME[:, None] - e.time[None, :], 0.0)
    return jnp.sum(jnp.where(acts, e.amount[None, :] / phi.v * jnp.exp(-k * since), 0.0), axis=1)


def as_fit(fit, model, data):
    """The record of a fit of another model, at its starting values."""
    binding = jn.bind(model, data)
    shape = (data.n_groups, binding.density.n_effects)
    curvature = np.broadcast_to(np.eye(shape[1]), (*shape, shape[1]))
    return dataclasses.replace(
        fit, binding=binding, params=binding.params(), modes=np.zeros(shape), curvature=curvature, information=None
    )


def parameters(**options):
    return [jn.Parameter("cl", 4.0, "log", **options), jn.Parameter("v", 40.0, "log", random=True)]


def curves_at(simulation, times):
    n = simulation.n_subjects
    return simulation.curves()(np.arange(n), np.tile(times, (n, 1)), np.zeros((n, len(times)), int))


def test_endpoints(fit):
    def both(phi, x, v):
        c = concentration(phi, x, v)
        return {"1": c, "2": 100.0 - phi.v * c}

    data = jn.GroupedData.from_nonmem(RECORDS.assign(DVID=[1, 1, 2, 1, 2] * 2))
    data = dataclasses.replace(data, endpoint="DVID")
    model = jn.NLMEModel(both, parameters(random=True), error={"1": "proportional", "2": "constant"})
    of_model = as_fit(fit, model, data)
    one, two = (jn.pkpd.simulate(of_model, DOSES, TIMES, 30, rows={"DVID": k}) for k in (1, 2))
    np.testing.assert_allclose(two.prediction[0], 100 - one.individual["v"][0][:, None] * one.prediction[0], rtol=1e-10)
    np.testing.assert_allclose(curves_at(two, TIMES), two.prediction[0], rtol=1e-12)
    # Residuals are those of the endpoint: proportional, and constant.
    assert np.std(one.response / one.prediction - 1) < 0.5 < np.std(two.response - two.prediction) * 10
    own = jn.pkpd.exposure(of_model, rows={"DVID": 1}, between=(0, 12))
    np.testing.assert_allclose(own["auc"], 100 / 4 * (1 - np.exp(-1.2)), rtol=1e-8)
    with pytest.raises(OptionError, match="several endpoints"):
        jn.pkpd.exposure(of_model, between=(0, 12))
    with pytest.raises(DataError, match="several endpoints"):
        jn.pkpd.simulate(of_model, DOSES, TIMES, 3)
    # A picture of one endpoint has its name and its levels.
    assert one.plot().get_ylabel() == "1"
    forecast = jn.pkpd.forecast(
        of_model, data.select([0]), times=[1.0, 20.0], rows={"DVID": 2}, method="laplace", draws=200
    )
    levels = next(line for line in forecast.plot().lines if line.get_label() == "levels")
    np.testing.assert_allclose(levels.get_xdata(), [6.0, 20.0])


def test_occasions(fit):
    data = jn.GroupedData.from_nonmem(RECORDS.assign(OCC=[1, 1, 1, 2, 2] * 2), occasion="OCC")
    model = jn.NLMEModel(concentration, parameters(random=["ID", "OCC"]), error="proportional")
    of_model = as_fit(fit, model, data)
    simulation = jn.pkpd.simulate(of_model, DOSES, TIMES, 4, rows={"OCC": [1, 1, 2, 2]})
    cl = simulation.individual["cl"][0][:, simulation.kept]
    np.testing.assert_allclose(cl[:, 0], cl[:, 1])
    assert (np.abs(np.log(cl[:, 2] / cl[:, 1])) > 1e-6).all()
    np.testing.assert_allclose(curves_at(simulation, TIMES), simulation.prediction[0], rtol=1e-12)
    with pytest.raises(DataError, match="nested level OCC"):
        jn.pkpd.simulate(of_model, DOSES, TIMES, 4)
    one = jn.pkpd.forecast(of_model, data.select([0]), times=[1.0, 20.0], method="laplace", draws=200)
    assert [*one.random_effects.index][1:] == ["v", "cl|OCC [1]", "cl|OCC [2]"]
    of_patient, of_second = one.posterior.mode, _mode_at(of_model, data, [2])
    np.testing.assert_array_equal(of_second[:2], of_patient[:2])
    assert of_second[2] == of_patient[3]  # the second occasion, whatever its place among those asked for
    np.testing.assert_array_equal(_mode_at(of_model, data, [3])[2], 0.0)  # a new occasion has no mode of its own


def _mode_at(of_model, data, occasions):
    """The whitened mode of the first subject for rows of these occasions."""
    frame = RECORDS[RECORDS.ID.iloc[0] == RECORDS.ID].iloc[: 1 + len(occasions)].assign(OCC=[occasions[0], *occasions])
    future = rebind(of_model, jn.GroupedData.from_nonmem(frame, occasion="OCC"))
    return jn.pkpd.forecast(of_model, data.select([0]), times=[1.0], method="laplace", draws=200).posterior.mode_for(
        future
    )


def test_covariates_in_time(fit):
    data = jn.GroupedData.from_nonmem(RECORDS.assign(WT=[70.0, 70, 75, 75, 80] * 2))
    model = jn.NLMEModel(concentration, parameters(random=True, covariates=["log(WT/70)"]), error="proportional")
    of_model = as_fit(fit, model, data)
    of_model = dataclasses.replace(of_model, params=of_model.binding.params({"cl ~ log(WT / 70)": 0.75}))
    weight = np.array([70.0, 75, 75, 80])
    simulation = jn.pkpd.simulate(of_model, DOSES, TIMES, 5, rows={"WT": weight}, residual=False)
    cl = simulation.individual["cl"][0][:, simulation.kept]
    np.testing.assert_allclose(cl / cl[:, :1], np.tile((weight / 70) ** 0.75, (5, 1)), rtol=1e-12)
    np.testing.assert_allclose(curves_at(simulation, TIMES), simulation.prediction[0], rtol=1e-12)
    # Between two rows the value is that of the later one, as in NONMEM.
    np.testing.assert_allclose(
        curves_at(simulation, [3.0])[:, 0],
        100 / simulation.individual["v"][0] * np.exp(-3 * cl[:, 1] / simulation.individual["v"][0]),
        rtol=1e-12,
    )
