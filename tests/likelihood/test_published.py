"""Objective values of other programs at fixed parameters: the cases of Wang (2007), and points of theophylline.

Objectives are -2 log L - N log(2 pi), N observations, as NONMEM and nlmixr2 print them.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.likelihood.curvature import gauss_newton
from jaxnlme.likelihood.integrals import Gaussian
from jaxnlme.likelihood.log_likelihood import evaluate_groups
from jaxnlme.model.residual_error.base import ErrorParameter, GaussianError
from tests.problems import boluses, cheap, log_wang, one_compartment, slopes, values, wang

LOG_2PI = float(np.log(2.0 * np.pi))

ALL = {
    "fo": jn.FO(),
    "foce": jn.FOCE(),
    "focei": jn.FOCEI(),
    "laplace": jn.Laplace(),
    "agq2": jn.AGQ(2, curvature="gauss-newton"),
    "exact": jn.AGQ(21),
}

# The independent values are printed to 5 decimals; their integrals and minimisations have errors of at most 1e-6.
INDEPENDENT = 2e-5
# Values of the source are printed to 3 decimals (the independent evaluation differs from them by up to 6e-4).
PRINTED = 7e-4


@pytest.fixture(scope="module")
def published(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "published" / "wang2007.json").read_text())


@pytest.fixture(scope="module")
def points(reference: Path) -> dict[str, Any]:
    entries = json.loads((reference / "published" / "nlmixr2_saemix_points.json").read_text())
    return {entry["id"]: entry for entry in entries}


def wang_data(published: dict[str, Any], log: bool = False) -> jn.GroupedData:
    rows = np.array(published["data"]["rows"])
    y = np.log(rows[:, 2]) if log else rows[:, 2]
    return jn.GroupedData.from_arrays(y, rows[:, 0].astype(int), {"Time": rows[:, 1]})


def wang_model(error: Any, structure: Any = wang) -> jn.NLMEModel:
    return jn.NLMEModel(structure, [jn.Parameter("ke", 0.5, "log", random=True, sd=0.2)], error=error)


# ---- all cases by one residual model whose choices are numbers

# a = a0 + a_f2 f2; b = b0 + b_f2 f2 + b_lipre log f; c = c0 + c_f2 f2 + c_lipre log f (f3 = 3 f2);
# base = of_f f + of_f2 f2 + of_T T(f); sd = a + b base^c where add is 1, sqrt(a^2 + b^2 base^(2 c)) where it is 0.
SELECTORS = (
    "a0", "a_f2", "b0", "b_f2", "b_lipre", "c0", "c_f2", "c_lipre", "of_f", "of_f2", "of_T", "add", "shape",
)  # fmt: skip


@functools.cache
def selected_error(kind: str) -> GaussianError:
    """Any residual SD of the table, on the scale of the transform `kind` ("logit(0, 12) > yeo-johnson": a composition).
    Every choice is a parameter, so that one program computes all cases of a kind."""
    parts = [jn.transforms.transform(part) for part in kind.split(" > ")]
    response = parts[0] if len(parts) == 1 else jn.transforms.Composition(*parts)
    bounded = next((part for part in parts if np.isfinite(part.domain[1])), None)

    def scale(f, **s):
        f2, lipre = f / (f + 5.0), jnp.log(f)
        a = s["a0"] + s["a_f2"] * f2
        b = s["b0"] + s["b_f2"] * f2 + s["b_lipre"] * lipre
        c = s["c0"] + s["c_f2"] * f2 + s["c_lipre"] * lipre
        base = s["of_f"] * f + s["of_f2"] * f2
        if bounded is None:  # no case on a bounded scale has an SD that depends on T(f)
            base = base + s["of_T"] * response.to_real(f, s["shape"])
        part = b * jnp.abs(base) ** c
        # log f can be negative, and so can an SD computed from it; the source uses its square
        return jnp.abs(s["add"] * (a + part) + (1.0 - s["add"]) * jnp.sqrt(a**2 + part**2))

    parameters = tuple(ErrorParameter(name, 1.0, "identity") for name in SELECTORS)
    base = GaussianError(scale, parameters, "selected", "sd(f)")
    return base if kind == "identity" else jn.error.transform_both_sides(response, base)


def kind_of(transform: dict[str, Any]) -> str:
    name = transform["kind"]
    if "low" in transform:
        name += f"({transform['low']:g}, {transform['high']:g})"
    return name + (f" > {transform['then']['kind']}" if "then" in transform else "")


def shape_of(transform: dict[str, Any]) -> float:
    return float(transform.get("then", transform).get("lambda", 1.0))


def selectors(model: dict[str, Any]) -> dict[str, float]:
    """The values of SELECTORS for one case."""
    s = dict.fromkeys(SELECTORS, 0.0) | {"c0": 1.0, "of_f": 1.0, "add": 1.0, "shape": shape_of(model["transform"])}

    def choose(letter: str, value: Any) -> None:
        s[f"{letter}0"] = 0.0 if isinstance(value, str) else float(value)
        if isinstance(value, str):
            s[f"{letter}_{'f2' if value == 'f3' else value}"] = 3.0 if value == "f3" else 1.0

    if model["additive_sd"] is not None:
        choose("a", model["additive_sd"])
    part = model["proportional"]
    if part is not None:
        choose("b", part["coefficient"])
        choose("c", part["power"])
        s["of_f"] = 0.0
        s[{"f": "of_f", "transformed f": "of_T"}.get(part["of"], "of_f2")] = 3.0 if part["of"] == "f3" else 1.0
    s["add"] = 0.0 if model["combine"] == "combined2" else 1.0
    return s


KINDS = [
    "identity",
    "log",
    "box-cox",
    "yeo-johnson",
    "logit(0, 12)",
    "probit(0, 12)",
    "logit(0, 12) > yeo-johnson",
    "probit(0, 12) > yeo-johnson",
]


@cheap
def objectives(problem: Any, approximation: Any, template: Any, errors: Any) -> tuple[Any, Any]:
    """-2 log L (cases,) and the modes (cases, groups, random) at error parameters (cases, unconstrained)."""

    def per_case(error):
        groups = evaluate_groups(problem, jn.Params(template.beta, template.covariance, error), approximation)
        return -2.0 * jnp.sum(groups.value), groups.mode

    return jax.vmap(per_case)(errors)


@pytest.mark.parametrize("kind", KINDS)
def test_every_case_of_wang_2007(kind: str, published: dict[str, Any]) -> None:
    cases = [case for case in published["cases"] if kind_of(case["error_model"]["transform"]) == kind]
    cases = [case for case in cases if case["error_model"]["data"] == "Y"]
    assert cases
    data = wang_data(published)
    binding = bind(wang_model(selected_error(kind)), data)
    rows = [selectors(case["error_model"]) for case in cases]
    errors = np.array(
        [[row[p.name.replace("lambda", "shape")] for p in binding.density.error.parameters] for row in rows]
    )
    for name, approximation in ALL.items():
        objective, modes = objectives(binding.problem, approximation, binding.start, errors)
        objective = np.asarray(objective) - data.n_obs * LOG_2PI
        independent = np.array([case["independent"][name] for case in cases])
        assert objective == pytest.approx(independent, abs=INDEPENDENT), (name, np.abs(objective - independent).max())
        if name in cases[0]["expected"] and name != "laplace":  # in the source Laplace is FOCEI for Gaussian data
            printed = np.array([case["expected"][name] for case in cases])
            assert objective == pytest.approx(printed, abs=PRINTED), name
        if name == "focei":
            # printed to 6 decimals; b = sd z
            eta = 0.2 * np.asarray(modes)[:, :, 0]
            assert eta == pytest.approx(np.array([case["eta_mode"] for case in cases]), abs=2e-6)


def test_all_cases_are_tested(published: dict[str, Any]) -> None:
    tested = [c for c in published["cases"] if kind_of(c["error_model"]["transform"]) in KINDS]
    assert len(tested) == 169
    assert [c["error_model"]["prediction"] for c in tested if c["error_model"]["data"] != "Y"] == ["lipre"]


# ---- some of them by the named residual models

SD = 0.3162277660168
BOTH_SIDES = jn.error.transform_both_sides

# name: (residual model, (transform, shape, has additive SD, coefficient, power, base, combination) of the case)
NAMED_CASES: dict[str, tuple[Any, tuple]] = {
    "constant": (jn.error.constant(SD), ("identity", 1.0, True, None, None, None, None)),
    "proportional": (jn.error.proportional(SD), ("identity", 1.0, False, SD, 1.0, "f", None)),
    "power": (jn.error.power(SD, 0.5), ("identity", 1.0, False, SD, 0.5, "transformed f", None)),
    "combined": (BOTH_SIDES("log", jn.error.combined(SD, SD)), ("log", 1.0, True, SD, 1.0, "f", "combined1")),
    "combined variance": (jn.error.combined_variance(SD, SD), ("identity", 1.0, True, SD, 1.0, "f", "combined2")),
    "constant plus power": (
        jn.error.constant_power(SD, SD, 0.5),
        ("identity", 1.0, True, SD, 0.5, "f", "combined1"),
    ),
    "exponential": (jn.error.exponential(SD), ("log", 1.0, True, None, None, None, None)),
    "log, power of h(f)": (
        BOTH_SIDES("log", jn.error.constant_power(SD, SD, 0.5), of_transformed=True),
        ("log", 1.0, True, SD, 0.5, "transformed f", "combined1"),
    ),
    "box-cox": (BOTH_SIDES("box-cox", jn.error.constant(SD)), ("box-cox", 0.5, True, None, None, None, None)),
    "box-cox, proportional to h(f)": (
        BOTH_SIDES("box-cox", jn.error.proportional(SD), of_transformed=True, fix_shape=True),
        ("box-cox", 0.5, False, SD, 1.0, "transformed f", None),
    ),
    "yeo-johnson": (
        BOTH_SIDES("yeo-johnson", jn.error.proportional(SD)),
        ("yeo-johnson", 0.5, False, SD, 1.0, "f", None),
    ),
    "logit": (
        BOTH_SIDES("logit(0, 12)", jn.error.combined(SD, SD)),
        ("logit(0, 12)", 1.0, True, SD, 1.0, "f", "combined1"),
    ),
    "probit": (
        BOTH_SIDES("probit(0, 12)", jn.error.constant(SD)),
        ("probit(0, 12)", 1.0, True, None, None, None, None),
    ),
    "probit and yeo-johnson": (
        BOTH_SIDES(
            jn.transforms.Composition(jn.transforms.Probit(0, 12), jn.transforms.YeoJohnson()), jn.error.constant(SD)
        ),
        ("probit(0, 12) > yeo-johnson", 0.5, True, None, None, None, None),
    ),
}


def signature(model: dict[str, Any]) -> tuple:
    part = model["proportional"] or {"coefficient": None, "power": None, "of": None}
    power = None if part["power"] is None or isinstance(part["power"], str) else float(part["power"])
    return (
        kind_of(model["transform"]),
        shape_of(model["transform"]),
        model["additive_sd"] == SD,
        part["coefficient"],
        power,
        part["of"],
        model["combine"],
    )


@pytest.mark.parametrize("name", NAMED_CASES)
def test_named_residual_models_of_wang_2007(name: str, published: dict[str, Any]) -> None:
    error, expected = NAMED_CASES[name]
    case = next(
        c for c in published["cases"] if signature(c["error_model"]) == expected and c["error_model"]["data"] == "Y"
    )
    data = wang_data(published)
    binding = bind(wang_model(error), data)
    for column in ("fo", "foce", "focei", "laplace"):
        objective = -2.0 * values(binding.problem, ALL[column], binding.start).sum() - data.n_obs * LOG_2PI
        assert objective == pytest.approx(case["independent"][column], abs=INDEPENDENT), column


def test_wang_2007_on_the_log_of_the_data(published: dict[str, Any]) -> None:
    case = next(c for c in published["cases"] if c["error_model"]["data"] == "log(Y)")
    data = wang_data(published, log=True)
    binding = bind(wang_model(jn.error.constant(SD), log_wang), data)
    for column, approximation in ALL.items():
        objective = -2.0 * values(binding.problem, approximation, binding.start).sum() - data.n_obs * LOG_2PI
        assert objective == pytest.approx(case["independent"][column], abs=INDEPENDENT), column


def test_modes_and_contributions_of_nonmem(published: dict[str, Any], reference: Path) -> None:
    table = json.loads((reference / "published" / "wang2007_nonmem_prop_focei_table.json").read_text())
    frame = pd.DataFrame(table["rows"], columns=table["columns"])
    data = wang_data(published)
    binding = bind(wang_model(jn.error.proportional(SD)), data)
    errors = binding.start.error[None]
    objective, modes = objectives(binding.problem, jn.FOCEI(), binding.start, errors)
    assert float(objective[0]) - data.n_obs * LOG_2PI == pytest.approx(table["objective"], abs=PRINTED)
    first = frame.groupby("ID").first()
    # NONMEM prints five significant digits of eta, and its search stops at three
    assert 0.2 * np.asarray(modes)[0, :, 0] == pytest.approx(first["ETA1"].to_numpy(), rel=1e-3, abs=2e-6)
    contributions = -2.0 * values(binding.problem, jn.FOCEI(), binding.start) - 2 * LOG_2PI
    assert contributions == pytest.approx(first["OBJI"].to_numpy(), rel=2e-4)


# ---- theophylline and one subject with repeated doses


def theophylline(reference: Path) -> jn.GroupedData:
    frame = pd.read_csv(reference / "published" / "data" / "theo_sd.csv")
    frame["DOSE"] = frame.groupby("ID")["AMT"].transform("max")
    observed = frame[frame["EVID"] == 0].drop(columns="AMT").rename(columns={"DOSE": "AMT"})
    return jn.GroupedData.from_frame(observed, "ID", "DV", x="TIME", v="AMT")


def theophylline_model(p: dict[str, Any]) -> jn.NLMEModel:
    starts = [("ka", p["tka"], p["omega"][0]), ("cl", p["tcl"], p["omega"][1]), ("v", p["tv"], p["omega"][2])]
    parameters = [
        jn.Parameter(name, np.exp(log_value), "log", random=True, sd=np.sqrt(variance))
        for name, log_value, variance in starts
    ]
    return jn.NLMEModel(one_compartment, parameters, error=jn.error.constant(p["add.sd"]))


def theophylline_objective(reference: Path, p: dict[str, Any]) -> tuple[float, np.ndarray]:
    """FOCEI's objective and its gradient with respect to (tka, tcl, tv, add.sd)."""
    data = theophylline(reference)
    assert data.n_obs == 132
    binding = bind(theophylline_model(p), data)
    value, gradient = slopes(binding.problem, jn.FOCEI(), binding.start, binding.start.pack()[None])
    gradient = -2.0 * np.asarray(gradient)[0, [0, 1, 2, 6]]
    gradient[3] /= p["add.sd"]  # packed on the log scale
    return -2.0 * float(value[0]) - data.n_obs * LOG_2PI, gradient


def test_theophylline_at_initial_values(reference: Path, points: dict[str, Any]) -> None:
    point = points["theo_focei_at_initial"]
    value, _ = theophylline_objective(reference, point["parameters"])
    assert value == pytest.approx(point["independent"], abs=1e-5)  # printed to six decimals
    assert value == pytest.approx(point["expected_objective"], abs=0.02)  # the source has an ODE tolerance of 0.01


def test_theophylline_gradient(reference: Path, points: dict[str, Any]) -> None:
    point = points["theo_focei_gradient"]
    _, gradient = theophylline_objective(reference, point["parameters"])
    names = ["tka", "tcl", "tv", "add.sd"]
    # four significant digits: the independent gradient is a difference, printed to five decimals
    assert gradient == pytest.approx(np.array([point["independent"][n] for n in names]), rel=5e-5)
    assert gradient == pytest.approx(np.array([point["expected_gradient"][n] for n in names]), rel=1e-3)


def test_theophylline_at_the_optimum(reference: Path, points: dict[str, Any]) -> None:
    point = points["theo_focei_fit_additive"]["independent"]
    value, gradient = theophylline_objective(reference, point)
    assert value == pytest.approx(point["objective"], abs=1e-4)
    # the optimum is printed to five decimals; the objective's curvature is some hundreds
    assert np.abs(gradient).max() < 0.02


def test_one_subject_with_doses_at_given_effects(points: dict[str, Any]) -> None:
    point = points["inner_single_subject"]
    subject = point["data"]
    data = jn.GroupedData.from_arrays(subject["dv"], np.zeros(len(subject["dv"]), int), {"time": subject["time"]})
    times = subject["first"] + subject["every"] * np.arange(subject["n_doses"], dtype=float)
    doses = {"id": np.zeros(len(times), int), "time": times, "amount": np.full(len(times), float(subject["dose"]))}
    data = data.with_table("doses", doses, "id", ["time", "amount"])
    sd = np.sqrt(0.1)
    parameters = [
        jn.Parameter("cl", np.exp(1.6), "log", random=True, sd=sd),
        jn.Parameter("v", np.exp(4.5), "log", random=True, sd=sd),
    ]
    binding = bind(jn.NLMEModel(boluses, parameters, error=jn.error.proportional(sd)), data)
    density, params = binding.density, binding.start
    group = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), binding.problem.buckets[0])
    z = jnp.asarray(point["eta"]) / sd

    @cheap
    def at(params, z, group):
        curvature = gauss_newton(density, params, z, group, None)
        return Gaussian()(lambda z: density.log_joint(params, z, group), z, curvature, group.key, at_mode=True)[0]

    objective = -2.0 * float(at(params, z, group)) - data.n_obs * LOG_2PI
    assert objective == pytest.approx(point["independent"], abs=1e-5)
    assert objective == pytest.approx(point["expected_objective"], abs=PRINTED)
