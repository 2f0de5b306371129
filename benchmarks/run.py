"""Time jaxnlme beside R's nlme and lme4's nlmer, side by side in one go, every fit in a process of its own.

    python benchmarks/run.py [--quick] [--sizes 100 1000 10000] [--repeats 3] [--out results/FILE.json]
    python benchmarks/report.py                         # then: the tables of README.md from the newest results

Theophylline is fitted by jaxnlme with an empty persistent compilation cache and with a warm one; simulated tables with
an empty cache. Repeats are interleaved, so that a busy minute of the machine does not fall on one program alone. The
file is rewritten after every process: an interrupted run keeps what it has. Standard library only, so that this process
is small: the peak memory that Linux reports for a child starts from its parent's.
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

from cases import HERE, STRUCTURES, Case, simulated, theophylline
from processes import timed
from provenance import about

PEERS = {
    "nlme": ("nlme.R",),
    "nlme-plain": ("nlme.R", "plain"),
    "nlmer": ("nlmer.R", "bobyqa"),
    "nlmer-nelder-mead": ("nlmer.R", "Nelder_Mead"),
}
SLOW = 60.0  # wall seconds: a program slower than this on a case is not repeated
JAX_LIMIT = 900.0


def cache_environment(cache: Path) -> dict[str, str]:
    """JAX's persistent compilation cache in `cache`, keeping every program whatever its size or compile time."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])),
    }


def fit_command(case: Case) -> list[str]:
    """Our worker on a case."""
    worker = [sys.executable, str(HERE / "worker.py"), "--data", str(case.table)]
    return [*worker, "--psi", case.psi, "--starts", *map(str, case.starts)]


def peer_command(case: Case, peer: str) -> list[str]:
    """A peer's script on a case."""
    script, *optimiser = PEERS[peer]
    return ["Rscript", str(HERE / "peers" / script), str(case.table), case.psi, *map(str, case.starts), *optimiser]


def programs(case: Case, peers: list[str], folder: Path, limit: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run every program on a case once, ours with an empty cache of its own, and yield (program, record)."""
    cache = Path(tempfile.mkdtemp(dir=folder))
    yield "jaxnlme", timed(fit_command(case), JAX_LIMIT, cache_environment(cache))
    # Two fits in one process: only its second fit is of interest, so the processes above and below do one fit each.
    two = [*fit_command(case), "--second", str(case.second)]
    yield "jaxnlme-two-fits", timed(two, JAX_LIMIT, cache_environment(cache))
    if case.name == "theophylline":
        yield "jaxnlme-warm-cache", timed(fit_command(case), JAX_LIMIT, cache_environment(cache))
        floor = [sys.executable, str(HERE / "worker.py"), "--floor"]
        yield "import-floor", timed(floor, JAX_LIMIT, cache_environment(folder / "floor-cache"))
    shutil.rmtree(cache, ignore_errors=True)
    for peer in peers:
        yield peer, timed(peer_command(case, peer), limit)


def judged(case: Case, record: dict[str, Any]) -> float | None:
    """The referee's log-likelihood of what a process estimated, or None where it said no estimates."""
    said = record["said"] or {}
    reached = said.get("fit", {}) if "beta" in said.get("fit", {}) else said
    if record["status"] != "ok" or any(reached.get(name) is None for name in ("beta", "psi", "sigma")):
        return None
    estimates = json.dumps({name: reached[name] for name in ("beta", "psi", "sigma")})
    referee = timed([sys.executable, str(HERE / "referee.py"), str(case.table), estimates], 300.0)
    return referee["said"]["log_likelihood"] if referee["status"] == "ok" else None


def measure(case: Case, arguments: argparse.Namespace, folder: Path, results: dict[str, Any]) -> None:
    """All repeats of one case, appended to `results["runs"]` and written."""
    peers = list(arguments.peers)
    for repeat in range(arguments.repeats):
        for program, record in programs(case, peers, folder, arguments.limit):
            labels = {"case": case.name, "groups": case.groups, "psi": case.psi, "starts": case.starts}
            record = {**labels, "program": program, "repeat": repeat, **record, "referee": judged(case, record)}
            results["runs"].append(record)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
            told = f"{case.name} {case.groups} {case.psi} {program} #{repeat}: {record['status']}"
            print(f"{told}, {record['cpu']:.2f} CPU s, {record['wall']:.2f} wall s", flush=True)
        slow = {r["program"] for r in results["runs"] if r["wall"] > SLOW and _same(r, case)}
        peers = [peer for peer in peers if peer not in slow]


def _same(record: dict[str, Any], case: Case) -> bool:
    return (record["case"], record["groups"], record["psi"]) == (case.name, case.groups, case.psi)


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="theophylline and 100 subjects, once")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000, 10000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that one fit of a peer may take")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.repeats = [100], 1
    if arguments.peers and shutil.which("Rscript") is None:
        parser.error("Rscript is not on the path; with `--peers` (and no name) only our side is timed")
    results: dict[str, Any] = {
        "about": about() | {"repeats": arguments.repeats, "peer_limit": arguments.limit},
        "runs": [],
    }
    name = f"{results['about']['date'][:10]}-{(results['about']['commit'] or 'uncommitted')[:8]}.json"
    arguments.out = (arguments.out or HERE / "results" / name).resolve()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="jaxnlme-benchmark-") as scratch:
        folder = Path(scratch)
        # Byte-compiled modules and a warm disk are everybody's second day: one process that is not recorded.
        timed([sys.executable, "-c", "import jaxnlme"], JAX_LIMIT, cache_environment(folder / "floor-cache"))
        measure(theophylline(folder), arguments, folder, results)
        for groups in arguments.sizes:
            for psi in STRUCTURES:
                measure(simulated(folder, groups, psi), arguments, folder, results)
    results["about"]["load_after"] = os.getloadavg()
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {arguments.out}; now: python benchmarks/report.py")


if __name__ == "__main__":
    main()
