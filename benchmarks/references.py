"""Reference cases of the Lindstrom-Bates methods, side by side: ours, R's nlme and pynlme, by ML and by REML.

    python benchmarks/references.py [--quick] [--cases orange DNase] [--repeats 2]

Published tables with the functions that R ships for them, the same start values for all. Every fit is a process: ours
with an empty compilation cache and with a warm one; and, for a fit with everything compiled and loaded, all programs
once more as the second fit of a process, whose first is of the same table with other responses (1 % noise, seeded).
Then arguments of MATLAB's nlmefit that jaxnlme accepts and pynlme refuses, by calling both (refusals.py). Writes
results/references.json after every process. Standard library only.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
from cases import HERE, OTHER_SEED
from processes import timed
from provenance import about
from results import Record, add_folder

PACKAGE, TESTS = HERE.parent / "jaxnlme" / "data" / "tables", HERE.parent / "tests" / "tables"
LIMIT = 300.0
METHODS = ("lme", "relme")
# program: (script, package, methods). pynlme's ML has two iterations, R's and MATLAB's, and either may be the faster.
PEERS = {
    "nlme": ("references.R", "nlme", METHODS),
    "pynlme": ("references_peer.py", "pynlme", METHODS),
    "pynlme-matlab": ("references_peer.py", "pynlme", ("lme",)),
}
COMPARED_PACKAGES = ("jaxnlme", "pynlme")


@dataclass(frozen=True)
class Reference:
    """A table and the self-starting function of R fitted to it. `group` and `response` are its columns; `x`, the
    function's predictors by name, and their columns, `logged` those whose logarithm is taken; `random`, the parameters
    that vary between groups."""

    table: Path
    group: str
    response: str
    x: dict[str, str]
    function: str
    starts: dict[str, float]
    random: tuple[str, ...]
    psi: str
    logged: tuple[str, ...] = ()


_THEOPHYLLINE = (PACKAGE / "Theoph.csv", "Subject", "conc", {"Dose": "Dose", "Time": "Time"}, "ssfol")
_THEOPHYLLINE_STARTS = {"lKe": -2.4327, "lKa": 0.4515, "lCl": -3.2145}
_CO2_STARTS = {"Asym": 32.4, "lrc": -4.5, "c0": 43.5}
# Start values: R's own examples, or rounded means of `nlsList`.
REFERENCES = {
    "theophylline": Reference(*_THEOPHYLLINE, _THEOPHYLLINE_STARTS, ("lKa", "lCl"), "diagonal"),
    "theophylline, full": Reference(*_THEOPHYLLINE, _THEOPHYLLINE_STARTS, ("lKa", "lCl"), "full"),
    "indomethacin": Reference(
        PACKAGE / "Indometh.csv", "Subject", "conc", {"time": "time"}, "biexp",
        {"A1": 2.8, "lrc1": 0.85, "A2": 0.46, "lrc2": -1.35}, ("A1", "lrc1", "A2"), "diagonal",
    ),
    "orange": Reference(
        PACKAGE / "Orange.csv", "Tree", "circumference", {"t": "age"}, "logis",
        {"Asym": 192.0, "xmid": 728.0, "scal": 356.0}, ("Asym",), "diagonal",
    ),
    "CO2": Reference(
        TESTS / "CO2.csv", "Plant", "uptake", {"conc": "conc"}, "asympOff", _CO2_STARTS, ("Asym", "lrc"), "full"
    ),
    "DNase": Reference(
        TESTS / "DNase.csv", "Run", "density", {"t": "conc"}, "logis",
        {"Asym": 2.5, "xmid": 1.5, "scal": 1.0}, ("Asym", "xmid", "scal"), "diagonal", ("t",),
    ),
}  # fmt: skip
QUICK = ("theophylline", "orange")


def written(case: Reference, folder: Path) -> tuple[Path, Path]:
    """The case's table with columns group, y and the predictors, and the same with other responses."""
    noise = random.Random(OTHER_SEED)
    with case.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    paths = folder / "table.csv", folder / "other.csv"
    with paths[0].open("w") as table, paths[1].open("w") as other:
        for file in (table, other):
            file.write(",".join(["group", "y", *case.x]) + "\n")
        for row in rows:
            x = [
                repr(math.log(float(row[column])) if name in case.logged else float(row[column]))
                for name, column in case.x.items()
            ]
            y = float(row[case.response])
            table.write(",".join([row[case.group], repr(y), *x]) + "\n")
            other.write(",".join([row[case.group], f"{y * (1 + 0.01 * noise.gauss(0, 1)):.6g}", *x]) + "\n")
    return paths


def request(case: Reference, program: str, method: str, tables: list[Path]) -> str:
    """The JSON that a program reads: the case, with the tables to fit one after the other."""
    content = {"tables": list(map(str, tables)), "function": case.function, "x": list(case.x), "starts": case.starts}
    return json.dumps(content | {"random": case.random, "psi": case.psi, "method": method, "program": program})


def programs(case: Reference, peers: list[str], folder: Path) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """One round of a case: (program, method, "empty", "warm", "once" or "two fits", record)."""
    table, other = written(case, folder)
    for method in METHODS:
        once, twice = [table], [other, table]
        ours = [sys.executable, str(HERE / "references_worker.py")]
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            environment = commands.cache_environment(Path(cache))
            for kind, tables in (("empty", once), ("warm", once), ("two fits", twice)):
                argument = request(case, "jaxnlme", method, tables)
                yield "jaxnlme", method, kind, timed([*ours, argument], LIMIT, environment)
        for peer in peers:
            script, _, methods = PEERS[peer]
            for kind, tables in (("once", once), ("two fits", twice)) if method in methods else ():
                argument = request(case, peer, method, tables)
                yield peer, method, kind, timed([*commands.script(script), argument], LIMIT)


def refusals(absent: dict[str, str], function: str = "nlmefit") -> dict[str, Any]:
    """Outcomes of calls from MATLAB's manual, by package."""
    outcomes = {}
    for package in COMPARED_PACKAGES:
        if package not in absent:
            python = commands.peers_python() if package == "pynlme" else sys.executable
            outcomes[package] = timed([python, str(HERE / "refusals.py"), package, function], LIMIT)["said"]
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)}, once")
    parser.add_argument("--cases", nargs="+", choices=list(REFERENCES), default=list(REFERENCES))
    parser.add_argument("--repeats", type=int, default=2)
    add_folder(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.cases, arguments.repeats = list(QUICK), 1
    absent = {name: reason for name, (_, package, _) in PEERS.items() if (reason := commands.reason_missing(package))}
    for peer, reason in absent.items():
        print(f"{peer} is left out: {reason}", flush=True)
    peers = [peer for peer in PEERS if peer not in absent]
    origin = about() | {"repeats": arguments.repeats}
    results = Record(arguments.folder / "references.json", origin, missing=absent)
    with tempfile.TemporaryDirectory(prefix="jaxnlme-benchmark-") as scratch:
        warming = commands.cache_environment(Path(scratch) / "floor-cache")
        timed([sys.executable, "-c", "import jaxnlme"], LIMIT, warming)  # byte-compiled modules: not recorded
        for repeat in range(arguments.repeats):
            for name in arguments.cases:
                for program, method, kind, record in programs(REFERENCES[name], peers, Path(scratch)):
                    labels = {"case": name, "program": program, "method": method, "kind": kind, "repeat": repeat}
                    results.add(labels | record)
                    message = f"{name} {program} {method} {kind} #{repeat}: {record['status']}"
                    print(f"{message}, {record['cpu']:.2f} CPU s, {record['wall']:.2f} wall s", flush=True)
    results.content["refusals"] = refusals(absent)
    results.write()
    print(f"wrote {results.path}")


if __name__ == "__main__":
    main()
