"""Linear mixed models: `jn.lme` beside R's nlme and lme4 and the packages for Python, on simulated tables.

    python benchmarks/linear.py [--problems subjects casks] [--programs jaxnlme lme4] [--calls 4] [--core 0]

A process fits tables of one problem in turn, each with other responses: its first call, and the median of the calls
after it. A call begins at the data frame and ends with standard errors; all fit by REML. Every program has one core and
one thread; ours is run with two besides, and once more for the first call of a fresh process beside the import floor.
Speed counts where the log-likelihoods of the first table agree to 1e-6 with the best one. Peers in Python are those of
the Python named by JAXNLME_PEERS_PYTHON. Writes results/linear.json after every process; `--keep` keeps its rows of
other problems and programs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import commands
from linear_problems import PROBLEMS, write
from processes import timed
from provenance import about
from results import HERE, Record, add_folder

PEERS = {
    "nlme": "nlme",
    "lme4": "lme4",
    "glmm": "glmm",
    "mixedlm": "mixedlm",
    "mixedlm-rs": "mixedlm_rs",
    "lme-python": "lme_python",
    "statsmodels": "statsmodels",
}
OURS = ("jaxnlme", "jaxnlme, 2 threads")
ONLY = {"AR(1)": (*OURS, "nlme"), "without AR(1)": (*OURS, "nlme")}
LIMIT = 300.0
FLOORS = 3
THREADS = ("OMP", "OPENBLAS", "MKL", "RAYON", "POLARS_MAX")


def command(program: str, folder: Path, calls: int) -> list[str]:
    """The process of a program on a problem."""
    arguments = [str(folder), str(calls)]
    if program in ("nlme", "lme4"):
        return ["Rscript", str(HERE / "peers" / "linear.R"), program, *arguments]
    python = sys.executable if program in OURS else commands.peers_python()
    return [python, str(HERE / "linear_worker.py"), "jaxnlme" if program in OURS else program, *arguments]


def environment(program: str, cache: Path) -> dict[str, str]:
    """Threads by environment variables, and for ours an empty compilation cache."""
    threads = {
        f"{name}_NUM_THREADS" if name != "POLARS_MAX" else "POLARS_MAX_THREADS": count(program) for name in THREADS
    }
    return threads | (commands.cache_environment(cache) if program in OURS else {})


def count(program: str) -> str:
    """The number of threads."""
    return "2" if program == OURS[1] else "1"


def pinned(program: str, core: int, line: list[str]) -> list[str]:
    """`line` on one core, or on two."""
    if shutil.which("taskset") is None:
        return line
    cores = sorted(os.sched_getaffinity(0))
    chosen = [core, next((k for k in cores if k != core), core)] if program == OURS[1] else [core]
    return ["taskset", "-c", ",".join(map(str, chosen)), *line]


def run_one(program: str, folder: Path, calls: int, core: int) -> dict[str, Any]:
    """The record of one process."""
    with tempfile.TemporaryDirectory() as cache:
        line = pinned(program, core, command(program, folder, calls))
        return timed(line, LIMIT, environment(program, Path(cache)))


def first_calls(results: Record, problems: list[str], scratch: Path, core: int) -> None:
    """The import floor and whole processes of one call, in rounds."""
    for repeat in range(FLOORS):
        with tempfile.TemporaryDirectory() as cache:
            line = pinned(OURS[0], core, commands.floor_command())
            record = timed(line, LIMIT, environment(OURS[0], Path(cache)))
        note(results, {"problem": "floor", "program": "floor", "kind": "process", "repeat": repeat} | record)
        for name in problems:
            record = run_one(OURS[0], scratch / name, 1, core)
            note(results, {"problem": name, "program": OURS[0], "kind": "process", "repeat": repeat} | record)


def runs_again(row: dict[str, Any], problems: list[str], programs: list[str]) -> bool:
    """True for a row of earlier results that this run makes anew."""
    if row["problem"] == "floor":
        return OURS[0] in programs
    return row["problem"] in problems and row["program"] in programs


def note(results: Record, row: dict[str, Any]) -> None:
    """Add a row to the results and print it."""
    results.add(row)
    calls = (row["said"] or {}).get("calls") or []
    spent = ", ".join(f"{call['cpu']:.3f}" for call in calls)
    reason = f" {(row['said'] or {}).get('error') or ''}" if row["status"] != "ok" else ""
    print(
        f"{row['problem']} {row['program']} ({row['kind']}): {row['status']}{reason}; calls, CPU s: {spent}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--programs", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--keep", action="store_true", help="keep the rows of other problems and programs")
    add_folder(parser)
    arguments = parser.parse_args()
    reasons = {name: commands.reason_missing(PEERS[name]) for name in arguments.programs if name in PEERS}
    missing = {name: reason for name, reason in reasons.items() if reason}
    path = arguments.folder / "linear.json"
    kept = json.loads(path.read_text()) if arguments.keep and path.exists() else {"rows": []}
    earlier = [*kept.get("earlier", []), *([kept["about"]] if "about" in kept else [])]
    results = Record(path, about(), missing=missing, earlier=earlier)
    results.rows += [row for row in kept["rows"] if not runs_again(row, arguments.problems, arguments.programs)]
    with tempfile.TemporaryDirectory(prefix="jaxnlme-benchmark-") as scratch:
        for name in arguments.problems:
            write(PROBLEMS[name], Path(scratch) / name, arguments.calls)
            for program in arguments.programs:
                if program in missing or program not in ONLY.get(name, arguments.programs):
                    continue
                record = run_one(program, Path(scratch) / name, arguments.calls, arguments.core)
                note(results, {"problem": name, "program": program, "kind": "calls"} | record)
        if OURS[0] in arguments.programs:
            chosen = [name for name in arguments.problems if not PROBLEMS[name].crossed]
            first_calls(results, chosen, Path(scratch), arguments.core)
    print(f"wrote {results.path}")


if __name__ == "__main__":
    main()
