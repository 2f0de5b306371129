"""Coverage of SAEM's 95% intervals: 200 simulated tables of 100 groups, fitted in batches.

    python benchmarks/study_coverage.py [--sets 200] [--groups 100] [--psi diagonal full]

One-compartment oral data of `simulate.py` (11 samples a subject, three log-normal parameters, constant error), every
set with effects and noise of its own under one design. `jn.fit_many` fits them by SAEM, and intervals are taken from
both informations, Louis' and by linearisation, symmetric on log scales (typical values, standard deviations, residual)
and on Fisher's z (correlations); beside them those of FOCEI, set by set. Coverage belongs inside the band that a true
95% leaves with a chance of 95% for all parameters of a model together (binomial, Bonferroni). Writes
results/coverage.json, a row a model, and prints it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.stats import binom

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import simulate  # noqa: E402
from provenance import about_this_process  # noqa: E402
from results import Record, add_folder  # noqa: E402

import jaxnlme as jn  # noqa: E402

LEVEL, SEED = 0.95, 515
STARTS = {"ka": 1.0, "cl": 4.0, "vol": 20.0}
METHODS = ("louis", "linearised", "focei")


def one_compartment(phi, x):
    """First-order absorption and elimination, one dose at time 0."""
    ke = phi.cl / phi.vol
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def simulated_sets(sets: int, groups: int, psi: str) -> tuple[jn.GroupedData, np.ndarray]:
    """The design, and responses (sets, groups, obs)."""
    table = simulate.simulate(groups, psi, SEED)
    data = jn.GroupedData.from_arrays(table[:, 3], table[:, 0], {"Time": table[:, 1], "Dose": table[:, 2]})
    rng = np.random.default_rng([SEED, sets, groups, psi == "full"])
    b = rng.standard_normal((sets, groups, 3)) @ np.linalg.cholesky(simulate.covariance(psi)).T
    xb = np.log(list(simulate.TRUTH.values())) + b
    dose = data.x["Dose"][:, :1]
    f = np.stack([simulate.concentration(xb_of_set, simulate.TIMES, dose) for xb_of_set in xb])
    return data, f + simulate.SIGMA * rng.standard_normal(f.shape)


def truth(psi: str) -> dict[str, float]:
    """By the names of `Fit.estimates`."""
    names = list(simulate.TRUTH)
    out = {name: float(np.log(value)) for name, value in simulate.TRUTH.items()}
    out |= {f"sd({name})": float(sd) for name, sd in zip(names, simulate.SDS, strict=True)}
    if psi == "full":
        pairs = [(j, k) for j in range(3) for k in range(j)]
        out |= {f"corr({names[j]}, {names[k]})": float(simulate.CORRELATIONS[j, k]) for j, k in pairs}
        out |= {f"corr({names[k]}, {names[j]})": float(simulate.CORRELATIONS[j, k]) for j, k in pairs}
    return out | {"a": simulate.SIGMA}


def band(sets: int, parameters: int) -> tuple[float, float]:
    """Shares of intervals between which all parameters stay with a chance of at least 95% where each covers 95%."""
    tail = (1.0 - LEVEL) / parameters / 2.0
    return float(binom.ppf(tail, sets, LEVEL) / sets), float(binom.ppf(1.0 - tail, sets, LEVEL) / sets)


def summarise(tables: list[pd.DataFrame], true: dict[str, float]) -> dict[str, Any]:
    """Coverage and calibration by parameter: `coverage`, an interval that is not there counted as a miss;
    `missed_low` and `missed_high`, intervals below and above the truth; `bias`, of the mean estimate in the estimates'
    SD; `calibration`, mean standard error over that SD."""
    names = list(tables[0].index)
    at = np.array([true[name] for name in names])
    estimate, se, lower, upper = (
        np.array([table[c] for table in tables]) for c in ("estimate", "se", "lower", "upper")
    )
    spread = np.nanstd(estimate, axis=0, ddof=1)
    columns = {
        "coverage": ((lower <= at) & (at <= upper)).mean(axis=0),
        "missed_low": (upper < at).mean(axis=0),
        "missed_high": (lower > at).mean(axis=0),
        "bias": (np.nanmean(estimate, axis=0) - at) / spread,
        "calibration": np.nanmean(se, axis=0) / spread,
    }
    return {name: dict(zip(names, values.tolist(), strict=True)) for name, values in columns.items()}


def study(sets: int, groups: int, psi: str) -> dict[str, Any]:
    """One model's row."""
    data, responses = simulated_sets(sets, groups, psi)
    parameters = [jn.Parameter(name, value, transform="log", random=True) for name, value in STARTS.items()]
    model = jn.NLMEModel(one_compartment, parameters, covariance=psi, error="constant")
    start_time, spent = time.perf_counter(), time.process_time()
    many = jn.fit_many(model, data, responses, jn.SAEM(likelihood="none", seed=SEED))
    seconds = {"wall": time.perf_counter() - start_time, "cpu": time.process_time() - spent}
    tables = {source: [many.table(k, source, LEVEL) for k in range(sets)] for source in METHODS[:2]}
    fits = [jn.fit(model, dataclasses.replace(data, y=y), "focei", progress=False) for y in responses]
    tables["focei"] = [fit.estimates for fit in fits]
    ours, theirs = (np.array([table["estimate"] for table in tables[source]]) for source in ("louis", "focei"))
    se = np.array([table["se"] for table in tables["louis"]])
    names = list(tables["louis"][0].index)
    mc_error_ratio = (many.monte_carlo_se / many.standard_errors("louis")).max(axis=1)
    summaries = {source: summarise(of, truth(psi)) for source, of in tables.items()}
    low, high = band(sets, len(names))
    return {
        "psi": psi,
        "groups": groups,
        "sets": sets,
        "truth": {name: truth(psi)[name] for name in names},
        "band": [low, high],
        "converged": {"saem": int(many.converged.sum()), "focei": sum(fit.converged for fit in fits)},
        "not_converged": {k: list(fit.status.sentences) for k, fit in enumerate(many.fits) if not fit.converged},
        "seconds": seconds,
        "iterations": float(np.median([fit.timings["iterations"] for fit in many.fits])),
        "monte_carlo_share": float(mc_error_ratio.max()),
        "from_focei": dict(zip(names, np.nanmean((ours - theirs) / se, axis=0).tolist(), strict=True)),
        "methods": summaries,
        "outside": {
            source: [name for name, coverage in summary["coverage"].items() if not low <= coverage <= high]
            for source, summary in summaries.items()
        },
    }


def print_row(row: dict[str, Any]) -> None:
    """A row for the terminal."""
    print(
        f"{row['psi']}: {row['converged']} of {row['sets']} converged, {row['seconds']['cpu']:.0f} CPU s; band", end=""
    )
    print(" {:.3f} to {:.3f}".format(*row["band"]))
    methods = row["methods"]
    for name in row["truth"]:
        cells = (f"{methods[m]['coverage'][name]:7.3f} ({methods[m]['calibration'][name]:.3f})" for m in METHODS)
        print(f"  {name:16s}", *cells, f"  bias {methods['louis']['bias'][name]:+.2f}")
    for k, sentences in row["not_converged"].items():
        print(f"  set {k}:", *sentences)
    print("  outside:", row["outside"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--psi", nargs="+", choices=("diagonal", "full"), default=["diagonal", "full"])
    add_folder(parser)
    options = parser.parse_args()
    about = about_this_process() | {"dtype": "float64"}
    results = Record(options.folder / "coverage.json", about, level=LEVEL)
    for psi in options.psi:
        row = study(options.sets, options.groups, psi)
        results.add(row)
        print_row(row)


if __name__ == "__main__":
    main()
