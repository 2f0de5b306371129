"""Reading of NONMEM-style tables: what each record, time and covariate becomes."""

from __future__ import annotations

import datetime
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import jaxnlme as jn

read = jn.GroupedData.from_nonmem


def plain() -> pd.DataFrame:
    """Two subjects: a dose with added ones; an infusion at steady state, and a reset with a dose."""
    return pd.DataFrame(
        {
            "ID": [1, 1, 1, 1, 2, 2, 2, 2],
            "TIME": [0.0, 1, 2, 30, 0, 5, 10, 12],
            "AMT": [100.0, 0, 0, 0, 50, 0, 20, 0],
            "RATE": [0.0, 0, 0, 0, 25, 0, -2, 0],
            "ADDL": [2, 0, 0, 0, 0, 0, 0, 0],
            "II": [12.0, 0, 0, 0, 24, 0, 0, 0],
            "SS": [0, 0, 0, 0, 1, 0, 0, 0],
            "CMT": [1, 2, 2, 2, 1, 2, 3, 2],
            "EVID": [1, 0, 2, 0, 1, 0, 4, 0],
            "DV": [np.nan, 3.0, np.nan, 1.0, np.nan, 4.0, np.nan, 2.0],
            "WT": [70.0] * 4 + [80.0] * 4,
        }
    )


def test_roles_of_records():
    """Observations and predictions are rows; doses and resets events, with the rows before them; row numbers stay."""
    data = read(plain())
    assert data.labels.tolist() == [1, 2] and list(data.x) == ["TIME", "CMT"] and data.v["WT"].tolist() == [70, 80]
    assert data.sizes.tolist() == [3, 2] and data.row_index[data.rows].tolist() == [1, 2, 3, 5, 7]
    assert data.observed[data.rows].tolist() == [True, False, True, True, True]
    assert data.row_labels.tolist() == [1, 2, 3, 5, 7]
    events = data.events
    assert events is not None and events.row_index.tolist() == [0, 4, 6]
    assert events.columns["rows_before"].tolist() == [0, 0, 1] and events.columns["row"].tolist() == [-1] * 3
    assert events.to_frame()["row"].tolist() == [1, 5, 7]
    assert events.facts.steady_state == (1,) and events.facts.modelled_duration and events.facts.dosed == (1, 3)
    table, mask = data.tables["events"]
    assert mask.sum(axis=1).tolist() == [3, 3] and table["time"][0].tolist() == [0, 12, 24]
    assert table["reset"][1].tolist() == [0, 1, 0] and table["segment"][1].tolist() == [1, 2, 2]


@pytest.mark.parametrize("kind", ["polars", "dictionary", "lower case", "csv", "blanks"])
def test_kinds_of_tables(kind: str, tmp_path: Path):
    """Frames of other kinds, and files, give the same data."""
    frame, source = plain(), None
    if kind == "polars":
        source = pl.from_pandas(frame)
    elif kind == "dictionary":
        source = {name: values.to_numpy() for name, values in frame.items()}
    elif kind == "lower case":
        frame.columns = frame.columns.str.lower()
        source = frame
    elif kind == "csv":
        source = tmp_path / "data.csv"
        frame.to_csv(source, index=False, na_rep=".")
    else:
        source = io.StringIO(
            "  ".join(frame.columns) + "\n" + frame.to_csv(sep=" ", header=False, index=False, na_rep=".")
        )
    data, expected = read(source), read(plain())
    assert data.events is not None and expected.events is not None
    for name, values in expected.events.columns.items():
        np.testing.assert_array_equal(data.events.columns[name], values)
    np.testing.assert_array_equal(data.y, expected.y)
    if kind != "lower case":
        assert data.fingerprint() == expected.fingerprint()


def test_unused_cells_are_noted():
    """A rate on an observation and a response on a dose are left out, and said."""
    frame = plain()
    frame.loc[[1, 4], ["RATE", "DV"]] = [[3.0, 3.0], [25.0, 9.0]]
    notes = read(frame).notes
    assert "RATE of row 2 is not used: they are no doses." in notes
    assert "DV of row 5 is not used: EVID is not 0." in notes


def test_codes_are_derived():
    """Without EVID an amount makes a dose, MDV 1 a prediction; without MDV a missing response is one to predict."""
    frame = plain().drop(columns=["EVID", "SS", "II", "ADDL", "RATE"])
    frame["MDV"] = [1, 0, 1, 0, 1, 0, 1, 0]
    events = read(frame).events
    assert events is not None and events.columns["EVID"].tolist() == [1, 1, 1]
    data = read(frame.drop(columns="MDV"))
    assert data.observed[data.rows].tolist() == [True, False, True, True, True]


def test_other_spellings():
    """Columns by argument; a duration in place of a rate; names of compartments."""
    frame = pd.DataFrame(
        {
            "Subject": ["a", "a", "b", "b"],
            "hours": [0, 1, 0, 1],
            "dose": [10, None, 20, None],
            "tinf": [2.0, 0, 0, 0],
            "conc": [None, 1.5, None, 2.5],
            "where": ["Depot", "central", "depot", "central"],
        }
    )
    data = read(
        frame, id="Subject", time="hours", amt="dose", dur="tinf", dv="conc", cmt="where",
        compartments={"depot": 1, "central": 2},
    )  # fmt: skip
    assert data.labels.tolist() == ["a", "b"] and data.y_name == "conc" and data.events is not None
    assert data.events.columns["RATE"].tolist() == [5, 0] and data.events.columns["CMT"].tolist() == [1, 1]
    assert data.x["where"].tolist() == [[2], [2]] and data.events.facts.time == "hours"


def test_older_codes_of_rxode2():
    """101 is a bolus into compartment 1, 210 one into 2 at steady state, 10101 begins and ends an infusion."""
    frame = pd.DataFrame(
        {
            "ID": 1,
            "TIME": [0.0, 0, 2, 3, 4, 9],
            "EVID": [101, 10201, 0, 10201, 210, 0],
            "AMT": [7.0, 30, 0, -30, 5, 0],
            "II": [0, 0, 0, 0, 12, 0],
            "DV": [0, 0, 1.0, 0, 0, 2.0],
        }
    )
    events = read(frame).events
    assert events is not None
    table = events.to_frame()
    assert table["EVID"].tolist() == [1, 1, 1] and table["CMT"].tolist() == [1, 2, 2]
    assert table["AMT"].tolist() == [7, 90, 5] and table["RATE"].tolist() == [0, 30, 0]
    assert table["SS"].tolist() == [0, 0, 1] and table["row"].tolist() == [1, 2, 5]
    frame.loc[3, "AMT"] = -31
    with pytest.raises(jn.DataError, match=r"rows 2 and 4.*has an end of the same subject"):
        read(frame)


# ---- times


CLOCK = ["8:30", "10:00", "23:15", "1:00"]
MOMENTS = ("2024-05-31 08:30", "2024-06-01 10:00", "1999-12-31 23:15", "2000-01-01 01:00")


def timed(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"ID": [1, 1, 2, 2], "AMT": [5, 0, 5, 0], "DV": [0, 1.0, 0, 2.0]} | columns)


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({"TIME": ["8:30", "10:00", "23:15:00", "1:00 am"], "DATE": ["5/31/2024", "6/1/24", "12-31-99", "1-1-00"]}, {}),
        ({"TIME": CLOCK, "DAT1": ["31/5/24", "1/6/24", "31.12.1999", "1.1.2000"]}, {}),
        ({"TIME": CLOCK, "DAT2": ["24-5-31", "24-6-1", "99-12-31", "0-1-1"]}, {}),
        ({"TIME": CLOCK, "DAT3": ["24-31-5", "24-1-6", "99-31-12", "0-1-1"]}, {}),
        ({"TIME": [8.5, 10.0, 23.25, 1.0], "DATE": [151, 152, 0, 1]}, {}),
        (
            {"TIME": CLOCK, "day": ["2024-05-31", "2024-06-01", "1999-12-31", "2000-01-01"]},
            {"date": "day"},
        ),
        (
            {"TIME": CLOCK, "day": ["31/5/24", "1/6/24", "31/12/99", "1/1/00"]},
            {"date": "day", "date_order": "dmy"},
        ),
        ({"TIME": ["2024-05-31 08:30", "2024-06-01T10:00", "1999-12-31 23:15:00", "2000-01-01 01:00"]}, {}),
        ({"TIME": pd.to_datetime([*MOMENTS])}, {}),
        ({"TIME": pd.to_timedelta([8.5, 34.0, 1.0, 2.75], unit="h")}, {}),
        (
            {
                "TIME": [datetime.time(8, 30), datetime.time(10), datetime.time(23, 15), datetime.time(1)],
                "DATE": [datetime.date.fromisoformat(moment[:10]) for moment in MOMENTS],
            },
            {},
        ),
    ],
)  # fmt: skip
def test_clock_times_and_dates(columns: dict[str, Any], options: dict[str, Any]):
    """All become hours since the subject's first record, a dose."""
    data = read(timed(**columns), **options)
    np.testing.assert_allclose(data.x["TIME"], [[25.5], [1.75]], atol=1e-9)
    assert any("hours since the first record" in note for note in data.notes)


def test_clock_times_of_one_day():
    data = read(timed(TIME=["8:30", "8:45", "0:00", "23:30"]))
    np.testing.assert_allclose(data.x["TIME"], [[0.25], [23.5]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"TIME": [0, None, 0, 1]}, "'TIME' is missing in row 2"),
        ({"TIME": ["8:30", "late", "9:00", "9:30"]}, "'TIME' is 'late' in row 2; expected a number or a clock time"),
        ({"TIME": ["8:30", "9:61", "9:00", "9:30"]}, "'TIME' is '9:61' in row 2"),
        (
            {"TIME": ["8:30", "9:00", "9:00", "9:30"], "DATE": ["31/5/24"] * 4},
            "'DATE' is '31/5/24' in rows 1, 2, 3 and 4",
        ),
        ({"TIME": ["8:30"] * 4, "DATE": ["5/31/24", None, "5/31/24", "5/31/24"]}, "'DATE' is missing in row 2"),
        ({"TIME": ["8:30", "1:00", "9:00", "9:30"]}, "TIME goes back in row 2.*give the dates of clock times"),
    ],
)
def test_times_that_cannot_be_read(columns: dict[str, Any], message: str):
    with pytest.raises(jn.DataError, match=message):
        read(timed(**columns))


# ---- covariates


def varying() -> pd.DataFrame:
    frame = pd.DataFrame({"ID": [1] * 5 + [2] * 3, "TIME": [0.0, 1, 2, 3, 4, 0, 1, 2], "AMT": [9, 0, 0, 9, 0, 9, 0, 0]})
    frame["DV"] = np.where(frame["AMT"] > 0, np.nan, 1.0)
    frame["CRCL"] = [None, 90.0, None, 80.0, None, None, 50.0, None]
    frame["SEX"] = ["f", None, None, None, None, "m", "m", None]
    return frame


@pytest.mark.parametrize(
    ("carry", "expected"), [("nocb", [90, 90, 80, 80, 80, 50, 50, 50]), ("locf", [90, 90, 90, 80, 80, 50, 50, 50])]
)
def test_missing_values_are_carried(carry: str, expected: list[float]):
    """Within the subject, in the direction of `carry` and else in the other; what varies keeps dose records as rows."""
    data = read(varying(), carry=carry)
    assert data.x["CRCL"][data.rows].tolist() == expected and data.text["SEX"].tolist() == ["f", "m"]
    events = data.events
    assert events is not None and events.facts.rows_are_records and events.facts.carry == carry
    assert events.columns["row"].tolist() == [0, 3, 0] == events.columns["rows_before"].tolist()
    assert any("'CRCL'" in note and "from the record" in note for note in data.notes)
    assert any("'CRCL'" in line for line in events.remarks) and "CRCL" in repr(events) and carry in repr(events)


def test_choice_of_covariates():
    """A list leaves others out; a subject without any value is an error for a listed one, a note for others."""
    frame = varying()
    data = read(frame, "SEX")
    assert list(data.x) == ["TIME"] and list(data.text) == ["SEX"] and data.n_rows == 5
    frame.loc[5:, "CRCL"] = None
    assert any("'CRCL' has no value in any record of ID 2, and is left out" in note for note in read(frame).notes)
    with pytest.raises(jn.DataError, match="'CRCL' has no value in any record of ID 2; expected one"):
        read(frame, ["CRCL"])
    with pytest.raises(jn.DataError, match="'DV' is read as dv, and listed in covariates"):
        read(frame, ["DV"])


def test_missing_codes_by_column():
    """A code of missing values in one column only."""
    frame = plain().assign(AGE=[40, 0, 0, 0, 50, 0, 0, 0])
    assert read(frame, na_values={"age": [0]}).v["AGE"].tolist() == [40, 50]
    assert "AGE" in read(frame).x


def test_categories_keep_their_order():
    frame = plain()
    frame["ARM"] = pd.Categorical(["low"] * 4 + ["high"] * 4, categories=["low", "high"])
    data = read(frame)
    assert data.levels["ARM"] == ("low", "high") and data.text["ARM"].tolist() == ["low", "high"]


def test_occasions_are_a_nested_level():
    frame = plain().assign(OCC=[1, 1, 1, 2, 1, 1, 2, 2])
    data = read(frame, occasion="OCC")
    assert data.level_names == ("ID", "OCC") and data.n_rows == 8 and data.nested[0].counts.tolist() == [2, 2]
    assert data.events is not None and data.events.facts.rows_are_records


def test_resets_by_a_column():
    """A change of the column resets: at a dose EVID 4, before another record EVID 3; time may begin anew there."""
    frame = pd.DataFrame({"ID": 1, "TIME": [0, 1, 0, 1, 0, 1], "AMT": [9, 0, 9, 0, 0, 0], "OCC": [1, 1, 2, 2, 3, 3]})
    frame["DV"] = [None, 1, None, 2, 3, 4]
    with pytest.raises(jn.DataError, match=r"TIME goes back in rows 3 and 5 .*reset='OCC'"):
        read(frame, [])
    data = read(frame, [], reset="OCC")
    assert data.events is not None and data.events.columns["EVID"].tolist() == [1, 4, 3]
    assert data.events.columns["rows_before"].tolist() == [0, 1, 2] and data.events.segment.tolist() == [0, 1, 2]


def test_rows_of_doses_by_request():
    assert read(plain(), dose_rows=True).n_rows == 8
    with pytest.raises(jn.DataError, match="'CRCL' vary within a subject"):
        read(varying(), dose_rows=False)


def test_skipped_rows_and_titles():
    """A title line, comment rows, synonyms of columns."""
    text = "C,Title,,,\nC,ID,TIME,CONC=DV,DOSE=AMT\n.,1,0,.,9\nC,1,1,7,.\n.,1,2,3,.\n"
    data = read(io.StringIO(text), skip="C")
    assert data.n_rows == 1 and data.row_index[data.rows].tolist() == [2] and data.y_name == "DV"
    assert any("1 rows were left out" in note for note in data.notes) and any("title" in note for note in data.notes)


def test_files_without_names_and_exponents_of_fortran():
    """Names by argument, as in NONMEM's $INPUT; 5.0D1 is a number."""
    data = read(io.StringIO("1,0,5.0D1,.\n1,1,.,2.5d-1\n"), names=["ID", "TIME", "AMT", "DV"])
    assert data.events is not None and data.events.columns["AMT"].tolist() == [50] and data.y.tolist() == [[0.25]]


def test_subjects_in_several_blocks():
    frame = plain().iloc[[0, 1, 4, 5, 2, 3]]
    with pytest.raises(jn.DataError, match="ID 1 begins again in row 5, after rows of other subjects"):
        read(frame)
    assert read(frame, repeated_ids="same").sizes.tolist() == [3, 1]
    assert read(frame, repeated_ids="new").labels.tolist() == [1, 2, "1 (2)"]


def test_limits_and_endpoints_are_handed_over():
    """Columns of limits and endpoints go to from_frame, or are refused by name; False leaves them out."""
    frame = plain().assign(CENS=[0, 1, 0, 0, 0, 0, 0, 0], DVID=["a", "a", "b", "b"] * 2)
    assert "CENS" not in read(frame, "WT", censoring=False).x
    assert any("endpoint='DVID'" in note for note in read(frame, censoring=False).notes)
    parameters = jn.GroupedData.from_frame.__wrapped__.__code__.co_varnames
    if "censoring" in parameters:
        assert read(frame, "WT").limits.kind[0].tolist() == [1, 0, 0]
    else:
        with pytest.raises(jn.DataError, match=r"'CENS'.*censoring=False"):
            read(frame)
    if "endpoint" in parameters:
        assert read(frame, "WT", censoring=False, endpoint="DVID").endpoint == "DVID"
    else:
        with pytest.raises(jn.DataError, match=r"'DVID'.*endpoint=False"):
            read(frame, "WT", censoring=False, endpoint="DVID")
