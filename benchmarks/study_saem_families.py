"""SAEM on families of models whose estimates are strongly correlated, or whose outcomes are not Gaussian: whether its
estimates, standard errors and stated errors agree with the maximum by quadrature, and what a fit takes.

    python benchmarks/study_saem_families.py [--number 240] [--seconds S] [--only asymptotic "14 groups"]
    python benchmarks/study_saem_families.py --table [--failures]
    python benchmarks/study_saem_families.py --show 17

Families are those of saem_family_models.py, each with 14, 30 and 100 groups; run i always has the same data, starting
values and seed of SAEM (saem_family_cases.py). The target is the maximum by adaptive Gauss-Hermite quadrature
(saem_family_targets.py). Writes results/saem_families.json, a row a run; runs on file are not computed again. The
table:

- `maximum`: runs whose target is finite with a positive definite information, and changes by no more than 0.01 standard
  errors with twice the nodes; of these `boundary`: with a variance of zero or a singular psi. The next columns are of
  these runs:
- `converged`: by SAEM's own word; `MC error`: the largest Monte Carlo error of an estimate, in its standard error
  (0.017 at most);
- `within 0.05`: runs with every estimate within 0.05 standard errors of the target's (98% at least); `farthest,
  converged`: the largest difference of a run called converged (0.15 at most);
- `se ratio`: smallest and largest standard error over the target's (within 20%);
- `correlations`: the largest correlation of two estimates, its range over runs;
- `no maximum, converged`: of the runs without such a target, those that SAEM called converged (none);
- `seconds`: medians of first fits, compilation included, by SAEM and by FOCEI (by Laplace for outcomes that are not
  Gaussian), over the shapes of data that were new to the process, which of the two is first alternates from shape to
  shape; and their ratio (3 at most); `warm`: the same medians over the other runs.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import resumable
import saem_family_targets as targets
from provenance import about_this_process
from results import Record
from saem_family_cases import SHAPES, Made, Run, make, runs
from saem_family_models import FAMILIES
from saem_family_table import print_failures, print_table, read

import jaxnlme as jn

FILE = "saem_families.json"


def run_one(run: Run, new_shape: bool) -> tuple[dict[str, Any], dict[str, jn.Fit]]:
    """A row of one run, and its fits by name. An exception makes a row, too: the study continues."""
    row: dict[str, Any] = {
        "run": run.number,
        "family": run.family,
        "groups": run.groups,
        "design": run.design,
        "saem_seed": run.number,
        "new_shape": new_shape,
    }
    fits: dict[str, jn.Fit] = {}
    try:
        made, order = make(run), [_by_saem, _by_approximation]
        for timed in order if SHAPES.index((run.family, run.groups)) % 2 == 0 else reversed(order):
            row |= timed(run, made, fits)
        fits["target"], row["target"] = targets.target(made.model, made.data, made.truth, fits["saem"])
        row |= compared(fits["saem"], fits["target"])
    except Exception:
        row["error"] = traceback.format_exc().strip().splitlines()[-1]
    return row, fits


def _by_saem(run: Run, made: Made, fits: dict[str, jn.Fit]) -> dict[str, Any]:
    began = time.perf_counter()
    fit = fits["saem"] = jn.fit(made.model, made.data, jn.SAEM(seed=run.number), progress=False)
    row: dict[str, Any] = {
        "seconds": time.perf_counter() - began,
        "timings": {name: round(float(value), 3) for name, value in fit.timings.items()},
        "converged": bool(fit.converged),
        "sentences": list(fit.status.sentences),
        "at_zero": list(fit.at_zero),
        "iterations": fit.iterations,
        "estimates": {name: targets.number(value) for name, value in fit.estimates["estimate"].items()},
    }
    errors = None if fit.sampling is None else fit.sampling.errors
    if errors is not None:
        ratio = errors["monte carlo se"] / errors["se"]
        row |= {"mc_error": targets.number(ratio.max()), "mc_error_of": str(ratio.idxmax()) if ratio.any() else ""}
    return row


def _by_approximation(run: Run, made: Made, fits: dict[str, jn.Fit]) -> dict[str, Any]:
    method, began = "laplace" if FAMILIES[run.family].density else "focei", time.perf_counter()
    fit = fits[method] = jn.fit(made.model, made.data, method, progress=False)
    return {"method": method, "seconds_of_method": time.perf_counter() - began, "method_converged": bool(fit.converged)}


def compared(saem: jn.Fit, goal: jn.Fit) -> dict[str, Any]:
    """The columns that compare SAEM's fit with the target."""
    off, ratio = targets.differences(saem, goal)
    if not off:
        return {}
    worst = max(off, key=lambda name: math.inf if math.isnan(off[name]) else abs(off[name]))
    without = sum(math.isnan(value) for value in ratio.values())
    present = {name: value for name, value in ratio.items() if not math.isnan(value)}
    row: dict[str, Any] = {"off": targets.number(off[worst]), "off_of": worst, "without_se": without}
    if present:
        least, most = min(present, key=lambda name: present[name]), max(present, key=lambda name: present[name])
        row |= {"se_least": present[least], "se_least_of": least, "se_most": present[most], "se_most_of": most}
    return row


def load() -> None:
    """Short fits of another model, so that what the package imports when it is first used is in no measured time."""
    run = Run(0, "logistic", 15, 0)
    made = make(run)
    for method in ("focei", jn.SAEM(20, max_iterations=20), jn.AGQ(3)):
        jn.fit(made.model, made.data, method, progress=False)


def show(number: int) -> None:
    """One run: its truth, and what its fits say."""
    run = list(runs(number + 1))[number]
    row, fits = run_one(run, new_shape=True)
    made = make(run)
    print(run, "start", {p.name: p.start for p in made.model.parameters}, "truth", made.truth, sep="\n")
    for name, fit in fits.items():
        print(f"\n{name}: {fit.log_likelihood}", fit.status, fit.estimates.iloc[:, :2].to_string(), sep="\n")
        print(*fit.at_zero, sep="\n")
    print("\n".join(f"{key}: {value}" for key, value in row.items() if key not in ("estimates", "sentences")))


def study(path: Path, only: list[str] | None, number: int, seconds: float) -> None:
    """Runs up to the number `number` that are not on file, until `seconds` are over; each is written at once."""
    with jax.enable_x64(True):
        about = about_this_process()
    record, began, seen = Record(path, about), time.monotonic(), set()
    record.rows += read(path)
    finished = {row["run"] for row in record.rows}
    load()
    for run in runs(number):
        if run.number in finished or (only and not any(part in run.name for part in only)):
            continue
        if time.monotonic() - began > seconds:
            break
        row, _ = run_one(run, (run.family, run.groups) not in seen)
        seen.add((run.family, run.groups))
        record.add(row)
        keys = ("error", "converged", "off", "off_of", "mc_error", "se_least", "se_most", "iterations", "seconds")
        words = ", ".join(f"{key} {_short(row[key])}" for key in keys if key in row)
        outcome = row.get("target", {}).get("outcome", "")
        print(f"{run.number} {run.name}: {outcome}, {words}; {time.monotonic() - began:.0f} s in all", flush=True)


def _short(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else value


if __name__ == "__main__":
    resumable.run(__doc__, FILE, 240, study, show, read, print_table, print_failures)
