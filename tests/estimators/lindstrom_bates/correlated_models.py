"""The models of benchmarks/results/correlated_nlme.json in ours, from the call of nlme that a record holds."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from tests.estimators import catalogue
from tests.estimators.lindstrom_bates.level_fits import CORRELATIONS, Case
from tests.estimators.lindstrom_bates.nlme_fits import ssfpl

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def ssasymp(phi, x):
    """R's SSasymp in a column `t`."""
    return phi.Asym + (phi.R0 - phi.Asym) * jnp.exp(-jnp.exp(phi.lrc) * x.t)


def ssasymp_off(phi, x):
    """R's SSasympOff in a column `t`."""
    return phi.Asym * (1.0 - jnp.exp(-jnp.exp(phi.lrc) * (x.t - phi.c0)))


def ssbiexp(phi, x):
    """R's SSbiexp in a column `t`."""
    return phi.A1 * jnp.exp(-jnp.exp(phi.lrc1) * x.t) + phi.A2 * jnp.exp(-jnp.exp(phi.lrc2) * x.t)


def cycle(phi, x):
    """A cosine and a sine of frequency w."""
    angle = 2.0 * jnp.pi * phi.w * x.t
    return phi.A + phi.B * jnp.sin(angle) + phi.C * jnp.cos(angle)


def growth(phi, x):
    """Exponential growth."""
    return phi.a * jnp.exp(phi.b * x.t / 64.0)


def decay(phi, x):
    """Exponential decay to a plateau."""
    return phi.A + phi.B * jnp.exp(-jnp.exp(phi.lk) * (x.t - 1.0))


def paris(phi, x):
    """Crack growth by the law of Paris."""
    return jnp.exp(-jnp.log(1.0 - 10.0 * phi.k * x.t) / phi.m)


def meal(phi, x):
    """A rise and fall after time zero."""
    after = jnp.maximum(x.t, 0.0)
    return phi.base + phi.A * after * jnp.exp(-jnp.exp(phi.lk) * after)


def wafer(phi, x):
    """A parabola and a cosine; A, A1 and A2 are nlme's A ~ voltage + I(voltage^2)."""
    return phi.A + phi.A1 * x.t + phi.A2 * x.t**2 + phi.B * jnp.cos(phi.w * x.t + jnp.pi / 4.0)


CURVES = {
    "SSasymp": ssasymp,
    "SSasympOff": ssasymp_off,
    "SSbiexp": ssbiexp,
    "SSfol": catalogue.ssfol,
    "SSfpl": ssfpl,
    "SSlogis": catalogue.sslogis,
    "cycle": cycle,
    "growth": growth,
    "decay": decay,
    "paris": paris,
    "meal": meal,
    "wafer": wafer,
}


@functools.cache
def records() -> dict[str, dict[str, Any]]:
    """The reference fits by id."""
    return {fit["id"]: fit for fit in json.loads((BENCHMARKS / "results" / "correlated_nlme.json").read_text())["fits"]}


def targets() -> list[str]:
    """Ids of the trusted fits."""
    return [name for name, record in records().items() if record["trusted"]]


def table(reference: Path, name: str) -> pd.DataFrame:
    """A table of benchmarks/data, or of the folder `data` beside the reference folder."""
    own = BENCHMARKS / "data" / f"{name}.csv"
    return pd.read_csv(own if own.exists() else reference.parent / "data" / f"{name}.csv")


def evaluate(frame: pd.DataFrame, expression: str) -> Any:
    """An expression of R's in columns of a table, such as `log(dose)` or `I(Time/30)`."""
    inside = re.fullmatch(r"I\((.*)\)", expression)
    columns = {column: frame[column].to_numpy() for column in frame.columns}
    return eval((inside[1] if inside else expression).strip(), {"log": np.log}, columns)


@functools.cache
def model_and_data(reference: Path, name: str) -> tuple[jn.NLMEModel, jn.GroupedData, dict[str, dict[str, str]]]:
    """Model and data of the reference fit `name`, and by level our names of its random effects."""
    record = records()[name]
    # the alternation of a model has nlme's call in the record of nlme's fit
    call = " ".join(records()[name.removesuffix("_alternation")]["r_code"].split())
    response, curve, arguments = re.search(r"nlme\((\w+) ~ (\w+)\((.*?)\), data", call).groups()
    fixed = dict(re.findall(r"(\w+) ~ ([^,()]+(?:\([^()]*\))?)", re.search(r"fixed = list\((.*?)\), random", call)[1]))
    frame = table(reference, record["dataset"])
    frame = frame[frame[response].notna()].reset_index(drop=True)
    for column in [column for column in ("Diet", "treat", "Variety", "Treatment") if column in frame]:
        frame[column] = frame[column].astype(str)
    predictors = [p for p in _split(arguments) if p not in fixed]
    columns = [p for p in predictors if curve == "SSfol"]
    if curve != "SSfol":
        frame["t"] = evaluate(frame, predictors[0])
        columns = ["t"]
    correlation, group, within, order = None, [], None, None
    if record["correlation"] is not None:
        expression, factors = record["correlation"]["formula"].removeprefix("~").split(" | ")
        group = factors.split("/")
        within = group[1] if len(group) > 1 else None
        if expression != "1":
            order = "order"
            frame["order"] = evaluate(frame, expression)
            columns = [*columns, "order"]
        correlation = _correlation(record, order, within)
    levels = list(record["random"])
    covariates = sorted({text.strip() for text in fixed.values()} - {"1", "voltage + I(voltage^2)"})
    extra = [within] if within and within not in levels else []
    by_row = [*extra, *covariates] if len(levels) > 1 else extra
    by_group = [] if len(levels) > 1 else covariates
    data = jn.GroupedData.from_frame(frame, levels, response, [*columns, *by_row], by_group)
    parameters, effects = _parameters(record, fixed)
    scale: Any = "constant" if record["variance_function"] is None else jn.variance.power(power=0.5)
    covariance = dict.fromkeys(levels, record["psi_structure"])
    return (
        jn.NLMEModel(CURVES[curve], parameters, covariance, jn.error.gaussian(scale, correlation)), data, effects,
    )  # fmt: skip


def _split(arguments: str) -> list[str]:
    """The arguments of a call without commas inside parentheses."""
    return [part.strip() for part in arguments.split(",")]


def _correlation(record: dict[str, Any], order: str | None, within: str | None) -> Any:
    kind, start = record["correlation"]["class"], record.get("start_correlation")
    start = next((r["start_correlation"] for r in records().values() if r["model"] == record["model"]), start)
    if kind == "corAR1":
        return jn.correlation.AR1(order, within=within, rho=start)
    if kind == "corCAR1":
        return jn.correlation.CAR1(order, within=within, rho=start)
    return jn.correlation.ARMA(1, 1, order, within=within, ar=[start[0]], ma=[start[1]])


def _parameters(record: dict[str, Any], fixed: dict[str, str]) -> tuple[list[jn.Parameter], dict[str, dict[str, str]]]:
    """Our parameters, and by level our names of nlme's random effects."""
    start = next(r["start"] for r in records().values() if r["model"] == record["model"] and r["start"])
    ours = {
        name: name.replace("A.(Intercept)", "A").replace("A.I(voltage^2)", "A2").replace("A.voltage", "A1")
        for name in record["fixef"]
        if record["dataset"] == "Wafer"
    }
    ours = ours or {
        name: name.removesuffix(".(Intercept)")
        for name in record["fixef"]
        if "." not in name or name.endswith(".(Intercept)")
    }
    random: dict[str, list[str]] = {name: [] for name in ours.values()}
    effects: dict[str, dict[str, str]] = {}
    for depth, (level, of_level) in enumerate(record["random"].items()):
        for name in of_level["names"]:
            random[ours[name]].append(level)
            effects.setdefault(level, {})[name] = f"{ours[name]}|{level}" if depth else ours[name]
    parameters = []
    for theirs, name in ours.items():
        text = fixed.get(name, "1").strip()
        formula = [] if text == "1" or record["dataset"] == "Wafer" else [text]
        sd = None
        if record["dataset"] == "Wafer" and random[name]:
            # The five voltages are as many as the coefficients of the mean, so that other frequencies fit as well. To
            # which one a search leads depends on the starting SDs: from the default, 30%, to another one than nlme's.
            sd = dict.fromkeys(random[name], 0.05 * abs(start[theirs]))
        parameters.append(jn.Parameter(name, start[theirs], random=random[name] or False, sd=sd, covariates=formula))
    return parameters, effects


@functools.cache
def case(reference: Path, name: str) -> Case:
    """The reference fit `name` beside our model."""
    record = records()[name]
    model, data, effects = model_and_data(reference, name)
    names = bind(model, data).density.beta_names
    beta = tuple(n for p in model.parameters for n in names if n.split(" ~ ")[0] == p.name)
    start = next(r["start"] for r in records().values() if r["model"] == record["model"] and r["start"])
    error: tuple[str, ...] = ("a",)
    if record["variance_function"] is not None:
        error = ("sigma", "power")
    if record["correlation"] is not None:
        error += CORRELATIONS[record["correlation"]["class"]]
    return Case(
        name, record["program"], record["method"] == "REML", model, data, record, beta,
        dict(zip(beta, start.values(), strict=True)), effects, error, "" if record["trusted"] else record["reason"],
    )  # fmt: skip
