"""Records that no model can use: one sentence each, with the row, what was expected, and the cure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn


def table() -> pd.DataFrame:
    """Two subjects with a dose and two concentrations and effects each; a dose after a reset for the second."""
    return pd.DataFrame(
        {
            "ID": [1, 1, 1, 1, 2, 2, 2, 2, 2],
            "TIME": [0.0, 1, 1, 2, 0, 1, 1, 0, 1],
            "AMT": [100.0, 0, 0, 0, 100, 0, 0, 50, 0],
            "II": 0.0,
            "SS": 0,
            "CMT": [1, 1, 1, 1, 1, 1, 1, 1, 1],
            "EVID": [1, 0, 0, 0, 1, 0, 0, 4, 0],
            "DVID": [1, 1, 2, 1, 1, 1, 2, 1, 1],
            "CENS": 0,
            "DV": [np.nan, 3.0, 80.0, 2.0, np.nan, 3.0, 81.0, np.nan, 1.0],
        }
    )


def response(phi: Any, x: Any, v: Any) -> Any:
    c = jn.pkpd.compartments(1)(phi, x, v)
    return {"1": c, "2": 90.0 - phi.slope * c, "3": c}


def bound(frame: pd.DataFrame, endpoints: tuple[int, ...] = (1, 2), label: str | None = "DVID") -> Any:
    """The model and the table met, and one likelihood, which evaluates the model."""
    data = jn.GroupedData.from_nonmem(frame, endpoint=label)
    parameters = [
        jn.Parameter("CL", 4.0, "log", random=True),
        jn.Parameter("V", 30.0, "log"),
        jn.Parameter("slope", 3.0),
    ]
    censoring = "M3" if frame.CENS.any() else None
    model = jn.NLMEModel(response, parameters, error=dict.fromkeys(endpoints, "constant"), censoring=censoring)
    return jn.fit(model, data, "fo", max_iterations=1, progress=False)


def changed(*cells: tuple[str, int, Any]) -> pd.DataFrame:
    """The table with other values in cells (column, row from 0)."""
    frame = table()
    for name, row, value in cells:
        frame.loc[row, name] = value
    return frame


RECORDS = {
    "negative time": (lambda: bound(changed(("TIME", 0, -1.0))), r"TIME is -1 in row 1; expected times >= 0"),
    "negative time of an observation": (
        lambda: bound(changed(("TIME", 0, -2.0), ("TIME", 1, -0.5))), r"TIME is -2 in rows 1 and 2",
    ),
    "no such compartment": (
        lambda: bound(changed(("CMT", 4, 4))),
        r"a dose enters compartment 4 \(CMT in row 5.*\), which jn.pkpd.compartments\(1, .*does not have",
    ),
    "steady state without an interval": (lambda: bound(changed(("SS", 4, 1))), r"SS is 1 in row 5 without an int"),
    "censored without a limit": (
        lambda: bound(changed(("CENS", 3, 1), ("DV", 3, np.nan))), r"column 'CENS' marks row 4 as censored, without a limit",
    ),
    "unsorted after a reset": (
        lambda: bound(changed(("TIME", 7, 3.0))), r"TIME goes back in row 9 \(.*ID 2 after the reset in row 8\)",
    ),
    "unsorted before a reset": (lambda: bound(changed(("TIME", 4, 1.5))), r"TIME goes back in row 6 \(.*ID 2\)"),
    "endpoint without rows": (
        lambda: bound(table(), (1, 2, 3)), r"endpoint '3' of error= has no row with a response \(column 'DVID'\)",
    ),
    "endpoints without their column": (
        lambda: bound(table(), label=None), r"name the column of labels, endpoint='DVID' of GroupedData",
    ),
    "endpoint without a residual model": (
        lambda: bound(changed(("DVID", 6, 4))), r"column 'DVID' has the endpoint '4' in row 7, for which error= has no",
    ),
    "endpoint of dose records only": (
        lambda: bound(changed(("DVID", 0, 3), ("DVID", 4, 3)), (1, 2, 3)), r"endpoint '3' of error= has no row with",
    ),
    "amount on an observation": (lambda: bound(changed(("AMT", 3, 50.0))), r"AMT is 50 in row 4, where EVID is no"),
    "dose without an amount": (lambda: bound(changed(("AMT", 4, 0.0))), r"AMT is 0 or missing in row 5"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(RECORDS))
def test_malformed_records(case: str) -> None:
    call, words = RECORDS[case]
    with pytest.raises((jn.DataError, jn.ModelError), match=words) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and 40 < len(message) < 420
    assert ":" in message or ". " in message, "it ends with what to do"
