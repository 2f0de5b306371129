"""Timings on the accelerator that JAX finds, in float64, in one process.

    pip install -e . "jax[cuda12]"
    python benchmarks/gpu.py

Units and cost of an objective-and-gradient, the scaling axes, fits of simulated tables (our side only) and batches, as
in units.py, scaling.py, run.py and batches.py. Writes results/gpu-<device>.json after every row; where JAX finds no
accelerator the script ends with a message.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import batches
import jax
import numpy as np
import scaling
import simulate
import units
from cases import HERE, STRUCTURES
from evaluation import jn, oral_data, oral_model, timed_fit
from provenance import about_this_process
from results import Record, add_folder

Row = dict[str, Any]


def cost(small: bool) -> Iterator[Row]:
    """Rows of units.py."""
    for effects, shape in units.EFFECTS.items():
        for groups in (100, 200) if small else (1000, 10_000, 100_000, 1_000_000):
            measured = units.measure(groups, *shape, 3 if small else 20, "focei")
            yield {"effects": effects, "groups": groups} | measured


def growth(small: bool) -> Iterator[Row]:
    """Rows of scaling.py."""
    sizes = scaling.SMALL if small else scaling.SIZES | {"groups": [*scaling.SIZES["groups"], 300_000]}
    yield from scaling.rows(sizes, 100 if small else scaling.GROUPS, 3 if small else 10)


def fits(small: bool) -> Iterator[Row]:
    """Simulated tables, the second of two fits in the process, with the log-likelihood of referee.py."""
    for groups in (50,) if small else (100, 1000, 10_000, 100_000):
        for psi in STRUCTURES:
            model, data = oral_model(3, psi), oral_data(groups, psi=psi)
            measured = timed_fit(model, oral_data(groups, psi=psi, seed=1), data)
            yield {"groups": groups, "psi": psi} | measured | {"referee": referee(model, data, groups, psi)}


def referee(model: jn.NLMEModel, data: jn.GroupedData, groups: int, psi: str) -> float | None:
    """The referee's log-likelihood of a fit of `data`, which are simulate.py's, with all digits."""
    fit = jn.fit(model, data, "focei", progress=False, standard_errors=False)
    estimates = {
        "beta": [float(np.log(fit.values[name])) for name in simulate.TRUTH],
        "psi": np.asarray(fit.psi).tolist(),
        "sigma": fit.values["a"],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        simulate.write(path, simulate.simulate(groups, psi), decimals=15)
        command = [sys.executable, str(HERE / "referee.py"), str(path), json.dumps(estimates)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["log_likelihood"] if done.returncode == 0 else None


def many(small: bool) -> Iterator[Row]:
    """Rows of batches.py."""
    for psi in STRUCTURES[:1] if small else STRUCTURES:
        yield from batches.measure(psi, 1 if small else 3, (10, 4) if small else (500, 64))


def saem(small: bool) -> Iterator[Row]:
    """SAEM on simulated tables, the second of two runs in the process: seconds of the fit and of an iteration, and the
    largest Monte Carlo error of an estimate in its standard errors; also with many chains where groups are few."""
    sizes = ((50, 2), (50, 4)) if small else ((12, 9), (12, 900), (1000, 1), (1000, 100), (10_000, 1), (100_000, 1))
    for groups, chains in sizes:
        model, data = oral_model(3, "diagonal"), oral_data(groups, psi="diagonal")
        method = jn.SAEM(chains=chains, likelihood="none")
        first = jn.fit(model, oral_data(groups, psi="diagonal", seed=1), method, progress=False)
        began = time.perf_counter()
        fit = jn.fit(model, data, method, progress=False)
        wall = time.perf_counter() - began
        iterations = fit.timings["iterations"]
        yield {
            "groups": groups,
            "chains": chains,
            "fit_wall": wall,
            "first_fit_wall": first.timings["total"],
            "iterations": iterations,
            "milliseconds_per_iteration": 1e3 * fit.timings["run"] / iterations,
            "monte_carlo_share": largest_error(fit),
            "converged": bool(fit.converged),
        }


def largest_error(fit: jn.Fit) -> float | None:
    """The largest Monte Carlo error of an estimate, in its standard errors."""
    errors = None if fit.sampling is None else fit.sampling.errors
    return None if errors is None else float((errors["monte carlo se"] / errors["se"]).max())


STAGES = {"units": cost, "fits": fits, "scaling": growth, "batches": many, "saem": saem}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a check of the script")
    parser.add_argument(
        "--allow-cpu", action="store_true", help="run without an accelerator: for a check of the script"
    )
    add_folder(parser)
    options = parser.parse_args()
    device = jax.devices()[0]
    if device.platform == "cpu" and not options.allow_cpu:
        sys.exit(
            "JAX finds no GPU here, only the CPU: nothing was measured. With an NVIDIA GPU: pip install 'jax[cuda12]'; "
            "for the CPU there is `python benchmarks/all.py`."
        )
    name = re.sub(r"[^a-z0-9]+", "-", device.device_kind.lower()).strip("-")
    results = Record(options.folder / f"gpu-{name}.json", about_this_process())
    for stage in options.only:
        for row in STAGES[stage](options.small):
            results.add({"stage": stage} | row)
            print(stage, json.dumps({k: v for k, v in row.items() if not isinstance(v, dict)}), flush=True)
    print(f"wrote {results.path}")


if __name__ == "__main__":
    main()
