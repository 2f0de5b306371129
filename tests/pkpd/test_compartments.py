"""`jn.pkpd.compartments`: names, errors, derivatives, agreement of closed forms with matrix exponentials."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.errors import DataError, ModelError, OptionError
from jaxnlme.pkpd.linear import LinearSystem
from jaxnlme.pkpd.structure import Structure
from jaxnlme.records import Record
from tests.pkpd.event_cases import batch, event_records

TIMES = np.array([0.0, 0.5, 2.0, 7.0, 12.0, 13.0, 30.0])
DOSES = [{"TIME": 0.0, "EVID": 1, "AMT": 100.0, "II": 12.0, "ADDL": 1}]


def predicted(model, values: dict, records: list[dict] = DOSES, times: np.ndarray = TIMES):
    """The prediction of one subject."""
    x, v = batch(event_records([records], [times]), times[None, :])
    x, v = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], (x, v))
    return model(
        Record(tuple(values), tuple(jnp.asarray(float(value)) for value in values.values()), "parameter"), x, v
    )


PARAMETRISATIONS = {
    "CL V Q V2": {"cl": 4.0, "v": 30.0, "q": 3.0, "v2": 50.0},
    "CL V1 Q VSS": {"CL": 4.0, "V1": 30.0, "Q": 3.0, "VSS": 80.0},
    "CL V2 Q V3": {"CL": 4.0, "V2": 30.0, "Q": 3.0, "V3": 50.0},
    "k k12 k21 V": {"k": 4 / 30, "k12": 0.1, "k21": 0.06, "V": 30.0},
}


def exponents() -> dict[str, float]:
    """alpha, beta, A and B of the same model."""
    total, product = 4 / 30 + 0.1 + 0.06, 4 / 30 * 0.06
    alpha, beta = np.roots([1, -total, product])
    return {
        "alpha": alpha,
        "beta": beta,
        "A": (alpha - 0.06) / (alpha - beta) / 30,
        "B": (0.06 - beta) / (alpha - beta) / 30,
    }


def test_parametrisations_agree():
    """One model in all parametrisations, names in any case."""
    expected = None
    for text, values in [*PARAMETRISATIONS.items(), ("alpha beta A B", exponents())]:
        found = predicted(jn.pkpd.compartments(2, parameters=text), values)
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, rtol=1e-10, err_msg=text)


def test_three_exponents():
    """Three compartments by exponents and coefficients: the prediction is the sum of exponentials."""
    values = {"alpha": 1.2, "beta": 0.2, "gamma": 0.03, "A": 0.03, "B": 0.01, "C": 0.002}
    found = predicted(jn.pkpd.compartments(3, parameters="alpha beta gamma A B C"), values, DOSES[:1], TIMES)
    since = [TIMES, np.where(TIMES >= 12, TIMES - 12, np.inf)]
    expected = sum(
        100 * values[c] * np.exp(-values[p] * t)
        for t in since
        for p, c in zip(("alpha", "beta", "gamma"), "ABC", strict=True)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_before_and_at_a_dose():
    """A dose acts on rows at its time that follow it in the table, and on no row before."""
    times = np.array([0.0, 3.0, 3.0, 4.0])
    record = {"TIME": 3.0, "EVID": 1, "AMT": 100.0, "rows_before": 2}
    found = predicted(jn.pkpd.compartments(1), {"CL": 4.0, "V": 30.0}, [record], times)
    np.testing.assert_allclose(found, [0, 0, 100 / 30, 100 / 30 * np.exp(-4 / 30)], rtol=1e-12)


@pytest.mark.parametrize("fraction", [0.5, 1.0, 1.5, 2.2])
def test_bioavailability_changes_the_overlap_of_infusions(fraction):
    """Infusions in steady state that a bioavailability makes longer than the interval are the sum of the past ones."""
    record = {"TIME": 0.0, "EVID": 1, "AMT": 100.0, "RATE": 30.0, "SS": 1, "II": 4.0}
    times = np.array([0.5, 3.0, 10.0])
    found = predicted(jn.pkpd.compartments(1), {"CL": 2.0, "V": 10.0, "F1": fraction}, [record], times)
    since, duration = times[:, None] + 4.0 * np.arange(200), fraction * 100 / 30
    rise = 1 - np.exp(-0.2 * np.minimum(since, duration))
    expected = np.sum(15.0 * rise * np.exp(-0.2 * np.maximum(since - duration, 0)), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("lag", [3.0, 5.0, 9.0, 12.5])
@pytest.mark.parametrize("rate", [0.0, 30.0])
def test_a_lag_beyond_the_interval_of_a_steady_state(lag, rate):
    """With `pending`, doses that are given before the record and arrive after it count as all past ones do."""
    record = {"TIME": 0.0, "EVID": 1, "AMT": 100.0, "RATE": rate, "SS": 1, "II": 4.0}
    times = np.array([0.0, 0.5, 3.0, 6.0, 10.0])
    found = predicted(jn.pkpd.compartments(1, pending=3), {"CL": 2.0, "V": 10.0, "LAG1": lag}, [record], times)
    since, duration = times[:, None] - lag + 4.0 * np.arange(200), 100 / 30
    on_board = (since > 0) | ((since == 0) & (rate == 0))
    rise = 15.0 * (1 - np.exp(-0.2 * np.minimum(since, duration))) if rate else 10.0
    decline = np.exp(-0.2 * (np.maximum(since - duration, 0) if rate else since))
    np.testing.assert_allclose(found, np.sum(np.where(on_board, rise * decline, 0.0), axis=1), rtol=1e-9)


def test_models_print_what_they_need():
    """Compartments with their numbers, parameters, and what is used where it is there."""
    text = repr(jn.pkpd.compartments(2, "first-order", lag="tlag"))
    for part in ("1 depot, 2 central, 3 peripheral1", "parameters: CL V Q V2 KA", "TLAG, LAG2, LAG3 (lag)"):
        assert part in text, text
    saturable = repr(jn.pkpd.michaelis_menten(1, "first-order"))
    assert "michaelis_menten(1, 'first-order')" in saturable and "states: 1 depot, 2 central" in saturable


@pytest.mark.parametrize("route", ["zero-order", "zero then first"])
@pytest.mark.parametrize("steady", [{}, {"SS": 1, "II": 12.0}])
def test_zero_order_routes_of_saturable_elimination(route, steady):
    """Far below KM elimination is linear: doses without a rate are spread over D1, as by the closed forms."""
    records = [{"TIME": 0.0, "EVID": 1, "AMT": 100.0} | steady]
    values = {"V": 10.0, "D1": 3.0} | ({"KA": 1.2} if route == "zero then first" else {})
    found = predicted(jn.pkpd.michaelis_menten(1, route), values | {"VM": 1e9, "KM": 1e9}, records)
    expected = predicted(jn.pkpd.compartments(1, route), values | {"CL": 1.0}, records)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: jn.pkpd.compartments(4), "1, 2 or 3"),
        (lambda: jn.pkpd.compartments(1, "oral"), "route 'oral' is unknown"),
        (lambda: jn.pkpd.compartments(1, parameters="CL V Q V2"), "expected one of 'CL V', 'K V'"),
        (lambda: jn.pkpd.compartments(1, "transit"), "number of transit compartments"),
        (lambda: jn.pkpd.compartments(1, transits=3), "only for route='transit'"),
        (lambda: jn.pkpd.compartments(1, "first-order", lag={"liver": "tl"}), "1 depot, 2 central"),
    ],
)
def test_options(call, words):
    """Options that are not there are refused in a sentence."""
    with pytest.raises(OptionError, match=words):
        call()


@pytest.mark.parametrize(
    "values, records, words",
    [
        ({"CL": 4.0}, DOSES, "lacks V or V1 or VC"),
        ({"CL": 4.0, "V": 30.0}, [DOSES[0] | {"CMT": 3}], "compartment 3 .CMT in row 1"),
        ({"CL": 4.0, "V": 30.0}, [DOSES[0] | {"RATE": -2}], "RATE -2"),
        ({"CL": 4.0, "V": 30.0, "cl": 3.0}, DOSES, "differ by case only"),
    ],
)
def test_what_the_data_need(values, records, words):
    """A parameter that is lacking, or a dose into a compartment that is not there."""
    with pytest.raises(ModelError, match=words):
        predicted(jn.pkpd.compartments(1), values, records)


def test_data_without_doses():
    """Data without dose records are refused before the fit."""
    data = jn.GroupedData.from_frame(
        pd.DataFrame({"ID": [1, 1], "TIME": [1.0, 2], "DV": [9.0, 7]}), "ID", "DV", ["TIME"]
    )
    with pytest.raises(ModelError, match="needs dose records"):
        jn.fit(jn.NLMEModel(jn.pkpd.compartments(1), {"CL": 4.0, "V": 30.0}), data)


# Rate constants that meet, and that are nearly zero.
RATES = [
    {"k": 0.133, "k12": 0.1, "k21": 0.06, "ka": 1.1},
    {"k": 0.133, "k12": 0.1, "k21": 0.06, "ka": 0.133},
    {"k": 0.133, "k12": 1e-9, "k21": 0.133, "ka": 0.133},
    {"k": 0.133, "k12": 1e-4, "k21": 0.1333, "ka": 0.1329},
    {"k": 1e-10, "k12": 0.1, "k21": 0.06, "ka": 1.1},
    {"k": 0.133, "k12": 1e-7, "k21": 1e-7, "ka": 1.0},
    {"k": 1.0, "k12": 0.0, "k21": 1.0, "ka": 1.0},
    {"k": 2.0, "k12": 0.01, "k21": 1.9, "ka": 50.0},
]


@pytest.mark.parametrize("disposition, infused, highest", [(1, (0, 1), 3), (2, (1, 2), 2)])
def test_closed_forms_where_constants_meet(disposition, infused, highest):
    """Values and derivatives are those of the matrix exponential, which has no eigenvalues."""
    names = ["k", "ka"] + ["k12", "k21"] * (disposition == 2)
    structure = Structure(disposition, True)
    times = jnp.array([0.0, 1e-3, 0.1, 1.0, 5.0, 30.0, 300.0])
    direction = jnp.array([0.9, -0.7, 0.4, 0.8])[: len(names)]

    def entries(shift, at, way):
        rates = {name: at[i] * (1 + shift * direction[i]) for i, name in enumerate(names)}
        system = LinearSystem(structure, rates, tuple(range(len(structure.states))), infused)
        found = getattr(system, way)(times)
        return jnp.stack([jnp.broadcast_to(found[p], times.shape) for p in system.pattern()])

    def derivatives(at, way):
        out, fn = [], lambda shift: entries(shift, at, way)
        for _ in range(highest + 1):
            out.append(fn(0.0))
            fn = jax.jacfwd(fn)
        return out

    both = jax.jit(lambda at: (derivatives(at, "_by_closed_form"), derivatives(at, "_by_matrix")))
    for rates in RATES:
        for order, (found, expected) in enumerate(zip(*both(jnp.array([rates[n] for n in names])), strict=True)):
            size = np.max(np.abs(expected), axis=0, keepdims=True)
            assert np.all(np.abs(found - expected) <= 1e-6 * size + 1e-300), (rates, order)


def test_predictions_need_the_covariates_of_the_model_only():
    """A new table may lack covariates that were read and not used; those in use are asked for by name."""
    frame = pd.DataFrame(
        {
            "ID": np.repeat([1, 2, 3, 4], 4),
            "TIME": [0.0, 1, 4, 8] * 4,
            "AMT": [100, 0, 0, 0] * 4,
            "DV": [np.nan, 2.9, 2.2, 1.4, np.nan, 3.1, 1.9, 1.1, np.nan, 2.4, 1.8, 1.3, np.nan, 2.8, 2.5, 1.6],
            "WT": np.repeat([60.0, 70, 80, 90], 4),
            "AGE": np.repeat([30.0, 40, 50, 60], 4),
            "TEMP": np.linspace(36, 38, 16),
        }
    )
    parameters = [
        jn.Parameter("CL", 3.0, "log", random=True, covariates=["log(WT/70)"]),
        jn.Parameter("V", 30.0, "log"),
    ]
    model = jn.NLMEModel(jn.pkpd.compartments(1), parameters, error="proportional")
    fit = jn.fit(model, jn.GroupedData.from_nonmem(frame), "focei", standard_errors=False)
    new = pd.DataFrame({"ID": 1, "TIME": [0.0, 5.0], "AMT": [100, 0], "WT": 60.0})
    found = np.asarray(fit.predict(new))
    np.testing.assert_allclose(found, fit.predict(new.assign(AGE=30.0, TEMP=37.0)), rtol=1e-12)
    with pytest.raises(DataError, match="'WT', which covariates of the model need"):
        fit.predict(new.drop(columns="WT"))
    named = jn.fit(model, jn.GroupedData.from_nonmem(frame, covariates=["WT", "AGE"]), "focei", standard_errors=False)
    with pytest.raises(DataError, match="no column 'AGE'"):
        named.predict(new)


def test_a_chosen_name_that_phi_lacks_is_an_error():
    """lag="TL" with phi that has no TL: not a model without a lag."""
    model = jn.pkpd.compartments(1, "bolus", "CL V", lag="TL")
    assert predicted(model, {"CL": 4.0, "V": 30.0, "tl": 1.0})[1] == 0.0
    with pytest.raises(ModelError, match="lag is the parameter TL"):
        predicted(model, {"CL": 4.0, "V": 30.0, "tlag": 1.0})


def test_a_duration_that_one_compartment_lacks_is_not_one():
    """RATE -2 into two compartments, phi with D1 only: the second dose has no duration."""
    records = [
        {"TIME": 0.0, "EVID": 1, "AMT": 100.0, "CMT": 1, "RATE": -2},
        {"TIME": 12.0, "EVID": 1, "AMT": 100.0, "CMT": 2, "RATE": -2},
    ]
    model = jn.pkpd.compartments(1, "first-order", "CL V")
    values = {"CL": 4.0, "V": 30.0, "KA": 1.0, "D1": 2.0}
    assert np.isnan(predicted(model, values, records)[-1])
    assert np.isfinite(predicted(model, values | {"D2": 1.0}, records)).all()
