"""This package on the hard fits: a process that reads a request a line (a fit as JSON, and `program`) and answers each
with a line: `beta`, `psi`, `sigma`, `inner`, `converged`, `messages`, or `error` with `trace` where it is not one of
the package's own. A request with `versions`, names of packages, is answered with their versions.

The models have one shape of data for each curve, so that a fit after the first of a curve compiles nothing.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from provenance import version_of  # noqa: E402

import jaxnlme as jn  # noqa: E402


def oral(phi: Any, x: Any) -> Any:
    ke = phi.cl / phi.vol
    return x.dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.t) - jnp.exp(-phi.ka * x.t))


def oral_fraction(phi: Any, x: Any) -> Any:
    return phi.frac * oral(phi, x)


def biexponential(phi: Any, x: Any) -> Any:
    return phi.a1 * jnp.exp(-phi.k1 * x.t) + phi.a2 * jnp.exp(-phi.k2 * x.t)


def logistic(phi: Any, x: Any) -> Any:
    return phi.asym / (1.0 + jnp.exp((phi.mid - x.t) / phi.scale))


def emax(phi: Any, x: Any) -> Any:
    return phi.e0 + phi.top * x.t / (phi.half + x.t)


def circadian(phi: Any, x: Any) -> Any:
    return phi.level + phi.swing * jnp.cos(2.0 * jnp.pi * (x.t - phi.peak) / 24.0)


def asymptotic(phi: Any, x: Any) -> Any:
    return phi.asym + (phi.start - phi.asym) * jnp.exp(-phi.rate * x.t)


def line(phi: Any, x: Any) -> Any:
    return phi.base + phi.slope * x.t


def two_lines(phi: Any, x: Any) -> Any:
    return line(phi, x) + phi.other * x.u


CURVES = {function.__name__: function for function in (
    oral, oral_fraction, biexponential, logistic, emax, circadian, asymptotic, line, two_lines
)}  # fmt: skip
COLUMN = {"base": "1", "slope": "t", "other": "u", "cross": "w"}
TERM = {"base": "(Intercept)", "slope": "t", "other": "u", "cross": "w"}


def method(program: str, request: dict[str, Any]) -> Any:
    """The method of `jn.fit` or `jn.glmer`."""
    q = len(request["random"])
    if program == "AGQ":
        return jn.AGQ(15 if q == 1 else 9 if q == 2 else 5)
    if program == "SAEM" and request["short"]:
        return jn.SAEM(tuple(request["short"]), max_iterations=sum(request["short"]))
    return jn.SAEM() if program == "SAEM" else program.lower()


def frame_of(request: dict[str, Any]) -> pd.DataFrame:
    """The table, a missing number as NaN."""
    return pd.DataFrame({n: [np.nan if v is None else v for v in c] for n, c in request["columns"].items()})


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """One fit and what it says of itself."""
    if "versions" in request:
        return {"versions": {name: version_of(name) for name in request["versions"]}}
    frame, program = frame_of(request), request["program"]
    if program == "lme":
        return by_lme(request, frame)
    return by_fit(request, frame) if request["family"] == "gaussian" else by_glmer(request, frame, program)


def sentences(fit: Any) -> list[str]:
    """The status, first what concerns convergence."""
    return [str(sentence) for sentence in fit.status.sentences]


def by_fit(request: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """`jn.fit` of a Gaussian model."""
    names, log, random = request["parameters"], request["log"], request["random"]
    natural = {n: float(np.exp(b)) if n in log else b for n, b in zip(names, request["beta"], strict=True)}
    parameters = [
        jn.Parameter(name, natural[name], "log" if name in log else "identity", random=name in random) for name in names
    ]
    model = jn.NLMEModel(CURVES[request["curve"]], parameters, request["psi"], "constant")
    data = jn.GroupedData.from_frame(frame, "g", "y", list(request["x"]))
    start = natural | {f"sd({n})": sd for n, sd in zip(random, request["sds"], strict=True)} | {"a": request["sigma"]}
    program, _, several = request["program"].partition(", ")
    starts = "multi" if several else None
    fit = jn.fit(model, data, method(program, request), start=start, starts=starts, progress=False)
    beta = [float(np.log(fit.values[n])) if n in log else fit.values[n] for n in names]
    psi = np.asarray(fit.psi.loc[random, random]) if hasattr(fit.psi, "loc") else np.asarray(fit.psi)
    return {"beta": beta, "psi": psi.tolist(), "sigma": fit.values["a"], "converged": bool(fit.converged)} | {
        "messages": sentences(fit), "log_likelihood": fit.log_likelihood
    }  # fmt: skip


def formula_of(request: dict[str, Any]) -> str:
    """A linear model in lme4's spelling."""
    fixed = [COLUMN[name] for name in request["parameters"]]
    effects = " + ".join(COLUMN[name] for name in request["random"])
    bars = "||" if request["psi"] == "diagonal" and len(request["random"]) > 1 else "|"
    return f"y ~ {' + '.join(fixed)} + ({effects} {bars} {'g/h' if request['nested'] else 'g'})"


def by_lme(request: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """`jn.lme` of a linear one, by maximum likelihood."""
    fit = jn.lme(formula_of(request), data=frame, method="ML", missing="drop")
    estimate = fit.estimates["estimate"]
    psi = np.asarray(fit.psi["g"])
    inner = float(np.sqrt(np.asarray(fit.psi["h"])[0, 0])) if request["nested"] else None
    beta = [float(estimate.get(TERM[name], 0.0)) for name in request["parameters"]]
    return {"beta": beta, "psi": psi.tolist(), "sigma": float(fit.sigma), "inner": inner} | {
        "converged": bool(fit.converged), "messages": sentences(fit), "log_likelihood": fit.log_likelihood
    }  # fmt: skip


def by_glmer(request: dict[str, Any], frame: pd.DataFrame, program: str) -> dict[str, Any]:
    """`jn.glmer` of counts, zeros and ones, or ordered categories."""
    cuts = request["categories"] - 1 if request["categories"] else 0
    if cuts:
        frame["y"] = pd.Categorical(frame["y"].astype(int), ordered=True)
    names = [TERM[name] for name in request["parameters"]]
    thresholds = [f"{k}|{k + 1}" for k in range(cuts)]
    start = dict(zip([*names, *thresholds], request["beta"], strict=True))
    start |= {f"sd({TERM[n]})": sd for n, sd in zip(request["random"], request["sds"], strict=True)}
    if cuts:
        start.pop("(Intercept)")
    fit = jn.glmer(
        formula_of(request), frame, family=request["family"], method=method(program, request), start=start,
        progress=False, missing="drop",
    )  # fmt: skip
    beta = [float(fit.values.get(name, 0.0)) for name in [*names, *thresholds]]
    return {"beta": beta, "psi": np.asarray(fit.psi).tolist(), "sigma": None, "converged": bool(fit.converged)} | {
        "messages": sentences(fit), "log_likelihood": fit.log_likelihood
    }  # fmt: skip


def main() -> None:
    """Answer requests until there are no more."""
    warnings.simplefilter("ignore")
    for line_of_text in sys.stdin:
        try:
            out = answer(json.loads(line_of_text))
        except jn.JaxnlmeError as error:
            out = {"error": str(error)}
        except Exception as error:
            out = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-1500:]}
        print("ANSWER " + json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
