"""Closed forms against the event cases of the reference, and NONMEM's table of 54 subjects."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.records import Record
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


def cases_of(reference, route: str, compartments: int) -> tuple:
    """The cases with constant parameters, with phi, x and v of all of them."""
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
    return cases, phi, x, v


@pytest.mark.parametrize("compartments", [1, 2, 3])
@pytest.mark.parametrize("route", LINEAR)
def test_derivatives(reference, route, compartments):
    """Derivatives of the concentration in every parameter against central differences, all designs together."""
    cases, phi, x, v = cases_of(reference, route, compartments)
    model = model_of(cases[0])
    names = tuple(phi)

    def concentration(values):
        return jax.vmap(model)(Record(names, values, "parameter"), x, v)

    @jax.jit
    def slope(values, direction):
        return jax.jvp(concentration, (values,), (direction,))[1]

    values = tuple(jnp.asarray(value) for value in phi.values())
    plain = jax.jit(concentration)
    for k, name in enumerate(names):
        unit = tuple(jnp.ones_like(value) * (j == k) for j, value in enumerate(values))
        found = slope(values, unit)
        step = 1e-3 * max(float(values[k].max()), 0.1)

        def difference(h, unit=unit):
            up, down = (tuple(a + s * h * u for a, u in zip(values, unit, strict=True)) for s in (1, -1))
            return (plain(up) - plain(down)) / (2 * h)

        expected = (64 * difference(step) - 20 * difference(2 * step) + difference(4 * step)) / 45
        # A derivative that is zero (the lag of a constant infusion) has only the rounding error of concentrations.
        size = jnp.max(jnp.abs(expected), axis=1, keepdims=True) + 1e-4 * jnp.max(plain(values), axis=1, keepdims=True)
        assert jnp.all(jnp.isfinite(found))
        worst = jnp.max(jnp.abs(found - expected) / size, axis=1)
        assert jnp.all(worst <= 1e-6), (name, [cases[i]["id"] for i in np.flatnonzero(worst > 1e-6)], worst)


def test_nonmem_table(reference):
    """NONMEM's table to its five digits, but for steady states with a lag of an interval or more, which it
    extrapolates."""
    table = pd.read_csv(reference / "pkpd/data/nmtest.csv")
    agree = json.loads((reference / "pkpd/events/nmtest_check.json").read_text())["agree"]
    labels = [int(label) for label in agree]
    groups, tables = [], []
    names = {"time": "TIME", "amt": "AMT", "evid": "EVID", "cmt": "CMT", "rate": "RATE", "ss": "SS", "ii": "II"}
    for label in labels:
        rows = table[table["id"] == label].reset_index(drop=True)
        events = rows[rows["evid"] != 0]
        columns = events[[*names, "addl"]].rename(columns=names | {"addl": "ADDL"})
        groups.append(columns.assign(rows_before=events.index, row=events.index).to_dict("records"))
        tables.append(rows)
    width = max(map(len, tables))

    def of_rows(name):
        return np.array([rows[name].to_numpy(float)[np.minimum(np.arange(width), len(rows) - 1)] for rows in tables])

    x, v = batch(event_records(groups, list(of_rows("time"))), of_rows("time"))
    # Lag and bioavailability may differ from record to record.
    phi = {name: np.full(len(labels), value) for name, value in {"CL": 1.1, "V": 20.0, "KA": 1.5}.items()}
    phi |= {name: of_rows(c) for name, c in {"F2": "bioav", "ALAG2": "lagt", "R2": "rat2", "D2": "dur2"}.items()}
    found = 1000 * np.asarray(evaluate(jn.pkpd.compartments(1, "first-order", overlap=8), phi, x, v))
    for k, (label, rows) in enumerate(zip(labels, tables, strict=True)):
        observed = (rows["evid"] == 0).to_numpy()
        expected = rows["cp"].to_numpy(float)[observed]
        worst = np.max(np.abs(found[k][: len(rows)][observed] - expected) / np.maximum(expected, 1.0))
        assert worst < 5.1e-5, (label, worst)


@pytest.mark.parametrize("compartments", [1, 2, 3])
@pytest.mark.parametrize("route", LINEAR)
def test_cases(reference, route, compartments):
    """Concentrations and amounts of all designs with constant parameters, by one compiled program."""
    cases, phi, x, v = cases_of(reference, route, compartments)
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
