"""Starting values of `jn.models`: R's pooled estimates, exact curves, units, what does not determine a curve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.structural_models.settings import STARTS

TABLES = Path(__file__).resolve().parents[1] / "tables"


def table(name: str) -> pd.DataFrame:
    """A table, with log_conc beside a column conc; of Puromycin the treated cells."""
    package = {"Theoph": jn.datasets.theophylline, "Indometh": jn.datasets.indomethacin, "Orange": jn.datasets.orange}
    frame = package[name]() if name in package else pd.read_csv(TABLES / f"{name}.csv")
    if name == "Puromycin":
        return frame[frame["state"] == "treated"]
    return frame.assign(log_conc=lambda t: np.log(t["conc"])) if name in ("DNase", "Relaxin") else frame


def starts(model: jn.NLMEModel) -> dict[str, float]:
    return {p.name: float(p.start) for p in model.parameters}


def predicted(model: jn.NLMEModel, data: jn.GroupedData) -> np.ndarray:
    """The curve at the starting values in the observed rows."""
    columns = [data.x[n] if n in data.x else data.v[n][:, None] + 0.0 * data.y for n in model.structure.inputs]
    columns[-1] = columns[-1] / model.structure.unit
    return np.asarray(model.structure.curve(*columns, *starts(model).values()))[data.observed]


# Model, table, group, response, predictor, and the estimates of R 4.2.2, stats::nls(y ~ SSxxx(x, ...)), on all rows.
OF_R: dict[str, tuple[str, str, str, str, str, dict[str, float]]] = {
    "SSlogis, trees": ("logistic", "Orange", "Tree", "circumference", "age",
                       {"Asym": 192.687345864, "xmid": 728.755156209, "scal": 353.532613089}),
    "SSlogis, assay": ("logistic", "DNase", "Run", "density", "log_conc",
                       {"Asym": 2.48531915494, "xmid": 1.51811713509, "scal": 1.09830734167}),
    "SSlogis, chicks": ("logistic", "ChickWeight", "Chick", "weight", "Time",
                        {"Asym": 337.60532769902, "xmid": 16.06883749844, "scal": 8.00747443213}),
    "SSfpl, falling": ("four_parameter_logistic", "Nitrendipene", "Tissue", "activity", "log.NIF",
                       {"A": 6070.281620552251, "B": 3379.859236252799, "xmid": -8.269636328188,
                        "scal": 0.626994287707}),
    "SSfpl, assay": ("four_parameter_logistic", "DNase", "Run", "density", "log_conc",
                     {"A": 0.0324355823438, "B": 2.3553444250506, "xmid": 1.4209862884686, "scal": 1.0123992898655}),
    "SSfpl, relaxin": ("four_parameter_logistic", "Relaxin", "Run", "cAMP", "log_conc",
                       {"A": 2.865045756729, "B": 101.194370185455, "xmid": 1.334047237240, "scal": 0.542241155593}),
    "SSgompertz, assay": ("gompertz", "DNase", "Run", "density", "log_conc",
                          {"Asym": 5.243441813306, "b2": 2.313890493517, "b3": 0.737850626811}),
    "SSgompertz, trees": ("gompertz", "Orange", "Tree", "circumference", "age",
                          {"Asym": 223.653345303012, "b2": 2.573517060746, "b3": 0.998446501969}),
    "SSweibull": ("weibull_growth", "Loblolly", "Seed", "height", "age",
                  {"Asym": 83.18914909999, "Drop": 88.14453884890, "lrc": -3.55007271398, "pwr": 1.19436766793}),
    "SSmicmen": ("michaelis_menten", "Puromycin", "state", "rate", "conc",
                 {"Vm": 212.6837072712059, "K": 0.0641212257945}),
    "SSmicmen, plants": ("michaelis_menten", "CO2", "Plant", "uptake", "conc",
                         {"Vm": 39.8600961274, "K": 140.3331530433}),
    "SSasymp, pines": ("asymptotic", "Loblolly", "Seed", "height", "age",
                       {"Asym": 102.2620761862, "R0": -8.5330613547, "lrc": -3.2461297852}),
    "SSasymp, plants": ("asymptotic", "CO2", "Plant", "uptake", "conc",
                        {"Asym": 32.45715490807, "R0": -17.82469926632, "lrc": -4.65224736015}),
    "SSasympOff": ("asymptotic_offset", "CO2", "Plant", "uptake", "conc",
                   {"Asym": 32.4571549085, "lrc": -4.6522473603, "c0": 45.8822885827}),
    "SSasympOrig, pines": ("asymptotic_origin", "Loblolly", "Seed", "height", "age",
                           {"Asym": 344.34729605674, "lrc": -4.83966012568}),
    "SSasympOrig, plants": ("asymptotic_origin", "CO2", "Plant", "uptake", "conc",
                            {"Asym": 33.39549709197, "lrc": -5.07485770319}),
    "SSbiexp, indomethacin": ("biexponential", "Indometh", "Subject", "conc", "time",
                              {"A1": 2.773407057199, "lrc1": 0.886354495371, "A2": 0.606735168691,
                               "lrc2": -1.091929309458}),
    "SSbiexp, cefamandole": ("biexponential", "Cefamandole", "Subject", "conc", "Time",
                             {"A1": 300.69327870947, "lrc1": -2.07511470791, "A2": 92.38752381888,
                              "lrc2": -3.96198623950}),
    "SSfol": ("first_order_absorption", "Theoph", "Subject", "conc", "Time",
              {"lKe": -2.524239475243, "lKa": 0.399227822702, "lCl": -3.248262988796}),
}  # fmt: skip


def built(name: str, **options) -> tuple[jn.NLMEModel, jn.GroupedData, dict[str, float]]:
    function, source, group, y, x, expected = OF_R[name]
    columns = [x, "Dose"] if source == "Theoph" else [x]
    data = jn.GroupedData.from_frame(table(source), group, y, columns)
    options |= {"dose": "Dose"} if source == "Theoph" else {}
    return getattr(jn.models, function)(x, data, **options), data, expected


@pytest.mark.parametrize("name", OF_R)
def test_pooled_estimates_of_r(name: str) -> None:
    """R stops at a relative offset of 1e-5; the least sum of squares is ours."""
    model, data, expected = built(name)
    assert list(starts(model)) == list(expected)
    for parameter, value in expected.items():
        assert starts(model)[parameter] == pytest.approx(value, rel=1e-4), parameter
    columns = [data.x[name][data.observed] for name in model.structure.inputs]
    of_r = np.asarray(model.structure.curve(*columns, *expected.values()))
    y = data.y[data.observed]
    assert np.sum((predicted(model, data) - y) ** 2) <= np.sum((of_r - y) ** 2) * (1.0 + 1e-9)


@pytest.mark.parametrize("x_factor, y_factor", [(1.0, 1e-6), (1.0, 1e6), (1e-3, 1.0), (1e3, 1e6), (1e-6, 1.0)])
@pytest.mark.parametrize("name", [name for name in OF_R if "assay" not in name and "relaxin" not in name])
def test_units_do_not_matter(name: str, x_factor: float, y_factor: float) -> None:
    """The curve through data in other units is the same curve."""
    _, source, group, y, x, _ = OF_R[name]
    model, data, _ = built(name)
    frame = table(source)
    frame = frame.assign(**{x: frame[x] * x_factor, y: frame[y] * y_factor})
    extra = ["Dose"] if source == "Theoph" else []
    scaled = jn.GroupedData.from_frame(frame, group, y, [x, *extra])
    options = {"dose": "Dose"} if extra else {}
    other = getattr(jn.models, model.structure.curve.__name__)(x, scaled, **options)
    np.testing.assert_allclose(
        predicted(other, scaled) / y_factor, predicted(model, data), rtol=0, atol=2e-5 * np.abs(data.y).max()
    )


def test_a_predictor_far_from_zero() -> None:
    """Calendar years: location parameters move along."""
    frame = table("Orange")
    data = jn.GroupedData.from_frame(frame.assign(age=frame["age"] + 1e5), "Tree", "circumference", ["age"])
    for function in (jn.models.logistic, jn.models.four_parameter_logistic):
        near = starts(function("age", jn.GroupedData.from_frame(frame, "Tree", "circumference", ["age"])))
        far = starts(function("age", data))
        assert far["xmid"] - 1e5 == pytest.approx(near["xmid"], rel=1e-3)
        assert far["scal"] == pytest.approx(near["scal"], rel=1e-3)


# Parameters of curves on x from 0 to 10, rising and falling, above and below zero.
CURVES: list[tuple[str, dict[str, float]]] = [
    ("logistic", {"Asym": 12.0, "xmid": 4.0, "scal": 0.7}),
    ("logistic", {"Asym": 12.0, "xmid": 6.0, "scal": -1.5}),
    ("logistic", {"Asym": -3.0, "xmid": 9.0, "scal": 2.0}),
    ("four_parameter_logistic", {"A": 2.0, "B": 9.0, "xmid": 5.0, "scal": 0.5}),
    ("four_parameter_logistic", {"A": 90.0, "B": -10.0, "xmid": 3.0, "scal": 1.2}),
    ("gompertz", {"Asym": 8.0, "b2": 5.0, "b3": 0.6}),
    ("gompertz", {"Asym": 8.0, "b2": 0.01, "b3": 1.9}),
    ("gompertz", {"Asym": 2.0, "b2": -1.5, "b3": 0.7}),
    ("weibull_growth", {"Asym": 160.0, "Drop": 110.0, "lrc": -4.0, "pwr": 2.4}),
    ("weibull_growth", {"Asym": 1.0, "Drop": -5.0, "lrc": -0.5, "pwr": 0.7}),
    ("michaelis_menten", {"Vm": 200.0, "K": 0.05}),
    ("michaelis_menten", {"Vm": -2.0, "K": 30.0}),
    ("asymptotic", {"Asym": 100.0, "R0": -8.0, "lrc": -1.2}),
    ("asymptotic", {"Asym": -1.0, "R0": 40.0, "lrc": 0.8}),
    ("asymptotic_offset", {"Asym": 30.0, "lrc": -0.7, "c0": 1.3}),
    ("asymptotic_offset", {"Asym": -30.0, "lrc": 0.2, "c0": -2.0}),
    ("asymptotic_origin", {"Asym": 340.0, "lrc": -3.0}),
    ("asymptotic_origin", {"Asym": -5.0, "lrc": 1.0}),
    ("biexponential", {"A1": 3.0, "lrc1": 1.2, "A2": 0.6, "lrc2": -1.3}),
    ("biexponential", {"A1": -3.0, "lrc1": 0.5, "A2": 4.0, "lrc2": -2.0}),
    ("first_order_absorption", {"lKe": -2.5, "lKa": 0.5, "lCl": -3.2}),
    ("first_order_absorption", {"lKe": -0.4, "lKa": 2.0, "lCl": 4.0}),
]


def simulated(name: str, values: dict[str, float], seed: int, noise: float, groups: int = 1) -> jn.GroupedData:
    rng = np.random.default_rng(seed)
    x = np.sort(np.concatenate([[0.0], rng.uniform(0.0, 10.0, 11 * groups)]))
    columns = {"x": x, "group": np.arange(len(x)) % groups, "dose": 1.0 + np.arange(len(x)) % groups}
    inputs = (columns["dose"], x) if name == "first_order_absorption" else (x,)
    y = np.asarray(getattr(jn.models.curves, name)(*inputs, *values.values()))
    columns["y"] = y + noise * np.ptp(y) * rng.standard_normal(len(x))
    return jn.GroupedData.from_frame(columns, "group", "y", ["x"], ["dose"])


@pytest.mark.parametrize("name, values", CURVES)
@pytest.mark.parametrize("seed, groups", [(1, 1), (2, 5)])
def test_exact_curves_are_found(name: str, values: dict[str, float], seed: int, groups: int) -> None:
    """Without noise the starts are the parameters; with noise of 3% they fit at least as well as these."""
    options = {"dose": "dose"} if name == "first_order_absorption" else {}
    function = getattr(jn.models, name)
    found = starts(function("x", simulated(name, values, seed, 0.0, groups), **options))
    for parameter, value in values.items():
        assert found[parameter] == pytest.approx(value, rel=1e-3), parameter
    data = simulated(name, values, seed, 0.03, groups)
    model = function("x", data, **options)
    truth = function("x", starts=values, **options)
    y = data.y[data.observed]
    squares = [np.sum((predicted(m, data) - y) ** 2) for m in (model, truth)]
    assert squares[0] <= squares[1] * (1.0 + 1e-9)


def test_given_starts_stay_and_the_others_follow() -> None:
    model, data, expected = built("SSlogis, trees", starts={"Asym": 250.0})
    found = starts(model)
    assert found["Asym"] == 250.0
    assert found["xmid"] > expected["xmid"] + 100.0
    # The others are at their least squares given this one: no better point nearby.
    y, best = data.y[data.observed], predicted(model, data)
    for name in ("xmid", "scal"):
        for factor in (0.999, 1.001):
            moved = {**found, name: found[name] * factor}
            beside = np.asarray(model.structure.curve(data.x["age"][data.observed], *moved.values()))
            assert np.sum((beside - y) ** 2) > np.sum((best - y) ** 2)
    assert starts(built("SSlogis, trees", starts=expected)[0]) == expected


def test_weights_and_missing_responses() -> None:
    """A group of weight two counts twice, groups of weight zero and rows without a response not at all."""
    frame = table("Orange")
    twice = pd.concat([frame, frame[frame["Tree"] == 3].assign(Tree=6)])
    without = twice[twice["Tree"] != 4]
    expected = starts(jn.models.logistic("age", jn.GroupedData.from_frame(without, "Tree", "circumference", ["age"])))
    weighted = jn.GroupedData.from_frame(frame, "Tree", "circumference", ["age"])
    weights = np.select([weighted.labels == 3, weighted.labels == 4], [2.0, 0.0], 1.0)
    found = starts(jn.models.logistic("age", weighted.with_weights(weights)))
    assert found == pytest.approx(expected, rel=1e-5)
    frame.loc[frame["Tree"] == 4, "circumference"] = np.nan
    weights[weighted.labels == 4] = 1.0
    missing = jn.GroupedData.from_frame(frame, "Tree", "circumference", ["age"]).with_weights(weights)
    assert starts(jn.models.logistic("age", missing)) == pytest.approx(expected, rel=1e-5)


def test_many_rows_are_thinned() -> None:
    """The start of a hundred thousand rows is that of a sample of them, within a second or so."""
    rng = np.random.default_rng(3)
    x = rng.uniform(0.0, 10.0, 100_000)
    assert len(x) > STARTS.most_rows
    y = 5.0 / (1.0 + np.exp((4.0 - x) / 0.8)) + 0.2 * rng.standard_normal(len(x))
    data = jn.GroupedData.from_arrays(y, np.arange(len(x)) % 10_000, {"x": x})
    found = starts(jn.models.logistic("x", data))
    assert found == pytest.approx({"Asym": 5.0, "xmid": 4.0, "scal": 0.8}, rel=0.01)


def test_starts_do_not_depend_on_the_sessions_precision() -> None:
    expected = starts(built("SSfol", starts={"lKa": 0.3})[0])
    with jax.enable_x64(False):
        assert starts(built("SSfol", starts={"lKa": 0.3})[0]) == expected


def simple(x, y, **columns) -> jn.GroupedData:
    return jn.GroupedData.from_arrays(np.array(y, float), np.ones(len(y)), {"x": np.array(x, float), **columns})


LINE = simple(range(6), [1.0, 2.0, 3.0, 4.0, 5.0, 6.5])
CONCENTRATIONS = np.array([0.0, 3.0, 2.0, 1.0, 0.5, 0.2])
NO_DOSE = simple(range(6), CONCENTRATIONS, dose=np.zeros(6))
NEGATIVE = simple(range(6), -CONCENTRATIONS, dose=np.ones(6))
ABOVE_ZERO = simple(range(9), 5.0 + np.exp(-np.arange(9.0)))
FAR = simple(1e6 + np.arange(5.0), [5.0, 3.0, 2.0, 1.5, 1.3])
PER_GROUP = jn.GroupedData.from_arrays(np.arange(4.0), [1, 1, 2, 2], {"x": np.arange(4.0)}, {"v": [1.0, 2.0]})
DISTINCT = r"4 parameters \(A1, lrc1, A2, lrc2\) and needs at least .* have 3 \(1, 2 and 3\)"


def logistic(**options):
    return jn.models.logistic("x", LINE, **options)


def oral(data: jn.GroupedData):
    return jn.models.first_order_absorption("x", data, dose="dose")


REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: jn.models.logistic("x"), jn.OptionError, r"needs starting values for Asym, xmid and scal: give data="),
    (lambda: jn.models.logistic("x", starts={"Asym": 3}), jn.OptionError, "for xmid and scal: give data="),
    (lambda: jn.models.logistic("z", LINE), jn.ModelError, "no column of numbers 'z'"),
    (lambda: jn.models.logistic(3, LINE), jn.OptionError, "names of columns, such as x='time'; received 3"),
    (lambda: jn.models.logistic(), jn.OptionError, r"jn\.models\.logistic needs x"),
    (lambda: logistic(rand=["Asym"]), jn.OptionError, "no option 'rand'; did you mean 'random'"),
    (lambda: logistic(random=["asym"]), jn.OptionError, "no parameter of this curve; did you mean"),
    (lambda: logistic(random=3), jn.OptionError, "random must be one name or a list of names"),
    (lambda: logistic(sd={"b": 1}), jn.OptionError, "sd names 'b', no parameter of this curve"),
    (lambda: logistic(transforms="log"), jn.OptionError, "transforms must be a dictionary"),
    (lambda: logistic(starts={"Asym": "a"}), jn.OptionError, "finite numbers; received 'a' for 'Asym'"),
    (lambda: logistic(covariance="diag"), jn.OptionError, "Did you mean 'diagonal'"),
    (lambda: logistic(transforms={"Asym": "logit"}), jn.ModelError, "the start must be one number inside"),
    (lambda: jn.models.logistic("x", "data"), jn.ModelError, r"data must be a jn\.GroupedData"),
    (lambda: jn.models.logistic("v", PER_GROUP), jn.ModelError, "'v' is constant in each group"),
    (lambda: jn.models.biexponential("x", simple([1, 1, 2, 2, 3], range(5))), jn.DataError, DISTINCT),
    (lambda: jn.models.gompertz("x", simple(range(6), [2.0] * 6)), jn.DataError, "y is 2 in all observed rows"),
    (lambda: jn.models.weibull_growth("x", simple([-1, 0, 1, 2, 3], range(5))), jn.DataError, "x >= 0; row 1 has -1"),
    (lambda: jn.models.michaelis_menten("x", simple([0, 1, -2], range(3))), jn.DataError, "row 3 has -2"),
    (lambda: jn.models.asymptotic_offset("x", ABOVE_ZERO), jn.DataError, r"crosses zero nowhere \(jn\.models\.asymp"),
    (lambda: jn.models.asymptotic("x", FAR), jn.DataError, "a parameter is not finite; measure the predictor from an"),
    (lambda: oral(NO_DOSE), jn.DataError, "no observed row has a dose above zero"),
    (lambda: oral(NEGATIVE), jn.DataError, "not that of a positive clearance"),
    (lambda: jn.models.first_order_absorption("x", LINE), jn.OptionError, "needs dose"),
]


@pytest.mark.parametrize("call, error, message", REFUSED)
def test_what_cannot_be_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
