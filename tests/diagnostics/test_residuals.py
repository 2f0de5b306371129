"""Residuals against NONMEM's table of Wang's model, and against their definitions in numpy."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import sqrtm

import jaxnlme as jn
from jaxnlme.diagnostics.residuals import KINDS
from jaxnlme.diagnostics.settings import DiagnosticSettings
from jaxnlme.model.residual_error.base import ErrorParameter, GaussianError
from tests import problems

# Our name: NONMEM's column. NONMEM's WRES is its WRESI where the fit has interaction.
COLUMNS = {"pwres": "NWRES", "pwresi": "WRES", "cwres": "CWRES", "cwresi": "CWRESI", "iwres": "IWRES", "ires": "IRES",
           "pres": "NRES"}  # fmt: skip


@functools.cache
def wang_model() -> jn.NLMEModel:
    """Wang (2007): ke = 0.5 exp(eta), var(eta) = 0.04, residual variance 0.1 f^2, all fixed."""
    ke = jn.Parameter("ke", 0.5, "log", random=True, sd=0.2, fix=True)
    free = jn.error.proportional(0.1**0.5)
    error = GaussianError(free.scale, (ErrorParameter("b", 0.1**0.5, "log", fix=True),), free.name, free.sd_formula)
    return jn.NLMEModel(problems.wang, [ke], error=error, fix_psi=True)


def wang_fit(reference: Path, method: str) -> jn.Fit:
    content = json.loads((reference / "published" / "wang2007.json").read_text())["data"]
    table = pd.DataFrame(content["rows"], columns=content["columns"])
    return jn.fit(wang_model(), jn.GroupedData.from_frame(table, "ID", "Y", "Time"), method)


def nonmem(reference: Path) -> pd.DataFrame:
    content = json.loads((reference / "published" / "wang2007_nonmem_prop_focei_table.json").read_text())
    return pd.DataFrame(content["rows"], columns=content["columns"])


def half_unit(printed: pd.Series) -> np.ndarray:
    """Half a unit of the fifth significant digit, all that NONMEM's table prints, and a little for its own modes."""
    size = np.floor(np.log10(np.maximum(np.abs(printed), 1e-12)))
    return 0.5 * 10.0 ** (size - 4) + 3e-6


@pytest.mark.parametrize("kind", COLUMNS)
def test_nonmem_table(reference: Path, kind: str) -> None:
    """NONMEM FOCEI, table of nlmixr2est's tests (out.focei.prop.rds). Its observations at time 0 do not depend on eta,
    so that C is diagonal: the table does not distinguish the symmetric root from a triangular one."""
    fit, table = wang_fit(reference, "focei"), nonmem(reference)
    assert fit.objective == pytest.approx(39.458, abs=1e-3)
    ours = fit.residuals(kind)[kind]
    assert np.all(np.abs(ours - table[COLUMNS[kind]]) <= half_unit(table[COLUMNS[kind]]))


def test_nonmem_predictions_and_effects(reference: Path) -> None:
    fit, table = wang_fit(reference, "focei"), nonmem(reference)
    for ours, column in (
        (fit.predict(), "IPRE"),
        (fit.predict(level="population"), "PRED"),
        (fit.random_effects.loc[table.ID.astype(int), "ke"].to_numpy(), "ETA1"),
    ):
        assert np.all(np.abs(ours - table[column]) <= half_unit(table[column])), column


def test_a_method_that_expands_at_zero(reference: Path) -> None:
    """FO computes no modes: those of FOCE's joint density are found afterwards, for effects and residuals."""
    zero, conditional = wang_fit(reference, "fo"), wang_fit(reference, "foce")
    assert not zero.modes.any()
    np.testing.assert_allclose(zero.random_effects, conditional.random_effects, atol=1e-10)
    pd.testing.assert_frame_equal(zero.residuals(KINDS), conditional.residuals(KINDS), rtol=1e-8)
    assert 0.0 < zero.shrinkage["ke"] < 100.0
    # Without interaction the residual scale of cwres is that at zero, not that at the mode.
    interacting = wang_fit(reference, "focei")
    same = dataclasses.replace(interacting, estimator=conditional.estimator)
    assert not np.allclose(same.residuals("cwres"), interacting.residuals("cwres"), rtol=1e-3)


@functools.cache
def decay_fit() -> jn.Fit:
    """Three correlated effects, one missing response, groups of 2 to 5 rows; parameters as they start."""
    spec, psi = problems.COVARIANCES["full"]
    model = problems.decay_model(spec, jn.error.combined(0.1, 0.1))
    model = jn.NLMEModel(model.structure, model.parameters, spec, model.error, psi=psi)
    return jn.fit(model, problems.decay_data(), "focei", max_iterations=0, standard_errors=False)


def test_definitions() -> None:
    """Every kind from its formula in numpy, derivatives by hand, the root by scipy."""
    fit = decay_fit()
    data, z = fit.data, fit.modes
    factor = np.linalg.cholesky(fit.psi.to_numpy())
    natural = np.exp(fit.beta.to_numpy())
    sd_a, sd_b = np.exp(fit.params.error)
    out = {kind: np.full(data.y.shape, np.nan) for kind in KINDS}
    for i in range(data.n_groups):
        observed = data.observed[i]
        y, t = data.y[i, observed], data.x["t"][i, observed]

        def model(z, t=t):
            phi = natural * np.exp(factor @ z)
            decay = np.exp(-phi[2] * t)
            f = phi[0] + phi[1] * decay
            in_b = np.stack([phi[0] * np.ones_like(t), phi[1] * decay, -phi[1] * phi[2] * t * decay], axis=1)
            return f, in_b @ factor, sd_a + sd_b * f, sd_b * in_b @ factor

        (f0, j0, s0, d0), (f, j, s, d) = model(np.zeros(3)), model(z[i])
        expected = y - f + j @ z[i]
        roots = {
            "pwres": (y - f0, j0 @ j0.T + np.diag(s0**2)),
            "pwresi": (y - f0, j0 @ j0.T + np.diag(s0**2 + np.sum(d0**2, axis=1))),
            "cwres": (expected, j @ j.T + np.diag(s**2)),
            "cwresi": (expected, j @ j.T + np.diag((s - d @ z[i]) ** 2 + np.sum(d**2, axis=1))),
        }
        for kind, (residual, covariance) in roots.items():
            out[kind][i, observed] = np.linalg.solve(np.real(sqrtm(covariance)), residual)
        out["pres"][i, observed], out["ires"][i, observed], out["iwres"][i, observed] = y - f0, y - f, (y - f) / s
        out["normalized"][i, observed] = (y - f) / s  # the residuals are independent
    residuals = fit.residuals(KINDS)
    assert residuals.columns.tolist() == list(KINDS)
    for kind in KINDS:
        np.testing.assert_allclose(residuals[kind], data.rows_to_column(out[kind]), rtol=1e-8, atol=1e-10, err_msg=kind)
    assert residuals.isna().sum().eq(data.n_rows - data.n_obs).all()


def test_row_order_buckets_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = decay_fit()
    whole = fit.residuals(KINDS)
    split = dataclasses.replace(fit, binding=jn.bind(fit.model, fit.data, like=fit.binding, buckets=2))
    assert len(split.binding.problem.buckets) == 2
    pd.testing.assert_frame_equal(split.residuals(KINDS), whole, rtol=1e-10)
    pd.testing.assert_series_equal(split.predict(), fit.predict(), rtol=1e-12)
    pd.testing.assert_frame_equal(split.parameters(), fit.parameters(), rtol=1e-12)
    np.testing.assert_allclose(split.simulate(2), fit.simulate(2), rtol=1e-12)
    monkeypatch.setattr("jaxnlme.diagnostics.residuals.DIAGNOSTICS", DiagnosticSettings(matrix_entries=30))
    pd.testing.assert_frame_equal(fit.residuals(KINDS), whole, rtol=1e-10)


def test_transformed_responses_are_compared_on_their_scale() -> None:
    bound = jn.bind(problems.decay_model("full", jn.error.exponential(0.1)), problems.decay_data())
    fit = dataclasses.replace(decay_fit(), binding=bound, params=bound.start)
    y = bound.data.to_frame()["y"]
    np.testing.assert_allclose(fit.residuals("ires")["ires"], np.log(y) - np.log(fit.predict()), rtol=1e-10)


def test_refusals() -> None:
    fit = decay_fit()
    with pytest.raises(jn.OptionError, match="did you mean 'cwres'"):
        fit.residuals(["cwress"])
    model = jn.NLMEModel(problems.log_rate, {"a": 1.0, "b": -0.3}, error=problems.OUTCOMES["poisson"])
    bound = jn.bind(model, problems.decay_data())
    with pytest.raises(jn.ModelError, match="Gaussian"):
        dataclasses.replace(fit, binding=bound).residuals()
