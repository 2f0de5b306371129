"""Covariates that change in time: what holds at a time is what the records say, whatever times are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

TIMES, WT = np.array([0.0, 4, 10, 20, 30]), np.array([60.0, 62, 90, 40, 80])


def records(carry: str) -> jn.GroupedData:
    """Two subjects with a dose at time 0 and at 12, and a weight that changes from record to record."""
    rows = []
    for subject in (1, 2):
        table = {"ID": subject, "TIME": TIMES, "AMT": [100.0, 0, 0, 0, 0], "EVID": [1, 0, 0, 0, 0], "WT": WT * subject}
        rows.append(pd.DataFrame(table | {"DV": [np.nan, 8.0, 5.0, 2.5, 1.0]}))
        rows.append(pd.DataFrame({"ID": [subject], "TIME": 12.0, "AMT": 50.0, "EVID": 1, "WT": 75.0, "DV": np.nan}))
    frame = pd.concat(rows).sort_values(["ID", "TIME"], kind="stable")
    return jn.GroupedData.from_nonmem(frame, carry=carry)


@pytest.fixture(scope="module", params=["nocb", "locf"])
def fit(request: Any) -> Any:
    model = jn.NLMEModel(
        jn.pkpd.compartments(1),
        [
            jn.Parameter("CL", 1.0, "log", random=True, covariates={"log(WT/70)": 0.75}),
            jn.Parameter("V", 10.0, "log"),
        ],
        error="proportional",
    )
    return jn.fit(model, records(request.param), "fo", max_iterations=1, progress=False, standard_errors=False)


def test_a_forecast_does_not_depend_on_the_times_asked_for(fit: Any) -> None:
    patient = fit.data.select([0])
    kwargs = {"method": "laplace", "draws": 100}
    few = jn.pkpd.forecast(fit, patient, times=[5.0, 25.0, 40.0], **kwargs).table["mode"]
    many = jn.pkpd.forecast(fit, patient, times=np.linspace(0, 40, 81), **kwargs).table["mode"]
    np.testing.assert_allclose(few, many.loc[[5.0, 25.0, 40.0]], rtol=1e-10)
    # Beyond the last record by the record's own prediction: exp(-CL / V t) with the last weight.
    fitted = jn.pkpd.forecast(fit, patient, times=[30.0], **kwargs)
    cl = fitted.parameters.loc["CL", "mode"]
    v = fitted.parameters.loc["V", "mode"]
    assert few.loc[40.0] == pytest.approx(fitted.table["mode"].iloc[0] * np.exp(-cl / v * 10), rel=1e-8)


def test_predictions_at_the_records_are_those_of_the_fit(fit: Any) -> None:
    forecast = jn.pkpd.forecast(fit, fit.data.select([0]), times=[4.0, 20.0], method="laplace", draws=100)
    observed = fit.data.observed[0]
    wanted = np.asarray(fit.predict())[: len(observed)][observed]
    np.testing.assert_allclose(forecast.table["mode"], wanted[[0, 2]], rtol=1e-5)


def test_exposure_of_a_forecast_follows_the_records(fit: Any) -> None:
    forecast = jn.pkpd.forecast(fit, fit.data.select([0]), times=[35.0], method="laplace", draws=100)
    dense = jn.pkpd.forecast(fit, fit.data.select([0]), times=np.arange(0, 36.0), method="laplace", draws=100)
    sparse, wanted = (f.exposure(between=(0.0, 35.0)).loc["auc", "mode"] for f in (forecast, dense))
    assert sparse == pytest.approx(wanted, rel=1e-8)


def test_new_subjects_with_a_path_of_a_covariate(fit: Any) -> None:
    path = {"TIME": [0.0, 10.0, 20.0], "WT": [60.0, 90.0, 40.0]}
    regimen = jn.pkpd.regimen(100, 12, doses=2)

    def predictions(times: Any) -> pd.DataFrame:
        found = jn.pkpd.simulate(fit, regimen, times, subjects=3, rows=path, residual=False, seed=3)
        return found.frame.pivot(index="TIME", columns="ID", values="prediction")

    few, many = predictions([5.0, 25.0]), predictions(np.linspace(0, 30, 61))
    np.testing.assert_allclose(few, many.loc[few.index], rtol=1e-10)
    changed = jn.pkpd.simulate(
        fit, regimen, [5.0, 25.0], subjects=3, rows=path | {"WT": [60.0, 60, 60]}, residual=False, seed=3
    ).frame
    assert (np.abs(changed["prediction"].to_numpy().reshape(3, 2)[:, 1] / few.loc[25.0] - 1) > 0.05).all()


def test_paths_that_are_none(fit: Any) -> None:
    for rows, words in (
        ({"TIME": [0.0, 10], "WT": [60.0]}, r"rows: 'WT' has shape \(1,\); expected \(2,\)"),
        ({"TIME": [0.0, np.nan], "WT": [60.0, 70]}, "rows: 'TIME' must be finite numbers"),
        ({"TIME": [0.0, 1], "WT": [60.0, np.nan]}, "rows: 'WT' has a missing value"),
    ):
        with pytest.raises(jn.OptionError, match=words):
            jn.pkpd.simulate(fit, jn.pkpd.regimen(100), [5.0], subjects=3, rows=rows)


def test_names_of_the_time(fit: Any) -> None:
    regimen = jn.pkpd.regimen(100)
    for call in (
        lambda time: jn.pkpd.simulate(fit, regimen, [5.0], rows={"WT": 60.0}, time=time),
        lambda time: jn.pkpd.exposure(fit, time=time),
        lambda time: jn.pkpd.forecast(fit, fit.data.select([0]), times=[5.0], time=time),
    ):
        with pytest.raises(jn.OptionError, match=r"time='TIMES' names no column of x .* did you mean 'TIME'\?"):
            call("TIMES")
        with pytest.raises(jn.OptionError, match="time='WT': the fitted data have event records, whose times are"):
            call("WT")
