"""Models given by differential equations: derivatives, failures, options, and fits."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.errors import ModelError, OptionError
from jaxnlme.records import Record
from tests.pkpd.event_cases import batch, event_records

TIMES = np.array([0.0, 0.5, 2.0, 3.5, 8.0, 12.0, 13.0, 20.0])
RECORDS = [
    {"TIME": 0.0, "EVID": 1, "AMT": 100.0, "SS": 1, "II": 12.0},
    {"TIME": 2.0, "EVID": 1, "AMT": 60.0, "CMT": 2, "RATE": 20.0},
    {"TIME": 12.0, "EVID": 1, "AMT": 50.0, "CMT": 1, "II": 6.0, "ADDL": 1},
]
VALUES = {"KA": 1.1, "VM": 9.0, "KM": 2.0, "V": 30.0, "LAG1": 0.4, "F2": 0.8}


def depot_and_saturable(t, y, phi):
    """Absorption and saturable elimination."""
    c = y.central / phi.V
    return {"depot": -phi.KA * y.depot, "central": phi.KA * y.depot - phi.VM * c / (phi.KM + c)}


def group(records=RECORDS, times=TIMES):
    """x and v of one group."""
    x, v = batch(event_records([records], [list(times)]), times[None])
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], (x, v))


def of_values(model, names, x, v, shape=None):
    """The prediction as a function of the vector of parameters."""
    return lambda p: model(Record(names, tuple(p), "parameter"), x, v)


@pytest.fixture(scope="module")
def solved():
    """Value, Jacobian and second derivatives of a model with a steady state, an infusion, a lag and bioavailability."""
    model = jn.pkpd.ode(depot_and_saturable, ["depot", "central"], "central / V", rtol=1e-10, atol=1e-12)
    x, v = group()
    fn = of_values(model, tuple(VALUES), x, v)
    p = jnp.array([*VALUES.values()])
    both = jax.jit(lambda p: (fn(p), jax.jacfwd(fn)(p), jax.jacfwd(jax.jacfwd(fn))(p)))
    return jax.jit(fn), both, p


def test_derivatives_are_those_of_finite_differences(solved):
    fn, both, p = solved
    value, slopes, second = both(p)
    assert np.isfinite(second).all()
    for k in range(len(p)):
        step = 1e-3 * p[k]
        e = jnp.zeros(len(p)).at[k].set(step)
        difference = (8 * (fn(p + e) - fn(p - e)) - (fn(p + 2 * e) - fn(p - 2 * e))) / (12 * step)
        assert np.abs(slopes[:, k] - difference).max() < 1e-6 * np.abs(difference).max() + 1e-9, k
    k, step = 2, 1e-3
    e = jnp.zeros(len(p)).at[k].set(step * p[k])
    change = (both(p + e)[1] - both(p - e)[1]) / (2 * step * p[k])
    assert np.abs(second[:, :, k] - change).max() < 1e-5 * np.abs(change).max()
    assert np.allclose(value, fn(p), rtol=1e-12)


def test_reverse_mode_is_forward_mode(solved):
    fn, both, p = solved
    weights = jnp.linspace(1.0, 2.0, len(TIMES))
    assert np.allclose(jax.grad(lambda p: weights @ fn(p))(p), weights @ both(p)[1], rtol=1e-10)


def test_parameters_that_vary_in_a_group():
    """Rows of phi that are all equal give the solution with one value, with its derivatives."""
    model = jn.pkpd.ode(depot_and_saturable, ["depot", "central"], "central / V")
    x, v = group([record | {"row": row} for record, row in zip(RECORDS[1:], (2, 5), strict=True)])
    names = tuple(VALUES)

    def constant(km):
        return model(Record(names, tuple(jnp.asarray(v) for v in (VALUES | {"KM": km}).values()), "parameter"), x, v)

    def varying(km):
        values = VALUES | {"KM": km * jnp.ones(len(TIMES))}
        return model(Record(names, tuple(jnp.asarray(v) for v in values.values()), "parameter"), x, v)

    one, two = (
        jax.jit(lambda km, f=f: jax.linearize(f, km)[0:1] + (jax.jacrev(f)(km),))(2.0) for f in (constant, varying)
    )
    for a, b in zip(one, two, strict=True):
        assert np.allclose(a, b, rtol=1e-7, atol=1e-9)
    x, v = group(RECORDS[1:])
    with pytest.raises(ModelError, match="vary within the groups, and the records of doses are no rows"):
        varying(2.0)


def test_a_failed_solve_is_not_finite_in_its_group_only():
    model = jn.pkpd.ode(depot_and_saturable, ["depot", "central"], "central / V", max_steps=300)
    x, v = group(RECORDS[1:])
    ka = jnp.array([1.1, 1e9, jnp.nan])

    def value(ka):
        return model(
            Record(tuple(VALUES), tuple(jnp.asarray(v) for v in (VALUES | {"KA": ka}).values()), "parameter"), x, v
        )

    found = np.asarray(jax.jit(jax.vmap(value))(ka))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).any() and np.isnan(found[2]).any()
    assert np.allclose(found[0], jax.jit(value)(1.1), rtol=1e-9)


def test_a_lag_longer_than_the_interval_of_a_steady_state():
    """Some of the past doses arrive after the record, which `pending` says: without it they are NaN, as by closed
    forms, and refused where the lag is a number; up to the interval they agree."""

    def elimination(t, y, phi):
        return {"central": -phi.CL / phi.V * y.central}

    ode, closed = jn.pkpd.ode(elimination, ["central"], "central / V"), jn.pkpd.compartments(1)
    times = np.array([3.0, 10.0])
    x, v = group([{"TIME": 0.0, "EVID": 1, "AMT": 100.0, "SS": 1, "II": 6.0}], times)

    def both(lag):
        phi = Record(("CL", "V", "LAG1"), tuple(map(jnp.asarray, (2.0, 10.0, lag))), "parameter")
        return jnp.stack([ode(phi, x, v), closed(phi, x, v)])

    found = np.asarray(jax.jit(jax.vmap(both))(jnp.array([5.0, 6.0, 8.0])))
    k = 0.2
    for lag, pair in zip((5.0, 6.0), found, strict=False):
        expected = 10 * np.exp(-k * ((times - lag) % 6.0)) / (1 - np.exp(-6 * k))
        expected[1] = 10 * np.exp(-k * (10 - lag)) / (1 - np.exp(-6 * k))
        assert np.allclose(pair, expected, rtol=1e-7), lag
    assert np.isnan(found[2]).all()
    with pytest.raises(ModelError, match=r"has a lag of 8.* give the model pending=1"):
        both(8.0)


def test_a_stiff_solver_gives_the_same():
    states = ["depot", "central"]
    x, v = group(RECORDS[1:])
    found = []
    for solver in (diffrax.Tsit5(), diffrax.Kvaerno5()):
        model = jn.pkpd.ode(depot_and_saturable, states, "central / V", solver=solver)
        fn = of_values(model, tuple(VALUES), x, v)
        found.append(jax.jit(lambda p, fn=fn: (fn(p), jax.jacfwd(fn)(p)))(jnp.array([*VALUES.values()])))
    for a, b in zip(*found, strict=True):
        assert np.allclose(a, b, rtol=1e-6, atol=1e-7)


def saturable_decline(start, vm, km, times):
    """Concentrations without absorption, from km log(c) + c = km log(start) + start - vm t, by Newton's method in
    log(c)."""
    right = km * np.log(start) + start - vm * times
    u = np.where(right > 0, np.log(np.maximum(right, 1e-300)), right / km)
    for _ in range(200):
        u = u - (km * u + np.exp(u) - right) / (km + np.exp(u))
    return np.exp(u)


@pytest.mark.parametrize("vm, km", [(9.0, 0.2), (9.0, 1e-4), (9.0, 1e-8), (9e4, 2.0), (9e8, 2.0)])
def test_saturable_elimination_however_fast(vm, km):
    """Rates vm / km up to 1e9 per hour: the solution, and its derivatives in log(vm) and log(km), are those of the
    closed form. The explicit method by itself would need up to 1e10 steps."""
    model = jn.pkpd.michaelis_menten(1)
    times = np.array([0.0, 0.5, 2.0, 3.5, 8.0, 12.0, 13.0, 20.0])
    x, v = group([{"TIME": 0.0, "EVID": 1, "AMT": 100.0}], times)

    def fn(p):
        values = (jnp.exp(p[0]), jnp.exp(p[1]), jnp.asarray(1.0))
        return model(Record(("VM", "KM", "V"), values, "parameter"), x, v)

    value, slopes = jax.jit(lambda p: (fn(p), jax.jacfwd(fn)(p)))(jnp.log(jnp.array([vm, km])))
    # A fast decline from 100 is resolved to the tolerance of a step, 1e-8 of the size of the state.
    assert np.allclose(value, saturable_decline(100.0, vm, km, times), rtol=1e-6, atol=1e-6)
    step = 1e-4
    for k in range(2):
        up, down = (np.array([vm, km]) * np.exp(sign * step * (np.arange(2) == k)) for sign in (1, -1))
        difference = (saturable_decline(100.0, *up, times) - saturable_decline(100.0, *down, times)) / (2 * step)
        assert np.abs(slopes[:, k] - difference).max() < 1e-5 * np.abs(difference).max() + 1e-5


def test_two_states_of_which_one_is_fast():
    """A fast exchange between compartments, closed form by eigenvalues; the same in other units of one state."""

    def rates(t, y, phi):
        forth, back = phi.K12 * y.central, phi.K21 * y.other / phi.UNIT
        return {"central": back - forth - 0.1 * y.central, "other": phi.UNIT * (forth - back)}

    model = jn.pkpd.ode(rates, ["central", "other"], "central")
    x, v = group([{"TIME": 0.0, "EVID": 1, "AMT": 100.0}])
    for unit in (1.0, 1e6):
        phi = Record(("K12", "K21", "UNIT"), (jnp.asarray(4e5), jnp.asarray(1e5), jnp.asarray(unit)), "parameter")
        matrix = np.array([[-4e5 - 0.1, 1e5], [4e5, -1e5]])
        values, vectors = np.linalg.eig(matrix)
        weights = np.linalg.solve(vectors, [100.0, 0.0])
        expected = [100.0, *((vectors[0] * np.exp(values * t)) @ weights for t in TIMES[1:])]
        assert np.allclose(jax.jit(model)(phi, x, v), expected, rtol=1e-6)


def test_initial_values_and_columns_of_the_data():
    """Without doses a turnover model stays at its baseline; a column of the data drives it away, in closed form."""

    def turnover(t, y, phi, columns):
        return (phi.KIN * (1.0 - columns.BLOCK) - phi.KOUT * y[0],)

    model = jn.pkpd.ode(turnover, ["response"], initial=lambda phi: {"response": phi.KIN / phi.KOUT})
    times = np.array([0.0, 1.0, 2.0, 5.0])
    records = event_records([[{"TIME": 0.0, "EVID": 1, "AMT": 0.0}]], [list(times)])
    x, v = batch(records, times[None], {"BLOCK": np.array([[0.0, 0.0, 0.5, 0.5]])})
    x, v = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], (x, v))
    phi = Record(("KIN", "KOUT"), (jnp.asarray(4.0), jnp.asarray(0.5)), "parameter")
    later = 4.0 + 4.0 * np.exp(-0.5 * (times[2:] - 1.0))
    assert np.allclose(model(phi, x, v), [8.0, 8.0, *later], rtol=1e-8)


def test_weibull_absorption_is_the_convolution():
    """One compartment with Weibull input, shape below 1 (infinite rate at first), against numerical convolution."""

    def elimination(t, y, phi):
        return {"central": -phi.CL / phi.V * y.central}

    model = jn.pkpd.ode(
        elimination, ["central"], "central / V", inputs={"central": jn.pkpd.inputs.weibull()}, rtol=1e-9, atol=1e-11
    )
    x, v = group([{"TIME": 0.0, "EVID": 1, "AMT": 100.0}, {"TIME": 4.0, "EVID": 1, "AMT": 50.0}])
    values = {"CL": 3.0, "V": 20.0, "TD": 2.0, "BETA": 0.7}
    found = model(Record(tuple(values), tuple(map(jnp.asarray, values.values())), "parameter"), x, v)
    u = np.linspace(0.0, 1.0, 20_001)[:, None] ** 4  # fraction of the dose entered, refined at the start

    def single(t, dose):
        t = np.maximum(t, 0.0)
        cut = u * -np.expm1(-((t / 2.0) ** 0.7))
        entered_at = 2.0 * (-np.log1p(-cut)) ** (1 / 0.7)
        return dose / 20.0 * np.trapezoid(np.exp(-0.15 * (t - entered_at)), cut, axis=0)

    assert np.allclose(found, single(TIMES, 100.0) + single(TIMES - 4.0, 50.0), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"states": "central"}, "list of names"),
        ({"output": "central / V +"}, "no expression"),
        ({"solver": diffrax.Euler()}, "step-size control"),
        ({"atol": {"depots": 1e-3}}, "no state"),
        ({"rtol": -1.0}, "positive number"),
        ({"inputs": {"depot": 3.0}}, "input function"),
    ],
)
def test_options_are_refused_by_name(options, words):
    with pytest.raises(OptionError, match=words):
        jn.pkpd.ode(depot_and_saturable, **({"states": ["depot", "central"]} | options))


def test_models_are_refused_by_name():
    x, v = group([{"TIME": 0.0, "EVID": 1, "AMT": 1.0, "CMT": 3}])
    phi = Record(tuple(VALUES), tuple(map(jnp.asarray, VALUES.values())), "parameter")
    with pytest.raises(ModelError, match="compartment 3"):
        jn.pkpd.ode(depot_and_saturable, ["depot", "central"])(phi, x, v)
    x, v = group(RECORDS[1:])
    with pytest.raises(ModelError, match="each of the 2 states"):
        jn.pkpd.ode(lambda t, y, phi: jnp.zeros(3), ["depot", "central"])(phi, x, v)
    with pytest.raises(ModelError, match="neither a state"):
        jn.pkpd.ode(depot_and_saturable, ["depot", "central"], "central / VOL")(phi, x, v)
    with pytest.raises(ModelError, match="lacks KA"):
        jn.pkpd.michaelis_menten(1, "first-order")(Record(("V", "VM", "KM"), (1.0, 1.0, 1.0), "parameter"), x, v)


@pytest.mark.parametrize("cv2", [0.002, 0.0099, 0.3])
def test_inverse_gaussian_input_is_the_distribution(cv2: float):
    """The fraction that has entered, against scipy's distribution function, for narrow distributions too."""
    from scipy.stats import invgauss

    mat, times = 2.0, np.array([0.0, 0.5, 1.8, 2.0, 2.2, 5.0])
    entered = jn.pkpd.inputs.inverse_gaussian().entered(jnp.asarray(times), (mat, cv2))
    np.testing.assert_allclose(entered, invgauss.cdf(times, cv2, scale=mat / cv2), rtol=1e-9, atol=1e-12)
