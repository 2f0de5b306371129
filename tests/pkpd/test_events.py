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
