"""Packages of PyPI on the hard fits: a request a line (a fit as JSON, with `program`), an answer a line, as ours.py.

pynlme (its three iterations and SAEM), nextstat (`nlme_foce`, and `LmmMarginalModel`), glmm, mixedlm and statsmodels.
Starts are those of the request where the package takes them; maximum likelihood, not REML, throughout. A request with
`versions`, names of packages, is answered with their versions.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from provenance import version_of
from trust_tables.curves import CURVES

COLUMN = {"base": "1", "slope": "t", "other": "u", "cross": "w"}
Answer = dict[str, Any]


def frame_of(request: dict[str, Any]) -> pd.DataFrame:
    """The table, a missing number as NaN and labels as text."""
    frame = pd.DataFrame({n: [np.nan if v is None else v for v in c] for n, c in request["columns"].items()})
    for label in ("g", "h"):
        if label in frame:
            frame[label] = "u" + frame[label].astype(str)
    return frame


def curve_of(request: dict[str, Any]):
    """f(phi, x) for phi (parameters,) or (rows, parameters) and x (rows, columns)."""
    curve = CURVES[request["curve"]]

    def function(phi: np.ndarray, x: np.ndarray) -> np.ndarray:
        xb = np.broadcast_to(phi, (len(x), np.shape(phi)[-1]))
        return curve(xb, {name: x[:, k, None] for k, name in enumerate(curve.columns)})[:, 0]

    return function


def pynlme(request: dict[str, Any], frame: pd.DataFrame) -> Answer:
    from pynlme import fit_nlme

    options = {
        "pynlme LME": {"compat": "r"},
        "pynlme LME, as MATLAB": {},
        "pynlme FOCE": {"approximation_type": "FOCE"},
        "pynlme SAEM": {
            "method": "SAEM", "n_chains": 5, "random_state": 0, "error_parameters": np.array([request["sigma"]]),
            "n_iterations": request["short"] or (300, 300, 200),
        },
    }[request["program"]]  # fmt: skip
    if request["short"] and request["program"] == "pynlme SAEM":
        options["n_chains"] = 1
    q = len(request["random"])
    beta, psi, stats, _ = fit_nlme(
        frame[list(request["x"])].to_numpy(float), frame["y"].to_numpy(float),
        np.unique(frame["g"], return_inverse=True)[1], None, curve_of(request), np.array(request["beta"]),
        re_params_select=[request["parameters"].index(name) for name in request["random"]],
        cov_pattern=np.eye(q) if request["psi"] == "diagonal" else np.ones((q, q)), vectorization="full", **options,
    )  # fmt: skip
    return {"beta": np.asarray(beta).tolist(), "psi": np.asarray(psi).tolist(), "converged": True} | {
        "sigma": float(np.ravel(stats.errorparam)[0])
    }


def nextstat_foce(request: dict[str, Any], frame: pd.DataFrame) -> Answer:
    import nextstat

    group = np.unique(frame["g"], return_inverse=True)[1]
    order = [1, 2, 0]  # cl, vol, ka
    found = nextstat.nlme_foce(
        frame["t"].tolist(), frame["y"].tolist(), group.tolist(), int(group.max()) + 1, model="1cpt_oral",
        method="focei", doses=[float(frame["dose"][group == g].iloc[0]) for g in range(group.max() + 1)],
        error_model="additive", sigma=request["sigma"], theta_init=np.exp(np.array(request["beta"])[order]).tolist(),
        omega_init=np.array(request["sds"])[order].tolist(), diagonal_omega=True, max_outer_iter=1000,
    )  # fmt: skip
    back = [2, 0, 1]
    return {
        "beta": np.log(np.array(found["theta"])[back]).tolist(),
        "psi": np.array(found["omega_matrix"])[np.ix_(back, back)].tolist(),
        "sigma": found["sigma"],
        "converged": bool(found["converged"]),
    }


def nextstat_lmm(request: dict[str, Any], frame: pd.DataFrame) -> Answer:
    import nextstat

    group = np.unique(frame["g"], return_inverse=True)[1]
    columns = [COLUMN[name] for name in request["parameters"][1:]]
    model = nextstat.LmmMarginalModel(
        frame[columns].to_numpy(float).tolist(), frame["y"].tolist(), group_idx=group.tolist(),
        n_groups=int(group.max()) + 1,
    )  # fmt: skip
    start = [*request["beta"], float(np.log(request["sigma"])), float(np.log(request["sds"][0]))]
    found = nextstat.MaximumLikelihoodEstimator(max_iter=5000).fit(model, init_pars=start)
    *beta, log_sigma, log_tau = found.bestfit
    return {
        "beta": list(beta),
        "psi": [[float(np.exp(2.0 * log_tau))]],
        "sigma": float(np.exp(log_sigma)),
        "converged": bool(found.converged),
        "messages": [str(w) for w in found.warnings],
    }


def formula_of(request: dict[str, Any], inner: str = "(1 | g/h)") -> str:
    """The model in lme4's spelling."""
    fixed = " + ".join(COLUMN[name] for name in request["parameters"])
    effects = " + ".join(COLUMN[name] for name in request["random"])
    bars = "||" if request["psi"] == "diagonal" and len(request["random"]) > 1 else "|"
    return f"y ~ {fixed} + {inner if request['nested'] else f'({effects} {bars} g)'}"


def theta_of(request: dict[str, Any]) -> list[float]:
    """The starting relative factor, column by column of the lower triangle."""
    factor = np.diag(np.array(request["sds"]) / (request["sigma"] or 1.0))
    return factor.T[np.triu_indices(len(factor))].tolist()


def glmm(request: dict[str, Any], frame: pd.DataFrame) -> Answer:
    import glmm as package

    gaussian = request["family"] == "gaussian"
    family = {"bernoulli": "binomial"}.get(request["family"], request["family"])
    options: dict[str, Any] = {"reml": False} if gaussian else {"nagq": 15 if len(request["random"]) == 1 else 9}
    if not request["nested"]:
        options["warm_start"] = {"beta": list(request["beta"]), "theta": theta_of(request)}
    fit = package.fit(frame, formula_of(request, "(1 | g) + (1 | h)"), family=family, **options)
    blocks = [np.ravel(block) for block in fit.varcorr]
    q = len(request["random"])
    psi = np.zeros((q, q))
    psi[np.tril_indices(q)] = blocks[0]
    psi = psi + np.tril(psi, -1).T
    return {
        "beta": np.nan_to_num(np.asarray(fit.beta, dtype=float)).tolist(),
        "psi": psi.tolist(),
        "sigma": float(np.sqrt(fit.dispersion)) if gaussian else None,
        "inner": float(np.sqrt(blocks[1][0])) if request["nested"] else None,
        "converged": bool(fit.converged),
        "messages": [str(w) for w in fit.warnings]
        + (["singular fit"] if fit.singular else [])
        + (["aliased columns, coefficients NaN"] if np.any(fit.diagnostics["aliased"]) else []),
    }


def mixedlm(request: dict[str, Any], frame: pd.DataFrame) -> Answer:
    import mixedlm as package

    if request["family"] == "gaussian":
        fit = package.lmer(formula_of(request), frame, REML=False)
    else:
        family = package.families.Poisson() if request["family"] == "poisson" else package.families.Binomial()
        fit = package.glmer(formula_of(request), frame, family=family, nAGQ=15 if len(request["random"]) == 1 else 1)
    groups = fit.VarCorr().groups
    inner = float(np.sqrt(groups["g:h"].cov[0, 0])) if request["nested"] else None
    fixed = fit.fixef()
    names = ["(Intercept)" if COLUMN[name] == "1" else COLUMN[name] for name in request["parameters"]]
    return {
        "beta": [float(fixed.get(name, 0.0)) for name in names],
        "psi": np.asarray(groups["g"].cov).tolist(),
        "sigma": float(fit.sigma) if request["family"] == "gaussian" else None,
        "inner": inner,
        "converged": bool(fit.converged),
        "messages": [str(getattr(fit, "message", ""))] + (["boundary (singular) fit"] if fit.isSingular() else []),
    }


def statsmodels(request: dict[str, Any], frame: pd.DataFrame) -> Answer:
    from statsmodels.regression.mixed_linear_model import MixedLM

    fixed = "y ~ " + " + ".join(COLUMN[name] for name in request["parameters"])
    effects = "~ " + " + ".join(COLUMN[name] for name in request["random"])
    inner = {"h": "0 + C(h)"} if request["nested"] else None
    model = MixedLM.from_formula(fixed, frame, re_formula=effects, vc_formula=inner, groups="g")
    fit = model.fit(reml=False)
    return {
        "beta": np.asarray(fit.fe_params).tolist(),
        "psi": np.asarray(fit.cov_re).tolist(),
        "sigma": float(np.sqrt(fit.scale)),
        "inner": float(np.sqrt(max(fit.vcomp[0], 0.0))) if request["nested"] else None,
        "converged": bool(fit.converged),
    }


FITTERS = {
    "pynlme LME": pynlme, "pynlme LME, as MATLAB": pynlme, "pynlme FOCE": pynlme, "pynlme SAEM": pynlme,
    "nextstat FOCEI": nextstat_foce, "nextstat LMM": nextstat_lmm, "glmm": glmm, "mixedlm": mixedlm,
    "statsmodels": statsmodels,
}  # fmt: skip
NOT_CONVERGED = ("did not converge", "failed to converge", "iteration limit", "not converge", "unable to decrease",
                 "optimization failed", "step halving", "search limit", "exhausted", "diverged")  # fmt: skip


def main() -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        if "versions" in request:
            print("ANSWER " + json.dumps({"versions": {n: version_of(n) for n in request["versions"]}}), flush=True)
            continue
        printed = io.StringIO()  # mixedlm prints its messages
        with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(printed):
            warnings.simplefilter("always")
            try:
                out = FITTERS[request["program"]](request, frame_of(request))
            except Exception as error:
                out = {"error": f"{type(error).__name__}: {error}"[:500], "trace": traceback.format_exc()[-1500:]}
        said = sorted({f"{w.category.__name__}: {w.message}"[:300] for w in warned})
        texts = [*out.get("messages", []), *said, *printed.getvalue()[:600].splitlines()]
        out["messages"] = [text for text in texts if text]
        if any(part in text.lower() for text in said for part in NOT_CONVERGED):
            out["converged"] = False
        print("ANSWER " + json.dumps(out, default=float), flush=True)


if __name__ == "__main__":
    main()
