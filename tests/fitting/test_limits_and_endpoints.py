"""A fit with a limit of quantification for one of two endpoints: the truth, simulation, refits, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

TIMES = np.array([1.0, 3.0, 6.0, 10.0, 16.0])
LIMIT = 0.6


def both(phi: Any, x: Any, v: Any) -> Any:
    c = 3.0 * jnp.exp(-phi.k * x.TIME)
    return {"cp": c, "pca": 90.0 - phi.slope * c}


@pytest.fixture(scope="module")
def data() -> jn.GroupedData:
    """24 subjects, k 0.15 with log SD 0.3, slope 20; errors 0.2 and 3; a quarter of the concentrations below 0.6, and
    effects far above."""
    rng, rows = np.random.default_rng(8), []
    for subject in range(24):
        c = 3.0 * np.exp(-0.15 * np.exp(0.3 * rng.standard_normal()) * TIMES)
        for label, y in (("cp", c + 0.2 * rng.standard_normal(5)), ("pca", 90 - 20 * c + 3 * rng.standard_normal(5))):
            rows += [(subject, t, label, value) for t, value in zip(TIMES, y, strict=True)]
    frame = pd.DataFrame(rows, columns=["ID", "TIME", "DVID", "DV"])
    return jn.GroupedData.from_frame(frame, "ID", "DV", x="TIME", endpoint="DVID", lloq={"cp": LIMIT})


@pytest.fixture(scope="module")
def fit(data: jn.GroupedData) -> jn.Fit:
    parameters = [jn.Parameter("k", 0.1, "log", random=True), jn.Parameter("slope", 15.0)]
    model = jn.NLMEModel(both, parameters, error={"cp": "constant", "pca": "constant"}, censoring={"cp": "M3"})
    return jn.fit(model, data, "laplace", progress=False)


def test_truth_is_recovered(fit: jn.Fit, data: jn.GroupedData) -> None:
    assert fit.converged, fit.status
    assert data.limits.censored.sum() == 29
    found = fit.estimates
    truth = {"k": np.log(0.15), "slope": 20.0, "sd(k)": 0.3, "a[cp]": 0.2, "a[pca]": 3.0}
    for name, value in truth.items():
        assert abs(found.estimate[name] - value) < 3.0 * found.se[name], name


def test_residuals_know_endpoint_and_limit(fit: jn.Fit, data: jn.GroupedData) -> None:
    residuals = fit.residuals(["iwres", "cwres"])
    censored = data.rows_to_column(data.limits.censored)
    assert (residuals["censored"].to_numpy() == censored).all()
    assert (residuals["cwres"].isna().to_numpy() == censored).all()
    assert not censored[(residuals["DVID"] == "pca").to_numpy()].any()


def test_simulated_responses_are_censored_in_their_endpoint(fit: jn.Fit, data: jn.GroupedData) -> None:
    raw, reported = fit.simulate(10, key=5), fit.simulate(10, key=5, limits=True)
    is_cp = (data.to_frame()["DVID"] == "cp").to_numpy()
    assert (raw[:, is_cp] < LIMIT).mean() == pytest.approx(29 / 120, abs=0.06)
    np.testing.assert_array_equal(reported[:, is_cp], np.maximum(raw[:, is_cp], LIMIT))
    np.testing.assert_array_equal(reported[:, ~is_cp], raw[:, ~is_cp])
    assert data.with_response(raw[0]).fingerprint() == data.with_response(reported[0]).fingerprint()


def test_a_saved_fit_has_its_limits_and_endpoints(fit: jn.Fit, data: jn.GroupedData, tmp_path: Path) -> None:
    fit.save(tmp_path / "fit.zip")
    loaded = jn.load(tmp_path / "fit.zip", model=fit.model)
    assert loaded.data.fingerprint() == data.fingerprint() and loaded.data.endpoint == "DVID"
    assert loaded.criteria == fit.criteria and loaded.model.error.formula == fit.model.error.formula
    pd.testing.assert_frame_equal(loaded.residuals("iwres"), fit.residuals("iwres"))


def test_parametric_bootstrap_refits_censored_responses(fit: jn.Fit, data: jn.GroupedData) -> None:
    """A replicate is the fit of the simulated responses with the limits of their rows."""
    bootstrap = fit.bootstrap(3, kind="parametric", seed=2, progress=False)
    drawn = data.with_response(fit.simulate(3, key=2)[0])
    assert drawn.limits.censored.sum() > 15
    refit = jn.fit(fit.model, drawn, "laplace", progress=False)
    replicate = bootstrap.replicates.iloc[0]
    for name in ("k", "slope", "sd(k)", "a[cp]", "a[pca]"):
        assert replicate[name] == pytest.approx(refit.values[name], rel=2e-3), name
