"""Limits of quantification of a table: what is read, carried along, and refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.data._limit_columns import LimitColumns

TABLE = pd.DataFrame(
    {
        "id": [1, 1, 1, 2, 2, 2, 2],
        "t": [0.0, 1, 2, 0, 1, 2, 3],
        "y": [5.0, 0.5, np.nan, 9.0, 4.0, 0.5, 0.5],
        "cens": [0, 1, 0, -1, 0, 1, 1],
        "low": [np.nan, np.nan, np.nan, np.nan, 3.0, 0.1, np.nan],
    }
)


def read(table: pd.DataFrame = TABLE, **limits) -> jn.GroupedData:
    return jn.GroupedData.from_frame(table, "id", "y", "t", **limits)


def test_codes_and_interval():
    data = read(censoring="cens", limit="low")
    limits = data.limits
    kind = data.rows_to_column(limits.kind)
    assert kind.tolist() == [0, 1, 0, 2, 0, 3, 1]
    assert data.rows_to_column(limits.upper).tolist() == [np.inf, 0.5, np.inf, np.inf, np.inf, 0.5, 0.5]
    assert data.rows_to_column(limits.lower).tolist() == [-np.inf, -np.inf, -np.inf, 9.0, -np.inf, 0.1, -np.inf]
    # The limit that all censored rows share, and no observed response is beyond, is that of every row.
    assert (data.rows_to_column(limits.lloq) == 0.5).all() and (data.rows_to_column(limits.uloq) == 9.0).all()
    assert data.n_obs == 6
    assert "2 left-censored, 1 right-censored, 1 in an interval" in repr(data)


def test_arrays_have_the_limits_of_a_table():
    table = TABLE.assign(y=[5.0, 0.5, 3.0, 9.0, 4.0, 0.5, 0.5])
    columns = {"y": table.y.to_numpy(), "group": table.id.to_numpy(), "x": {"t": table.t.to_numpy()}}
    found = jn.GroupedData.from_arrays(**columns, censoring=table.cens.to_numpy(), limit=table.low.to_numpy())
    wanted = read(table, censoring="cens", limit="low")
    assert found.limits is not None and wanted.limits is not None
    for name, values in found.limits.arrays.items():
        np.testing.assert_array_equal(values, wanted.limits.arrays[name])
    by_number = jn.GroupedData.from_arrays(**columns, lloq=0.6, uloq=8.0)
    assert by_number.limits is not None
    assert by_number.rows_to_column(by_number.limits.kind).tolist() == [0, 1, 0, 2, 0, 1, 1]
    for options, words in (
        ({"censoring": "cens"}, "censoring is 'cens'; expected an array with one value for each row"),
        ({"censoring": [0, 1]}, "has 2 values and the table 7 rows"),
        ({"censoring": [0, 1, 0, 3, 0, 0, 0]}, r"holds 3 in row 4; expected 0 \(observed\)"),
    ):
        with pytest.raises(jn.DataError, match=words):
            jn.GroupedData.from_arrays(**columns, **options)


def test_limits_of_quantification_censor_responses_beyond_them():
    table = TABLE.assign(y=[5.0, 0.2, np.nan, 9.0, 4.0, 0.0, 0.7], lloq=[0.5, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6])
    data = read(table, lloq="lloq", uloq=8.0)
    assert data.rows_to_column(data.limits.kind).tolist() == [0, 1, 0, 2, 0, 1, 0]
    y = data.rows_to_column(data.y)
    assert y[[1, 3, 5]].tolist() == [0.5, 8.0, 0.6] and y[6] == 0.7
    # A code with 0 in the place of the limit, beside a limit of quantification.
    coded = read(table.assign(cens=[0, 1, 0, 0, 0, 1, 0]), censoring="cens", lloq="lloq")
    assert coded.rows_to_column(coded.limits.upper)[[1, 5]].tolist() == [0.5, 0.6]


def test_a_limit_that_an_observed_response_is_below_is_not_that_of_all_rows():
    data = read(TABLE.assign(y=[5.0, 0.5, np.nan, 9.0, 0.3, 0.5, 0.5]), censoring="cens")
    lloq = data.rows_to_column(data.limits.lloq)
    assert lloq[1] == 0.5 and lloq[0] == -np.inf


def test_table_and_back():
    data = read(censoring="cens", limit="low")
    again = jn.GroupedData.from_frame(
        data.to_frame(), "id", "y", "t", censoring="cens", limit="low", lloq="LLOQ", uloq="ULOQ"
    )
    assert again.fingerprint() == data.fingerprint()
    assert read().fingerprint() != data.fingerprint()


def test_selection_padding_and_other_responses():
    data = read(censoring="cens", limit="low")
    assert data.pad_to(6).fingerprint() == data.fingerprint()
    second = data.select([1])
    assert second.limits.kind.tolist() == [[2, 0, 3, 1]]
    assert data.with_response(data.rows_to_column(data.y)).fingerprint() == data.fingerprint()
    drawn = data.with_response(np.array([4.0, 3.0, 1.0, 2.0, 0.4, 0.05, 12.0]))
    assert drawn.rows_to_column(drawn.limits.kind).tolist() == [0, 0, 0, 0, 1, 3, 2]
    assert drawn.rows_to_column(drawn.y)[[4, 5, 6]].tolist() == [0.5, 0.5, 9.0]
    assert drawn.n_obs == 6


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"cens": [0, 1, 1, 0, 0, 0, 0]}, {"censoring": "cens"}, "row 3 as censored, without a limit"),
        ({"cens": [0, 2, 0, 0, 0, 0, 0]}, {"censoring": "cens"}, "holds 2 in row 2"),
        ({"cens": [0, np.nan, 0, 0, 0, 0, 0]}, {"censoring": "cens"}, "is empty in row 2"),
        ({"cens": list("abcdefg")}, {"censoring": "cens"}, "holds text"),
        ({"low": [0, 0.7, 0, 0, 0, 0.1, 0]}, {"censoring": "cens", "limit": "low"}, "not below the limit in row 2"),
        ({"low": [0, 0, 0, 9.0, 0, 0.1, 0]}, {"censoring": "cens", "limit": "low"}, "not above the limit in row 4"),
        ({}, {"censoring": "CENSOR"}, "no column 'CENSOR'"),
        ({}, {"censoring": 1}, "expected the name of a column"),
        ({}, {"lloq": 2.0, "uloq": 1.0}, "not below the upper one"),
        ({}, {"lloq": {"cp": 1.0}}, "dictionary by endpoint"),
        ({}, {"lloq": True}, "expected a number"),
        ({}, {"lloq": float("nan")}, "expected a number"),
    ],
)
def test_refused(change, options, words):
    with pytest.raises(jn.DataError, match=words):
        read(TABLE.assign(**change), **options)


def test_limits_by_endpoint():
    labels = ["cp", "cp", "pca", "pca"]
    columns = LimitColumns(lloq={"cp": 1.0}, endpoint=labels)
    y, limits = columns.read(np.array([0.5, 2.0, 0.5, 3.0]), "y")
    assert limits.kind.tolist() == [1, 0, 0, 0] and limits.lloq.tolist() == [1.0, 1.0, -np.inf, -np.inf]
    assert y.tolist() == [1.0, 2.0, 0.5, 3.0]
    with pytest.raises(jn.DataError, match="endpoints are cp and pca"):
        LimitColumns(lloq={"plasma": 1.0}, endpoint=labels).read(np.ones(4), "y")
