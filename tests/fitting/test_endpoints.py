"""Fits of several endpoints: the truth, units, order of rows, methods against each other, and what follows a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

HOURS = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 12.0])


def table(seed: int = 7, groups: int = 30) -> pd.DataFrame:
    rng, records = np.random.default_rng(seed), []
    for subject in range(1, groups + 1):
        cl, ec50 = 4.0 * np.exp(0.3 * rng.standard_normal()), 1.5 * np.exp(0.3 * rng.standard_normal())
        c = 100.0 / 30.0 * np.exp(-cl / 30.0 * HOURS)
        f = 90.0 - 60.0 * c / (ec50 + c)
        noise = rng.standard_normal((2, len(HOURS)))
        records += [(subject, t, "cp", y) for t, y in zip(HOURS, c * (1.0 + 0.1 * noise[0]), strict=True)]
        records += [(subject, t, "pca", y) for t, y in zip(HOURS, f + 3.0 * noise[1], strict=True)]
    return pd.DataFrame(records, columns=["ID", "TIME", "DVID", "DV"])


def pkpd(phi: Any, x: Any, v: Any) -> Any:
    c = 100.0 / 30.0 * jnp.exp(-phi.cl / 30.0 * x.TIME)
    return {"cp": v.unit * c, "pca": v.unit_pca * (phi.e0 - 60.0 * c / (phi.ec50 + c))}


MODEL = jn.NLMEModel(
    pkpd,
    [
        jn.Parameter("cl", 3.0, transform="log", random=True),
        jn.Parameter("e0", 100.0, transform="log"),
        jn.Parameter("ec50", 1.0, transform="log", random=True),
    ],
    error={"cp": "proportional", "pca": "constant"},
)


def grouped(frame: pd.DataFrame, unit: float = 1.0, unit_pca: float = 1.0) -> jn.GroupedData:
    scale = np.where(frame.DVID == "cp", unit, unit_pca)
    frame = frame.assign(DV=frame.DV * scale, unit=unit, unit_pca=unit_pca)
    return jn.GroupedData.from_frame(frame, "ID", "DV", x="TIME", v=["unit", "unit_pca"], endpoint="DVID")


@pytest.fixture(scope="module")
def fitted() -> jn.Fit:
    return jn.fit(MODEL, grouped(table()), "focei", progress=False)


def test_truth_is_recovered(fitted: jn.Fit) -> None:
    assert fitted.converged, fitted.status
    truth = {"cl": np.log(4.0), "e0": np.log(90.0), "ec50": np.log(1.5), "sd(cl)": 0.3, "b[cp]": 0.1, "a[pca]": 3.0}
    found = fitted.estimates
    for name, value in truth.items():
        assert abs(found.estimate[name] - value) < 3.5 * found.se[name], name


def test_a_row_whose_label_is_no_endpoint_has_no_prediction(fitted: jn.Fit) -> None:
    frame = table(groups=3).assign(unit=1.0, unit_pca=1.0)
    frame.loc[[0, 7], ["DVID", "DV"]] = ["effect", np.nan]
    data = jn.GroupedData.from_frame(frame, "ID", "DV", x="TIME", v=["unit", "unit_pca"], endpoint="DVID")
    few = jn.fit(MODEL, data, "fo", max_iterations=1, progress=False, standard_errors=False)
    assert np.flatnonzero(np.isnan(few.predict())).tolist() == [0, 7]
    with pytest.raises(
        jn.ModelError, match=r"endpoint 'effect' in rows 1 and 8 of the table to predict, .* cp and pca"
    ):
        fitted.predict(frame.drop(columns="DV"))


def test_units_of_an_endpoint_change_its_scale_only(fitted: jn.Fit) -> None:
    other = jn.fit(MODEL, grouped(table(), 1000.0, 0.01), "focei", progress=False)
    assert other.converged
    jacobian = -180.0 * np.log(1000.0) - 180.0 * np.log(0.01)
    assert other.log_likelihood - jacobian == pytest.approx(fitted.log_likelihood, abs=1e-6)
    for name, factor in {"cl": 1.0, "sd(ec50)": 1.0, "b[cp]": 1.0, "a[pca]": 0.01}.items():
        assert other.estimates.estimate[name] == pytest.approx(factor * fitted.estimates.estimate[name], rel=1e-4)


def test_order_of_rows_changes_nothing(fitted: jn.Fit) -> None:
    shuffled = table().sample(frac=1.0, random_state=2)
    data = grouped(shuffled)
    value = jn.log_likelihood(MODEL, fitted.params, data, "focei")
    assert float(value) == pytest.approx(fitted.log_likelihood, abs=1e-9)
    residuals = fitted.residuals("cwres")
    predictions = fitted.predict(shuffled.assign(unit=1.0, unit_pca=1.0))
    pd.testing.assert_series_equal(predictions.sort_index(), fitted.predict(), check_exact=False, rtol=1e-10)
    assert list(residuals.columns) == ["DVID", "cwres"]


def test_saem_has_closed_forms_for_both_scales_and_agrees(fitted: jn.Fit) -> None:
    fit = jn.fit(MODEL, grouped(table()), jn.SAEM(), progress=False)
    assert fit.converged, fit.status
    closed = str(fit.summary()).split("closed form for")[1].split(";")[0]
    assert "b[cp]" in closed and "a[pca]" in closed
    difference = (fit.estimates.estimate - fitted.estimates.estimate) / fitted.estimates.se
    assert difference.abs().max() < 0.3


def test_a_value_is_held_by_its_name_and_released(fitted: jn.Fit) -> None:
    held = fitted.update(fixed={"a[pca]": 4.0})
    assert held.converged and held.estimates.estimate["a[pca]"] == pytest.approx(4.0)
    assert held.log_likelihood < fitted.log_likelihood - 5.0
    changed = held.update(error={"cp": "constant", "pca": "constant"})
    assert list(changed.estimates.index[-2:]) == ["a[cp]", "a[pca]"]


def test_a_saved_fit_has_its_endpoints(fitted: jn.Fit, tmp_path: Path) -> None:
    fitted.save(tmp_path / "fit.zip")
    loaded = jn.load(tmp_path / "fit.zip", model=MODEL)
    assert loaded.data.endpoint == "DVID"
    pd.testing.assert_frame_equal(loaded.residuals("iwres"), fitted.residuals("iwres"))


def test_pictures_have_a_panel_for_each_endpoint(fitted: jn.Fit) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    assert len(fitted.plot.observed_predicted()) == 4
    assert [ax.get_ylabel() for ax in fitted.plot.residuals()] == ["residual of cp (CWRES)", "residual of pca (CWRES)"]
    panels = fitted.plot.individual_fits([1, 2])
    assert [ax.get_title() for ax in panels] == [
        f"{fitted.data.group_name} {g}, {e}" for g in (1, 2) for e in ("cp", "pca")
    ]
    frame = fitted.data.to_frame()
    of_pca = frame[(frame[fitted.data.group_name] == 1) & (frame.DVID == "pca") & frame[fitted.data.y_name].notna()]
    observed = next(line for line in panels[1].get_lines() if line.get_label() == "observed")
    np.testing.assert_array_equal(np.sort(observed.get_ydata()), np.sort(of_pca[fitted.data.y_name]))
    plt.close("all")


def warfarin(phi: Any, x: Any, v: Any) -> Any:
    """One oral dose, and an effect of the concentration in an effect compartment."""
    k, ka, keo, t = phi.cl / phi.v, phi.ka, phi.keo, x.time
    c = v.dose * ka / (phi.v * (ka - k)) * (jnp.exp(-k * t) - jnp.exp(-ka * t))
    terms = [(ka, k, keo), (k, ka, keo), (keo, ka, k)]
    ce = v.dose * ka * keo / phi.v * sum(jnp.exp(-a * t) / ((b - a) * (d - a)) for a, b, d in terms)
    return {"cp": c, "pca": phi.e0 * (1.0 - ce / (phi.ec50 + ce))}


def test_warfarin_by_focei_and_saem(reference: Path) -> None:
    frame = pd.read_csv(reference / "pkpd" / "data" / "warfarin.csv")
    frame["dose"] = frame.groupby("id").amt.transform("max")
    frame.loc[frame.evid == 1, "dv"] = np.nan
    data = jn.GroupedData.from_frame(frame, "id", "dv", x="time", v="dose", endpoint="dvid")
    starts = {"ka": 1.0, "cl": 0.13, "v": 8.0, "keo": 0.03, "e0": 96.0, "ec50": 1.5}
    random = ("cl", "v", "e0", "ec50")
    parameters = [jn.Parameter(n, s, transform="log", random=n in random) for n, s in starts.items()]
    model = jn.NLMEModel(warfarin, parameters, error={"cp": "combined", "pca": "constant"})
    focei, saem = (jn.fit(model, data, method, progress=False) for method in ("focei", "saem"))
    assert focei.converged and saem.converged
    difference = (focei.estimates.estimate - saem.estimates.estimate) / focei.estimates.se
    assert difference.abs().max() < 0.4
    assert saem.log_likelihood == pytest.approx(focei.log_likelihood, abs=1.0)
