"""Fits of hand-written one-compartment models of event records, shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn


def one_compartment(phi, x, v):
    """Bolus doses and infusions into one compartment, by superposition; steady states in closed form."""
    e, k = v.events, phi.cl / phi.v
    rows = jnp.arange(x.TIME.shape[0])
    anew = e.mask & ((e.reset > 0) | (e.steady_state == 1))
    segment = jnp.sum(anew[None, :] & (e.rows_before[None, :] <= rows[:, None]), axis=1)
    acts = e.mask[None, :] & (segment[:, None] == e.segment[None, :]) & (e.rows_before[None, :] <= rows[:, None])
    since = x.TIME[:, None] - e.time[None, :]
    acts, since = acts & (since >= 0), jnp.maximum(since, 0.0)
    infused = (e.rate > 0)[None, :]
    rate, amount = jnp.where(e.rate > 0, e.rate, 1.0)[None, :], e.amount[None, :]
    length = jnp.where(infused, amount / rate, 0.0)

    def after(s):
        of_infusion = rate / phi.cl * (jnp.exp(-k * jnp.maximum(s - length, 0.0)) - jnp.exp(-k * s))
        return jnp.where(infused, of_infusion, amount / phi.v * jnp.exp(-k * s))

    steady = (e.steady_state > 0)[None, :]
    interval = jnp.where(steady, e.interval[None, :], 1.0)
    earlier = jnp.where(steady, after(since + interval) / (1.0 - jnp.exp(-k * interval)), 0.0)
    return jnp.sum(jnp.where(acts, after(since) + earlier, 0.0), axis=1)


MODEL = jn.NLMEModel(
    one_compartment,
    [
        jn.Parameter("cl", 4.0, "log", random=True, covariates=["log(WT/70)"]),
        jn.Parameter("v", 40.0, "log", random=True),
    ],
    covariance="full",
    error="proportional",
)
TRUTH = {"cl": 4.0, "v": 40.0, "cl ~ log(WT / 70)": 0.75, "sd(cl)": 0.3, "sd(v)": 0.2, "corr(cl, v)": 0.4}


@pytest.fixture(scope="session")
def regimen():
    """1000 at once, then 500 every 12 as infusions over 1, five doses."""
    return jn.pkpd.regimen(500, 12, doses=5, loading=1000, duration=1.0)


@pytest.fixture(scope="session")
def fit(regimen):
    """A fit of 40 simulated subjects."""
    weight = np.random.default_rng(3).uniform(45, 110, 40)
    data = regimen.data([1.5, 4, 11, 13.5, 23, 37, 47, 52, 59], covariates={"WT": weight})
    binding = jn.bind(MODEL, data)
    params = binding.params({**TRUTH, binding.density.error_names[0]: 0.15})
    y = np.asarray(jn.simulate_responses(binding.problem, params, jax.random.key(5))[0])
    observed = replace(data, y=y, observed=data.rows)
    return jn.fit(MODEL, observed, "focei").throw()
