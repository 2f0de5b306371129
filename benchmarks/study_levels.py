"""Coverage of intervals with inter-occasion variability and serially correlated residuals, by FOCEI and by SAEM.

    python benchmarks/study_levels.py [--sets 100] [--methods focei saem] [--seconds S]
    python benchmarks/study_levels.py --table

Simulated tables of 100 subjects with 4 occasions each: a bolus of 100 mg, 6 samples an occasion over a day, log-normal
clearance and volume of subjects, clearance of occasions, and AR(1) residuals within an occasion. Every set has effects
and residuals of its own. Each parameter's 95% interval should cover the truth in 86 to 100 of 100 sets (0.001 in each
tail of the binomial distribution at 95%), pooled over parameters in 93 to 97%; intervals of standard deviations are
symmetric on the log scale. Writes results/levels_coverage.json, a row a set and method, and goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from provenance import about_this_process  # noqa: E402
from results import add_folder  # noqa: E402

import jaxnlme as jn  # noqa: E402

SEED, SUBJECTS, OCCASIONS, DOSE = 714, 100, 4, 100.0
TIMES = np.array([0.5, 2.0, 5.0, 9.0, 15.0, 24.0])
TRUTH = {
    "cl": math.log(2.0), "v": math.log(20.0), "sd(cl)": 0.3, "sd(v)": 0.2, "sd(cl|occ)": 0.15, "b": 0.1, "rho": 0.5
}  # fmt: skip
METHODS = {"focei": lambda seed: "focei", "saem": lambda seed: jn.SAEM(seed=seed, likelihood="none")}


def bolus(phi, x):
    """Concentration (mg/L) after a dose at time 0 of the occasion."""
    return DOSE / phi.v * jnp.exp(-phi.cl / phi.v * x.t)


def simulated(number: int) -> pd.DataFrame:
    """Set `number`: columns id, occ, t (h) and y (mg/L)."""
    rng = np.random.default_rng([SEED, number])
    shape = (SUBJECTS, OCCASIONS, len(TIMES))
    b = rng.standard_normal((SUBJECTS, 2)) * [TRUTH["sd(cl)"], TRUTH["sd(v)"]]
    of_occasions = rng.standard_normal((SUBJECTS, OCCASIONS)) * TRUTH["sd(cl|occ)"]
    cl = np.exp(TRUTH["cl"] + b[:, None, None, 0] + of_occasions[:, :, None])
    v = np.exp(TRUTH["v"] + b[:, None, None, 1])
    f = DOSE / v * np.exp(-cl / v * TIMES)
    noise = rng.standard_normal(shape)
    residual = np.empty(shape)
    residual[..., 0] = noise[..., 0]
    for k in range(1, len(TIMES)):
        residual[..., k] = TRUTH["rho"] * residual[..., k - 1] + math.sqrt(1 - TRUTH["rho"] ** 2) * noise[..., k]
    y = f * (1.0 + TRUTH["b"] * residual)
    index = np.indices(shape).reshape(3, -1)
    return pd.DataFrame({"id": index[0], "occ": index[1], "t": TIMES[index[2]], "y": y.ravel()})


def declared() -> jn.NLMEModel:
    """The model that the sets are drawn from, with other starting values."""
    error = jn.error.gaussian(scale="proportional", correlation=jn.correlation.AR1(within="occ"))
    parameters = [
        jn.Parameter("cl", 3.0, "log", random=["id", "occ"]), jn.Parameter("v", 15.0, "log", random=True)
    ]  # fmt: skip
    return jn.NLMEModel(bolus, parameters, error=error)


def run_one(number: int, method: str) -> dict[str, Any]:
    """The row of one set and method."""
    data = jn.GroupedData.from_frame(simulated(number), ["id", "occ"], "y", ["t"])
    began, spent = time.perf_counter(), time.process_time()
    fit = jn.fit(declared(), data, METHODS[method](number), progress=False)
    table = fit.estimates
    return {
        "set": number,
        "method": method,
        "converged": bool(fit.converged),
        "sentences": list(fit.status.sentences[:2]),
        "seconds": {"wall": time.perf_counter() - began, "cpu": time.process_time() - spent},
        "estimates": table["estimate"].to_dict(),
        "se": table["se"].to_dict(),
        "lower": table["lower"].to_dict(),
        "upper": table["upper"].to_dict(),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Coverage by method and parameter, and pooled."""
    for method in METHODS:
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        sets, converged = len(of_method), sum(row["converged"] for row in of_method)
        seconds = np.median([row["seconds"]["cpu"] for row in of_method])
        print(f"{method}: {sets} sets, {converged} converged, {seconds:.1f} CPU s a fit (median)")
        covered = {
            name: [row["lower"][name] <= true <= row["upper"][name] for row in of_method]
            for name, true in TRUTH.items()
        }
        for name, true in TRUTH.items():
            estimates = np.array([row["estimates"][name] for row in of_method])
            spread = estimates.std(ddof=1) if sets > 1 else math.nan
            calibration = np.nanmean([row["se"][name] for row in of_method]) / spread
            bias = (estimates.mean() - true) / spread
            share = 100 * np.mean(covered[name])
            print(f"  {name:12s} covered {share:5.1f}%  bias {bias:+.2f} SD  se / SD {calibration:.2f}")
        print(f"  pooled       covered {100 * np.mean([list(c) for c in covered.values()]):5.1f}%", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after these")
    parser.add_argument("--table", action="store_true", help="print the table from the results on file")
    add_folder(parser)
    options = parser.parse_args()
    path = options.folder / "levels_coverage.json"
    content = json.loads(path.read_text()) if path.exists() else {"rows": []}
    began = time.perf_counter()
    for method in () if options.table else options.methods:
        done = {row["set"] for row in content["rows"] if row["method"] == method}
        for number in range(options.sets):
            if number in done or time.perf_counter() - began > options.seconds:
                continue
            content["rows"].append(run_one(number, method))
            content |= {"about": about_this_process() | {"dtype": "float64"}, "truth": TRUTH}
            path.write_text(json.dumps(content, indent=1))
    print_table(content["rows"])


if __name__ == "__main__":
    main()
