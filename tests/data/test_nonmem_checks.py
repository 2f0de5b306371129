"""Malformed tables of records: each is refused in one sentence with the rows, what was expected, and the cure."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

read = jn.GroupedData.from_nonmem


def table() -> pd.DataFrame:
    """Two subjects with a dose and two observations each; a further dose of subject 2 after a reset."""
    return pd.DataFrame(
        {
            "ID": [1, 1, 1, 2, 2, 2, 2, 2],
            "TIME": [0.0, 1, 2, 0, 1, 2, 0, 1],
            "AMT": [100.0, 0, 0, 100, 0, 0, 50, 0],
            "RATE": 0.0,
            "ADDL": 0,
            "II": 0.0,
            "SS": 0,
            "CMT": [1, 2, 2, 1, 2, 2, 1, 2],
            "EVID": [1, 0, 0, 1, 0, 0, 4, 0],
            "MDV": [1, 0, 0, 1, 0, 0, 1, 0],
            "DV": [np.nan, 3.0, 2.0, np.nan, 4.0, 2.0, np.nan, 1.0],
        }
    )


def test_the_table_is_read():
    assert read(table()).n_obs == 5


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({("TIME", 0): -1}, r"TIME is -1 in row 1; expected times >= 0: add a constant"),
        ({("TIME", 2): 0.5}, r"TIME goes back in row 3 \(the first: 0.5, ID 1\); .* sort the rows"),
        ({("TIME", 7): 1.0, ("TIME", 6): 5.0}, r"TIME goes back in row 8 \(.*, ID 2 after the reset in row 7\)"),
        ({("EVID", 6): 1}, r"TIME goes back in row 7 .*write EVID 3 or 4"),
        ({("AMT", 1): 50}, r"AMT is 50 in row 2, where EVID is no dose \(0, 2 or 3\); .* set EVID to 1"),
        ({("EVID", 6): 3}, r"AMT is 50 in row 7, where EVID is no dose"),
        ({("AMT", 0): 0}, r"AMT is 0 or missing in row 1, where EVID is a dose; .*give the amount, or set EVID"),
        ({("AMT", 0): np.nan}, r"AMT is 0 or missing in row 1"),
        ({("AMT", 0): -5}, r"AMT is -5 in row 1; expected a dose >= 0"),
        ({("RATE", 0): -3}, r"RATE is -3 in row 1; expected a rate > 0, 0 for a bolus, -1 .* or -2"),
        ({("RATE", 0): -1.5}, r"RATE is -1.5 in row 1"),
        ({("SS", 0): 1}, r"SS is 1 in row 1 without an interval II; .*set SS to 0"),
        ({("SS", 3): 2, ("SS", 0): 2}, r"SS is 2 in rows 1 and 4 without an interval II"),
        ({("SS", 0): 99, ("II", 0): 12}, r"SS is 99 in row 1; .*give missing_ss=99"),
        ({("ADDL", 0): 3}, r"ADDL is 3 in row 1 without an interval II"),
        ({("ADDL", 0): 1.5, ("II", 0): 12}, r"ADDL is 1.5 in row 1; expected a whole number"),
        ({("ADDL", 0): -1, ("II", 0): 12}, r"II or ADDL is negative in row 1"),
        ({("II", 0): -12}, r"II or ADDL is negative in row 1"),
        ({("SS", 0): 1, ("AMT", 0): 0, ("RATE", 0): 5, ("ADDL", 0): 1, ("II", 0): 0}, r"ADDL is 1 in row 1"),
        ({("EVID", 1): 5}, r"EVID is 5 in row 2; expected 0 \(observation\), 1 \(dose\)"),
        ({("EVID", 1): 102.5}, r"EVID is 102.5 in row 2"),
        ({("EVID", 0): 130}, r"EVID is 130 in row 1; of rxode2's older codes"),
        ({("MDV", 1): 2}, r"MDV is 2 in row 2; expected 0, or 1"),
        ({("CMT", 1): 1.5}, r"CMT is 1.5 in row 2; expected a whole number"),
        ({("CMT", 1): -2}, r"CMT is -2 in row 2; .* not switched off"),
        ({("CMT", 1): "central"}, r"CMT holds the name 'central'.*compartments=\{'depot': 1"),
        ({("DV", 1): np.nan}, r"DV is missing in row 2, where MDV is 0 .*set MDV to 1"),
        ({("DV", 1): "BLQ"}, r"column 'DV' holds 'BLQ' in row 2; expected numbers: .*the limit there, and 1 .* CENS"),
        ({("DV", 1): " <0.5"}, r"column 'DV' holds ' <0.5' in row 2; expected numbers: .*write the limit there"),
        ({("DV", 1): "lost"}, r"column 'DV' holds 'lost' in row 2; expected numbers.*na_values"),
        ({("DV", 1): np.inf}, r"column 'DV' is infinite in row 2"),
        ({("MDV", 0): 0, ("DV", 0): 5}, r"MDV is 0 and DV 5 in row 1, where EVID is not 0; .*row of its own"),
        ({("ID", 2): np.nan}, r"ID is missing in row 3; every record needs"),
        ({("ID", 2): 3}, None),
        ({("ID", 5): 1}, r"ID 1 and 2 begin again in rows 6 and 7, .*repeated_ids='same'"),
        ({("TIME", 2): np.nan}, r"column 'TIME' is missing in row 3"),
        ({("TIME", 2): "noon"}, r"column 'TIME' is 'noon' in row 3; expected a number or a clock time"),
    ],
)  # fmt: skip
def test_malformed_records(cells: dict[tuple[str, int], Any], message: str | None):
    frame = table().astype(object)
    for (column, row), value in cells.items():
        frame.loc[row, column] = value
    frame = frame.infer_objects()
    if message is None:
        read(frame)
        return
    with pytest.raises(jn.DataError, match=message) as caught:
        read(frame)
    assert str(caught.value).count(". ") == 0, "one sentence"
    assert len(str(caught.value)) < 420


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "Subject"}, r"id: the table has no column 'Subject'"),
        ({"dv": "TIME"}, r"column 'TIME' is given as dv, and the table has no other for the times"),
        ({"carry": "spline"}, r"carry is 'spline'; expected 'nocb'.*or 'locf'"),
        ({"repeated_ids": "yes"}, r"repeated_ids is 'yes'"),
        ({"covariates": "AGE"}, r"covariates: the table has no column 'AGE'"),
        ({"occasion": "VISIT"}, r"occasion: the table has no column 'VISIT'"),
        ({"date_order": "year first"}, r"date_order is 'year first'; expected 'mdy'"),
        ({"dose_rows": "some"}, r"dose_rows is 'some'"),
        ({"skip": 3}, r"skip is 3; expected the first letters"),
        ({"na_values": {"AGE": 0}}, r"na_values: the table has no column 'AGE'"),
        ({"missing_ss": "99"}, r"missing_ss is .*expected numbers"),
        ({"compartments": {"depot": "one"}}, r"compartments is .*expected the number of each name"),
        ({"compartments": ["depot"]}, r"compartments is .*expected the number of each name"),
        ({"group": "ID"}, r"no option 'group'; here it is id="),
        ({"covariate": ["WT"]}, r"no option 'covariate'; did you mean 'covariates'"),
        ({"sep": ";"}, r"'sep': options of pandas.read_csv are for files"),
    ],
)
def test_malformed_options(options: dict[str, Any], message: str):
    kinds = (jn.DataError, jn.OptionError, TypeError)
    with pytest.raises(kinds, match=message):
        read(table(), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="ID"), r"the table has no column ID; its columns are TIME, AMT.*id='...'"),
        (lambda f: f.drop(columns="TIME"), r"the table has no column TIME"),
        (lambda f: f.drop(columns="DV"), r"the table has no column DV; .*need_response=False"),
        (lambda f: f.assign(id=f.ID).drop(columns="ID").assign(Id=1), r"columns 'id', 'Id', which differ in upper"),
        (lambda f: f.iloc[:0], r"the table has no rows"),
        (lambda f: f[f.EVID > 0], r"doses and resets only"),
        (lambda f: f.assign(MDV=1), r"no observed response .*need_response=False"),
        (lambda f: f.assign(events=1.0), r"column 'events' has the name under which a model reads the doses"),
        (lambda f: pd.concat({"a": f}, axis=1), r"several levels of names, as \('a', 'ID'\)"),
        (lambda f: io.StringIO("ID,TIME,DV\n1,0,1\n1,1,2,3\n"), r"the file is no table .*line 3"),
        (lambda f: io.StringIO(""), r"the file is no table"),
        (lambda f: 3, r"expected a pandas or polars data frame"),
        (lambda f: f.assign(DUR=np.where(f.AMT > 0, 2.0, 0), RATE=np.where(f.AMT > 0, 10.0, 0)), r"DUR 2 and RATE 10"),
        (lambda f: f.assign(DUR=-1.0), r"DUR is negative in rows 1, 4 and 7"),
    ],
)
def test_malformed_tables(change: Any, message: str):
    with pytest.raises(jn.DataError, match=message):
        read(change(table()))


def test_rows_keep_their_numbers():
    """Rows that are left out are counted in messages, also in those of from_frame."""
    frame = pd.concat([pd.DataFrame({"ID": ["C note"], "TIME": ["text"]}), table().astype(object)], ignore_index=True)
    assert read(frame, skip="C").row_index.max() == 8
    frame.loc[8, "AMT"] = 5
    with pytest.raises(jn.DataError, match="AMT is 5 in row 9"):
        read(frame, skip="C")
    weighted = table().assign(W=[1, 1, 1, 1, 1, 1, 1, 2])
    with pytest.raises(jn.DataError, match=r"'W' varies within group 2: row 8 differs from its first row, row 5"):
        read(weighted, weights="W")


def test_missing_code_of_steady_state():
    data = read(table().assign(SS=99), missing_ss=99)
    assert data.events is not None and data.events.facts.steady_state == ()


def test_limits_without_a_value():
    """CENS 1 with neither DV nor LLOQ."""
    frame = table().assign(CENS=[0, 1, 0, 0, 0, 0, 0, 0])
    frame.loc[1, "DV"] = np.nan
    with pytest.raises(jn.DataError, match=r"column 'CENS' marks row 2 as censored, without a limit: expected it"):
        read(frame)
    frame.loc[1, "CENS"] = 3
    with pytest.raises(jn.DataError, match=r"column 'CENS' holds 3 in row 2; expected 0 \(observed\)"):
        read(frame)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({("ID", 3): "# not taken"}, r"ID is '# not taken' in row 4, as comment rows are marked: .* by skip='#'"),
        ({("ID", 3): "C"}, r"ID is 'C' in row 4, .* by skip='C' \(as IGNORE=C of NONMEM\)"),
        ({("FLAG", 3): "C"}, r"FLAG is 'C' in row 4, .* by skip='C'"),
    ],
)
def test_comment_rows_are_named(cells: dict[tuple[str, int], str], message: str):
    frame = table().astype({"ID": object})
    if ("FLAG", 3) in cells:
        frame.insert(0, "FLAG", None)
    for (name, row), value in cells.items():
        frame.loc[row, name] = value
    with pytest.raises(jn.DataError, match=message):
        read(frame)


def test_labels_of_text_beside_numbers_are_a_note():
    frame = table().astype({"ID": str}).replace({"ID": {"2": "S2"}})
    assert any("ID is text in rows 4, 5" in note for note in read(frame).notes)
    assert not any("is text" in note for note in read(frame.replace({"ID": {"1": "S1"}})).notes)
    frame.insert(0, "GROUP", ["C"] * 3 + ["T"] * 5)  # a covariate, not a mark of comments
    assert read(frame).text["GROUP"].tolist() == ["C", "T"]


def test_infusion_without_end():
    """AMT 0 with SS 1, RATE > 0 and II 0 is one of NONMEM's records."""
    frame = table()
    frame.loc[0, ["AMT", "SS", "RATE"]] = [0, 1, 5]
    events = read(frame).events
    assert events is not None and events.facts.constant_infusion and "without end" in repr(events)
