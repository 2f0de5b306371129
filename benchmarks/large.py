"""100,000 simulated subjects with two random effects: whole processes with an empty and with a warm compilation cache.

    python benchmarks/large.py [--groups 100000] [--effects 2]

Each process reads the table from a CSV file (11 rows a subject), fits it by FOCEI with standard errors and prints a
summary; recorded are seconds by step, peak memory and the log-likelihood of referee.py at the estimates.
Writes results/large.json. Standard library only.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import commands
from cases import simulated
from processes import timed
from provenance import about
from results import Record, add_folder
from run import JAX_LIMIT, Referee


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[100_000])
    parser.add_argument("--effects", type=int, choices=(1, 2, 3), default=2)
    parser.add_argument("--psi", choices=("diagonal", "full"), default="diagonal")
    add_folder(parser)
    arguments = parser.parse_args()
    results, referee = Record(arguments.folder / "large.json", about()), Referee()
    with tempfile.TemporaryDirectory(prefix="jaxnlme-benchmark-") as scratch:
        for groups in arguments.groups:
            case = simulated(Path(scratch), groups, arguments.psi, arguments.effects, other=False)
            environment = commands.cache_environment(Path(scratch) / f"cache-{groups}")
            for cache in ("empty", "warm"):
                record = timed(commands.fit_command(case), JAX_LIMIT, environment)
                labels = {"groups": groups, "effects": arguments.effects, "psi": arguments.psi, "cache": cache}
                results.add(labels | record | {"referee": referee(case, record)})
                message = f"{groups} groups, {arguments.effects} effects, {cache} cache: {record['status']}"
                print(f"{message}, {record['wall']:.1f} wall s, {record['peak_rss_mb']:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
