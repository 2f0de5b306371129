"""SAEM side by side: ours, pynlme's, and R's nlme on the same models; the time of a fit, and its precision.

    python benchmarks/saem.py [--quick] [--sizes 100 1000 10000] [--repeats 2] [--peers pynlme nlme]

Theophylline (saemix's 120 rows) and simulated tables, each program by its defaults: "all", with standard errors and the
log-likelihood by importance sampling, and "estimates", estimates only; ours once more by pynlme's schedule. Cold
processes, with an empty compilation cache and with a warm one; and a process that has fitted another table first and
then fits this one from several seeds, for seconds with everything compiled, and for the Monte Carlo error, the spread
over seeds. The referee integrates the likelihood at all estimates by quadrature; the maximum beside them is that of our
AGQ fit. Last, the cost of one of our iterations, a group and a chain, from runs of different length; and the arguments
of MATLAB's nlmefitsa that jaxnlme and pynlme accept (refusals.py). saemix's seconds are those recorded in the folder
named by JAXNLME_REFERENCE. Writes results/saem_fits.json after every process. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import commands
from cases import HERE, STRUCTURES, Case, simulated, theophylline
from processes import timed
from provenance import about
from references import refusals
from results import Record, add_folder

REFERENCE = Path(os.environ.get("JAXNLME_REFERENCE") or HERE.parent.parent / "shared" / "reference")
ITERATIONS, BURN_IN = (150, 150, 100), 5  # pynlme's defaults, which are MATLAB's
LIMIT = 900.0
SLOW = 60.0  # wall seconds: a program with a process slower than this on a case is not repeated
FEW = 3  # number of seeds where only the seconds matter
NODES = 9  # of the referee, a dimension: 0.001 from 19 of them at 100 subjects
PEERS = ("pynlme", "nlme")
# groups of a cost: iterations of the shorter and of the longer run
LENGTHS = {100: (400, 2000), 1000: (200, 800), 10_000: (50, 200)}


@dataclass(frozen=True)
class Run:
    """A process to time: `kind` is "empty" or "warm" (the compilation cache), "once", "two fits" or "two lengths"."""

    program: str
    kind: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def chains(groups: int) -> int:
    """Chains that pynlme runs by default, as MATLAB does: about 100 groups times chains."""
    return max(1, round(100 / groups))


def seeds(groups: int) -> int:
    """Number of seeds, by the time of a fit."""
    return 10 if groups <= 100 else 5 if groups <= 1000 else 2


def request_of(case: Case, work: str, fits: int = 1, second: bool = False, **further: Any) -> str:
    """The JSON that a worker reads: the tables, the `work`, and the number of `fits` of the last table, one per seed.
    `second`: the case's other table comes first."""
    tables = [str(case.other), str(case.table)] if second else [str(case.table)]
    content = {"tables": tables, "work": work, "fits": fits, "psi": case.psi, "starts": case.starts}
    content |= {"chains": chains(case.groups), "iterations": ITERATIONS, "burn_in": BURN_IN}
    return json.dumps(content | further)


def our_run(case: Case, program: str, kind: str, request: str, cache: Path) -> Run:
    """A process of ours with its compilation cache."""
    command = [sys.executable, str(HERE / "saem_worker.py"), request]
    return Run(f"jaxnlme-{program}", kind, command, commands.cache_environment(cache))


def our_runs(case: Case, folder: Path, several: int) -> Iterator[Run]:
    """jaxnlme on a case. A round of "empty" and "warm" has a cache of its own; the others share one."""
    shared, cache = folder / "shared-cache", Path(tempfile.mkdtemp(dir=folder))
    for kind in ("empty", "warm"):
        yield our_run(case, "all", kind, request_of(case, "all"), cache)
    # The estimates of "all" are those of "estimates": few seeds, for the seconds.
    for work, fits in (("all", min(several, FEW)), ("estimates", several), ("schedule", several)):
        yield our_run(case, work, "two fits", request_of(case, work, fits, second=True), shared)


def peer_runs(case: Case, peers: list[str], several: int) -> Iterator[Run]:
    """The peers on a case."""
    if "pynlme" in peers:
        script = commands.script("saem_peer.py")
        few = 1 if case.groups > 1000 else min(several, FEW)
        yield Run("pynlme-all", "once", [*script, request_of(case, "all")])
        yield Run("pynlme-all", "two fits", [*script, request_of(case, "all", few, second=True)])
        yield Run("pynlme-estimates", "two fits", [*script, request_of(case, "estimates", several, second=True)])
    if "nlme" in peers:
        once = commands.peer_command(case, "nlme")
        yield Run("nlme", "once", once)
        yield Run("nlme", "two fits", [*once[:-1], "twice"])


def fits_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The fits of the case's table in the output of a process, one per seed; of nlme a single one."""
    return content.get("fits") or ([content] if "beta" in content else [])


def referee_values(case: Case, record: dict[str, Any]) -> list[float] | None:
    """The exact log-likelihood at the estimates of every fit of a process, None where there are none."""
    fits = fits_of(record["said"] or {})
    if record["status"] != "ok" or not fits:
        return None
    estimates = json.dumps([{name: fit[name] for name in ("beta", "psi", "sigma")} for fit in fits])
    evaluated = timed([sys.executable, str(HERE / "referee.py"), str(case.table), estimates, str(NODES)], LIMIT)
    return evaluated["said"]["log_likelihood"] if evaluated["status"] == "ok" else None


def recorded(folder: Path) -> dict[str, Any] | None:
    """saemix's fits of theophylline with a constant error (the documented example, then the study of its seeds):
    settings, seconds, and estimates in the form of the others; None without the folder."""
    documented, spread = folder / "saemix" / "theo_nocov_constant.json", folder / "saemix" / "seed_spread.json"
    if not documented.exists() or not spread.exists():
        return None
    example = json.loads(documented.read_text())
    others = [run for run in json.loads(spread.read_text()) if run["case"] == example["case"]]
    order, places = ("ka", "CL", "V"), (0, 2, 1)  # saemix's parameters are ka, V, CL

    def fit(run: dict[str, Any]) -> dict[str, Any]:
        return {
            "beta": [math.log(run["fixed_effects"][name]) for name in order],
            "psi": [[run["omega"][i][j] for j in places] for i in places],
            "sigma": run["residual"]["a"],
            "log_likelihood": -run["m2ll"]["importance_sampling"] / 2,
            "seconds": run["seconds"],
        }

    content = {"program": example["package"], "r": example["R"], "chains": example["nb_chains_used"]}
    return content | {"iterations": sum(example["nbiter"]), "fits": [fit(run) for run in (example, *others)]}


def note(results: Record, case: Case, run: Run, repeat: int) -> dict[str, Any]:
    """Time a process, add its row to the results and print it."""
    record = timed(run.command, LIMIT, run.environment)
    labels = {"case": case.name, "groups": case.groups, "psi": case.psi, "chains": chains(case.groups)}
    labels |= {"program": run.program, "kind": run.kind, "repeat": repeat}
    results.add(labels | record | {"referee": referee_values(case, record)})
    message = f"{case.name} {case.groups} {case.psi} {run.program} {run.kind} #{repeat}: {record['status']}"
    print(f"{message}, {record['cpu']:.2f} CPU s, {record['wall']:.2f} wall s", flush=True)
    return record


def measure(case: Case, arguments: argparse.Namespace, folder: Path, results: Record) -> None:
    """The maximum of a case, saemix's fits where they are of this case, and all repeats of the programs."""
    note(results, case, our_run(case, "maximum", "once", request_of(case, "maximum"), folder / "shared-cache"), 0)
    saemix = results.content["recorded"]
    if saemix and (case.name, case.psi) == ("theophylline", "diagonal"):
        saemix["referee"] = referee_values(case, {"status": "ok", "said": saemix})
    several, slow = arguments.seeds or seeds(case.groups), set()
    for repeat in range(arguments.repeats):
        for run in (*our_runs(case, folder, several), *peer_runs(case, arguments.peers, several)):
            if repeat and run.program in slow:
                continue
            if note(results, case, run, repeat)["wall"] > SLOW:
                slow.add(run.program)


def cost(groups: int, arguments: argparse.Namespace, folder: Path, results: Record) -> None:
    """Two runs of different length, everything compiled."""
    case = simulated(folder, groups, "full", other=False)
    further = request_of(case, "cost", arguments.repeats, lengths=LENGTHS[groups])
    note(results, case, our_run(case, "cost", "two lengths", further, folder / "shared-cache"), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="theophylline and 100 subjects, diagonal Psi, once")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--structures", nargs="+", choices=STRUCTURES, default=list(STRUCTURES))
    parser.add_argument("--costs", type=int, nargs="*", choices=list(LENGTHS), default=list(LENGTHS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seeds", type=int, help="of the fits in one process; by default 10, fewer of large tables")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    add_folder(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.structures, arguments.repeats, arguments.costs = [100], ["diagonal"], 1, [100, 1000]
        arguments.seeds = 3
    absent = {peer: reason for peer in arguments.peers if (reason := commands.reason_missing(peer))}
    for peer, reason in absent.items():
        print(f"{peer} is left out: {reason}", flush=True)
    arguments.peers = [peer for peer in arguments.peers if peer not in absent]
    origin = about() | {"repeats": arguments.repeats, "iterations": ITERATIONS, "burn_in": BURN_IN, "nodes": NODES}
    results = Record(arguments.folder / "saem_fits.json", origin, missing=absent, recorded=recorded(REFERENCE))
    with tempfile.TemporaryDirectory(prefix="jaxnlme-benchmark-") as scratch:
        folder = Path(scratch)
        warming = commands.cache_environment(folder / "shared-cache")
        timed(
            [sys.executable, "-c", "import jaxnlme; jaxnlme.fit"], LIMIT, warming
        )  # byte-compiled modules: not recorded
        for groups in [12, *arguments.sizes]:
            for psi in arguments.structures:
                table = theophylline(folder, psi, from_zero=False) if groups == 12 else simulated(folder, groups, psi)
                measure(table, arguments, folder, results)
        for groups in arguments.costs:
            cost(groups, arguments, folder, results)
    results.content["refusals"] = refusals(absent, "nlmefitsa")
    results.content["about"]["load_after"] = os.getloadavg()
    results.write()
    print(f"wrote {results.path}")


if __name__ == "__main__":
    main()
