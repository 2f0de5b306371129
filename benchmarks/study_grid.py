"""The simulation grid of 2019: twelve files of 120 subjects, fitted by FOCEI and by SAEM.

    python benchmarks/study_grid.py [--files Bolus_1CPT ...] [--methods focei saem] [--seconds 600]
    python benchmarks/study_grid.py --table

Bolus, infusion and oral doses; one or two compartments; linear or Michaelis-Menten elimination (`_1CPTMM`, `_2CPTMM`);
30 subjects at each of 10, 30, 60 and 120 mg, a single dose followed by a week of repeated doses and, in the linear
files, a steady state. The files are read by `jn.GroupedData.from_nonmem` from the reference folder (JAXNLME_REFERENCE).
All parameters are log-normal with independent effects, the error is proportional; every start is off by a third to a
half. Each file gives the parameters of its own subjects: the geometric mean and the standard deviation of the log of
each are compared with the 95% intervals of the fit. A row a file and method goes to results/grid.json at once; rows
that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from provenance import about_this_process  # noqa: E402
from results import Record, add_folder  # noqa: E402

import jaxnlme as jn  # noqa: E402

REFERENCE = Path(os.environ.get("JAXNLME_REFERENCE") or HERE.parent.parent / "shared" / "reference") / "pkpd"
ROUTES = {"Bolus": "bolus", "Infusion": "infusion", "Oral": "first-order"}
# Far from the medians 4, 70, 4, 50, 1, 1000 and 250 of the simulation by a third to a half.
STARTS = {"CL": 6.0, "V": 45.0, "Q": 2.6, "V2": 75.0, "KA": 1.5, "VM": 1500.0, "KM": 160.0}
FILES = [f"{route}_{number}CPT{kind}" for kind in ("", "MM") for route in ROUTES for number in (1, 2)]
METHODS = ("focei", "saem")
LEVEL, SEED = 0.95, 2019


def grid_model(file: str) -> jn.NLMEModel:
    """The model that simulated a file, at other values."""
    route, _, name = file.partition("_")
    number, saturable = int(name[0]), name.endswith("MM")
    names = ["VM", "KM", "V"] if saturable else ["CL", "V"]
    names += ["Q", "V2"] if number == 2 else []
    names += ["KA"] if route == "Oral" else []
    make = jn.pkpd.michaelis_menten if saturable else jn.pkpd.compartments
    parameters = [jn.Parameter(name, STARTS[name], "log", random=True) for name in names]
    return jn.NLMEModel(make(number, ROUTES[route]), parameters, error=jn.error.proportional(0.3))


def grid_data(file: str, subjects: int | None = None) -> jn.GroupedData:
    """The records of a file, or of its first `subjects`; those with EVID 2 are left out."""
    frame = pd.read_csv(REFERENCE / "data" / f"{file}.csv")
    frame = frame[frame.EVID != 2]
    if subjects is not None:
        frame = frame[frame.ID.isin(frame.ID.unique()[:subjects])]
    return jn.GroupedData.from_nonmem(frame, covariates=[], missing_ss=99)


def own_parameters(file: str) -> dict[str, float]:
    """Log of the geometric mean, and sd(log), of the individual parameters of a file, by the names of the estimates."""
    content = json.loads((REFERENCE / "published" / "grid_true_parameters.json").read_text())
    out = {}
    for name, values in content["data"][file]["individual_parameters_in_the_data"].items():
        name = {"V1": "V", "VC": "V"}.get(name.upper(), name.upper())
        out[name], out[f"sd({name})"] = math.log(values["geometric_mean"]), values["sd_log"]
    return out


def one_fit(file: str, method: str) -> dict[str, Any]:
    """The row of a file and a method."""
    model, data = grid_model(file), grid_data(file)
    estimator = jn.SAEM(likelihood="none", seed=SEED) if method == "saem" else method
    began, cpu = time.perf_counter(), time.process_time()
    fit = jn.fit(model, data, estimator, progress=False)
    seconds = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    estimates, truth = fit.estimates, own_parameters(file)
    intervals = {}
    for name, value in truth.items():
        estimate, lower, upper = (float(estimates.loc[name, c]) for c in ("estimate", "lower", "upper"))
        covered = bool(lower <= value <= upper)
        intervals[name] = {"truth": value, "estimate": estimate, "lower": lower, "upper": upper, "covered": covered}
    row = {
        "file": file,
        "method": method,
        "subjects": data.n_groups,
        "observations": data.n_obs,
        "doses": int(data.events.doses()[1].sum()),
        "converged": bool(fit.converged),
        "status": list(fit.status.sentences),
        "log_likelihood": fit.log_likelihood if fit.log_likelihood is None else float(fit.log_likelihood),
        "residual_sd": float(fit.values["b"]),
        "seconds": seconds,
        "intervals": intervals,
    }
    return row


def read(path: Path) -> list[dict[str, Any]]:
    """The rows on file."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def print_row(row: dict[str, Any]) -> None:
    """A row for the terminal, and the intervals that miss."""
    values = row["intervals"].values()
    covered = sum(entry["covered"] for entry in values)
    state = "converged" if row["converged"] else "NOT CONVERGED " + " ".join(row["status"])
    print(
        f"{row['file']:15s} {row['method']:6s} {covered} of {len(values)} covered, residual {row['residual_sd']:.4f}, "
        f"{row['seconds']['wall']:.0f} s, {state}"
    )
    for name, entry in row["intervals"].items():
        if not entry["covered"]:
            print("   ", name, *(f"{key} {entry[key]:.4f}" for key in ("truth", "estimate", "lower", "upper")))
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", choices=FILES, default=FILES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no further fit after these")
    parser.add_argument("--table", action="store_true", help="print the rows on file")
    add_folder(parser)
    options = parser.parse_args()
    path = options.folder / "grid.json"
    rows = read(path)
    if not options.table:
        jax.config.update("jax_enable_x64", True)
        results = Record(path, about_this_process(), level=LEVEL)
        results.rows.extend(rows)
        began, known = time.perf_counter(), {(row["file"], row["method"]) for row in rows}
        for file in options.files:
            for method in options.methods:
                if (file, method) in known or time.perf_counter() - began > options.seconds:
                    continue
                results.add(one_fit(file, method))
                print_row(results.rows[-1])
        rows = results.rows
    for row in rows:
        print_row(row)
    intervals = [entry["covered"] for row in rows for entry in row["intervals"].values()]
    if intervals:
        print(f"{np.mean(intervals):.1%} of {len(intervals)} intervals cover; {len(rows)} fits")


if __name__ == "__main__":
    main()
