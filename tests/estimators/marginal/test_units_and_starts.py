"""The same maximum in any units and from any starting standard deviations, also where variances are zero."""

from __future__ import annotations

import numpy as np
import pytest

import jaxnlme as jn

GROUPS, ROWS = 12, 5
# Covariances of intercept and slope that the data are drawn from.
TRUTHS = {
    "none": np.zeros((2, 2)),
    "intercept": np.diag([4.0, 0.0]),
    "slope": np.diag([0.0, 0.09]),
    "both": np.diag([4.0, 0.09]),
    "singular": np.array([[4.0, 0.6], [0.6, 0.09]]),
}
# Unit of y, unit of t, start of the intercept in units of y, factors on sensible starting SDs (None: the default SDs).
WAYS = (
    (1e6, 1.0, 1e-6, None),
    (1e-6, 1e3, 0.0, None),
    (1e5, 1e-2, 1.0, None),
    (1.0, 1.0, 1.0, (1e-4, 1e-4)),
    (1.0, 1.0, 1.0, (1e4, 1e4)),
    (1e6, 1e-3, 1.0, (1e4, 1e-3)),
)
# The likelihood of a linear model is smooth and has one maximum: fits end within 1e-6 units of it, in each unit.
SAME = 1e-5


def lines(truth, unit, unit_of_time):
    rng = np.random.default_rng(sum(map(ord, truth)))
    group, t = np.repeat(np.arange(GROUPS), ROWS), np.tile(np.arange(float(ROWS)), GROUPS)
    values, vectors = np.linalg.eigh(TRUTHS[truth])
    b = rng.normal(size=(GROUPS, 2)) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    y = 5.0 + b[group, 0] + (1.0 + b[group, 1]) * t + 0.5 * rng.normal(size=len(t))
    return jn.GroupedData.from_frame({"g": group, "t": unit_of_time * t, "y": unit * y}, "g", "y", ["t"])


def line(phi, x):
    return phi.a + phi.b * x.t


def fitted(method, truth, covariance, way):
    unit, unit_of_time, start, factors = way
    sds = (None, None) if factors is None else (2.0 * unit * factors[0], 0.3 * unit / unit_of_time * factors[1])
    parameters = [
        jn.Parameter("a", start * unit, random=True, sd=sds[0]),
        jn.Parameter("b", 0.5 * unit / unit_of_time, random=True, sd=sds[1]),
    ]
    model = jn.NLMEModel(line, parameters, covariance=covariance)
    fit = jn.fit(model, lines(truth, unit, unit_of_time), method)
    # In another unit every density changes by the unit; a restricted likelihood has the integral over a and b beside.
    restricted = 2.0 * np.log(unit) - np.log(unit_of_time) if fit.restricted else 0.0
    return fit, fit.log_likelihood + GROUPS * ROWS * np.log(unit) - restricted


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("method", ["focei", "lme", "relme", "laplace"])
def test_lines_have_one_maximum(method, covariance):
    for truth in TRUTHS:
        fit, expected = fitted(method, truth, covariance, (1.0, 1.0, 1.0, None))
        assert fit.converged
        for way in WAYS:
            other, value = fitted(method, truth, covariance, way)
            assert other.converged and value == pytest.approx(expected, abs=SAME), (truth, way)
            zeros = [fit.values[name] == 0.0 for name in ("sd(a)", "sd(b)")]
            assert [other.values[name] == 0.0 for name in ("sd(a)", "sd(b)")] == zeros, (truth, way)
