"""The models of the reference fits of R's nlme, and its estimates under our names.

A reference is called `<data set>_<function>_<effects>[_<error>][_from0][_ctl]_<ML or REML>`; all but the last part is
the model. Functions, tables and rows are those of nlme's own calls (the `r_code` of a reference).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.binding.dry_run import place_and_check
from jaxnlme.estimators.lindstrom_bates.alternation import FixedPointSearch
from jaxnlme.estimators.lindstrom_bates.method import LindstromBates
from jaxnlme.estimators.lindstrom_bates.objective import LinearisedObjective
from jaxnlme.estimators.marginal.algorithm import run_to_convergence
from jaxnlme.estimators.marginal.boundary import fix_zeroed, variances_at_zero
from jaxnlme.estimators.marginal.evaluations import Evaluator
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.likelihood.lindstrom_bates import LME, RELME
from jaxnlme.precision import x64
from tests.estimators import catalogue

METHODS = {"ML": "lme", "REML": "relme"}
# Standard deviations below this cannot be distinguished from zero by nlme, whose scale is logarithmic
# (reference/README.md).
ZERO = 1e-3


def ssfpl(phi, x):
    """R's SSfpl in a column `t`."""
    return phi.A + (phi.B - phi.A) / (1.0 + jnp.exp((phi.xmid - x.t) / phi.scal))


def phenobarbital(phi, x):
    """nlme's phenoModel: bolus doses added up, one compartment; a row sees the doses of the rows before it."""
    cl, v = jnp.exp(phi.lCl), jnp.exp(phi.lV)
    rows = jnp.arange(x.t.shape[0])
    past = (rows[None, :] < rows[:, None]) & x.mask[None, :]
    since = jnp.where(past, x.t[:, None] - x.t[None, :], 0.0)
    return jnp.sum(jnp.where(past, x.dose[None, :] * jnp.exp(-cl / v * since), 0.0), axis=1) / v


FUNCTIONS = {**catalogue.FUNCTIONS, "fpl": ssfpl, "pheno": phenobarbital}
NAMES = {
    "ssfol": ["lKe", "lKa", "lCl"],
    "logis": ["Asym", "xmid", "scal"],
    "asympOff": ["Asym", "lrc", "c0"],
    "biexp": ["A1", "lrc1", "A2", "lrc2"],
    "fpl": ["A", "B", "xmid", "scal"],
    "pheno": ["lCl", "lV"],
}
COVARIATES = {
    "CO2_asympOff_AsymCov": {"Asym": "Type * Treatment"},
    "CO2_asympOff_AsymLrcCov": {"Asym": "Type * Treatment", "lrc": "Type * Treatment"},
    "PBG_fpl_ld50cov": {"xmid": "Treatment"},
    "Phenobarb_pheno_diag_Wt": {"lCl": "Wt", "lV": "Wt"},
    "Phenobarb_pheno_diag_Wt_Apgar": {"lCl": "Wt", "lV": "Wt + ApgarInd"},
    "Phenobarb_pheno_diag_logWt": {"lCl": "log(Wt)", "lV": "log(Wt)"},
    "Theoph_ssfol_diag_lKa_lCl_Wt": {"lCl": "Wt"},
}
ERRORS = {
    "varPower": lambda: jn.error.power(c=0.5),
    "varConstPower": lambda: jn.error.constant_power(c=0.5),
    "varConstProp": jn.error.combined_variance,
}


@functools.cache
def data(name: str) -> jn.GroupedData:
    """A table as GroupedData, factors with R's levels."""
    if name not in ("CO2", "Cefamandole", "Nitrendipene", "PBG", "Phenobarb", "Relaxin"):
        return catalogue.data(name)
    frame = catalogue.table(name)

    def factor(*levels):
        return pd.Categorical(frame[levels[0]], categories=list(levels[1:]))

    if name == "CO2":
        frame["Type"] = factor("Type", "Quebec", "Mississippi")
        frame["Treatment"] = factor("Treatment", "nonchilled", "chilled")
        return jn.GroupedData.from_frame(frame, "Plant", "uptake", "conc", ["Type", "Treatment"])
    if name == "Cefamandole":
        return jn.GroupedData.from_frame(frame.rename(columns={"Time": "time"}), "Subject", "conc", "time")
    if name == "Nitrendipene":
        return jn.GroupedData.from_frame(frame.rename(columns={"log.NIF": "t"}), "Tissue", "activity", "t")
    if name == "PBG":
        frame["Treatment"] = factor("Treatment", "Placebo", "MDL 72222")
        return jn.GroupedData.from_frame(frame.assign(t=np.log(frame.dose)), "Run", "deltaBP", "t", ["Treatment"])
    if name == "Relaxin":
        return jn.GroupedData.from_frame(frame.assign(t=np.log(frame.conc)), "Run", "cAMP", "t")
    frame["ApgarInd"] = factor("ApgarInd", "< 5", ">= 5")
    frame = frame.rename(columns={"time": "t"}).assign(dose=frame.dose.fillna(0.0))
    return jn.GroupedData.from_frame(frame, "Subject", "conc", ["t", "dose"], ["Wt", "ApgarInd"])


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model of nlme's in ours: `model`, `data`, `beta`, our names of the fixed effects in nlme's order."""

    model: jn.NLMEModel
    data: jn.GroupedData
    beta: tuple[str, ...]

    def start(self, values: Any) -> dict[str, float]:
        """nlme's `start`, by our names."""
        values = list(values.values() if isinstance(values, dict) else values)
        return dict(zip(self.beta, values, strict=True))


def model_name(name: str) -> str:
    """The model of a reference: its name without method and options of the search."""
    return re.sub(r"(_from0)?(_ctl)?_(ML|REML)$", "", name)


@functools.cache
def problem(name: str) -> Problem:
    """The model called `name` (see `model_name`). Starts are nlme's own, given to `fit`."""
    error, rest = "constant", name
    for suffix, make in ERRORS.items():
        if name.endswith(f"_{suffix}"):
            error, rest = make(), name.removesuffix(f"_{suffix}")
    dataset, function, effects = rest.split("_", 2)
    names = NAMES[function]
    parts = effects.replace("ld50", "xmid").replace("lrc1_A2", "lrc1 A2").split("_")
    random = [n for n in names if n in re.split(r"[_ ]", effects.replace("ld50", "xmid").replace("A1lrc1", "A1_lrc1"))]
    random = random or names
    covariance: Any = "full" if parts[0].startswith("full") or "full" in parts else "diagonal"
    if "blocked" in parts:
        covariance = [["A1", "lrc1"], ["A2"]]
    keys = [key for key in COVARIATES if rest.startswith(key)]
    covariates = COVARIATES[max(keys, key=len)] if keys else {}
    parameters = [
        jn.Parameter(n, _typical(name, n), random=n in random, covariates=[covariates[n]] if n in covariates else [])
        for n in names
    ]
    model = jn.NLMEModel(FUNCTIONS[function], parameters, covariance, error)
    table = data(dataset)
    # nlme orders by parameter; ours are the typical values first, then the coefficients of the covariates
    beta_names = bind(model, table).density.beta_names
    return Problem(model, table, tuple(name for n in names for name in beta_names if name.split(" ~ ")[0] == n))


def _typical(name: str, parameter: str) -> float:
    """A value of the right size: the default start of psi is a fraction of it."""
    sizes = {
        "Cefamandole": {"A1": 240.0, "lrc1": -2.6, "A2": 47.0, "lrc2": -4.4},
        "Indometh": {"A1": 2.8, "lrc1": 0.85, "A2": 0.46, "lrc2": -1.35},
        "CO2": {"Asym": 32.4, "lrc": -4.5, "c0": 43.5},
        "ChickWeight": {"Asym": 370.0, "xmid": 20.0, "scal": 8.4},
        "DNase": {"Asym": 2.49, "xmid": 1.53, "scal": 1.05},
        "Orange": {"Asym": 192.0, "xmid": 728.0, "scal": 356.0},
        "Nitrendipene": {"A": 6300.0, "B": 1300.0, "xmid": -9.5, "scal": 0.4},
        "Relaxin": {"A": 1.9, "B": 100.0, "xmid": 3.5, "scal": 0.8},
        "PBG": {"A": 1.6, "B": 28.0, "xmid": 3.4, "scal": 0.27},
        "Theoph": {"lKe": -2.43, "lKa": 0.45, "lCl": -3.21},
        "Phenobarb": {"lCl": -5.0, "lV": 0.3},
    }
    return sizes[name.split("_")[0]][parameter]


def nlme_start(reference: Path, name: str) -> dict[str, float]:
    """The start of a reference fit, by our names."""
    record = catalogue.record(reference, name)
    start = record.get("start")
    if start is None:
        # written into the call itself
        start = [float(x) for x in re.search(r"start = c\(([^)]*)\)", " ".join(record["r_code"]))[1].split(",")]
    return problem(model_name(name)).start(start)


@dataclasses.dataclass(frozen=True)
class NlmeEstimates:
    """nlme's estimates by our names: `beta`, `se`, `psi` (random, random), `error`, `log_likelihood`."""

    beta: dict[str, float]
    se: dict[str, float]
    psi: np.ndarray
    error: dict[str, float]
    log_likelihood: float

    def params(self, problem: Problem) -> jn.Params:
        """As Params of the model; standard deviations below ZERO are zero."""
        psi = np.where(np.sqrt(np.outer(np.diag(self.psi), np.diag(self.psi))) < ZERO**2, 0.0, self.psi)
        small = np.sqrt(np.diag(psi)) < ZERO
        psi[small], psi[:, small] = 0.0, 0.0
        return problem.model.params(problem.data, {**self.beta, **self.error}, psi=psi)


def nlme_estimates(reference: Path, name: str) -> NlmeEstimates:
    """The estimates of a reference fit that nlme finished."""
    record, names = catalogue.record(reference, name), problem(model_name(name)).beta
    level = next(iter(record["random"].values()))
    error: dict[str, float] = {"a": record["sigma"]}
    function = record.get("variance_function")
    if function is not None and function["class"] == "varPower":
        error = {"b": record["sigma"], "c": function["parameters"]["power"]}
    elif function is not None:
        power = function["parameters"]
        error = {"a": record["sigma"] * power["const"], "b": record["sigma"], "c": power["power"]}
    beta, se = (dict(zip(names, record[key].values(), strict=True)) for key in ("fixef", "se"))
    return NlmeEstimates(beta, se, np.array(level["covariance"], float), error, record["logLik"])


@dataclasses.dataclass(frozen=True)
class FixedPointResidual:
    """A point of the alternation: `log_likelihood` of the model linearised there; `residual`: the most that an
    alternation would move an entry, in standard errors of the linearised model."""

    log_likelihood: float
    residual: float


def _session(
    problem: Problem, params: jn.Params, restricted: bool, modes: np.ndarray | None, held: int | None = None
) -> Session:
    """A session of the alternation at `params`, the entry `held` of the packed vector fixed."""
    binding = bind(problem.model, problem.data)
    if held is not None:
        binding = dataclasses.replace(binding, fixed=binding.fixed | (np.arange(len(binding.fixed)) == held))
    placed, _ = place_and_check(binding, binding.start, None, None)
    estimator = LindstromBates(RELME() if restricted else LME())
    evaluator = Evaluator(binding, estimator.method, params, placed)
    objective = LinearisedObjective(evaluator, restricted)
    session = Session(objective, FixedPointSearch(objective), estimator, [])
    if modes is not None:
        session.best = session.evaluate(session.x, evaluator.place_modes(modes))
    return session


def fixed_point_residual(
    problem: Problem, params: jn.Params, restricted: bool, modes: np.ndarray | None = None
) -> FixedPointResidual:
    """Log-likelihood and residual of the linearised model at `params`, random effects searched from `modes` (groups,
    random), or from zero; zero variances do not count in the residual."""
    with x64():
        session = _session(problem, params, restricted, modes)
        session.zeroed = variances_at_zero(session)
        fix_zeroed(session)
        active = np.flatnonzero(session.free)
        inverse = np.linalg.inv(session.hessian(active))
        moves = inverse @ np.asarray(session.best.sums.gradient)[active]
        residual = np.max(np.abs(moves) / np.sqrt(np.abs(np.diag(inverse))))
        return FixedPointResidual(float(session.best.sums.log_likelihood), float(residual))


def zero_places(fit: jn.Fit) -> list[int]:
    """Packed places of the zeros on the diagonal of psi's factor: of variances, and of conditional ones."""
    first = len(fit.binding.density.beta_names)
    theta = np.asarray(fit.params.covariance)
    return [first + k for k, _, _ in fit.binding.density.covariance.log_scales if theta[k] == -np.inf]


def profile_at(problem: Problem, fit: jn.Fit, place: int, sd: float, restricted: bool) -> tuple[float, float, bool]:
    """The fixed point of the other parameters with the (conditional) SD at the packed `place` held at `sd`.

    **Returns:** its log-likelihood, the score of the logarithm of that SD there, and whether it was found. (It is not
    if psi is factored anew because of another zero, since the packed entry then changes.)
    """
    with x64():
        template = fit.binding.start
        packed = np.asarray(fit.params.pack()).copy()
        packed[place] = np.log(sd)
        session = _session(problem, template.unpack(packed), restricted, np.asarray(fit.modes), place)
        converged = run_to_convergence(session, True).converged and session.x[place] == packed[place]
        sums = session.best.sums
        return float(sums.log_likelihood), -float(np.asarray(sums.gradient)[place]), converged


LOG_SCALE = {"lKe", "lKa", "lCl", "lV", "lrc", "lrc1", "lrc2"}


def perturbed(start: dict[str, float], seed: int = 5, count: int = 3) -> Iterator[dict[str, float]]:
    """Starts off by a factor of 1.35 (or its logarithm) in random directions."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        signs = rng.choice([-1, 1], len(start))
        yield {
            name: value + sign * 0.3 if name.split(" ")[0] in LOG_SCALE and "~" not in name else value * 1.35**sign
            for (name, value), sign in zip(start.items(), signs, strict=True)
        }
