"""Dosing regimens: sentences, records, and data of new subjects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.errors import JaxnlmeError, OptionError

regimen = jn.pkpd.regimen


def test_sentences():
    first = regimen(500, 12, doses=14, loading=1000, unit="mg", time_unit="h")
    assert str(first) == "1000 mg at time 0; 500 mg every 12 h, 13 doses from time 12 to 156"
    assert str(regimen(5, 24, until=72, duration=1, per="WT")) == (
        "5 per WT every 24, 3 doses from time 0 to 48, each infused over 1"
    )
    assert str(regimen(100, 8, steady_state=True)) == (
        "100 every 8 from time 0 on, at steady state from its first dose on"
    )
    assert repr(regimen(10, compartment=2, rate="model")) == (
        "Regimen: 10 at time 0, infused at a rate that the model gives, into compartment 2"
    )


def test_records():
    """One record a line, with ADDL; a loading dose has the duration of the others; amounts by covariate."""
    records = regimen(500, 12, doses=4, loading=1000, duration=2).records()
    assert records.to_dict("list") == {
        "TIME": [0, 12], "EVID": [1, 1], "AMT": [1000, 500], "RATE": [500, 250], "CMT": [0, 0], "SS": [0, 0],
        "II": [0, 12], "ADDL": [0, 2],
    }  # fmt: skip
    by_weight = regimen(5, 24, until=73, per="WT", rate=2).records(covariates={"WT": [60, 70]})
    assert by_weight["ID"].tolist() == [1, 2] and by_weight["AMT"].tolist() == [300, 350]
    assert by_weight["RATE"].tolist() == [120, 140] and by_weight["ADDL"].tolist() == [3, 3]
    assert regimen(5, 24, until=72).records()["ADDL"].tolist() == [2]  # no dose at `until` itself
    steady = regimen(5, 24, steady_state=True).records(until=50)
    assert steady[["SS", "II", "ADDL"]].to_numpy().tolist() == [[1, 24, 2]]
    assert regimen(5, duration="model").records()["RATE"].tolist() == [-2]


def test_regimens_are_put_together():
    both = regimen(100, 12, doses=2, steady_state=True) + regimen(50, 24, doses=1, start=6, steady_state=True)
    assert both.records()["SS"].tolist() == [1, 2]
    then = regimen(100, 12, doses=2).then(regimen(50, 8, doses=3)).then(regimen(10), after=4)
    assert then.records()["TIME"].tolist() == [0, 24, 44]
    assert (2 * then).records()["AMT"].tolist() == [200, 100, 20]
    assert then.window == (0, 48)
    assert regimen(100, 12, doses=3).window == (0, 36)
    assert regimen(100, 12).window == (0, 12) and regimen(100, start=2).window == (2, np.inf)
    assert (2 * regimen(100, duration=4)).records()["RATE"].tolist() == [50]
    assert regimen(9, 6, doses=2, start=3).at_steady_state().window == (0, 6)


def test_side_of_a_dose():
    """An observation at the time of a dose, an added one too, is before or after it; at a steady state after it."""
    times = [12.0, 0, 24, 24]
    before = regimen(500, 12).data(times=times, n=2)
    assert before.x["TIME"][0].tolist() == [0, 12, 24] and before.labels.tolist() == [1, 2]
    assert before.tables["events"][0]["rows_before"].tolist() == [[1, 2, 3]] * 2
    after = regimen(500, 12).data(times=times, at_dose="after")
    assert after.tables["events"][0]["rows_before"].tolist() == [[0, 1, 2]]
    steady = regimen(500, 12, steady_state=True).data(times=times)
    assert steady.tables["events"][0]["rows_before"].tolist() == [[0, 2, 3]]
    assert steady.events.facts.steady_state == (1,)


def test_covariates_and_rows():
    frame = pd.DataFrame({"WT": [60.0, 80.0], "SEX": ["f", "m"]})
    data = regimen(5, 12, per="WT").data(times=[1, 13], covariates=frame, rows={"OCC": [1, 2]}, time="t", y="conc")
    assert data.v["WT"].tolist() == [60, 80] and data.text["SEX"].tolist() == ["f", "m"]
    assert data.x["OCC"].tolist() == [[1, 2]] * 2 and data.y_name == "conc"
    assert data.tables["events"][0]["amount"].tolist() == [[300, 300], [400, 400]]
    assert not data.observed.any() and data.rows.all()


def test_dose_records_as_rows():
    """Where parameters vary within a subject the doses are rows too, in the order of time and side."""
    records = pd.DataFrame(
        {"ID": 1, "TIME": [0.0, 1, 12, 20], "AMT": [9.0, 0, 9, 0], "EVID": [1, 0, 1, 0], "DV": [0, 2.0, 0, 2.0],
         "WT": [70.0, 70, 75, 80]}
    )  # fmt: skip
    like = jn.GroupedData.from_nonmem(records)
    assert like.events is not None and like.events.facts.rows_are_records
    rows = {"WT": [1.0, 2.0, 3.0]}
    data = regimen(5, 12, doses=2).data(times=[0, 12, 24], rows=rows, like=like)
    assert data.x["TIME"].tolist() == [[0, 0, 12, 12, 24]]
    table = data.tables["events"][0]
    assert table["row"].tolist() == [[1, 3]] and table["rows_before"].tolist() == [[1, 3]]
    # A dose at the time of a row has that row's value.
    assert data.x["WT"].tolist() == [[1, 1, 2, 2, 3]]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: regimen(-1), "amount must be a finite number > 0"),
        (lambda: regimen(1, 0), "interval must be"),
        (lambda: regimen(1, doses=3), "doses=3 needs interval="),
        (lambda: regimen(1, 12, doses=3, until=20), "give one of them"),
        (lambda: regimen(1, 12, until=0), "until must be"),
        (lambda: regimen(1, 12, duration=1, rate=1), "duration and rate"),
        (lambda: regimen(1, 12, duration="modell"), "'model'"),
        (lambda: regimen(1, 12, loading=2, steady_state=True), "no meaning at steady state"),
        (lambda: regimen(1, 12, compartment=0), "compartment must be a whole number >= 1"),
        (lambda: regimen(1, 12, intervall=3), "has no option 'intervall'"),
        (lambda: regimen(1, 12).records(), "has no end"),
        (lambda: regimen(1, per="WT").records(), "amounts are per WT"),
        (lambda: regimen(1).then(regimen(2)), "single dose has no interval"),
        (lambda: regimen(1, 12).then(regimen(2)), "without end"),
        (lambda: regimen(1) + 3, "can be added to a regimen"),
        (lambda: regimen(1).at_steady_state(), "no steady state"),
        (lambda: regimen(1).data(times=[-1, 2]), "before the regimen starts at time 0"),
        (lambda: regimen(1).data(times=[0, np.nan]), "finite numbers"),
        (lambda: regimen(1).data(times=[]), "finite numbers"),
        (lambda: regimen(1, 1e-9).data(times=[0, 10]), "same unit"),
        (lambda: regimen(1).data(times=[1], n=3, covariates={"WT": [1, 2]}), "2 rows for 3 subjects"),
        (lambda: regimen(1).data(times=[1], covariates={"WT": [1, np.nan]}), "'WT' is missing or infinite in row 2"),
        (lambda: regimen(1, per="WT").data(times=[1], covariates={"wt": 70}), "per WT, which the covariates lack"),
        (lambda: regimen(1, per="WT").data(times=[1], covariates={"WT": -70}), "expected positive numbers"),
        (lambda: regimen(1).data(times=[1, 2], rows={"OCC": [1, 2, 3]}), "has 3 values"),
        (lambda: regimen(1).data(times=[1], at_dose="during"), "at_dose must be"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(JaxnlmeError) as error:
        call()
    assert words in str(error.value)
    assert isinstance(error.value, OptionError)
