"""Many small fits in one batch against one large fit of as many groups: theophylline, FOCEI.

    python benchmarks/batches.py [--repeats 3] [--fits 500 64]

500 bootstrap fits of 12 groups against one fit of 6,000 groups (500 copies of the table), and 64 starts against one fit
of 768 groups, in one process, compiling apart (second and later calls). The large fit does all that `jn.fit` does,
standard errors included; the bootstrap only the refits. Writes results/batches.json and prints a table: process time
(CPU seconds), since the machine may be shared, and wall time; medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from provenance import about_this_process  # noqa: E402
from results import Record, add_folder  # noqa: E402

import jaxnlme as jn  # noqa: E402
from jaxnlme.frontends.cli.demo import theophylline  # noqa: E402

TARGET = 4.0


def stacked(data: jn.GroupedData, copies: int) -> jn.GroupedData:
    """The table `copies` times, with labels of their own."""
    frame = data.to_frame()
    parts = [frame.assign(Subject=frame["Subject"].astype(str) + f" of copy {k}") for k in range(copies)]
    return jn.GroupedData.from_frame(pd.concat(parts), "Subject", "conc", ["Time", "Dose"], ["Wt"])


def timed(run: Callable[[], Any], repeats: int) -> tuple[dict[str, Any], Any]:
    """Seconds of the first call and medians of `repeats` later ones, and what the last one returned."""
    started = time.perf_counter()
    result = run()
    first = time.perf_counter() - started
    cpu, wall = [], []
    for _ in range(repeats):
        began, spent = time.perf_counter(), time.process_time()
        result = run()
        cpu.append(time.process_time() - spent)
        wall.append(time.perf_counter() - began)
    return {
        "first_s": first,
        "cpu_s": statistics.median(cpu),
        "wall_s": statistics.median(wall),
        "cpu_all": cpu,
    }, result


def measure(covariance: str, repeats: int, fits: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """The rows of one structure of Psi: `fits` of the bootstrap and of the starts."""
    base, data = theophylline()
    model = jn.NLMEModel(base.structure, base.parameters, covariance=covariance, error="constant")
    fit = jn.fit(model, data, "focei").throw()
    for name, batch, n in (
        ("bootstrap", lambda: fit.bootstrap(fits[0], progress=False), fits[0]),
        ("multistart", lambda: fit.multistart(fits[1], progress=False), fits[1]),
    ):
        batch_seconds, refits = timed(batch, repeats)
        large = stacked(data, n)
        one_fit, large_fit = timed(lambda large=large: jn.fit(model, large, "focei", progress=False), repeats)
        status = refits.replicates["status"] if name == "bootstrap" else refits.starts["status"]
        yield {
            "batch": name,
            "psi": covariance,
            "fits": n,
            "groups": large.n_groups,
            "converged": int((status == "converged").sum()),
            "large_converged": bool(large_fit.converged),
            # Equal likelihoods are compared: n times that of the table.
            "large_log_likelihood": large_fit.log_likelihood,
            "expected_log_likelihood": n * fit.log_likelihood,
            "many": batch_seconds,
            "one": one_fit,
            "ratio_cpu": batch_seconds["cpu_s"] / one_fit["cpu_s"],
            "ratio_wall": batch_seconds["wall_s"] / one_fit["wall_s"],
        }


def as_line(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    return (
        f"{row['batch']:12s}{row['psi']:10s}{row['fits']:6d}{row['converged']:7d}{row['many']['cpu_s']:9.2f}"
        f"{row['groups']:8d}{row['one']['cpu_s']:9.2f}{row['ratio_cpu']:7.2f}{row['ratio_wall']:7.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fits", type=int, nargs=2, default=[500, 64], metavar=("BOOTSTRAP", "STARTS"))
    add_folder(parser)
    options = parser.parse_args()
    about = about_this_process() | {"dtype": "float64", "repeats": options.repeats}
    results = Record(options.folder / "batches.json", about, target_ratio=TARGET)
    print("batch       psi         fits  ended    CPU s  groups    CPU s  ratio   wall")
    for covariance in ("diagonal", "full"):
        for row in measure(covariance, options.repeats, tuple(options.fits)):
            results.add(row)
            print(as_line(row), flush=True)


if __name__ == "__main__":
    main()
