"""Random effects that a shared residual covariance cannot be distinguished from, at every level."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.binding.confounding import check_confounding
from jaxnlme.binding.placement import PlacedProblem


def line(phi, x):
    return phi.a + phi.b * x.x


@pytest.fixture(scope="module")
def data() -> jn.GroupedData:
    rng = np.random.default_rng(0)
    rows = [(s, o, k, k + 4 * o, k, 5 + rng.normal() + 0.3 * k) for s in range(6) for o in range(2) for k in range(4)]
    frame = pd.DataFrame(rows, columns=["S", "O", "k", "kk", "x", "y"])
    return jn.GroupedData.from_frame(frame, ["S", "O"], "y", ["x", "k", "kk"])


def check(data, random, correlation) -> None:
    parameters = [jn.Parameter("a", 4.0, random=random), jn.Parameter("b", 0.3)]
    error = jn.error.gaussian("constant", correlation)
    binding = jn.bind(jn.NLMEModel(line, parameters, error=error), data)
    check_confounding(binding, binding.start, PlacedProblem(binding.problem, grid=False))


@pytest.mark.parametrize(
    ("random", "correlation", "named"),
    [
        (["S", "O"], jn.correlation.CompoundSymmetry(), "a"),
        (["S", "O"], jn.correlation.CompoundSymmetry(within="O"), r"a\|O"),
        ("O", jn.correlation.Unstructured("k", within="O"), r"a\|O"),
        ("S", jn.correlation.Unstructured("kk"), "a"),
    ],
)
def test_effects_of_the_units_that_share_a_covariance_are_named(data, random, correlation, named) -> None:
    with pytest.raises(jn.ModelError, match=rf"random effect of {named}, which is added"):
        check(data, random, correlation)


@pytest.mark.parametrize(
    ("random", "correlation"),
    [("O", jn.correlation.CompoundSymmetry()), ("S", jn.correlation.CompoundSymmetry(within="O"))],
)
def test_effects_of_other_units_are_not(data, random, correlation) -> None:
    check(data, random, correlation)
