"""Two fits shared by the tests of this folder: five orange trees, and a linear mixed model of twelve groups."""

from __future__ import annotations

import numpy as np
import pytest

import jaxnlme as jn
from tests.estimators import catalogue


@pytest.fixture(scope="session")
def orange() -> jn.Fit:
    """Logistic growth of five trees, one random effect."""
    parameters = [
        jn.Parameter("Asym", 192.0, random=True, sd=30.0),
        jn.Parameter("xmid", 728.0),
        jn.Parameter("scal", 356.0),
    ]
    model = jn.NLMEModel(catalogue.sslogis, parameters, error=jn.error.constant(10.0))
    return jn.fit(model, catalogue.data("Orange"), "focei").throw()


def lines(groups: int = 12, seed: int = 0, slope_sd: float = 0.3) -> jn.GroupedData:
    """y = (1 + b0) + (0.5 + b1) t + e, correlated b, with a group-level column `side`."""
    rng = np.random.default_rng(seed)
    b = rng.normal(size=(groups, 2)) @ np.array([[1.0, 0.5 * slope_sd], [0.0, slope_sd]])
    t = np.tile(np.arange(6.0), groups)
    group = np.repeat(np.arange(groups), 6)
    y = 1.0 + b[group, 0] + (0.5 + b[group, 1]) * t + 0.4 * rng.normal(size=len(t))
    side = np.where(np.arange(groups) % 3 == 0, 1.0, 2.0)
    return jn.GroupedData.from_arrays(y, group, {"t": t}, {"side": side})


@pytest.fixture(scope="session")
def line() -> jn.Fit:
    """A linear mixed model with a full psi."""
    parameters = [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 0.5, random=True)]
    return jn.fit(jn.NLMEModel(catalogue.line, parameters, "full"), lines(), "focei").throw()
