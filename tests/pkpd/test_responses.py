"""Two compartments by contour integrals: event cases, and agreement with the general closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.pkpd import compartment_model
from jaxnlme.records import Record
from tests.pkpd.event_cases import batch, evaluate, event_cases, event_records
from tests.pkpd.test_events import ROUTES, distance

TIMES = np.array([0.0, 1e-3, 0.1, 0.5, 1.0, 3.0, 5.0, 11.0, 12.0, 13.0, 20.0, 30.0, 50.0, 100.0, 300.0])
NAMES = ("k", "k12", "k21", "V", "ka", "TL", "F1", "F2")
WAY = dict(zip(NAMES, (0.9, 0.4, 0.8, 0.3, -0.7, 0.2, 0.5, -0.4), strict=True))


def rates() -> list[dict[str, float]]:
    """Rate constants that are apart, close to each other by two or by three, nearly zero, and equal."""
    apart = [(0.133, 0.1, 0.06, 1.1), (2.0, 0.01, 1.9, 50.0), (1e-10, 0.1, 0.06, 1.1), (0.133, 1e-7, 1e-7, 1.0)]
    two = [(0.133, 0.05, 0.06, ka) for ka in (0.2065, 0.0381, 0.2, 0.21, 0.22, 0.25)]
    three = [
        (0.133, k12, 0.133 * slow, 0.133 * ka)
        for k12 in (0.0, 1e-5, 1e-3)
        for slow in (1.0, 1.05, 1.2)
        for ka in (1.0, 1.01, 1.3, 1.6, 2.5)
    ]
    return [dict(zip(NAMES, (*four, 3.0, 0.05, 0.9, 0.7), strict=True)) for four in (*apart, *two, *three)]


@pytest.mark.parametrize("route, doses", [("first-order", 12), ("first-order", 1), ("bolus", 12)])
def test_agreement_with_the_general_closed_forms(route, doses, monkeypatch):
    """Concentrations and amounts, with first and second derivatives along a direction of all parameters, lags and
    bioavailabilities among them, doses into two compartments and resets."""
    records = [
        {"TIME": 12.1 * n, "EVID": 4 if n == 8 else 1, "AMT": 100.0 + n, "CMT": 1 + (n % 5 == 3)} for n in range(doses)
    ]
    x, v = batch(event_records([records], [TIMES]), TIMES[None, :])
    x, v = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], (x, v))
    model = jn.pkpd.compartments(2, route, "k k12 k21 V", lag="TL")
    names = tuple(name for name in NAMES if route == "first-order" or name != "ka")

    def derivatives(at):
        def fn(shift):
            phi = Record(names, tuple(at[n] * (1 + shift * WAY[n]) for n in names), "parameter")
            return jnp.stack(tuple(model.amounts(phi, x, v)))

        first = jax.jacfwd(fn)
        return fn(0.0), first(0.0), jax.jacfwd(first)(0.0)

    at = {name: jnp.array([each[name] for each in rates()]) for name in names}
    found = jax.jit(jax.vmap(derivatives))(at)
    monkeypatch.setattr(compartment_model, "has_responses", lambda *_: False)
    expected = jax.jit(jax.vmap(derivatives))(at)
    for order, (a, b) in enumerate(zip(found, expected, strict=True)):
        size = np.max(np.abs(b), axis=-1, keepdims=True)
        allowed = (1e-8 * np.abs(b) + 1e-12 * size, 1e-9 * size, 3e-8 * size)[order]
        worst = np.max(np.abs(a - b) / np.maximum(allowed, 1e-300), axis=(1, 2))
        assert np.all(worst < 1), (order, [(rates()[i], worst[i]) for i in np.flatnonzero(worst >= 1)[:5]])


@pytest.mark.parametrize("route", ["bolus", "first_order"])
def test_event_cases(reference, route):
    """Cases of the reference without infusions and steady states, each design by its own program."""
    cases = [
        case
        for case in event_cases(reference).values()
        if (case["route"], case["compartments"]) == (route, 2)
        and "elimination" not in case
        and case["design"] != "covariate"
        and not any(record.get("SS") or record.get("RATE") for record in case["records"])
    ]
    assert len(cases) >= 4
    times = np.array([case["times"] for case in cases])
    x, v = batch(event_records([case["records"] for case in cases], list(times)), times)
    names = list(cases[0]["parameters"])
    phi = {name: np.array([case["parameters"][name] for case in cases], float) for name in names}
    model = jn.pkpd.compartments(2, ROUTES.get(route, route))
    amounts = evaluate(model.amounts, phi, x, v)
    for k, case in enumerate(cases):
        found = np.stack([np.asarray(a[k]) for a in amounts], axis=-1)
        assert distance(found, np.array(case["amounts"])) < 1, case["id"]


def test_derivatives_in_doses_and_times(monkeypatch):
    """In amounts and times of doses, and in times of rows: against the general closed forms, forward and reverse, with
    eigenvalues that are apart and close."""
    records = [{"TIME": 10.0 * n, "EVID": 1, "AMT": 100.0} for n in range(9)]
    times = np.linspace(0.7, 90.0, 9)
    x, v = batch(event_records([records], [times]), times[None, :])
    x, v = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], (x, v))
    model = jn.pkpd.compartments(2, "bolus", "k k12 k21 V")

    def solved(change, k12):
        values = {name: v.events[name] for name in v.events.names}
        values |= {"amount": values["amount"] * (1 + change[:9]), "time": values["time"] + change[9:18]}
        events = dataclasses.replace(v.events, values=tuple(values.values()))
        rows = dataclasses.replace(x, values=(x["TIME"] + change[18],))
        phi = Record(
            ("k", "k12", "k21", "V"), (jnp.asarray(0.133), k12, jnp.asarray(0.14), jnp.asarray(3.0)), "parameter"
        )
        return model(phi, rows, Record(("events",), (events,)))

    def forward(k12):
        return jax.jacfwd(solved)(jnp.zeros(19), k12)

    between = jnp.array([0.1, 1e-5])
    found = jax.jit(jax.vmap(forward))(between)
    weights = jnp.arange(1.0, 10.0)
    reverse = jax.jit(jax.vmap(jax.grad(lambda change, k12: weights @ solved(change, k12)), (None, 0)))
    np.testing.assert_allclose(reverse(jnp.zeros(19), between), jnp.einsum("r,krc->kc", weights, found), rtol=1e-9)
    monkeypatch.setattr(compartment_model, "has_responses", lambda *_: False)
    expected = jax.jit(jax.vmap(forward))(between)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
