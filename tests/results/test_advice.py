"""Hints on random effects that the data hardly support: given where they apply, and only there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.results.advice import advice
from tests.estimators import catalogue


def lines(slope_sd: float, groups: int = 12, seed: int = 4) -> jn.GroupedData:
    """Lines whose levels vary (SD 1) and whose slopes hardly do."""
    rng = np.random.default_rng(seed)
    group, t = np.repeat(np.arange(groups), 6), np.tile(np.arange(6.0) - 2.5, groups)
    level, slope = rng.normal(size=groups), slope_sd * rng.normal(size=groups)
    y = 3.0 + level[group] + (1.0 + slope[group]) * t + 0.5 * rng.normal(size=len(group))
    return jn.GroupedData.from_frame(pd.DataFrame({"g": group, "t": t, "y": y}), "g", "y", "t")


def model(covariance: object = "diagonal") -> jn.NLMEModel:
    parameters = [jn.Parameter("mu", 3.0, random=True), jn.Parameter("slope", 1.0, random=True)]
    return jn.NLMEModel(catalogue.line, parameters, covariance)


@pytest.fixture(scope="module")
def small() -> jn.Fit:
    return jn.fit(model(), lines(0.05, seed=1), "focei").throw()


def test_a_small_variance_gives_a_hint(small: jn.Fit) -> None:
    sd, se = small.estimates.loc["sd(slope)", ["estimate", "se"]]
    assert 0.0 < sd < 2.0 * se  # otherwise the data of this test are of no use
    (sentence,) = advice(small)
    assert sentence.startswith(f"The SD of slope ({sd:.2g}, se {se:.2g}) is small: the variance is below its standard")
    assert "fit.update(drop='slope') drops it" in sentence
    assert "fit.update(drop='slope')" in " ".join(str(small.summary()).split())
    assert "drop=" in small.summary()._repr_html_()
    dropped = small.update(drop="slope")
    assert dropped.converged and dropped.aic < small.aic
    assert advice(dropped) == []


def test_weak_correlations_give_a_hint() -> None:
    fit = jn.fit(model("full"), lines(0.6, seed=1), "focei").throw()
    r, se = fit.estimates.loc["corr(mu, slope)", ["estimate", "se"]]
    assert abs(r) < 2.0 * se
    (sentence,) = advice(fit)
    assert sentence.startswith("The correlation of the random effects is not significantly different from zero")
    assert f"{r:.2g}, se {se:.2g}" in sentence and "covariance='diagonal'" in sentence
    assert advice(fit.update(covariance="diagonal")) == []


def test_no_hints_without_reason(fit: jn.Fit, small: jn.Fit) -> None:
    """Large variances, a correlation at one (theophylline: cl and vol), no standard errors, not converged, one SD for
    all effects."""
    assert advice(fit) == []
    assert advice(fit.update(covariance="full")) == []
    for changes in ({"standard_errors": False}, {"max_iterations": 1, "start": {"mu": 1.0}}):
        assert advice(small.update(**changes)) == []
    assert not any("drop=" in s for s in advice(small.update(covariance="identity")))
