"""Fits of simulated dose-response data in the design of Plan et al. (2012) beside saemix 3.1's: by FOCEI, Laplace, AGQ
and SAEM, from true and from wrong starts.

    python benchmarks/trust_tables/plan2012.py [--designs hillRich ...] [--methods saemix focei laplace agq saem]
        [--sets 1-100] [--starts true wrong] [--most-nodes 12] [--batch 10] [--again | --referee | --table]

Every row (a design, method, start and set) goes to results/trust_plan.csv at once, and one that is there is not
computed again, unless `--again` asks for it. Its log-likelihood is that of `plan_referee.py` at the estimates. AGQ has
nodes around posterior moments: 6 a dimension at first, doubled, with another fit from the estimates, until the
log-likelihood at the estimates moves by less than 0.05 with twice as many, or `--most-nodes` is reached. SAEM fits
`--batch` sets at a time. `--referee` only computes the referee's values of the rows on file anew; `--table` only prints
the section.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from provenance import about_this_process  # noqa: E402
from results import FOLDER, add_folder  # noqa: E402

import jaxnlme as jn  # noqa: E402
from jaxnlme.precision import x64  # noqa: E402
from trust_tables import plan_design as design_of  # noqa: E402
from trust_tables import plan_summary  # noqa: E402
from trust_tables.plan_referee import DoseResponseLikelihood  # noqa: E402

METHODS = ("saemix", "focei", "laplace", "agq", "saem")  # saemix's estimates are on file: only the referee is to run
FILE = "trust_plan.csv"
FIELDS = ("design", "method", "start", "set", "converged", "seconds", "nodes", "value", "referee", "reason")
FIRST_NODES, STABLE = 6, 0.05


def sets(text: str) -> list[int]:
    """The numbers of "1-20" or "7". **Raises:** ArgumentTypeError for others than 1 to `SETS`."""
    first, _, last = text.partition("-")
    if not all(part.isdecimal() for part in (first, last or first)):
        raise argparse.ArgumentTypeError(f"expected numbers of sets such as 7 or 1-20; received {text!r}")
    numbers = list(range(int(first), int(last or first) + 1))
    if not numbers or numbers[0] < 1 or numbers[-1] > design_of.SETS:
        raise argparse.ArgumentTypeError(f"expected sets from 1 to {design_of.SETS}, in order; received {text!r}")
    return numbers


def parser() -> argparse.ArgumentParser:
    """The command line; its defaults are the whole study."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--designs", nargs="+", choices=design_of.DESIGNS, default=list(design_of.DESIGNS))
    out.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    out.add_argument("--sets", type=sets, default=sets(f"1-{design_of.SETS}"), help="such as 1-20")
    out.add_argument("--starts", nargs="+", choices=design_of.STARTS, default=list(design_of.STARTS))
    out.add_argument("--most-nodes", type=int, default=12, help="of AGQ, a dimension")
    out.add_argument("--batch", type=int, default=10, help="sets that SAEM fits at a time")
    out.add_argument("--seconds", type=float, default=math.inf, help="stop after these")
    out.add_argument("--again", action="store_true", help="the rows asked for are made anew")
    out.add_argument("--referee", action="store_true", help="compute the referee's values of the rows asked for anew")
    out.add_argument("--table", action="store_true", help="print the section from the results on file")
    add_folder(out)
    return out


def with_defaults(of: argparse.ArgumentParser, options: argparse.Namespace | None) -> argparse.Namespace:
    """`options` with the defaults of the parser `of` for those it lacks: `benchmarks/trust.py` has fewer."""
    return argparse.Namespace(**(vars(of.parse_args([])) | ({} if options is None else vars(options))))


class Rows:
    """The results file: rows of text by (design, method, start, set), appended as they are computed."""

    def __init__(self, path: Path):
        self.path = path
        self.known = {plan_summary.key(row) for row in plan_summary.read(path)} if path.exists() else set()
        self._described = False

    def drop(self, asked: set[tuple[str, str, str, int]]) -> None:
        """Leave out the rows on file that are asked for; the others stay."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            fields, rows = reader.fieldnames or (), [row for row in reader if plan_summary.key(row) not in asked]
        replace(self.path, fields, rows)
        self.known -= asked

    def add(self, row: dict[str, Any]) -> None:
        """One more row, on disk at once."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, (*FIELDS, *design_of.COLUMNS), restval="", lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.8g}" if isinstance(v, float) else v for k, v in row.items()})
        if not self._described:
            describe(self.path)
            self._described = True
        self.known.add(plan_summary.key(row))
        print(*(f"{row.get(name)!s:.70}" for name in FIELDS), flush=True)


def describe(path: Path) -> None:
    """Write machine, day and versions beside the table."""
    about = {"about": about_this_process() | {"dtype": "float64"}}
    path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")


def run(options: argparse.Namespace | None = None) -> None:
    """Compute the rows that `options` (of `parser`; None: its defaults) ask for and the results file lacks."""
    options = with_defaults(parser(), options)
    folder, stop = options.folder, time.monotonic() + options.seconds
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    if options.referee:
        assess(folder / FILE, options)
        return
    rows = Rows(folder / FILE)
    if options.again:
        rows.drop(set(itertools.product(options.designs, options.methods, options.starts, options.sets)))
    for design in options.designs:
        for method in options.methods:
            for start in options.starts:
                missing = [k for k in options.sets if (design, method, start, k) not in rows.known]
                for number, row in fitted(design, method, start, missing, options):
                    head = {"design": design, "method": method, "start": start, "set": number}
                    rows.add(head | row | {"referee": by_referee(design, number, row)})
                    if time.monotonic() > stop:
                        return


def by_referee(design: str, number: int, row: Mapping[str, Any]) -> float:
    """The referee's log-likelihood of a set at the estimates of a row; NaN without estimates."""
    values = {name: float(row[name] or "nan") for name in design_of.names(design)}
    if not np.isfinite(list(values.values())).all():
        return float("nan")
    return DoseResponseLikelihood(*design_of.arrays(design, number)).log_likelihood(values)


def assess(path: Path, options: argparse.Namespace) -> None:
    """Compute the referee's values of the rows on file that `options` ask for anew; all on disk at once, at the end."""
    asked = set(itertools.product(options.designs, options.methods, options.starts, options.sets))
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        fields, rows = reader.fieldnames or (), list(reader)
    for row in rows:
        if plan_summary.key(row) in asked:
            value = by_referee(row["design"], int(row["set"]), row)
            print(*plan_summary.key(row), row["referee"], f"{value:.8g}", flush=True)
            row["referee"] = f"{value:.8g}"
    replace(path, fields, rows)
    describe(path)


def replace(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table in the place of the one on file, whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def fitted(
    design: str, method: str, start: str, numbers: list[int], options: argparse.Namespace
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The sets `numbers` with what is known of their fits: all but the referee's value."""
    if method == "saemix":
        table = design_of.saemix(design, start)
        yield from ((k, {name: float(value) for name, value in table.loc[k].items()}) for k in numbers)
    elif method == "saem":
        for at in range(0, len(numbers), options.batch):
            yield from _saem(design, start, numbers[at : at + options.batch])
    else:
        for number in numbers:
            yield number, _by_likelihood(design, method, start, number, options.most_nodes)


def quadrature(nodes: int) -> jn.LikelihoodApproximation:
    """AGQ with its nodes around posterior moments."""
    return jn.AGQ(nodes, centre="moments")


def _by_likelihood(design: str, method: str, start: str, number: int, most_nodes: int) -> dict[str, Any]:
    """One fit by FOCEI, Laplace or AGQ."""
    began, data, model = time.process_time(), design_of.data(design, number), design_of.model(design)
    params, nodes, problem = design_of.start(design, start), "", ""
    if method == "agq":
        nodes = FIRST_NODES
        while True:
            fit = jn.fit(model, data, quadrature(nodes), start=params, progress=False)
            with x64():
                change = float(jn.log_likelihood(model, fit.params, data, quadrature(2 * nodes))) - fit.log_likelihood
            problem = f"with {2 * nodes} nodes the log-likelihood moves by {change:.2g}; "
            if abs(change) < STABLE or 2 * nodes > most_nodes:
                break
            params, nodes = fit.params, 2 * nodes
        stable = abs(change) < STABLE
    else:
        fit, stable = jn.fit(model, data, method, start=params, progress=False), True
    seconds = time.process_time() - began
    row = _row(fit, design, seconds) | {"nodes": nodes}
    return row if stable else row | {"converged": 0, "reason": problem + row["reason"]}


def _saem(design: str, start: str, numbers: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Fits of consecutive sets by SAEM, each with its own number as seed; seconds are the mean."""
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        for number in numbers:
            yield from _saem(design, start, [number])
        return
    began, data = time.process_time(), [design_of.data(design, number) for number in numbers]
    if any(not np.array_equal(one.x["dose"], data[0].x["dose"]) for one in data):
        fits = [
            jn.fit(design_of.model(design), one, jn.SAEM(seed=k), start=design_of.start(design, start), progress=False)
            for k, one in zip(numbers, data, strict=True)
        ]
    else:
        responses = np.stack([one.y for one in data])
        many = jn.fit_many(
            design_of.model(design), data[0], responses, jn.SAEM(seed=numbers[0]),
            start=design_of.start(design, start), progress=False,
        )  # fmt: skip
        fits = many.fits
    seconds = (time.process_time() - began) / len(numbers)
    yield from ((k, _row(fit, design, seconds)) for k, fit in zip(numbers, fits, strict=True))


def _row(fit: jn.Fit, design: str, seconds: float) -> dict[str, Any]:
    """The columns of a fit."""
    reason = "" if fit.converged else " ".join(str(fit.status).split()).replace("NOT CONVERGED. ", "")[:160]
    row: dict[str, Any] = {"converged": int(fit.converged), "seconds": float(seconds), "reason": reason}
    return row | {"value": float(fit.log_likelihood)} | design_of.estimates(fit, design)


def table(folder: Path = FOLDER) -> list[str]:
    """The section of the benchmark page."""
    return plan_summary.section(plan_summary.read(folder / FILE)) if (folder / FILE).exists() else []


def small_table(folder: Path = FOLDER) -> list[str]:
    """The table of the README."""
    return plan_summary.small(plan_summary.read(folder / FILE)) if (folder / FILE).exists() else []


def run_and_print(
    options: argparse.Namespace, run: Callable[[argparse.Namespace], None], table: Callable[[Path], list[str]]
) -> None:
    """Run a study, unless only its section is asked for, and print the section."""
    if not options.table:
        run(options)
    print("\n".join(table(options.folder)))


if __name__ == "__main__":
    run_and_print(parser().parse_args(), run, table)
