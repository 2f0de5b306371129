"""The published problems on which SAEM is tested: saemix's documented examples, with its starts and estimates.

Each is built from its record in the reference folder (saemix/<name>.json), so that equation, transforms, starts and
covariance pattern are in one place. saemix's "combined" is sd = sqrt(a^2 + b^2 f^2), our "combined variance"; the
records do not contain the starting values of its error parameters, and ours start automatically. The simulated problems
are in `saem_simulated`. Used by the tests and by benchmarks/study_saem.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxnlme as jn
from tests.problems import binary, poisson


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem. Its maximum is computed by the estimation `methods` in order, then by quadrature with `nodes` an
    effect where these are given, from `target_start` (user-scale values; None: the model's starts). `reference`: the
    record of another program's fit; `truth`: the values with which the data were simulated."""

    name: str
    model: jn.NLMEModel
    data: jn.GroupedData
    methods: tuple[str, ...]
    nodes: int | None
    target_start: dict[str, float] | None = None
    reference: dict[str, Any] | None = None
    truth: dict[str, float] | None = None


def oral(phi, x):
    """One compartment, first-order absorption: dose in mg, V in l, CL in l/h."""
    k = phi.CL / phi.V
    return x.Dose * phi.ka / (phi.V * (phi.ka - k)) * (jnp.exp(-k * x.Time) - jnp.exp(-phi.ka * x.Time))


def emax(phi, x):
    """A hyperbolic response to the dose over a baseline."""
    return phi.E0 + phi.Emax * x.dose / (phi.EC50 + x.dose)


def plateau(phi, x):
    """A line that ends in a plateau at Xmax."""
    return phi.Ymax + phi.slope * jnp.minimum(x.dose - phi.Xmax, 0.0)


def growth(phi, x):
    """A straight line in age."""
    return phi.base + phi.slope * x.age


def log_rate(phi, x):
    """The logarithm of a Poisson rate, linear in time."""
    return phi.intercept + phi.slope * x.time


def logit_rate(phi, x):
    """The logit of a probability, linear in time."""
    return phi.theta1 + phi.theta2 * x.time


FUNCTIONS: dict[str, Callable] = {
    "theo.csv": oral,
    "PD1.csv": emax,
    "yield.csv": plateau,
    "oxboys.csv": growth,
    "rapi.csv": log_rate,
    "toenail.csv": logit_rate,
}
OUTCOMES = {"rapi.csv": poisson, "toenail.csv": binary}
ERRORS: dict[str, Callable] = {
    "constant": jn.error.constant,
    "proportional": jn.error.proportional,
    "combined": jn.error.combined_variance,
}
TRANSFORMS = {0: "identity", 1: "log", 2: "probit", 3: "logit"}

# name: number of quadrature nodes whose doubling changes -2 log L by less than 0.01 at the maximum.
NODES = {
    "theo_nocov_constant": 11,
    "theo_nocov_combined": 11,
    "theo_nocov_proportional": 15,
    "theo_wtcl_constant": 11,
    "theo_wtcl_combined": 11,
    "theo_wtcl_vclblock_combined": 11,
    "theo_wtv_constant": 11,
    "pd1_nocov": 30,
    "oxboys_linear": 5,
    "yield_nocov": 9,
    "rapi_poisson": 15,
    "toenail_binary": 101,
}
NAMES = tuple(NODES)
# From saemix's start (slope 0.2, ten times too steep) the yield example converges to another maximum,
# -2 log L = 616.59.
TARGET_STARTS = {
    "yield_nocov": {"Xmax": 100.0, "slope": 0.03, "sd(Ymax)": 2.0, "sd(Xmax)": 30.0, "sd(slope)": 0.01, "a": 0.5},
}


def record(reference: Path, name: str) -> dict[str, Any]:
    """saemix's fit, with the true log-likelihood as far as it was computed: `minus2LL_true` at its estimates, and the
    maximum `true_mle` or None."""
    folder = reference / "saemix"
    fields = json.loads((folder / f"{name}.json").read_text())
    fields["minus2LL_true"] = json.loads((folder / "likelihood_check.json").read_text())["cases"][name]["minus2LL_true"]
    fields["true_mle"] = json.loads((folder / "theo_true_mle.json").read_text()).get(name)
    return fields


def terms(fields: dict[str, Any]) -> list[tuple[str, str, float]]:
    """(covariate, parameter, start) of every covariate coefficient."""
    names = fields["covariates"]
    names = [names] if isinstance(names, str) else names or []
    starts = fields["start_psi0"]
    return [
        (name, parameter, starts[row + 1][k] if row + 1 < len(starts) else 0.0)
        for row, name in enumerate(names)
        for k, parameter in enumerate(fields["parameters"])
        if fields["covariate_model"][row][k]
    ]


def case(reference: Path, name: str) -> Case:
    """A documented example of saemix.

    **Arguments:** `reference`: the folder of other programs' numbers; `name`: one of NAMES.
    """
    fields = record(reference, name)
    file = Path(fields["data"]).name
    frame = pd.read_csv(reference / "saemix" / "data" / file)
    predictors = fields["predictors"] if isinstance(fields["predictors"], list) else [fields["predictors"]]
    # saemix passes a discrete response among the predictors of its likelihood function.
    predictors = [column for column in predictors if column != fields["response"]]
    groupwise = sorted({covariate for covariate, _, _ in terms(fields)})
    data = jn.GroupedData.from_frame(frame, fields["group"], fields["response"], predictors, groupwise)
    sds = np.sqrt(np.diag(fields["start_omega"]))
    parameters = [
        jn.Parameter(
            parameter,
            fields["start_psi0"][0][k],
            TRANSFORMS[fields["transform"][k]],
            random=bool(fields["covariance_model"][k][k]),
            sd=float(sds[k]),
            covariates=[jn.Covariate(c, start) for c, owner, start in terms(fields) if owner == parameter],
        )
        for k, parameter in enumerate(fields["parameters"])
    ]
    pattern = np.array(fields["covariance_model"])
    covariance = "full" if pattern.all() else "diagonal" if not (pattern - np.diag(np.diag(pattern))).any() else pattern
    error = jn.GroupLogLikelihood(OUTCOMES[file]) if file in OUTCOMES else ERRORS[fields["error_model"]]()
    model = jn.NLMEModel(FUNCTIONS[file], parameters, covariance, error)
    methods = ("laplace",) if file in OUTCOMES else ("focei",)
    return Case(name, model, data, methods, NODES[name], TARGET_STARTS.get(name), fields)


def reference_params(case: Case) -> jn.Params:
    """saemix's estimates as Params."""
    fields = case.reference
    assert fields is not None
    values = {name: v for name, v in fields["fixed_effects"].items() if not name.startswith("beta_")}
    coefficients = [v for name, v in fields["fixed_effects"].items() if name.startswith("beta_")]
    # Coefficients carry names of their own here ("CL ~ Weight", levels of a factor); the order is the same.
    ours = [name for name in case.model.values(case.model.params(case.data), case.data) if " ~ " in name]
    values |= dict(zip(ours, coefficients, strict=True))
    if fields["residual"] is not None:
        names = [parameter.name for parameter in case.model.error.parameters]
        values |= {name: fields["residual"][name] for name in names}
    return case.model.params(case.data, values, psi=np.array(fields["omega"]))
