"""How far the answers of this package and of others can be trusted: four tables.

    python benchmarks/trust.py [--table honesty accuracy plan coverage] [--programs ...] [--cases ...]
    python benchmarks/trust.py --show [--table ...]
    python benchmarks/trust.py --rejudge --table honesty accuracy

- honesty: hard fits with data fixed by seed; how often each program says 'converged' and is right, or wrong;
- accuracy: distance in log-likelihood of each program's estimates from the exact maximum on published tables;
- plan: simulated data in the design of Plan et al. (2012), 4 x 100 sets of saemix's simulation suite, each method from
  true and from wrong starts;
- coverage: intervals of beta, psi and sigma on two of these designs.

Every row is written at once to results/trust_TABLE.json (plan: .csv), and a run goes on with the rows that are not on
file; `--again` makes those asked for anew. `--rejudge` judges the answers on file by the present rules, with `--again`
from maxima that the referee computes anew. Prints each table and the minutes of wall time of all its runs, those with
`--again` included. `python benchmarks/report.py` puts the tables on the benchmark page and
the small ones into the README. The programs beside ours: R (Rscript) with nlme and lme4, and the Python that
JAXNLME_PEERS_PYTHON names with pynlme, nextstat, glmm, mixedlm and statsmodels; what is missing is named and left out.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import trust_tables  # noqa: E402
from results import add_folder  # noqa: E402

MINUTES = "trust_minutes.json"
OF_PROGRAMS = ("honesty", "accuracy")
"""The tables whose rows are answers of programs."""


def add_minutes(folder: Path, table: str, minutes: float) -> dict[str, float]:
    """The minutes of all runs so far by table, with those of this run, on file."""
    path = folder / MINUTES
    spent = json.loads(path.read_text()) if path.exists() else {}
    spent[table] = round(spent.get(table, 0.0) + minutes, 2)
    path.write_text(json.dumps(spent, indent=1) + "\n")
    return spent


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; an option that a table of it does not have is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+", choices=list(trust_tables.TABLES), default=list(trust_tables.TABLES))
    parser.add_argument("--programs", nargs="+", help="programs whose name contains one of these")
    parser.add_argument("--skip", nargs="+", default=[], help="programs of exactly these names are left for later")
    parser.add_argument("--cases", nargs="+", help="cases whose name contains one of these")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop each table after these")
    parser.add_argument("--again", action="store_true", help="rows on file are made anew")
    parser.add_argument("--rejudge", action="store_true", help="judge the answers on file anew, and ask no program")
    parser.add_argument("--show", action="store_true", help="print the tables from the rows on file")
    add_folder(parser)
    options = parser.parse_args(arguments)
    of_programs = {name: getattr(options, name) for name in ("programs", "skip", "cases", "rejudge")}
    others = [name for name in options.table if name not in OF_PROGRAMS]
    for name, given in of_programs.items():
        if given and others:
            parser.error(f"--{name} belongs to honesty and accuracy, not {' and '.join(others)}; add --table honesty")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; a run goes on with the rows that are not on file"))
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.table:
        table = trust_tables.module(name)
        if options.rejudge:
            table.rejudge(options)
        elif not options.show:
            began = time.monotonic()
            try:
                table.run(options)
            finally:
                add_minutes(options.folder, name, (time.monotonic() - began) / 60)
        print("\n".join(table.table(options.folder)), flush=True)
        path = options.folder / MINUTES
        if path.exists():
            print(f"\n{name}: {json.loads(path.read_text()).get(name, 0.0):.1f} minutes in all\n", flush=True)


if __name__ == "__main__":
    main()
