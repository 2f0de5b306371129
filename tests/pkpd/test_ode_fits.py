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
TIMES = np.array([1.0, 4.0, 11.0, 13.0, 20.0, 25.0, 30.0, 40.0])


def simulated(model, natural, random, doses, noise, seed):
    """Data of as many groups as `doses` has, with log-normal parameters.

    **Arguments:** `natural`: values by name; `random`: standard deviations of their logarithms; `noise(rng, f)`.
    """
    rng = np.random.default_rng(seed)
    n = len(doses)
    records = event_records([[DOSES | {"AMT": dose}] for dose in doses], [list(TIMES)] * n)
    x, v = batch(records, np.tile(TIMES, (n, 1)))
    phi = {k: value * np.exp(random.get(k, 0.0) * rng.normal(size=n)) for k, value in natural.items()}
    record = Record(tuple(phi), tuple(map(jnp.asarray, phi.values())), "parameter")
    y = noise(rng, np.asarray(jax.jit(jax.vmap(model))(record, x, v)))
    labels = np.repeat([f"case {k:02d}" for k in range(n)], len(TIMES))
    frame = pd.DataFrame({"ID": labels, "TIME": np.tile(TIMES, n), "y": y.ravel()})
    return jn.GroupedData.from_frame(frame, group="ID", y="y", x=["TIME"]).with_event_records(records)


def check(model, data, natural, method):
    """The fit converges, and each estimate is within three standard errors, and 0.2 in the logarithm, of the truth."""
    fit = jn.fit(model, data, method)
    assert fit.converged, fit.status
    for name, value in natural.items():
        row = fit.estimates.loc[name]  # of the logarithm
        assert abs(row["estimate"] - np.log(value)) < min(3 * row["se"], 0.2), name


@pytest.fixture(scope="module")
def saturable():
    model = jn.pkpd.michaelis_menten(1)
    natural = {"VM": 10.0, "KM": 3.0, "V": 25.0}
    doses = np.tile([60.0, 120.0, 240.0], 16)
    data = simulated(
        model, natural, {"VM": 0.25, "V": 0.2}, doses, lambda rng, f: f * (1 + 0.1 * rng.normal(size=f.shape)), 1
    )
    parameters = [
        jn.Parameter("VM", 8.0, "log", random=True),
        jn.Parameter("KM", 2.0, "log"),
        jn.Parameter("V", 20.0, "log", random=True),
    ]
    return jn.NLMEModel(model, parameters, error="proportional"), data, natural


@pytest.mark.parametrize("method", ["focei", "laplace", "saem"])
def test_michaelis_menten(saturable, method):
    check(*saturable, method)


def turnover(t, y, phi):
    """A drug that inhibits the production of a response."""
    inhibition = y.central / (phi.IC50 * phi.V + y.central)
    rates = -phi.CL / phi.V * y.central, phi.KIN * (1.0 - inhibition) - phi.KOUT * y.response
    return dict(zip(("central", "response"), rates, strict=True))


@pytest.mark.parametrize("method", ["focei", "saem"])
def test_turnover(method):
    """The response only, with the pharmacokinetics known: baseline and states that do not start at zero."""

    def known(t, y, phi):
        values = dict(phi) | {"CL": 3.0, "V": 25.0}
        return turnover(t, y, Record(tuple(values), tuple(values.values()), "parameter"))

    model = jn.pkpd.ode(
        known, ["central", "response"], "response", initial=lambda phi: {"response": phi.KIN / phi.KOUT}
    )
    natural = {"KIN": 20.0, "KOUT": 0.2, "IC50": 1.0}
    doses = np.tile([60.0, 120.0, 240.0], 12)
    data = simulated(model, natural, {"KIN": 0.2}, doses, lambda rng, f: f + 3.0 * rng.normal(size=f.shape), 2)
    parameters = [
        jn.Parameter("KIN", 15.0, "log", random=True),
        jn.Parameter("KOUT", 0.15, "log"),
        jn.Parameter("IC50", 2.0, "log"),
    ]
    check(jn.NLMEModel(model, parameters, error="constant"), data, natural, method)
