"""Scales that lead a search astray: residuals that explain everything, and standard deviations that collapse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.estimators.marginal.method import MaximumLikelihood

TIMES = np.array([0.5, 2.0, 5.0, 9.0, 15.0, 24.0])


def bolus(phi, x):
    return 100.0 / phi.v * jnp.exp(-phi.cl / phi.v * x.t)


def occasions(seed):
    """100 subjects with 4 occasions: SDs 0.3 (cl), 0.2 (v), 0.15 (cl of occasions), AR(1) residuals of 10%."""
    rng = np.random.default_rng(seed)
    shape = (100, 4, len(TIMES))
    b = rng.standard_normal((100, 2)) * [0.3, 0.2]
    cl = np.exp(np.log(2.0) + b[:, None, None, 0] + 0.15 * rng.standard_normal((100, 4))[:, :, None])
    v = np.exp(np.log(20.0) + b[:, None, None, 1])
    f = 100.0 / v * np.exp(-cl / v * TIMES)
    residual = rng.standard_normal(shape)
    for k in range(1, len(TIMES)):
        residual[..., k] = 0.5 * residual[..., k - 1] + np.sqrt(0.75) * residual[..., k]
    index = np.indices(shape).reshape(3, -1)
    y = (f * (1.0 + 0.1 * residual)).ravel()
    frame = pd.DataFrame({"id": index[0], "occ": index[1], "t": TIMES[index[2]], "y": y})
    return jn.GroupedData.from_frame(frame, ["id", "occ"], "y", ["t"])


@pytest.mark.parametrize("start", [None, {"b": 3.0}, {"b": 0.1}])
def test_relative_residuals_of_predictions_near_zero(start):
    """The starting clearance is half as large again: at the last time predictions are a tenth of the responses, and
    relative residuals huge. With this seed the search once let sd(cl) collapse, and used up 500 iterations."""
    error = jn.error.gaussian(scale="proportional", correlation=jn.correlation.AR1(within="occ"))
    parameters = [
        jn.Parameter("cl", 3.0, "log", random=["id", "occ"]), jn.Parameter("v", 15.0, "log", random=True)
    ]  # fmt: skip
    fit = jn.fit(jn.NLMEModel(bolus, parameters, error=error), occasions([714, 27]), "focei", start=start)
    assert fit.converged, fit.status
    # The maximum to which SAEM's estimates lead.
    assert fit.log_likelihood == pytest.approx(100.414235, abs=1e-5)
    assert fit.values["sd(cl)"] == pytest.approx(0.3141, abs=1e-3)
    # A hundred and more while residuals explained everything.
    assert fit.history[-1]["evaluations"] <= 40


def line(phi, x):
    return phi.level + phi.slope * x.t


@pytest.mark.parametrize(
    ("x", "value", "most"),
    [([-5.0, 0.5, -9.0, -9.0, 2.0], 167.654849, 42), ([-5.0, 0.5, -2.0, -14.0, 1.0], 201.439516, 35)],
)
def test_an_sd_without_information_does_not_shorten_the_steps_of_others(x, value, most):
    """Of the search as a pure function, which does not adjust starting scales: exp(-9) recovers; at exp(-14) the score
    is rounding, and the other parameters reach their maximum given a variance of zero."""
    rng = np.random.default_rng(1)
    group, t = np.repeat(np.arange(40), 5), np.tile(np.arange(5.0), 40)
    level, slope = rng.normal(size=40), 0.3 * rng.normal(size=40)
    y = 1.0 + level[group] + (0.5 + slope[group]) * t + 0.3 * rng.normal(size=200)
    parameters = [jn.Parameter("level", 0.0, random=True), jn.Parameter("slope", 0.5, random=True)]
    binding = bind(jn.NLMEModel(line, parameters), jn.GroupedData.from_arrays(y, group, {"t": t}))
    template = jax.tree.map(jnp.asarray, binding.start)
    search = MaximumLikelihood(jn.FOCEI()).minimise
    bfgs = search(binding.problem, template, jnp.array(x), jnp.zeros((40, 2)), jnp.asarray(~binding.fixed)).bfgs
    assert float(bfgs.value) == pytest.approx(value, abs=1e-5)
    assert int(bfgs.evaluations) <= most
