"""Bias with a quarter of the responses below the limit of quantification, and agreement of methods on M3.

    python benchmarks/study_censoring.py [--sets 100] [--groups 40]

One compartment after a bolus (dose 100), log-normal clearance and volume, additive residuals, six samples of each
subject up to 24 h; the limit of quantification is the value that leaves 25% of the responses below it. Every set is
fitted with M3 by quadrature (jn.AGQ(7)), Laplace and SAEM, and with M1 (rows below the limit left out) by quadrature.
Written to results/censoring.json and printed: by parameter the differences of Laplace and SAEM from the maximum by
quadrature, in standard errors of the set (Louis' information), and the relative bias of M3 and M1, of fixed effects on
the natural scale. It fails if the root mean square of a difference exceeds 0.1 standard errors, a fixed effect by M3
has a bias of more than 3%, or the largest bias of M3 exceeds a third of M1's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from provenance import about_this_process  # noqa: E402
from results import add_folder  # noqa: E402

import jaxnlme as jn  # noqa: E402

SEED, BELOW, DOSE = 416, 0.25, 100.0
TIMES = np.array([1.0, 3.0, 6.0, 10.0, 16.0, 24.0])
TRUTH = {"cl": 4.0, "vol": 40.0, "sd(cl)": 0.35, "sd(vol)": 0.25, "a": 0.2}
FIXED = ("cl", "vol")
MOST_DIFFERENCE, MOST_BIAS, MOST_RATIO = 0.1, 0.03, 1.0 / 3.0


def bolus(phi, x):
    """One compartment, one dose at time 0."""
    return DOSE / phi.vol * jnp.exp(-phi.cl / phi.vol * x.Time)


def model(method: str) -> jn.NLMEModel:
    """The model with starting values away from the truth."""
    parameters = [
        jn.Parameter("cl", 3.0, "log", random=True, sd=0.5),
        jn.Parameter("vol", 30.0, "log", random=True, sd=0.5),
    ]
    return jn.NLMEModel(bolus, parameters, error=jn.error.constant(0.5), censoring=method)


def simulated(sets: int, groups: int) -> tuple[jn.GroupedData, np.ndarray, float]:
    """The design with its limit, responses (sets, groups, obs) before censoring, and the limit."""
    rng = np.random.default_rng([SEED, sets, groups])
    cl, vol = (TRUTH[name] * np.exp(TRUTH[f"sd({name})"] * rng.standard_normal((sets, groups, 1))) for name in FIXED)
    y = DOSE / vol * np.exp(-cl / vol * TIMES) + TRUTH["a"] * rng.standard_normal((sets, groups, len(TIMES)))
    limit = float(np.quantile(y, BELOW))
    frame = pd.DataFrame({"Subject": np.repeat(np.arange(groups), len(TIMES)), "Time": np.tile(TIMES, groups)})
    frame["conc"] = y[0].ravel()
    return jn.GroupedData.from_frame(frame, "Subject", "conc", "Time", lloq=limit), y, limit


def maxima(method: str, data: jn.GroupedData, y: np.ndarray, approximation) -> tuple[pd.DataFrame, np.ndarray]:
    """Estimates of all sets by a likelihood approximation, in one program, and which searches ended."""
    declared = model(method)
    binding = jn.bind(declared, data)
    start = jax.tree.map(jnp.asarray, binding.start)

    def one(responses):
        return jn.estimate(None, start, jn.with_responses(binding.problem, [responses]), approximation)

    result = jax.block_until_ready(jax.jit(jax.vmap(one))(jnp.asarray(y)))
    values = [binding.values(jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), result.params)) for k in range(len(y))]
    return pd.DataFrame(values), np.asarray(result.ended)


def in_standard_errors(estimates: pd.DataFrame, exact: pd.DataFrame, se: pd.DataFrame) -> pd.DataFrame:
    """Differences from `exact`, in standard errors, on the scale of these (log for fixed effects)."""
    columns = {}
    for name in TRUTH:
        ours, theirs = estimates[name], exact[name]
        columns[name] = (np.log(ours / theirs) if name in FIXED else ours - theirs) / se[name]
    return pd.DataFrame(columns)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--groups", type=int, default=40)
    add_folder(parser)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    data, y, limit = simulated(options.sets, options.groups)
    seconds, ended, fits = {}, {}, {}
    runs = {"agq": ("M3", jn.AGQ(7)), "laplace": ("M3", "laplace"), "m1": ("M1", jn.AGQ(7))}
    for name, (method, approximation) in runs.items():
        began = time.perf_counter()
        fits[name], done = maxima(method, data, y, approximation)
        seconds[name], ended[name] = time.perf_counter() - began, int(done.sum())
        print(f"{name}: {ended[name]} of {options.sets} ended, {seconds[name]:.0f} s", flush=True)
    began = time.perf_counter()
    many = jn.fit_many(model("M3"), data, y, jn.SAEM(seed=0, likelihood="none"), progress=False)
    tables = [fit.estimates for fit in many.fits]
    fits["saem"] = pd.DataFrame([fit.values for fit in many.fits])
    se = pd.DataFrame([table["se"] for table in tables]).reset_index(drop=True)
    seconds["saem"], ended["saem"] = time.perf_counter() - began, sum(fit.converged for fit in many.fits)
    rows, failures = [], []
    differences = {name: in_standard_errors(fits[name], fits["agq"], se) for name in ("laplace", "saem")}
    for name, truth in TRUTH.items():
        row = {"parameter": name, "truth": truth}
        for method, table in differences.items():
            row[f"rms difference of {method}"] = float(np.sqrt(np.mean(table[name] ** 2)))
            row[f"largest difference of {method}"] = float(np.abs(table[name]).max())
            if not row[f"rms difference of {method}"] <= MOST_DIFFERENCE:
                failures.append(f"{method} is {row[f'rms difference of {method}']:.3f} standard errors off in {name}")
        for label, method in (("M3", "agq"), ("M3 by SAEM", "saem"), ("M1", "m1")):
            row[f"bias of {label}"] = float(np.mean(fits[method][name]) / truth - 1.0)
        rows.append(row)
    table = pd.DataFrame(rows).set_index("parameter")
    biases = table.loc[list(FIXED), ["bias of M3", "bias of M1"]].abs().max()
    if not biases["bias of M3"] <= MOST_BIAS:
        failures.append(f"the bias of M3 is {biases['bias of M3']:.3f}")
    if not biases["bias of M3"] <= MOST_RATIO * biases["bias of M1"]:
        failures.append(f"the bias of M3 is {biases['bias of M3']:.3f}, that of M1 {biases['bias of M1']:.3f}")
    print(table.T.to_string(float_format="{:.4f}".format))
    print(f"limit {limit:.3f}; ended or converged: {ended}; seconds: { ({k: round(v) for k, v in seconds.items()}) }")
    print("\n".join(failures) or "all criteria hold")
    content = {
        "about": about_this_process() | {"dtype": "float64"}, "sets": options.sets, "groups": options.groups,
        "limit": limit, "below": BELOW, "ended": ended, "seconds": seconds, "failures": failures, "rows": rows,
    }  # fmt: skip
    (options.folder / "censoring.json").write_text(json.dumps(content, indent=1) + "\n")
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
