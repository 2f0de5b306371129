"""Nonlinear models in other units and from starting SDs that are far off: the same maximum."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn

# Powers of ten of the units of the response and of time.
UNITS = ((6, 0), (-6, 3), (0, -3), (3, 2))
SD_FACTORS = ((1e-4, 1e-4), (1e-4, 10.0), (10.0, 1e-4), (10.0, 10.0), (1e-2, 1.0))
# The minimiser ends where a further step gains less than 1e-8 log units, of which rounding in other units is a part.
SAME = 1e-4


def logistic(phi, x):
    return phi.asym / (1.0 + jnp.exp((phi.mid - x.t) / phi.scale))


def decay(phi, x):
    return phi.a * jnp.exp(-phi.fast * x.t) + phi.b * jnp.exp(-phi.slow * x.t)


def absorption(phi, x):
    return phi.dose * phi.ka / (phi.ka - phi.ke) * (jnp.exp(-phi.ke * x.t) - jnp.exp(-phi.ka * x.t))


def trees(unit, time, sds):
    frame = jn.datasets.orange()
    columns = {"g": frame["Tree"], "t": time * frame["age"], "y": unit * frame["circumference"]}
    sds = (20.0 * unit * sds[0], 50.0 * time * sds[1]) if sds else (None, None)
    parameters = [
        jn.Parameter("asym", 190.0 * unit, random=True, sd=sds[0]),
        jn.Parameter("mid", 700.0 * time, random=True, sd=sds[1]),
        jn.Parameter("scale", 350.0 * time),
    ]
    return jn.NLMEModel(logistic, parameters), columns


def indomethacin(unit, time, sds):
    frame = jn.datasets.indomethacin()
    columns = {"g": frame["Subject"], "t": time * frame["time"], "y": unit * frame["conc"]}
    sds = (0.4 * sds[0], 0.3 * sds[1]) if sds else (None, None)
    parameters = [
        jn.Parameter("a", 2.8 * unit, transform="log", random=True, sd=sds[0]),
        jn.Parameter("fast", 2.4 / time, transform="log"),
        jn.Parameter("b", 0.5 * unit, transform="log", random=True, sd=sds[1]),
        jn.Parameter("slow", 0.25 / time, transform="log"),
    ]
    return jn.NLMEModel(decay, parameters, error=jn.error.proportional()), columns


def theophylline(unit, time, sds):
    frame = jn.datasets.theophylline()
    columns = {"g": frame["Subject"], "t": time * frame["Time"], "y": unit * frame["conc"]}
    sds = (0.5 * sds[0], 0.2 * sds[1]) if sds else (None, None)
    parameters = [
        jn.Parameter("dose", 9.0 * unit, transform="log", random=True, sd=sds[1]),
        jn.Parameter("ka", 1.5 / time, transform="log", random=True, sd=sds[0]),
        jn.Parameter("ke", 0.08 / time, transform="log"),
    ]
    return jn.NLMEModel(absorption, parameters), columns


PROBLEMS = {"trees": trees, "indomethacin": indomethacin, "theophylline": theophylline}


@functools.cache
def fitted(problem, method, powers=(0, 0), sds=None):
    unit, time = 10.0 ** powers[0], 10.0 ** powers[1]
    model, columns = PROBLEMS[problem](unit, time, sds)
    data = jn.GroupedData.from_frame(columns, "g", "y", ["t"])
    fit = jn.fit(model, data, method)
    return model, data, fit, fit.log_likelihood + data.n_obs * np.log(unit)


@pytest.mark.parametrize("problem", list(PROBLEMS))
@pytest.mark.parametrize("method", ["focei", "laplace", "lme"])
def test_units_do_not_move_the_maximum(problem, method):
    _, _, first, expected = fitted(problem, method)
    assert first.converged
    for powers in UNITS:
        model, data, fit, value = fitted(problem, method, powers)
        assert fit.converged, (powers, str(fit.status))
        assert value == pytest.approx(expected, abs=SAME), powers
        # "lme" reports the likelihood of its linearisation, which is no function of the parameters by themselves.
        if method != "lme":
            again = float(jn.log_likelihood(model, fit.params, data, method))
            assert again == pytest.approx(fit.log_likelihood, abs=0.01)


@pytest.mark.parametrize("problem", list(PROBLEMS))
@pytest.mark.parametrize("method", ["focei", "laplace", "lme"])
def test_starting_sds_do_not_move_the_maximum(problem, method):
    _, _, first, expected = fitted(problem, method)
    assert first.converged
    for sds in SD_FACTORS:
        _, _, fit, value = fitted(problem, method, (0, 0), sds)
        assert fit.converged, (sds, str(fit.status))
        assert value == pytest.approx(expected, abs=SAME), sds
