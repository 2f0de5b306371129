"""Models given by differential equations against the event cases of the reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.numerics.compiling import compiler_options
from jaxnlme.records import Record
from tests.pkpd.event_cases import batch, event_cases, event_records

# Routes by what precedes the central compartment: those of one line are computed by one program.
LINEAR = {
    "none": ("bolus", "infusion", "zero_order"),
    "depot": ("first_order", "zero_then_first"),
    "transit": ("transit",),
}


def rates_of(states, compartments):
    """The right-hand side of a linear model with these states."""

    def rhs(t, y, phi):
        rates, chain = {}, [name for name in states if name.startswith("transit")]
        flow = 0.0
        for name in chain:
            out = len(chain) / phi.MTT * y[name]
            rates[name], flow = flow - out, out
        if "depot" in states:
            out = phi.KA * y.depot
            rates["depot"], flow = flow - out, out
        rates["central"] = flow - phi.CL / phi.V * y.central
        for k in range(2, compartments + 1):
            name = f"peripheral{k - 1}"
            exchange = phi[f"Q{k}"] * (y.central / phi.V - y[name] / phi[f"V{k}"])
            rates[name], rates["central"] = exchange, rates["central"] - exchange
        return rates

    return rhs


def distance(found, expected):
    """The largest distance in units of what is allowed, 1e-7 of the value and 1e-9 of the peak."""
    size = np.abs(expected)
    return float(np.max(np.abs(found - expected) / (1e-7 * size + 1e-9 * size.max())))


def compiled(fn, phi, x, v):
    """fn(phi, x, v) for all groups, by a program that is compiled quickly."""
    record = Record(tuple(phi), tuple(map(jnp.asarray, phi.values())), "parameter")
    options = compiler_options(0, jax.default_backend())
    return jax.jit(jax.vmap(fn), compiler_options=options)(record, x, v)


def check(model, cases, names):
    """Concentrations and amounts of the cases, by one compiled program."""
    times = np.array([case["times"] for case in cases])
    x, v = batch(event_records([case["records"] for case in cases], list(times)), times)
    phi = {name: np.array([case["parameters"].get(name, 1.0) for case in cases], float) for name in names}
    amounts = compiled(model.amounts, phi, x, v)
    assert list(model.states) == cases[0]["states"]
    for k, case in enumerate(cases):
        found = np.stack([np.asarray(a[k]) for a in amounts], axis=-1)
        central = found[:, case["states"].index("central")] / case["parameters"]["V"]
        assert distance(central, np.array(case.get("concentration_nonmem", case["concentration"]))) < 1, case["id"]
        if "concentration_nonmem" not in case:
            assert distance(found, np.array(case["amounts"])) < 1, case["id"]


@pytest.mark.parametrize("compartments", [1, 2, 3])
@pytest.mark.parametrize("before", LINEAR)
def test_linear(reference, before, compartments):
    cases = [
        case
        for case in event_cases(reference).values()
        if case["route"] in LINEAR[before]
        and case["compartments"] == compartments
        and "elimination" not in case
        and case["design"] != "covariate"
    ]
    assert len(cases) >= 12 * len(LINEAR[before])
    model = jn.pkpd.ode(rates_of(cases[0]["states"], compartments), cases[0]["states"], "central / V")
    check(model, cases, {name for case in cases for name in case["parameters"]} - {"NTR"})


@pytest.mark.parametrize("compartments", [1, 2])
@pytest.mark.parametrize("route", ["bolus", "infusion", "first_order"])
def test_michaelis_menten(reference, route, compartments):
    cases = [
        case
        for case in event_cases(reference).values()
        if (case["route"], case["compartments"], "elimination" in case) == (route, compartments, True)
    ]
    assert len(cases) == 3
    model = jn.pkpd.michaelis_menten(compartments, route.replace("_", "-"))
    check(model, cases, cases[0]["parameters"])


@pytest.mark.parametrize("compartments", [1, 2])
def test_savic(reference, compartments):
    cases = [
        case
        for case in event_cases(reference).values()
        if (case["route"], case["compartments"]) == ("savic_transit", compartments)
    ]
    assert len(cases) == 2
    states = cases[0]["states"]
    inputs = {"depot": jn.pkpd.inputs.savic()}
    model = jn.pkpd.ode(rates_of(states, compartments), states, "central / V", inputs=inputs)
    check(model, cases, cases[0]["parameters"])


@pytest.mark.parametrize("compartments", [1, 2, 3])
@pytest.mark.parametrize("before", LINEAR)
@pytest.mark.parametrize("carry", ["nocb", "locf"])
def test_covariates(reference, compartments, before, carry):
    """A clearance that changes with weight in the group: as a parameter of each row where values hold backward, as a
    column of the data where they hold forward."""
    cases = [event_cases(reference)[f"{compartments}cmt_{route}_covariate"] for route in LINEAR[before]]
    known = np.array([[row["TIME"], row["WT"]] for row in cases[0]["covariate_rows"]])
    assert all(case["covariate_rows"] == cases[0]["covariate_rows"] for case in cases)
    times = np.array(sorted({*cases[0]["times"], *known[:, 0]}))
    at = np.searchsorted(known[:, 0], times, side="left" if carry == "nocb" else "right") - (carry == "locf")
    weight = known[np.clip(at, 0, len(known) - 1), 1]
    records = event_records([case["records"] for case in cases], [list(times)] * len(cases))
    facts = dataclasses.replace(
        records.facts, carry=carry, rows_are_records=True
    )  # each dose has the next row's values
    records = dataclasses.replace(records, facts=facts)
    x, v = batch(records, np.tile(times, (len(cases), 1)), {"WT": np.tile(weight, (len(cases), 1))})
    names = {name for case in cases for name in case["parameters"]} - {"NTR"}
    phi = {name: np.array([case["parameters"].get(name, 1.0) for case in cases], float) for name in names}
    rhs = rates_of(cases[0]["states"], compartments)

    def of_weight(t, y, phi, columns):
        values = dict(phi) | {"CL": phi.CL * (columns.WT / 70) ** 0.75}
        return rhs(t, y, Record(tuple(values), tuple(values.values()), "parameter"))

    if carry == "nocb":
        phi |= {"CL": phi["CL"][:, None] * (weight[None] / 70) ** 0.75}
    model = jn.pkpd.ode(rhs if carry == "nocb" else of_weight, cases[0]["states"], "central / V")
    found = np.asarray(compiled(model, phi, x, v))
    for k, case in enumerate(cases):
        expected = np.array(case[f"concentration_{carry}"])
        assert distance(found[k, np.searchsorted(times, case["times"])], expected) < 1, case["id"]
