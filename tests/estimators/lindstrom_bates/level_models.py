"""The fits of the reference folder with nested levels, variance functions or correlation, in ours.

Linear models of lme and gls are models whose parameters p0, p1, ... are the coefficients of the columns of R's model
matrix; ours have the same linearised likelihood at every point.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import formulaic
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from tests.estimators import catalogue
from tests.estimators.lindstrom_bates import nlme_fits
from tests.estimators.lindstrom_bates.correlated_models import table
from tests.estimators.lindstrom_bates.level_fits import CORRELATIONS, Case


def linear(phi, x):
    """The product of the model matrix, columns p0, p1, ..., with coefficients of the same names."""
    return sum(phi[name] * x[name] for name in phi.names)


def dose_response(phi, x):
    """The curve of the phenylbiguanide model, A at small and B at large doses."""
    return phi.A + (phi.B - phi.A) / (1.0 + jnp.exp((jnp.log(x.dose) - phi.ld50) / phi.th))


def wafer(phi, x):
    """A parabola and a cosine: nlme's A ~ voltage + I(voltage^2), B and w."""
    return phi.A + phi.A1 * x.voltage + phi.A2 * x.voltage**2 + phi.B * jnp.cos(phi.w * x.voltage + jnp.pi / 4.0)


WAFER = "voltage + I(voltage**2)"
COSINE = f"{WAFER} + np.cos(4.5679 * voltage) + np.sin(4.5679 * voltage)"
AGE = "Sex * I(age - 11)"
# table, response, formula of the fixed effects, grouping columns, positions of the columns with random effects by level
LINEAR: dict[str, tuple[str, str, str, list[str], dict[str, list[int]]]] = {
    "Machines_worker_machine": ("Machines", "score", "Machine", ["Worker", "Machine"], {"Worker": [0], "Machine": [0]}),
    "Pastes_batch_cask": ("Pastes", "strength", "1", ["batch", "cask"], {"batch": [0], "cask": [0]}),
    "Oats_splitplot_nitro": ("Oats", "yield", "nitro", ["Block", "Variety"], {"Block": [0], "Variety": [0]}),
    "Oats_splitplot_nitro_variety": (
        "Oats", "yield", "C(nitro) * Variety", ["Block", "Variety"], {"Block": [0], "Variety": [0]},
    ),
    "Glucose_subject_meal": ("Glucose", "conc", "C(Time)", ["Subject", "Meal"], {"Subject": [0], "Meal": [0]}),
    "Spruce_plot_tree": ("Spruce", "logSize", "days + I(days**2)", ["plot", "Tree"], {"plot": [0], "Tree": [0]}),
    "Wafer_lme_quad_nested_diag": (
        "Wafer", "current", WAFER, ["Wafer", "Site"], {"Wafer": [0, 1, 2], "Site": [0, 1, 2]},
    ),
    "Wafer_lme_quad_cos_nested_diag": (
        "Wafer", "current", COSINE, ["Wafer", "Site"], {"Wafer": [0, 1, 2], "Site": [0, 1, 2]},
    ),
    "Milk_int_corCAR1": ("Milk", "protein", "Diet * Time", ["Cow"], {"Cow": [0]}),
    "BodyWeight_intslope_diet_varPower": ("BodyWeight", "weight", "Time * Diet", ["Rat"], {"Rat": [0, 1]}),
    "BodyWeight_intslope_diet_varPower_corExp": ("BodyWeight", "weight", "Time * Diet", ["Rat"], {"Rat": [0, 1]}),
    "BodyWeight_gls_corCAR1_varPower": ("BodyWeight", "weight", "Time * Diet", ["Rat"], {}),
    "Orthodont_intslope_sex_varIdent": ("Orthodont", "distance", AGE, ["Subject"], {"Subject": [0, 2]}),
    "Orthodont_gls_corCompSymm": ("Orthodont", "distance", AGE, ["Subject"], {}),
    "Orthodont_gls_corSymm_varIdent": ("Orthodont", "distance", AGE, ["Subject"], {}),
}  # fmt: skip
NESTED = ["PBG_fpl_cov_nested_A_ld50", "PBG_fpl_cov_nested_A_ld50_swapped", "Wafer_nlme_cosine_nested"]
SINGLE = [
    "CO2_asympOff_AsymLrcCov_Asym_varPower",
    "Cefamandole_biexp_diag_A1_lrc1_A2_varPower",
    "ChickWeight_logis_diag_Asym_xmid_varPower",
    "DNase_logis_diag3_varPower",
    "Indometh_biexp_diag_A1_lrc1_A2_varPower",
    "Orange_logis_Asym_varPower",
    "Orange_logis_Asym_corCAR1",
    "Phenobarb_pheno_diag_Wt_varPower_ctl",
    "Relaxin_fpl_diag_B_xmid_varPower",
    "Theoph_ssfol_diag_lKa_lCl_varConstPower",
]
# Reference fits that the folder's README says not to trust, or whose digits it says mean nothing.
NOT_TRUSTED = {
    "Wafer_nlme_cosine_nested_REML": "at most one of sigma by ML and by REML is at its optimum",
    "Relaxin_fpl_diag_B_xmid_varPower_ML": "ML and REML are different solutions",
    "Relaxin_fpl_diag_B_xmid_varPower_REML": "ML and REML are different solutions",
    **{
        f"{name}_{method}": "one SD near 1e-4"
        for name in ("Cefamandole_biexp_diag_A1_lrc1_A2_varPower", "Indometh_biexp_diag_A1_lrc1_A2_varPower")
        for method in ("ML", "REML")
    },
}
# Fits that R ended with an error: there is nothing to hold ours to.
FAILED = ["sleepstudy_intslope_corAR1", "Wafer_lme_quad_cos_full_nested"]


def targets() -> list[str]:
    """Names of all reference fits of this module."""
    return [f"{name}_{method}" for name in [*NESTED, *SINGLE, *LINEAR] for method in ("ML", "REML")]


@functools.cache
def case(reference: Path, name: str) -> Case:
    """The reference fit `name` beside our model."""
    record = json.loads((reference / "r" / f"{name}.json").read_text())
    stem, method = name.rsplit("_", 1)
    if stem in SINGLE:
        model, data, beta = _single(stem)
        start = dict(zip(beta, _start(reference, name), strict=True))
        effects = {level: {n: n.removesuffix(".(Intercept)") for n in of["names"]} for level, of in
                   record["random"].items()}  # fmt: skip
    elif stem in NESTED:
        model, data, beta, effects = _nested(reference, stem)
        start = dict(zip(beta, record["start"], strict=True))
    else:
        model, data, beta, effects = _linear(reference, stem)
        start, effects = None, {level: dict(zip(record["random"][level]["names"], ours, strict=True))
                                for level, ours in effects.items()}  # fmt: skip
    error = ["a" if record.get("variance_function") is None else "sigma"]
    error += _error_names(record)
    return Case(
        name, record["class"], method == "REML", model, data, record, beta, start, effects, tuple(error),
        NOT_TRUSTED.get(name, ""),
    )  # fmt: skip


def _start(reference: Path, name: str) -> list[float]:
    start = nlme_fits.catalogue.record(reference, name)["start"]
    return list(start.values()) if isinstance(start, dict) else start


def _error_names(record: dict[str, Any]) -> list[str]:
    """Our names of the parameters of variance function and correlation, in R's order."""
    function, correlation = record.get("variance_function"), record.get("correlation")
    out: list[str] = []
    if function is not None:
        kind = function["class"]
        if kind == "varIdent":
            column = function["formula"].split(" | ")[1]
            out += [f"ratio[{column}={level}]" for level in list(function["parameters"])[1:]]
        else:
            out += {"varPower": ["power"], "varConstPower": ["const", "power"]}[kind]
    if correlation is not None and correlation["class"] == "corSymm":
        ages = (8, 10, 12, 14)
        out += [f"corr({a}, {b})" for k, a in enumerate(ages) for b in ages[k + 1 :]]
    elif correlation is not None:
        out += CORRELATIONS[correlation["class"]]
    return out


def _single(stem: str) -> tuple[jn.NLMEModel, jn.GroupedData, tuple[str, ...]]:
    """A model of nlme's with one level: that of `nlme_fits`, with R's parameters of the variance function."""
    stem = stem.removesuffix("_ctl")
    plain, _, kind = stem.rpartition("_")
    problem = nlme_fits.problem(plain)
    data = problem.data
    scale: Any = "constant"
    correlation = None
    if kind == "varPower":
        scale = jn.variance.power(power=0.5)
    elif kind == "varConstPower":
        scale = jn.variance.constant_power(const=1.0, power=0.1)
    else:
        frame = catalogue.table("Orange").rename(columns={"age": "t"})
        frame["hundreds"] = frame["t"] / 100.0
        data = jn.GroupedData.from_frame(frame, "Tree", "circumference", ["t", "hundreds"])
        correlation = jn.correlation.CAR1("hundreds", rho=0.5)
    error = jn.error.gaussian(scale, correlation)
    model = problem.model
    return jn.NLMEModel(model.structure, model.parameters, model.covariance, error), data, problem.beta


@functools.cache
def _nested(reference: Path, stem: str) -> tuple[jn.NLMEModel, jn.GroupedData, tuple[str, ...], dict[str, Any]]:
    """A nonlinear model with nested levels, and by level our names of its random effects by R's."""
    if stem.startswith("Wafer"):
        both, inner = ["Wafer", "Site"], {"A.(Intercept)": "A", "A.voltage": "A1", "A.I(voltage^2)": "A2", "B": "B"}
        starts = {"A": -4.255, "A1": 5.622, "A2": 1.258, "B": -0.09555}
        # A frequency spread by 30%, the default, leads to maxima at other frequencies.
        parameters = [
            jn.Parameter(name, value, random=both, sd=dict.fromkeys(both, 0.01 * abs(value)))
            for name, value in starts.items()
        ]
        parameters.append(jn.Parameter("w", 4.5679, random=["Wafer"], sd={"Wafer": 0.045}))
        data = jn.GroupedData.from_frame(table(reference, "Wafer"), both, "current", "voltage")
        model = jn.NLMEModel(wafer, parameters)
        names = bind(model, data).density.beta_names
        return model, data, names, {
            "Wafer": {**inner, "w": "w"}, "Site": {theirs: f"{ours}|Site" for theirs, ours in inner.items()},
        }  # fmt: skip
    both = ["Rabbit", "Run"]
    frame = table(reference, "PBG")
    frame["Treatment"] = pd.Categorical(frame["Treatment"], ["Placebo", "MDL 72222"])
    data = jn.GroupedData.from_frame(frame, both, "deltaBP", ["dose", "Treatment"])
    everywhere = not stem.endswith("swapped")
    parameters = [
        jn.Parameter(
            name, start, random=both if name in ("A", "ld50") else False,
            covariates=["Treatment"] if everywhere or name == "ld50" else [],
        )
        for name, start in {"A": 28.0, "B": 1.6, "ld50": 3.4, "th": 0.27}.items()
    ]  # fmt: skip
    model = jn.NLMEModel(dose_response, parameters, "full")
    names = bind(model, data).density.beta_names
    beta = tuple(n for p in parameters for n in names if n.split(" ~ ")[0] == p.name)
    inner = {"A.(Intercept)": "A", "ld50.(Intercept)": "ld50"} if everywhere else {"A": "A", "ld50.(Intercept)": "ld50"}
    return model, data, beta, {"Rabbit": inner, "Run": {theirs: f"{ours}|Run" for theirs, ours in inner.items()}}


@functools.cache
def _linear(reference: Path, stem: str) -> tuple[jn.NLMEModel, jn.GroupedData, tuple[str, ...], dict[str, list[str]]]:
    """A linear model of lme or gls, and by level our names of its random effects in the order of its columns."""
    source, response, formula, levels, random = LINEAR[stem]
    frame = table(reference, source)
    frame = frame[frame[response].notna()].reset_index(drop=True)
    for column in ("Diet", "Sex"):
        if column in frame:
            values = frame[column].astype(str)
            order = ["Male", "Female"] if column == "Sex" else sorted(set(values))
            frame[column] = pd.Categorical(values, order)
    matrix = np.asarray(formulaic.model_matrix(formula, frame, context={"np": np}), float)
    names = [f"p{k}" for k in range(matrix.shape[1])]
    start = np.linalg.lstsq(matrix, frame[response].to_numpy(), rcond=None)[0]
    frame = pd.concat([frame, pd.DataFrame(matrix, columns=names)], axis=1)
    extra = [c for c in ("Time", "age", "Sex") if c in frame and c not in levels]
    data = jn.GroupedData.from_frame(frame, levels, response, [*names, *extra])
    noise = float(np.std(frame[response].to_numpy() - matrix @ start))
    parameters = []
    for k, name in enumerate(names):
        where = [level for level in levels if k in random.get(level, ())]
        # effects as large as the residuals of the least squares fit, divided by the size of their column
        sd = noise / float(np.sqrt(np.mean(matrix[:, k] ** 2)))
        parameters.append(jn.Parameter(name, float(start[k]), random=where or False, **({"sd": sd} if where else {})))
    independent = "diag" in stem or not random
    model = jn.NLMEModel(linear, parameters, "diagonal" if independent else "full", error=_error(stem))
    effects = {
        level: [f"p{k}|{level}" if depth else f"p{k}" for k in random[level]]
        for depth, level in enumerate(levels)
        if level in random
    }
    return model, data, tuple(names), effects


def _error(stem: str) -> Any:
    """The residual model of a linear reference fit."""
    scale: Any = "constant"
    correlation = None
    if "varPower" in stem:
        scale = jn.variance.power(power=0.5)
    elif "varIdent" in stem:
        scale = jn.variance.strata("age" if "corSymm" in stem else "Sex")
    if "CAR1" in stem:
        correlation = jn.correlation.CAR1("Time", rho=0.9 if "gls" in stem else 0.5)
    elif "corExp" in stem:
        correlation = jn.correlation.Exponential("Time")
    elif "CompSymm" in stem:
        correlation = jn.correlation.CompoundSymmetry()
    elif "corSymm" in stem:
        correlation = jn.correlation.Unstructured("age")
    return jn.error.gaussian(scale, correlation)
