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


def two(phi: Any, x: Any, v: Any) -> Any:
    return {k: f for k, f in response(phi, x, v).items() if k != "3"}


def bound(
    frame: pd.DataFrame,
    endpoints: tuple[int, ...] = (1, 2),
    label: str | None = "DVID",
    model_function: Any = response,
) -> Any:
    """The model and the table met, and one likelihood, which evaluates the model."""
    data = jn.GroupedData.from_nonmem(frame, endpoint=label)
    parameters = [
        jn.Parameter("CL", 4.0, "log", random=True),
        jn.Parameter("V", 30.0, "log"),
        jn.Parameter("slope", 3.0),
    ]
    censoring = "M3" if frame.CENS.any() else None
    model = jn.NLMEModel(model_function, parameters, error=dict.fromkeys(endpoints, "constant"), censoring=censoring)
    return jn.fit(model, data, "fo", max_iterations=1, progress=False)


def doses(frame: pd.DataFrame, model: Any, *extra: jn.Parameter, error: str = "constant") -> Any:
    """One fit of a model of dose records with these parameters besides CL and V."""
    data = jn.GroupedData.from_nonmem(frame[frame.DVID == 1].drop(columns=["DVID", "CENS"]))
    parameters = [jn.Parameter("CL", 4.0, "log", random=True), jn.Parameter("V", 30.0, "log"), *extra]
    return jn.fit(jn.NLMEModel(model, parameters, error=error), data, "fo", max_iterations=1, progress=False)


def decline(t: Any, y: Any, phi: Any) -> Any:
    return {"central": -phi.CL / phi.V * y.central}


def with_input(states: tuple[str, ...] = ("central",)) -> Any:
    return jn.pkpd.ode(decline, states, "central / V", inputs={"central": jn.pkpd.inputs.weibull()})


SATURABLE = (jn.Parameter("VM", 1.0), jn.Parameter("KM", 1.0))
WEIBULL = (jn.Parameter("TD", 1.0), jn.Parameter("BETA", 1.0))
STEADY = (("SS", 4, 1), ("II", 4, 12.0))


def before_the_dose() -> pd.DataFrame:
    """The table with a level of 0 before each first dose."""
    levels = pd.DataFrame({"ID": [1, 2], "TIME": 0.0, "EVID": 0, "DVID": 1, "CMT": 1, "DV": 0.0}).assign(place=-1)
    frame = pd.concat([levels, table().assign(place=range(9))]).fillna({"AMT": 0, "II": 0, "SS": 0, "CENS": 0})
    return frame.sort_values(["ID", "place"], kind="stable").drop(columns="place").reset_index(drop=True)


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
        lambda: bound(changed(("CENS", 3, 1), ("DV", 3, np.nan))),
        r"column 'CENS' marks row 4 as censored, without a limit",
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
    "infusion through an input function": (
        lambda: doses(changed().assign(RATE=[0.0, 0, 0, 0, 20, 0, 0, 0, 0]), with_input(), *WEIBULL),
        r"enter compartment 1 by an input function \(inputs=\), and records of infusions \(RATE\) into it",
    ),
    "steady state through an input function": (
        lambda: doses(changed(*STEADY), with_input(), *WEIBULL), r"records that begin in steady state \(SS 1\)",
    ),
    "no such state": (
        lambda: doses(changed(("CMT", 4, 3)), jn.pkpd.ode(decline, ["central"], "central / V")),
        r"a dose enters compartment 3 \(CMT in row 4.*\), which jn.pkpd.ode\(decline, .*does not have",
    ),
    "route without its duration": (
        lambda: doses(changed(), jn.pkpd.michaelis_menten(1, "zero-order"), *SATURABLE),
        r"spreads doses over a duration, and phi lacks D1",
    ),
    "lag longer than the interval": (
        lambda: doses(changed(*STEADY), jn.pkpd.compartments(1), jn.Parameter("LAG1", 15.0)),
        r"group 2: the dose at steady state \(SS\) at time 0 has a lag of 15.* give the model pending=1",
    ),
    "more infusions than overlap": (
        lambda: doses(changed(*STEADY), jn.pkpd.compartments(1, "zero-order"), jn.Parameter("D1", 30.0)),
        r"group 2: infusions of 2 of the doses before it are running .* give the model overlap=3",
    ),
    "levels of zero before the first dose": (
        lambda: doses(before_the_dose(), jn.pkpd.compartments(1), error="combined"),
        r"exactly 0 in rows 1 and 5 \(before the first dose\?\), .* grows without bound as a goes to 0",
    ),
    "comment row": (
        lambda: bound(table().astype({"ID": object}).replace({"ID": {2: "#2"}}).astype({"ID": str})),
        r"ID is '#2' in rows 5, 6, 7.*: leave them out by skip='#'",
    ),
    "endpoint of a table to predict": (
        lambda: bound(table(), model_function=two).predict(changed(("DVID", 3, 5), ("DV", 3, np.nan))),
        r"column 'DVID' has the endpoint '5' in row 4 of the table to predict, and the model has 1 and 2",
    ),
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
