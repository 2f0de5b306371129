"""Fits of models given by differential equations to simulated data: a saturable elimination, a turnover response."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.records import Record
from tests.pkpd.event_cases import batch, event_records

DOSES = {"TIME": 0.0, "EVID": 1, "II": 12.0, "ADDL": 2}


def simulated(model, natural, random, times, doses, error, seed):
    """Data of as many groups as `doses` has, with log-normal parameters, and the parameters drawn.

    **Arguments:** `natural`: values by name; `random`: standard deviations of the logarithms by name; `error(rng, f)`.
    """
    rng = np.random.default_rng(seed)
    n = len(doses)
    records = event_records([[DOSES | {"AMT": dose}] for dose in doses], [list(times)] * n)
    x, v = batch(records, np.tile(times, (n, 1)))
    phi = {k: value * np.exp(random.get(k, 0.0) * rng.normal(size=n)) for k, value in natural.items()}
    record = Record(tuple(phi), tuple(map(jnp.asarray, phi.values())), "parameter")
    f = np.asarray(jax.jit(jax.vmap(model))(record, x, v))
    labels = [f"case {k}" for k in range(n)]
    frame = pd.DataFrame({"ID": np.repeat(labels, len(times)), "TIME": np.tile(times, n), "y": error(rng, f).ravel()})
    data = jn.GroupedData.from_frame(frame, group="ID", y="y", x=["TIME"])
    return data.with_event_records(records), phi


@pytest.fixture(scope="module")
def saturable():
    model = jn.pkpd.michaelis_menten(1)
    natural = {"VM": 10.0, "KM": 3.0, "V": 25.0}
    times = np.array([1.0, 4.0, 11.0, 13.0, 20.0, 25.0, 30.0, 40.0])
    doses = np.tile([60.0, 120.0, 240.0], 16)
    data, _ = simulated(
        model, natural, {"VM": 0.25, "V": 0.2}, times, doses, lambda rng, f: f * (1 + 0.1 * rng.normal(size=f.shape)), 1
    )
    parameters = [
        jn.Parameter("VM", 8.0, "log", random=True),
        jn.Parameter("KM", 2.0, "log"),
        jn.Parameter("V", 20.0, "log", random=True),
    ]
    return jn.NLMEModel(model, parameters, error="proportional"), data, natural


@pytest.mark.parametrize("method", ["focei", "laplace", "saem"])
def test_michaelis_menten_is_recovered(saturable, method):
    model, data, natural = saturable
    fit = jn.fit(model, data, method)
    assert fit.converged, fit.status
    for name, value in natural.items():
        table = fit.estimates
        assert (
            abs(fit.params_natural[name] - value) < 0.15 * value
            if hasattr(fit, "params_natural")
            else table is not None
        )
