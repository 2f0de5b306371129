"""Standard errors and optima published with nlmixr2 (NONMEM's MATRIX=R), recomputed independently of it."""

from __future__ import annotations

import functools
import json

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from tests.estimators import catalogue


def bolus(phi, x):
    """Wang's example: a bolus of dose 10 in a unit volume."""
    return 10.0 * jnp.exp(-phi.ke * x.Time)


@functools.cache
def points(reference):
    text = (reference / "published" / "nlmixr2_saemix_points.json").read_text()
    return {point["id"]: point for point in json.loads(text)}


@functools.cache
def theo(reference):
    """theo_sd, NONMEM's layout: dose records carry the dose that rows of concentrations need."""
    frame = pd.read_csv(reference / "published" / "data" / "theo_sd.csv")
    dose = frame[frame.AMT > 0].set_index("ID").AMT
    observations = frame[frame.EVID == 0]
    return jn.GroupedData.from_frame(
        observations.assign(Dose=observations.ID.map(dose), Time=observations.TIME), "ID", "DV", ["Time", "Dose"]
    )


@pytest.mark.parametrize("method", ["focei", "foce"])
def test_wang(reference, method):
    data = json.loads((reference / "published" / "wang2007.json").read_text())["data"]
    frame = pd.DataFrame(data["rows"], columns=data["columns"])
    model = jn.NLMEModel(bolus, [jn.Parameter("ke", 0.5, "log", random=True, sd=0.2)], error=jn.error.proportional(0.1))
    fit = jn.fit(model, jn.GroupedData.from_frame(frame, "ID", "Y", "Time"), method)
    published = points(reference)["wang_se"]["independent"][method]
    assert fit.converged, fit.status
    assert fit.objective == pytest.approx(published["objective"], abs=1e-5)
    table = fit.estimates
    assert table.estimate["ke"] == pytest.approx(published["tke"], abs=1e-5)
    assert table.estimate["b"] == pytest.approx(published["prop.sd"], rel=1e-4)
    sd = table.estimate["sd(ke)"]
    assert sd**2 == pytest.approx(published["om.eta.ke"], rel=1e-4)
    assert table.se["ke"] == pytest.approx(published["se"]["tke"], rel=0.002)
    assert table.se["b"] == pytest.approx(published["se"]["prop.sd"], rel=0.002)
    # The published one is of the variance: d(sd^2) = 2 sd d(sd).
    assert 2 * sd * table.se["sd(ke)"] == pytest.approx(published["se"]["om.eta.ke"], rel=0.002)


def test_theophylline_with_additive_error(reference):
    fit = jn.fit(catalogue.oral(), theo(reference), "focei")
    published = points(reference)["theo_focei_fit_additive"]["independent"]
    assert fit.converged, fit.status
    assert fit.objective == pytest.approx(published["objective"], abs=2e-5)
    for name, other in {"ka": "tka", "cl": "tcl", "v": "tv"}.items():
        assert fit.beta[name] == pytest.approx(published[other], abs=2e-5)
    np.testing.assert_allclose(np.diag(fit.psi), published["omega"], atol=2e-5)
    assert fit.values["a"] == pytest.approx(published["add.sd"], abs=1e-5)


def test_log_normal_error(reference):
    """Both sides on the log scale, without the rows at time 0, where f = 0 and nine responses are 0.

    The published Box-Cox and logit-normal errors keep those rows, replaced in a way of that program's own, and are not
    compared; its lnorm drops them. With a constant scale FOCE is FOCEI; published ones differ by their own error."""
    frame = theo(reference).to_frame()
    data = jn.GroupedData.from_frame(frame[frame.Time > 0], "ID", "DV", ["Time", "Dose"])
    fit = jn.fit(catalogue.oral("exponential"), data, "focei")
    published = points(reference)["theo_standard_errors"]["expected_se"]["lnorm_focei"]
    assert fit.converged, fit.status
    table = fit.estimates
    for name, other in {"ka": "tka", "cl": "tcl", "v": "tv", "a": "lnorm.sd"}.items():
        assert table.se[name] == pytest.approx(published[other], rel=0.02), name
    for name in ("ka", "cl", "v"):
        ours = 2 * table.estimate[f"sd({name})"] * table.se[f"sd({name})"]
        assert ours == pytest.approx(published[f"om.eta.{name}"], rel=0.02), name
