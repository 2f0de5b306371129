"""Time jaxnlme beside other programs on the same tables, side by side in one go, every fit in a process of its own.

    python benchmarks/run.py [--quick] [--sizes 100 1000 10000] [--repeats 2] [--peers nlme nlmer]

Theophylline and simulated tables are fitted by jaxnlme with an empty persistent compilation cache and with a warm one.
Repeats are interleaved, so that a busy minute of the machine does not fall on a single program. Writes
results/fits.json after every process. Standard library only, so that this process is small: the peak memory that Linux
reports for a child starts from its parent's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
from cases import HERE, STRUCTURES, Case, simulated, theophylline
from processes import reached, timed
from provenance import about
from results import Record, add_folder

SLOW = 15.0  # wall seconds: a program slower than this on a case is not repeated
JAX_LIMIT = 900.0
QUICK = ("nlme", "nlmer", "pynlme-r", "pynlme-foce", "numpyro-nuts")


def ours(case: Case, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Our side of a case, by each method: an empty cache, a warm one, and the second fit of a process."""
    for name, method in commands.OURS.items():
        if case.groups > method.largest:
            continue
        cache = Path(tempfile.mkdtemp(dir=folder))
        environment = commands.cache_environment(cache)
        once = commands.fit_command(case, method.method)
        yield name, timed(once, JAX_LIMIT, environment)
        yield f"{name}-warm-cache", timed(once, JAX_LIMIT, environment)
        twice = commands.fit_command(case, method.method, second=True)
        yield name + commands.TWO_FITS, timed(twice, JAX_LIMIT, environment)
        shutil.rmtree(cache, ignore_errors=True)
    floor = commands.cache_environment(folder / "floor-cache")
    yield "import-floor", timed(commands.floor_command(), JAX_LIMIT, floor)


def programs(case: Case, peers: list[str], folder: Path, limit: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run every program on a case once and yield (program, record)."""
    yield from ours(case, folder)
    for peer in peers:
        if case.groups <= commands.PEERS[peer].largest:
            yield peer, timed(commands.peer_command(case, peer), limit)
            if commands.PEERS[peer].twice:
                yield peer + commands.TWO_FITS, timed(commands.peer_command(case, peer, second=True), 2 * limit)


class Referee:
    """Log-likelihoods by referee.py; estimates that a program repeats to the last digit are evaluated once."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], float | None] = {}

    def __call__(self, case: Case, record: dict[str, Any]) -> float | None:
        """The log-likelihood of what a process estimated, or None where it printed no estimates."""
        estimates = reached(record["said"] or {})
        if record["status"] != "ok" or any(estimates.get(name) is None for name in ("beta", "psi", "sigma")):
            return None
        key = (str(case.table), json.dumps({name: estimates[name] for name in ("beta", "psi", "sigma")}))
        if key not in self.values:
            referee = timed([sys.executable, str(HERE / "referee.py"), *key], 300.0)
            self.values[key] = referee["said"]["log_likelihood"] if referee["status"] == "ok" else None
        return self.values[key]


def measure(case: Case, arguments: argparse.Namespace, folder: Path, results: Record) -> None:
    """All repeats of one case."""
    peers, referee = list(arguments.peers), Referee()
    for repeat in range(arguments.repeats):
        for program, record in programs(case, peers, folder, arguments.limit):
            labels = {"case": case.name, "groups": case.groups, "psi": case.psi, "starts": case.starts}
            results.add({**labels, "program": program, "repeat": repeat, **record, "referee": referee(case, record)})
            message = f"{case.name} {case.groups} {case.psi} {program} #{repeat}: {record['status']}"
            print(f"{message}, {record['cpu']:.2f} CPU s, {record['wall']:.2f} wall s", flush=True)
        slow = {r["program"] for r in results.rows if r["wall"] > SLOW and _is_of_case(r, case)}
        peers = [peer for peer in peers if peer not in slow]


def _is_of_case(record: dict[str, Any], case: Case) -> bool:
    return (record["case"], record["groups"], record["psi"]) == (case.name, case.groups, case.psi)


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="theophylline and 100 subjects, full Psi, once, few peers")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000, 10000])
    parser.add_argument("--structures", nargs="+", choices=STRUCTURES, default=list(STRUCTURES))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--peers", nargs="*", choices=tuple(commands.PEERS), default=list(commands.PEERS))
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that one fit of a peer may take")
    parser.add_argument("--name", default="fits.json", help="the results file, such as lindstrom_bates.json")
    add_folder(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.structures, arguments.repeats = [100], ["full"], 1
        arguments.peers = [peer for peer in arguments.peers if peer in QUICK]
    absent = commands.missing(arguments.peers)
    for peer, reason in absent.items():
        print(f"{peer} is left out: {reason}", flush=True)
    arguments.peers = [peer for peer in arguments.peers if peer not in absent]
    origin = about() | {"repeats": arguments.repeats, "peer_limit": arguments.limit}
    results = Record(arguments.folder / arguments.name, origin, "runs", missing=absent)
    with tempfile.TemporaryDirectory(prefix="jaxnlme-benchmark-") as scratch:
        folder = Path(scratch)
        # Byte-compiled modules and a warm disk are everybody's second day: one process that is not recorded.
        timed([sys.executable, "-c", "import jaxnlme"], JAX_LIMIT, commands.cache_environment(folder / "floor-cache"))
        measure(theophylline(folder), arguments, folder, results)
        for groups in arguments.sizes:
            for psi in arguments.structures:
                measure(simulated(folder, groups, psi), arguments, folder, results)
    results.content["about"]["load_after"] = os.getloadavg()
    results.write()
    print(f"wrote {results.path}; now: python benchmarks/report.py")


if __name__ == "__main__":
    main()
