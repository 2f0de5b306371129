"""SAEM against the exact maxima: where its estimates end over many seeds, and whether its stated errors agree.

    JAXNLME_REFERENCE=... python benchmarks/study_saem.py --targets [--only theo pd1]
    JAXNLME_REFERENCE=... python benchmarks/study_saem.py [--seeds 10] [--first-seed 0] [--only theo pd1]
    python benchmarks/study_saem.py --table

The cases are saemix's documented examples with its starts, and simulated ones (tests/estimators/saem_problems.py and
saem_simulated.py). `--targets` writes results/saem_targets.json: the maximum of each case by adaptive Gauss-Hermite
quadrature. The study itself writes results/saem.json, a row a case and seed, and prints a table:

- `bias / se`: the mean over seeds less the target, in standard errors of the target, for the worst parameter (0.05 at
  most), and the same in Monte Carlo standard errors of that mean (3 at most);
- `spread / se`: the standard deviation over seeds in standard errors, worst parameter (one fit's Monte Carlo error);
- `se ratio`: mean standard error over the target's, smallest and largest;
- `below`: -2 log L by quadrature at our estimates less the target's, mean and largest;
- `IS - AGQ`: of -2 log L at our estimates, in stated errors, root mean square (about 1) and largest;
- the fraction of fits with `converged` true, and seconds (first seed, with compilation; median of the rest).

`--only` keeps the other cases' rows. A parameter without a standard error at the target (a variance of zero, a
correlation of one) is left out of the comparison and counted in `without se`.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import saem_cases as shared
import saem_targets
from results import add_folder

import jaxnlme as jn
from tests.estimators.em.saem_problems import Case

BIAS_LIMIT, MONTE_CARLO_LIMIT = 0.05, 3.0
COLUMNS = (
    "case",
    "seeds",
    "converged",
    "bias / se",
    "worst",
    "in its MC SE",
    "worst",
    "spread / se",
    "se ratio",
    "without se",
    "below",
    "IS - AGQ",
    "seconds",
    "outcome",
)


def run_one(case: Case, seed: int, nodes: int) -> dict[str, Any]:
    """A fit by SAEM as a row. An exception makes a row, too: the study continues."""
    row: dict[str, Any] = {"case": case.name, "seed": seed}
    began = time.perf_counter()
    try:
        fit = jn.fit(case.model, case.data, jn.SAEM(seed=seed))
    except Exception:
        return row | {"error": traceback.format_exc().strip().splitlines()[-1]}
    row["seconds"] = time.perf_counter() - began
    errors = fit.sampling.monte_carlo_se
    row |= {
        "converged": bool(fit.converged),
        "sentences": list(fit.status.sentences[:2]),
        "at_zero": list(fit.at_zero),
        "iterations": fit.iterations,
        "estimates": shared.estimates(fit),
        "minus2LL_is": shared.number(-2.0 * fit.log_likelihood),
        "minus2LL_is_se": shared.number(2.0 * fit.sampling.log_likelihood_se),
        "minus2LL_agq": shared.number(shared.minus_two_log_likelihood(case, fit.params, nodes, fit.modes)),
        "monte_carlo_se": None if errors is None else {name: shared.number(value) for name, value in errors.items()},
        "timings": {name: float(value) for name, value in fit.timings.items()},
    }
    return row


def summary(name: str, rows: list[dict[str, Any]], target: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the table for one case; `rows` of its seeds."""
    done = [row for row in rows if "error" not in row]
    out: dict[str, Any] = {
        "case": name,
        "seeds": len(rows),
        "errors": sorted({r["error"] for r in rows if "error" in r}),
    }
    if not done:
        return out
    targets = {k: v for k, v in target["estimates"].items() if v["estimate"] is not None and v["se"]}
    estimates = np.array([[row["estimates"][k]["estimate"] for k in targets] for row in done], float)
    errors = np.array([[row["estimates"][k]["se"] for k in targets] for row in done], float)
    goal = np.array([v["estimate"] for v in targets.values()])
    se = np.array([v["se"] for v in targets.values()])
    bias = np.mean(estimates, 0) - goal
    spread = np.std(estimates, 0, ddof=1) if len(done) > 1 else np.full(len(goal), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        in_monte_carlo = bias / (spread / np.sqrt(len(done)))
    names = list(targets)
    gap = _column(done, "minus2LL_is") - _column(done, "minus2LL_agq")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = gap / _column(done, "minus2LL_is_se")
    below = _column(done, "minus2LL_agq") - (target["minus2LL"] if target["nodes"] else target["minus2LL_finer"])
    return out | {
        "converged": float(np.mean([row["converged"] for row in done])),
        "bias": dict(zip(names, (bias / se).tolist(), strict=True)),
        "bias_in_monte_carlo_se": dict(zip(names, map(shared.number, in_monte_carlo), strict=True)),
        "spread": dict(zip(names, map(shared.number, spread / se), strict=True)),
        "se_ratio": dict(zip(names, map(shared.number, np.mean(errors, 0) / se), strict=True)),
        "without se": len(target["estimates"]) - len(targets),
        "below": below.tolist(),
        "gap_in_stated_errors": list(map(shared.number, ratio)),
        "seconds": [row["seconds"] for row in done],
    }


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def cells(case_summary: dict[str, Any]) -> list[str]:
    """A summary as a row of the table."""
    if "bias" not in case_summary:
        return [
            case_summary["case"],
            str(case_summary["seeds"]),
            *[""] * (len(COLUMNS) - 3),
            "; ".join(case_summary["errors"]),
        ]
    bias, in_mc = _largest(case_summary["bias"]), _largest(case_summary["bias_in_monte_carlo_se"])
    ratios = [value for value in case_summary["se_ratio"].values() if value is not None]
    gaps = np.array([value for value in case_summary["gap_in_stated_errors"] if value is not None])
    below, seconds = np.array(case_summary["below"]), case_summary["seconds"]
    within = abs(bias[1]) <= BIAS_LIMIT and not abs(in_mc[1]) > MONTE_CARLO_LIMIT
    return [
        case_summary["case"],
        str(case_summary["seeds"]),
        f"{case_summary['converged']:.0%}",
        f"{bias[1]:+.3f}",
        bias[0],
        f"{in_mc[1]:+.1f}",
        in_mc[0],
        f"{abs(_largest(case_summary['spread'])[1]):.3f}",
        f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "none",
        str(case_summary["without se"]),
        f"{below.mean():+.4f}, {below.max():+.4f}",
        f"{np.sqrt(np.mean(gaps**2)):.2f}, {np.abs(gaps).max():.2f}" if len(gaps) else "none",
        f"{seconds[0]:.1f}, {np.median(seconds[1:] or seconds):.1f}",
        "; ".join([*([] if within else ["outside"]), *case_summary["errors"]]) or "within",
    ]


def _largest(values: dict[str, float | None]) -> tuple[str, float]:
    present = {name: value for name, value in values.items() if value is not None}
    name = max(present, key=lambda name: abs(present[name]), default="")
    return name, present.get(name, float("nan"))


def print_table(folder: Path) -> None:
    """The table of all cases on file, as Markdown."""
    targets = {row["case"]: row for row in shared.read(folder / shared.TARGETS)}
    rows = shared.read(folder / shared.STUDY)
    print("| " + " | ".join(COLUMNS) + " |\n|" + " :-- |" * len(COLUMNS))
    for name in dict.fromkeys(row["case"] for row in rows):
        case_summary = summary(name, [row for row in rows if row["case"] == name], targets[name])
        print("| " + " | ".join(cells(case_summary)) + " |")


def study(folder: Path, only: list[str] | None, seeds: range) -> None:
    """All fits by the `seeds`, one row each, on file at once; a line of the table after every case."""
    targets = {row["case"]: row for row in shared.read(folder / shared.TARGETS)}
    cases = shared.makers(only)
    missing = [name for name in cases if name not in targets]
    if missing:
        sys.exit(f"no targets for {', '.join(missing)}: run with --targets first")
    record = shared.open_record(folder / shared.STUDY, list(cases))
    for name, maker in cases.items():
        case, target = maker(), targets[name]
        for seed in seeds:
            record.add(run_one(case, seed, target["nodes"] or target["nodes_finer"]))
        case_summary = summary(name, [row for row in record.rows if row["case"] == name], target)
        print(" | ".join(cells(case_summary)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", action="store_true", help="find the maxima by quadrature")
    parser.add_argument("--table", action="store_true", help="print the table from the results on file")
    parser.add_argument("--only", nargs="+", help="cases whose name contains one of these")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    add_folder(parser)
    options = parser.parse_args()
    if options.targets:
        saem_targets.make(options.folder, options.only)
        return
    if not options.table:
        study(options.folder, options.only, range(options.first_seed, options.first_seed + options.seeds))
    print_table(options.folder)


if __name__ == "__main__":
    main()
