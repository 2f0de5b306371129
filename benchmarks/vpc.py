"""Seconds of a visual predictive check: simulation and statistics apart, and the numerical check.

    python benchmarks/vpc.py [--subjects 1000] [--replicates 1000] [--repeats 3]

The table is that of `simulate.py` (11 samples a subject) with sampling times spread by 10%, fitted by FO; the first
call of a check compiles the simulation, which is timed apart. Written to results/vpc.json and printed. It fails where a
check takes 10 seconds or more at the default size.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from provenance import about_this_process  # noqa: E402
from results import Record, add_folder  # noqa: E402
from simulate import simulate  # noqa: E402

import jaxnlme as jn  # noqa: E402

LIMIT = 10.0  # seconds


def one_compartment(phi, x):
    ke = phi.cl / phi.vol
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def fitted(subjects: int) -> jn.Fit:
    """The fit that is checked."""
    table = pd.DataFrame(simulate(subjects, "diagonal"), columns=["Subject", "Time", "Dose", "conc"])
    table["Time"] *= np.random.default_rng(1).uniform(0.9, 1.1, len(table))
    data = jn.GroupedData.from_frame(table, "Subject", "conc", ["Time", "Dose"])
    parameters = [jn.Parameter(name, start, "log", random=True) for name, start in
                  (("ka", 1.6), ("cl", 2.8), ("vol", 32.0))]  # fmt: skip
    return jn.fit(jn.NLMEModel(one_compartment, parameters), data, "fo", standard_errors=False)


def seconds(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Wall seconds of the first call, and the least of `repeats` further ones."""
    taken = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return taken[0], min(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    add_folder(parser)
    options = parser.parse_args()
    fit, count = fitted(options.subjects), options.replicates
    size = {"subjects": options.subjects, "rows": fit.data.n_rows, "replicates": count}
    record = Record(options.folder / "vpc.json", about_this_process(), **size)
    frame, simulated = fit.data.to_frame(), fit.simulate(count, 0)
    names = {"x": "Time", "y": "conc", "group": "Subject"}
    cases = {
        "fit.vpc, simulation and statistics": lambda: fit.vpc(count),
        "fit.vpc, prediction-corrected": lambda: fit.vpc(count, prediction_corrected=True),
        "fit.vpc, prediction- and variance-corrected": lambda: fit.vpc(
            count, prediction_corrected=True, variance_corrected=True
        ),
        "fit.npc": lambda: fit.npc(count),
        "jn.vpc, statistics only": lambda: jn.vpc(frame, simulated, **names),
    }
    slow = []
    for name, call in cases.items():
        first, least = seconds(call, options.repeats)
        record.add({"case": name, "seconds_first": round(first, 3), "seconds": round(least, 3)})
        print(f"{name:<45} first {first:7.2f} s, then {least:7.2f} s", flush=True)
        slow += [name] if least >= LIMIT else []
    if slow and options.subjects <= 1000 and count <= 1000:
        sys.exit(f"{LIMIT:g} seconds or more: {', '.join(slow)}")


if __name__ == "__main__":
    main()
