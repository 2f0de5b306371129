"""Models and data of the estimator tests: R's self-starting models with identity transforms, on R's tables.

Model functions are defined at module level: a function is compiled once, however many fits use it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import pandas as pd

import jaxnlme as jn

TABLES = Path(__file__).resolve().parent.parent / "tables"


def ssfol(phi, x):
    """R's SSfol: one compartment, first-order absorption, log rate constants and log clearance."""
    ke, ka = jnp.exp(phi.lKe), jnp.exp(phi.lKa)
    decay = jnp.exp(-ke * x.Time) - jnp.exp(-ka * x.Time)
    return x.Dose * jnp.exp(phi.lKe + phi.lKa - phi.lCl) * decay / (ka - ke)


def sslogis(phi, x):
    """R's SSlogis in a column `t`."""
    return phi.Asym / (1.0 + jnp.exp((phi.xmid - x.t) / phi.scal))


def ssasymp_off(phi, x):
    """R's SSasympOff."""
    return phi.Asym * (1.0 - jnp.exp(-jnp.exp(phi.lrc) * (x.conc - phi.c0)))


def ssbiexp(phi, x):
    """R's SSbiexp."""
    return phi.A1 * jnp.exp(-jnp.exp(phi.lrc1) * x.time) + phi.A2 * jnp.exp(-jnp.exp(phi.lrc2) * x.time)


def one_compartment(phi, x):
    """The same curve as SSfol by absorption rate, clearance (L/h) and volume (L); doses in mg."""
    ke = phi.cl / phi.v
    return x.Dose * phi.ka / (phi.v * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def level(phi, x):
    """A level: the one-way layout."""
    return phi.mu + 0.0 * x.one


def line(phi, x):
    """A straight line."""
    return phi.mu + phi.slope * x.t


FUNCTIONS = {"ssfol": ssfol, "logis": sslogis, "asympOff": ssasymp_off, "biexp": ssbiexp}


def table(name: str) -> pd.DataFrame:
    """A table of tests/tables, or of the package."""
    package = {"Theoph": jn.datasets.theophylline, "Indometh": jn.datasets.indomethacin, "Orange": jn.datasets.orange}
    return package[name]() if name in package else pd.read_csv(TABLES / f"{name}.csv")


@functools.cache
def data(name: str) -> jn.GroupedData:
    """A table as GroupedData, with the columns that the models read."""
    frame = table(name)
    if name == "Theoph":
        return jn.GroupedData.from_frame(frame, "Subject", "conc", ["Time", "Dose"], ["Wt"])
    if name == "Indometh":
        return jn.GroupedData.from_frame(frame, "Subject", "conc", "time")
    if name == "Orange":
        return jn.GroupedData.from_frame(frame.rename(columns={"age": "t"}), "Tree", "circumference", "t")
    if name == "ChickWeight":
        return jn.GroupedData.from_frame(frame.rename(columns={"Time": "t"}), "Chick", "weight", "t")
    if name == "DNase":
        return jn.GroupedData.from_frame(frame.assign(t=jnp.log(frame["conc"].to_numpy())), "Run", "density", "t")
    if name == "CO2":
        return jn.GroupedData.from_frame(frame, "Plant", "uptake", "conc", ["Type", "Treatment"])
    return jn.GroupedData.from_frame(frame.assign(one=1.0), "Batch", "Yield", "one")


@functools.cache
def theophylline_mg() -> jn.GroupedData:
    """Theophylline with doses in mg, all 132 rows."""
    frame = table("Theoph")
    return jn.GroupedData.from_frame(
        frame.assign(Dose=frame.Dose * frame.Wt), "Subject", "conc", ["Time", "Dose"], ["Wt"]
    )


def oral(error: object = "constant", covariance: object = "diagonal", **changes: object) -> jn.NLMEModel:
    """The one-compartment model with log-normal ka, cl, v; `changes`: further arguments of `NLMEModel`."""
    parameters = [
        jn.Parameter("ka", 1.5, "log", random=True),
        jn.Parameter("cl", 2.8, "log", random=True),
        jn.Parameter("v", 32.0, "log", random=True),
    ]
    return jn.NLMEModel(one_compartment, parameters, covariance, error, **changes)


def from_r(name: str, start: dict[str, float]) -> tuple[jn.NLMEModel, jn.GroupedData]:
    """Model and data behind a reference fit called `<data set>_<function>_<effects>`.

    `<effects>`: "full3" and "diag3" for all parameters; "full_a_b", "diag_a_b", or "a" by itself.
    """
    dataset, function, effects = name.split("_", 2)
    effects = effects.replace("_only", "")
    kind = "full" if effects.startswith("full") else "diagonal"
    chosen = list(start) if effects in ("full3", "diag3") else [n for n in effects.split("_") if n in start]
    parameters = [jn.Parameter(n, value, random=n in chosen) for n, value in start.items()]
    return jn.NLMEModel(FUNCTIONS[function], parameters, kind), data(dataset)


def record(reference: Path, name: str) -> dict:
    """A fit made by R, reference/r/<name>.json."""
    return json.loads((reference / "r" / f"{name}.json").read_text())


@eqx.filter_jit
def _likelihood(problem, params, method):
    return jn.log_likelihood(None, params, problem, method)


def likelihood(fit: jn.Fit, params: jn.Params, method: str = "focei") -> float:
    """The log-likelihood of a fit's model and data at other `params`: one program a model."""
    return float(_likelihood(fit.binding.problem, params, method))
