"""Closed forms against the event cases of the reference, and NONMEM's table of 54 subjects."""

import numpy as np
import pytest

import jaxnlme as jn
from tests.pkpd.event_cases import batch, evaluate, event_cases, event_records

ROUTES = {"first_order": "first-order", "zero_order": "zero-order", "zero_then_first": "zero then first"}
LINEAR = ("bolus", "infusion", "first_order", "zero_order", "zero_then_first", "transit")


def model_of(case: dict, **options):
    """The model of a case."""
    if case["route"] == "transit":
        options["transits"] = case["parameters"]["NTR"]
    return jn.pkpd.compartments(case["compartments"], ROUTES.get(case["route"], case["route"]), **options)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest distance in units of what is allowed, 1e-8 of the value and 1e-12 of the peak."""
    size = np.abs(expected)
    return float(np.max(np.abs(found - expected) / (1e-8 * size + 1e-12 * size.max())))


@pytest.mark.parametrize("compartments", [1, 2, 3])
@pytest.mark.parametrize("route", LINEAR)
def test_cases(reference, route, compartments):
    """Concentrations and amounts of all designs with constant parameters, by one compiled program."""
    cases = [
        case
        for case in event_cases(reference).values()
        if (case["route"], case["compartments"]) == (route, compartments)
        and "elimination" not in case
        and case["design"] != "covariate"
    ]
    assert len(cases) >= 12
    times = np.array([case["times"] for case in cases])
    x, v = batch(event_records([case["records"] for case in cases], list(times)), times)
    names = [name for name in cases[0]["parameters"] if name != "NTR"]
    phi = {name: np.array([case["parameters"][name] for case in cases], float) for name in names}
    model = model_of(cases[0])
    amounts = evaluate(model.amounts, phi, x, v)
    assert model.states == tuple(cases[0]["states"])
    for k, case in enumerate(cases):
        found = np.stack([np.asarray(a[k]) for a in amounts], axis=-1)
        concentration = found[:, model.structure.central] / case["parameters"]["V"]
        expected = np.array(case.get("concentration_nonmem", case["concentration"]))
        assert distance(concentration, expected) < 1, case["id"]
        if "concentration_nonmem" not in case:
            assert distance(found, np.array(case["amounts"])) < 1, case["id"]


@pytest.mark.parametrize("carry", ["nocb", "locf"])
@pytest.mark.parametrize("compartments", [1, 2, 3])
@pytest.mark.parametrize("route", LINEAR)
def test_covariates_that_change(reference, route, compartments, carry):
    """A clearance that changes within the subject, carried backward or forward from its records."""
    case = event_cases(reference)[f"{compartments}cmt_{route}_covariate"]
    # Rows: those of the covariate and the doses, then the times of the case; a record precedes rows at its time.
    weight_at, weight = (np.array([row[name] for row in case["covariate_rows"]]) for name in ("TIME", "WT"))
    times = np.sort(np.concatenate([weight_at, case["times"]]), kind="stable")
    times = np.concatenate([[record["TIME"] for record in case["records"]], times])
    times = np.sort(times, kind="stable")
    at = np.searchsorted(weight_at, times) if carry == "nocb" else np.searchsorted(weight_at, times, "right") - 1
    clearance = case["parameters"]["CL"] * (weight[np.minimum(at, len(weight) - 1)] / 70) ** 0.75
    rows = [int(np.searchsorted(times, record["TIME"])) for record in case["records"]]
    placed = [r | {"row": row, "rows_before": row} for r, row in zip(case["records"], rows, strict=True)]
    records = event_records([placed], [times], carry=carry)
    assert records.facts.rows_are_records
    x, v = batch(records, times[None, :])
    phi = {name: np.array([value], float) for name, value in case["parameters"].items() if name != "NTR"}
    model = model_of(case)
    amounts = evaluate(model.amounts, phi | {"CL": clearance[None, :]}, x, v)
    shown = [int(np.flatnonzero(times == t)[-1]) for t in case["times"]]
    found = np.stack([np.asarray(a[0])[shown] for a in amounts], axis=-1)
    assert distance(found, np.array(case[f"amounts_{carry}"])) < 1


@pytest.mark.parametrize(
    "name", ["1cmt_savic_single", "1cmt_savic_three_doses", "2cmt_savic_single", "2cmt_savic_three_doses"]
)
def test_savic(reference, name):
    """A real number of transit compartments."""
    case = event_cases(reference)[name]
    times = np.array([case["times"]])
    x, v = batch(event_records([case["records"]], list(times)), times)
    model = jn.pkpd.compartments(case["compartments"], "savic transit")
    amounts = evaluate(model.amounts, {n: np.array([value]) for n, value in case["parameters"].items()}, x, v)
    found = np.stack([np.asarray(a[0]) for a in amounts], axis=-1)
    assert distance(found, np.array(case["amounts"])) < 1
