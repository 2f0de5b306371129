"""Every mistake in a table raises DataError with column, rows, what was expected, and the remedy."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest

from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import DataError

NAN = float("nan")
GOOD = {
    "id": ["a", "a", "b", "b"],
    "time": [0.0, 1.0, 0.0, 1.0],
    "wt": [70.0, 70.0, 60.0, 60.0],
    "sex": ["m", "m", "f", "f"],
    "w": [1.0, 1.0, 2.0, 2.0],
    "conc": [1.0, 2.0, 3.0, 4.0],
}
ROLES = {"group": "id", "y": "conc", "x": ["time"], "v": ["wt", "sex"], "weights": "w"}

# (changed columns, changed roles, fragments of the message)
MISTAKES = {
    "unknown y": ({}, {"y": "cnoc"}, ["y: the table has no column 'cnoc'", "did you mean 'conc'?"]),
    "unknown x": ({}, {"x": ["tiem"]}, ["x: the table has no column 'tiem'", "did you mean 'time'?"]),
    "unknown group": ({}, {"group": "zzzz"}, ["group: the table has no column", "known: 'id', 'time'"]),
    "unknown weights": ({}, {"weights": "weight"}, ["weights: the table has no column 'weight'"]),
    "listed twice": ({}, {"x": ["time", "time"]}, ["x lists 'time' more than once"]),
    "two roles": ({}, {"v": ["time"]}, ["column 'time' is both x and in v", "one role per column"]),
    "group in x": ({}, {"x": ["id"]}, ["'id' is both the group and in x", "copy the column"]),
    "y in x": ({}, {"x": ["conc"]}, ["'conc' is both the response y and in x"]),
    "a level twice": ({}, {"group": ["id", "id"]}, ["group lists 'id' more than once"]),
    "level in v": ({}, {"group": ["id", "sex"]}, ["'sex' is both the group and in v", "one role per column"]),
    "no level": ({}, {"group": []}, ["group lists no column", "nested levels"]),
    "levels swapped": (
        {"id": [1, 2, 3, 4], "ward": ["a", "a", "b", "b"]},
        {"group": ["id", "ward"], "v": []},
        ["every id lies in one ward", "group=['ward', 'id']"],
    ),
    "no label": ({"id": ["a", None, "b", "b"]}, {}, ["group column 'id' has no label in row 2", "drop the rows"]),
    "nan label": ({"id": [1.0, NAN, 2.0, NAN]}, {}, ["group column 'id' has no label in rows 2 and 4"]),
    "nan in x": ({"time": [0.0, NAN, 0.0, NAN]}, {}, ["x column 'time' is missing (NaN) in rows 2 and 4", "finite"]),
    "none in x": ({"time": [0.0, None, 0.0, 1.0]}, {}, ["x column 'time' is missing (NaN) in row 2", "drop the rows"]),
    "inf in x": ({"time": [0.0, np.inf, 0.0, 1.0]}, {}, ["x column 'time' is missing or infinite in row 2"]),
    "nan in v": ({"wt": [70.0, NAN, 60.0, 60.0]}, {}, ["v column 'wt' is missing (NaN) in row 2"]),
    "missing text": ({"sex": ["m", "m", None, NAN]}, {}, ["v column 'sex' is missing in rows 3 and 4", "'unknown'"]),
    "inf in y": ({"conc": [1.0, 2.0, -np.inf, 4.0]}, {}, ["response 'conc' is infinite in row 3", "NaN"]),
    "text y": (
        {"conc": ["1.0", "BLQ", "3.0", "4"]},
        {},
        ["'conc' is not numeric", "row 2 holds text ('BLQ')", "na_values"],
    ),
    "number-like y": ({"conc": ["1", "2", None, "4"]}, {}, ["rows 1, 2 and 4 hold text ('1')", "convert the column"]),
    "nothing observed": ({"conc": [NAN] * 4}, {}, ["'conc' has no observed value in any of 4 rows"]),
    "all none": ({"conc": [None] * 4}, {}, ["'conc' has no observed value"]),
    "v varies": (
        {"wt": [70.0, 70.0, 60.0, 61.0]},
        {},
        ["v column 'wt' varies within group 'b'", "row 4 differs from its first row, row 3", "list the column in x"],
    ),
    "text v varies": (
        {"sex": ["m", "f", "f", "m"]},
        {},
        ["v column 'sex' varies within group 'a'", "row 2", "(f against m)", "(and 1 more group)"],
    ),
    "negative weight": ({"w": [1.0, 1.0, -2.0, -2.0]}, {}, ["weights column 'w' is negative", "rows 3 and 4", ">= 0"]),
    "nan weight": ({"w": [1.0, NAN, 2.0, 2.0]}, {}, ["weights column 'w'", "missing in row 2"]),
    "text weight": ({"w": ["a", "a", "b", "b"]}, {}, ["weights column 'w' is not numeric"]),
    "weights vary": ({"w": [1.0, 3.0, 2.0, 2.0]}, {}, ["weights column 'w' varies within group 'a'", "same weight"]),
    "zero weights": ({"w": [0.0] * 4}, {}, ["weights of all groups are zero"]),
    "lengths": ({"time": [0.0, 1.0]}, {}, ["column 'time' has length 2 and column 'id' has length 4"]),
    "empty": ({name: [] for name in GOOD}, {}, ["the table is empty"]),
    "matrix column": ({"time": np.ones((4, 2))}, {}, ["column 'time' has shape (4, 2)", "one value per row"]),
    "dates": ({"time": np.array(["2020-01-01"] * 4, "datetime64[D]")}, {}, ["'time' holds dates", "hours"]),
    "python dates": ({"time": [datetime.date(2020, 1, 1)] * 4}, {}, ["'time' holds dates"]),
    "complex": ({"time": np.ones(4, complex)}, {}, ["'time' holds complex numbers"]),
    "unhashable labels": ({"id": [["a"], ["a"], ["b"], ["b"]]}, {}, ["labels that cannot be compared"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_in_a_dictionary(case: str) -> None:
    columns, roles, fragments = MISTAKES[case]
    with pytest.raises(DataError) as caught:
        GroupedData.from_frame(GOOD | columns, **(ROLES | roles))
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("case", [c for c in MISTAKES if c not in ("lengths", "matrix column", "complex")])
def test_mistake_in_a_data_frame(case: str, library: str) -> None:
    if library == "polars" and case == "unhashable labels":
        pytest.skip("polars turns lists into series")
    columns, roles, fragments = MISTAKES[case]
    table = GOOD | columns
    if library == "pandas":
        frame = pd.DataFrame(table)
    else:
        frame = pl.DataFrame(
            {
                k: [None if isinstance(c, float) and c != c and k == "sex" else c for c in np.asarray(v).tolist()]
                if k == "sex"
                else v
                for k, v in table.items()
            }
        )
    with pytest.raises(DataError) as caught:
        GroupedData.from_frame(frame, **(ROLES | roles))
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_table_without_mistakes() -> None:
    assert GroupedData.from_frame(GOOD, **ROLES).weights.tolist() == [1.0, 2.0]


def test_five_rows_are_listed_and_the_others_counted() -> None:
    time = np.zeros(30)
    time[3:20] = NAN
    with pytest.raises(DataError, match=re.escape("in rows 4, 5, 6, 7, 8 and 12 more;")):
        GroupedData.from_frame({"g": np.arange(30), "t": time, "y": np.ones(30)}, "g", "y", x="t")


def test_duplicated_columns() -> None:
    frame = pd.DataFrame([[1, 1.0, 2.0, 0.0]], columns=["g", "y", "y", "t"])
    with pytest.raises(DataError, match="2 columns of the table are called 'y'"):
        GroupedData.from_frame(frame, "g", "y", x="t")


def test_group_in_the_index() -> None:
    frame = pd.DataFrame(GOOD).set_index("id")
    with pytest.raises(DataError, match="reset_index"):
        GroupedData.from_frame(frame, **ROLES)


def test_objects_that_are_not_tables() -> None:
    with pytest.raises(DataError, match=r"call .collect\(\) first"):
        GroupedData.from_frame(pl.LazyFrame(GOOD), **ROLES)
    with pytest.raises(DataError, match="from_arrays"):
        GroupedData.from_frame(np.ones((3, 3)), **ROLES)


def test_timestamps_in_frames() -> None:
    stamps = pd.to_datetime(["2020-01-01"] * 4)
    with pytest.raises(DataError, match="'time' holds dates"):
        GroupedData.from_frame(pd.DataFrame(GOOD).assign(time=stamps), **ROLES)
    zoned = stamps.tz_localize("UTC")
    with pytest.raises(DataError, match="'time' holds dates"):
        GroupedData.from_frame(pd.DataFrame(GOOD).assign(time=zoned), **ROLES)
    with pytest.raises(DataError, match="'time' holds dates"):
        GroupedData.from_frame(pl.DataFrame(GOOD | {"time": [datetime.datetime(2020, 1, 1)] * 4}), **ROLES)


def test_arrays_of_wrong_shape() -> None:
    with pytest.raises(DataError, match=r"x has shape \(2, 2, 2\)"):
        GroupedData.from_arrays([1.0, 2.0], [1, 2], np.ones((2, 2, 2)))
    with pytest.raises(DataError, match="column 'x0' has length 3"):
        GroupedData.from_arrays([1.0, 2.0], [1, 2], np.ones((3, 1)))
    with pytest.raises(DataError, match="both the response y and in x"):
        GroupedData.from_arrays([1.0, 2.0], [1, 2], {"y": [1.0, 2.0]})


def test_rows_to_column_requires_the_shape_of_the_data() -> None:
    with pytest.raises(DataError, match=r"shape \(3,\); expected \(2, 2\)"):
        GroupedData.from_frame(GOOD, **ROLES).rows_to_column(np.ones(3))
