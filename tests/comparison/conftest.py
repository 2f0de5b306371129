"""Linear models of the Orthodont table, whose likelihood every method gives exactly."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxnlme as jn

TABLES = Path(__file__).resolve().parent.parent / "tables"


def line(phi, x):
    """A straight line in age."""
    return phi.mu + phi.slope * x.age


@functools.cache
def frame() -> pd.DataFrame:
    return pd.read_csv(TABLES / "Orthodont.csv")


@functools.cache
def data() -> jn.GroupedData:
    return jn.GroupedData.from_frame(frame(), "Subject", "distance", ["age"], ["Sex"])


def model(
    covariance: Any = "diagonal",
    random: tuple[str, ...] = ("mu",),
    error: Any = "constant",
    sex: bool = False,
    **more: Any,
) -> jn.NLMEModel:
    """mu + slope age with random effects of the parameters `random`; `sex`: mu differs between the sexes."""
    parameters = [
        jn.Parameter("mu", 17.0, random="mu" in random, covariates=["Sex"] if sex else []),
        jn.Parameter("slope", 0.6, random="slope" in random),
    ]
    return jn.NLMEModel(line, parameters, covariance, error, **more)


@functools.cache
def fitted(name: str, method: str = "focei", restricted: bool = False) -> jn.Fit:
    """A fit by name: no random effect, "int", "diag", "full", "sex" (full, and a covariate), "varident"."""
    models = {
        "none": lambda: model(random=()),
        "int": lambda: model(),
        "diag": lambda: model("diagonal", ("mu", "slope")),
        "full": lambda: model("full", ("mu", "slope")),
        "sex": lambda: model("full", ("mu", "slope"), sex=True),
        "int sex": lambda: model(sex=True),
        "varident": lambda: model(error=jn.error.constant(by="Sex")),
        "proportional": lambda: model(error="proportional"),
        "combined": lambda: model(error="combined"),
        "power": lambda: model(error="power"),
        "identity": lambda: model("identity", ("mu", "slope")),
        "log-matrix": lambda: model("log-matrix", ("mu", "slope")),
        "hetero": lambda: model(jn.covariances.Heterogeneous("diagonal", by="Sex")),
        "held": lambda: model("diagonal", ("mu", "slope"), fixed={"sd(slope)": 0.1}),
        "ar1": lambda: model(error=jn.error.gaussian("constant", jn.correlation.AR1())),
        "car1": lambda: model(error=jn.error.gaussian("constant", jn.correlation.CAR1("age"))),
        "prior": lambda: model(priors={"mu": jn.priors.Normal(17.0, 1.0)}),
    }
    return jn.fit(models[name](), data(), method, restricted=restricted).throw()


def null_data(groups: int, key: int, per_group: int = 4, sd_slope: float = 0.0) -> jn.GroupedData:
    """Lines with a random intercept, the responses of the next data set for each `key`."""
    rng = np.random.default_rng(key)
    t = np.tile(np.arange(per_group) - 0.5 * (per_group - 1), groups)
    group = np.repeat(np.arange(groups), per_group)
    y = 20.0 + 0.7 * t + rng.standard_normal(groups)[group] + rng.standard_normal(len(t))
    y = y + sd_slope * rng.standard_normal(groups)[group] * t
    return jn.GroupedData.from_arrays(y, group, {"age": t})
