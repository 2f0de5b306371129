"""Time to the first fit: theophylline with standard errors as a cold process, from import to summary, for every
likelihood approximation and SAEM; and the call of MATLAB's nlmefitsa in MathWorks' example, indomethacin.

    python benchmarks/first_fit.py [--repeats 3] [--approximations focei laplace]

Every approximation is timed in a process with an empty compilation cache, in one with a warm cache, and in one of two
fits (for its second: other data of the same shape; once for the approximations after the first). In the same round are
run the import floor, `Rscript` doing the nlme fit, and an `Rscript` that does it twice. Then the lines of StableHLO of
each approximation's objective and gradient are counted, by structure of Psi. Writes results/first_fit.json. Standard
library only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
from cases import HERE, Case, theophylline
from processes import timed
from provenance import about
from results import Record, add_folder

APPROXIMATIONS = ("focei", "fo", "foce", "laplace", "agq3", "is")
METHODS = (*APPROXIMATIONS, "saem", "indomethacin")
LIMIT = 300.0


def one_round(case: Case, method: str, folder: Path, twice: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """One round of a method: (cache, record); `twice`: with the process of two fits."""
    indomethacin = method == "indomethacin"
    command = commands.indomethacin_command() if indomethacin else commands.fit_command(case, method)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        environment = commands.cache_environment(Path(cache))
        yield "empty", timed(command, LIMIT, environment)
        yield "warm", timed(command, LIMIT, environment)
        if twice and not indomethacin:
            yield "two fits", timed(commands.fit_command(case, method, second=True), LIMIT, environment)


def floor_and_nlme(case: Case, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One round of the import floor and of nlme: (program, record)."""
    environment = commands.cache_environment(folder / "floor-cache")
    yield "floor", timed(commands.floor_command(), LIMIT, environment)
    if not commands.missing(["nlme"]):
        once = commands.peer_command(case, "nlme")
        yield "nlme", timed(once, LIMIT)
        yield "nlme twice", timed([*once[:-1], "twice"], LIMIT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--approximations", nargs="+", choices=METHODS, default=list(METHODS))
    add_folder(parser)
    arguments = parser.parse_args()
    absent = commands.missing(["nlme"])
    results = Record(arguments.folder / "first_fit.json", about() | {"repeats": arguments.repeats}, missing=absent)
    with tempfile.TemporaryDirectory(prefix="jaxnlme-benchmark-") as scratch:
        folder = Path(scratch)
        case = theophylline(folder)
        for _ in range(2):  # byte-compiled modules, a warm disk, the floor's own cache: not recorded
            timed(commands.floor_command(), LIMIT, commands.cache_environment(folder / "floor-cache"))
        timed(
            [sys.executable, "-c", "import jaxnlme; jaxnlme.fit"],
            LIMIT,
            commands.cache_environment(folder / "floor-cache"),
        )
        for repeat in range(arguments.repeats):
            for program, record in floor_and_nlme(case, folder):
                note(results, {"program": program, "repeat": repeat} | record)
            for method in arguments.approximations:
                for cache, record in one_round(case, method, folder, method == APPROXIMATIONS[0] or repeat == 0):
                    note(results, {"program": method, "cache": cache, "repeat": repeat} | record)
        counted = [method for method in arguments.approximations if method in APPROXIMATIONS]
        line_counts = timed([sys.executable, str(HERE / "program_lines.py"), "--approximations", *counted], LIMIT)
        results.content["programs"] = (line_counts["said"] or {}).get("programs", [])
        results.write()
    print(f"wrote {results.path}")


def note(results: Record, row: dict[str, Any]) -> None:
    """Add a row to the results and print it."""
    results.add(row)
    name = f"{row['program']} {row.get('cache', '')}".strip()
    print(f"{name} #{row['repeat']}: {row['status']}, {row['cpu']:.2f} CPU s, {row['wall']:.2f} wall s", flush=True)


if __name__ == "__main__":
    main()
