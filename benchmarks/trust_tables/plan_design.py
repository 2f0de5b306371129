"""Simulated dose-response data in the design of Plan et al. (2012): designs, model, truth, starts, saemix's estimates.

    f = E0 + Emax dose^gamma / (ED50^gamma + dose^gamma),   y = f (1 + b e)

E0, Emax and ED50 are log-normal over subjects, Emax and ED50 correlated; gamma, where the design has it, is common to
all.
**Source:** Plan, Maloney, Mentre, Karlsson and Bertrand (2012), AAPS Journal 14, 420-432: the design. The data and the
estimates of saemix 3.1: saemixdevelopment/saemixextension, simulationSuite/cont, whose authors simulated 100 sets of
each kind; they are not the paper's own data.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxnlme as jn

ROOT = Path(__file__).resolve().parents[2]
DESIGNS = ("emaxRich", "emaxSparse", "hillRich", "hillSparse")
STARTS = ("true", "wrong")
SETS = 100
TRUTH = {"E0": 5.0, "Emax": 30.0, "ED50": 500.0, "gamma": 3.0}
WRONG = {"E0": 10.0, "Emax": 60.0, "ED50": 1000.0, "gamma": 0.1}
PSI = np.array([[0.09, 0.0, 0.0], [0.0, 0.49, 0.245], [0.0, 0.245, 0.49]])
B = 0.1
# Columns of estimates: typical values, variances on the log scale, covariance, residual; and their names in the files
# of saemix.
COLUMNS = {
    "E0": "E0", "Emax": "Emax", "ED50": "ED50", "gamma": "gamma",
    "var(E0)": "omega2.E0", "var(Emax)": "omega2.Emax", "var(ED50)": "omega2.ED50", "cov(Emax, ED50)": "cov.Emax.ED50",
    "b": "b.1",
}  # fmt: skip


def reference() -> Path:
    """The folder of data sets and reference estimates."""
    return Path(os.environ.get("JAXNLME_REFERENCE") or ROOT.parent / "shared" / "reference") / "plan2012"


def hill(phi, x):
    """Sigmoid curve of the dose; the response is E0 at dose zero."""
    given = x.dose > 0
    log_dose = jnp.log(jnp.where(given, x.dose, 1.0))
    effect = phi.Emax * jax.nn.sigmoid(phi.gamma * (log_dose - jnp.log(phi.ED50)))
    return phi.E0 + jnp.where(given, effect, 0.0)


def emax(phi, x):
    """Hyperbolic curve of the dose."""
    return phi.E0 + phi.Emax * x.dose / (phi.ED50 + x.dose)


def names(design: str) -> list[str]:
    """Names of the estimates of a design, in the order of `COLUMNS`."""
    return [name for name in COLUMNS if name != "gamma" or design.startswith("hill")]


@functools.cache
def table(design: str) -> pd.DataFrame:
    """All sets of a design: rep, id, dose, y."""
    path = reference() / f"{design}Prop.csv.gz"
    if not path.is_file():
        sys.exit(f"{path} is missing; JAXNLME_REFERENCE names the folder of reference results, with plan2012 in it.")
    return pd.read_csv(path)


def data(design: str, number: int) -> jn.GroupedData:
    """One set."""
    rows = table(design)
    return jn.GroupedData.from_frame(rows[rows["rep"] == number], "id", "y", x=["dose"])


def arrays(design: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Doses and responses (subjects, rows) of one set."""
    rows = table(design)
    rows = rows[rows["rep"] == number].sort_values(["id", "dose"], kind="stable")
    subjects = rows["id"].nunique()
    return rows["dose"].to_numpy(float).reshape(subjects, -1), rows["y"].to_numpy(float).reshape(subjects, -1)


@functools.cache
def model(design: str) -> jn.NLMEModel:
    """The model of a design; starting values are those of `start`."""
    is_hill = design.startswith("hill")
    parameters = [
        jn.Parameter(name, value, transform="log", random=name != "gamma")
        for name, value in TRUTH.items()
        if name != "gamma" or is_hill
    ]
    return jn.NLMEModel(
        hill if is_hill else emax, parameters, covariance=[["E0"], ["Emax", "ED50"]], error="proportional"
    )


def start(design: str, kind: str):
    """Starting parameters: the truth, or the wrong ones with variances of 1, no covariance and b doubled."""
    typical = TRUTH if kind == "true" else WRONG
    psi, b = (PSI, B) if kind == "true" else (np.eye(3), 2.0 * B)
    values = {name: value for name, value in typical.items() if name in names(design)}
    return model(design).params(data(design, 1), values=values | {"b": b}, psi=psi)


def truth(design: str) -> dict[str, float]:
    """The truth by the names of `names`."""
    values = TRUTH | dict(zip(names("emaxRich")[3:7], (PSI[0, 0], PSI[1, 1], PSI[2, 2], PSI[1, 2]), strict=True))
    return {name: float((values | {"b": B})[name]) for name in names(design)}


def estimates(fit: jn.Fit, design: str) -> dict[str, float]:
    """Estimates of a fit by the names of `names`."""
    psi = np.asarray(fit.psi, float)
    values = dict(fit.values)
    values |= {"var(E0)": psi[0, 0], "var(Emax)": psi[1, 1], "var(ED50)": psi[2, 2], "cov(Emax, ED50)": psi[1, 2]}
    return {name: float(values[name]) for name in names(design)}


@functools.cache
def saemix(design: str, kind: str) -> pd.DataFrame:
    """saemix 3.1's estimates, a row a set (index: its number), columns by the names of `names`."""
    rows = pd.read_csv(reference() / f"saemix31_{design}Prop_{kind}_starts.csv").set_index("Simulation")
    return pd.DataFrame({name: rows[COLUMNS[name]] for name in names(design)})
