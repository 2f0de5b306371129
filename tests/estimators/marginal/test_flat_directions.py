"""Directions without information, beside directions with little."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn


def line(phi, x):
    return phi.a + phi.b * x.x


def fit_of(groups: np.ndarray, x: np.ndarray, method: str) -> jn.Fit:
    rng = np.random.default_rng(3)
    levels = rng.normal(size=groups.max() + 1)
    y = 2.0 + 0.5 * (x - x.mean()) + levels[groups] + 0.7 * rng.normal(size=len(x))
    table = pd.DataFrame({"g": groups, "x": x, "y": y})
    data = jn.GroupedData.from_frame(table, group="g", x=["x"], y="y")
    parameters = [jn.Parameter("a", 1.0, random=True), jn.Parameter("b", 1.0)]
    return jn.fit(jn.NLMEModel(line, parameters, error="constant"), data, method, progress=False)


@pytest.mark.parametrize("method", ["focei", "lme"])
def test_one_row_a_group(method: str) -> None:
    """Only the sum of the variances is determined: differences of gradients have a curvature of 3e-5 there."""
    x = np.random.default_rng(1).uniform(0.0, 10.0, 60)
    fit = fit_of(np.arange(60), x, method)
    assert not fit.converged
    assert "no information along the direction" in str(fit.status)
    assert "sd(a)" in str(fit.status) and "error.a" in str(fit.status)


def test_a_covariate_far_from_its_origin_has_information() -> None:
    """Intercept and slope of a year are correlated to 4e-6 from one, and determined."""
    x = 2000.0 + np.tile(np.arange(10.0), 6)
    groups = np.repeat(np.arange(6), 10)
    fit = fit_of(groups, x, "focei")
    assert fit.converged
    assert fit.estimates["se"].notna().all()
