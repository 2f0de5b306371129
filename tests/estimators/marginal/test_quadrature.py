"""Maxima of the likelihood by quadrature: one random effect on R's tables, three effects on theophylline."""

from __future__ import annotations

import functools
import json

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from tests.estimators import catalogue

ONE_EFFECT = ["CO2_asympOff_Asym", "Orange_logis_Asym", "Orange_logis_xmid", "Theoph_ssfol_lKa_only"]
APPROXIMATIONS = {1: jn.Laplace(), 15: jn.AGQ(15), 51: jn.AGQ(51)}


@functools.cache
def one_effect(reference, name):
    return catalogue.from_r(name, catalogue.record(reference, f"{name}_ML")["start"])


@pytest.mark.parametrize("nodes", APPROXIMATIONS)
@pytest.mark.parametrize("name", ONE_EFFECT)
def test_one_effect(reference, name, nodes):
    """Brute force by the same rule: adaptive Gauss-Hermite with the exact Hessian, maximised by nlminb."""
    brute_force = catalogue.record(reference, f"{name}_ownAGQ{nodes}")
    model, data = one_effect(reference, name)
    fit = jn.fit(model, data, APPROXIMATIONS[nodes])
    assert fit.converged, fit.status
    # nlminb stops within a relative 1e-10 of the maximum, on a likelihood of size 200.
    assert fit.log_likelihood == pytest.approx(brute_force["logLik"], abs=1e-6)
    effect = brute_force["random_effect_on"]
    expected = brute_force["fixef"] | {f"sd({effect})": brute_force["re_sd"], "a": brute_force["sigma"]}
    for parameter, value in expected.items():
        assert fit.values[parameter] == pytest.approx(value, rel=1e-4), parameter
    modes = brute_force["conditional_modes"]
    modes_ours = fit.random_effects[effect]
    order = [list(map(str, modes_ours.index)).index(group) for group in modes["groups"]]
    np.testing.assert_allclose(modes_ours.to_numpy()[order], modes["b"], atol=1e-3 * brute_force["re_sd"])


THREE_EFFECTS = {
    "theo_nocov_constant": ("constant", ["a"]),
    "theo_nocov_combined": ("combined variance", ["a", "b"]),
    "theo_nocov_proportional": ("proportional", ["b"]),
    "theo_wtcl_constant": ("constant", ["a"]),
}


@pytest.mark.parametrize("name", THREE_EFFECTS)
def test_three_effects(reference, name):
    """Theophylline without the rows at time 0, against maxima by quadrature over three effects."""
    truth = json.loads((reference / "saemix" / "theo_true_mle.json").read_text())[name]
    error, error_names = THREE_EFFECTS[name]
    frame = pd.read_csv(reference / "saemix" / "data" / "theo.csv")
    data = jn.GroupedData.from_frame(frame, "Id", "Concentration", ["Time", "Dose"], ["Weight"])
    weight = "wtcl" in name
    model = jn.NLMEModel(
        catalogue.one_compartment,
        [
            jn.Parameter("ka", 1.0, "log", random=True),
            jn.Parameter("v", 20.0, "log", random=True),
            jn.Parameter("cl", 2.0, "log", random=True, covariates=["Weight"] if weight else ()),
        ],
        error=error,
    )
    fit = jn.fit(model, data, ["focei", jn.AGQ(9)])
    assert fit.converged, fit.status
    # By fits with 7 nodes and values with 15 there, nine nodes an effect leave 0.001 (proportional: 0.01).
    assert -2.0 * fit.log_likelihood == pytest.approx(truth["minus2LL"], abs=0.01), fit.values
    expected = {"ka": truth["ka"], "v": truth["V"], "cl": truth["CL"]}
    expected |= {f"sd({n})": np.sqrt(w) for n, w in zip(("ka", "v", "cl"), truth["omega"], strict=True)}
    rest = list(truth["residual_and_beta"])
    expected |= {n: np.exp(rest.pop(0)) for n in error_names}
    if weight:
        expected["cl ~ Weight"] = rest.pop(0)
    assert not rest
    for parameter, value in expected.items():
        assert fit.values[parameter] == pytest.approx(value, rel=1e-3), parameter
