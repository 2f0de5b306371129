"""Growth of time with groups, observations a group, correlated random effects, and fits in a batch.

    python benchmarks/scaling.py [--small] [--repeats 10]

FOCEI on simulated data with a full Psi. Every row holds the seconds of one objective-and-gradient with warm modes and
of a fit with everything compiled (the second of two in the process, of other data). Groups and observations: the
one-compartment model with three effects; effects: a sum of two exponentials with four parameters, of which one to four
vary. Batches: bootstrap fits of theophylline. One axis moves at a time. Writes results/scaling.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from evaluation import Evaluations, jn, oral_data, oral_model, timed_fit
from provenance import about_this_process
from results import Record, add_folder

from jaxnlme.frontends.cli.demo import theophylline

TRUTH = {"a": 8.0, "alpha": 1.2, "b": 4.0, "beta": 0.12}  # mg/l, 1/h
SDS = np.array([0.3, 0.25, 0.3, 0.2])  # of their logarithms
CORRELATION, SIGMA = 0.3, 0.2
TIMES = np.geomspace(0.1, 24.0, 12)
SIZES = {
    "groups": [100, 1000, 10_000, 30_000],
    "observations": [4, 11, 30, 100],
    "effects": [1, 2, 3, 4],
    "batch": [10, 50, 200, 500],
}
SMALL = {"groups": [50, 100], "observations": [4, 11], "effects": [1, 2], "batch": [5, 10]}
GROUPS = 1000  # where another axis moves


def two_exponentials(phi, x):
    return phi.a * jnp.exp(-phi.alpha * x.Time) + phi.b * jnp.exp(-phi.beta * x.Time)


def intravenous(groups: int, effects: int, seed: int) -> tuple[jn.NLMEModel, jn.GroupedData]:
    """A model with `effects` correlated effects, and data simulated from it."""
    rng = np.random.default_rng([seed, effects])
    correlations = np.full((4, 4), CORRELATION) + (1 - CORRELATION) * np.eye(4)
    b = rng.standard_normal((groups, 4)) @ np.linalg.cholesky(SDS[:, None] * correlations * SDS).T
    b[:, effects:] = 0.0
    a, alpha, low, beta = np.exp(np.log(list(TRUTH.values())) + b).T[:, :, None]
    y = a * np.exp(-alpha * TIMES) + low * np.exp(-beta * TIMES) + SIGMA * rng.standard_normal((groups, TIMES.size))
    labels, time_of = np.repeat(np.arange(groups), TIMES.size), np.tile(TIMES, groups)
    parameters = [
        jn.Parameter(name, value, transform="log", random=k < effects) for k, (name, value) in enumerate(TRUTH.items())
    ]
    model = jn.NLMEModel(two_exponentials, parameters, covariance="full")
    return model, jn.GroupedData.from_arrays(y.ravel(), labels, x={"Time": time_of})


def point(axis: str, value: int, groups: int, repeats: int) -> dict[str, Any]:
    """One row of an axis that is not a batch."""
    if axis == "effects":
        (model, first), (_, second) = (intravenous(groups, value, seed) for seed in (1, 2))
    else:
        model = oral_model(3, "full")
        groups = value if axis == "groups" else groups
        rows = value if axis == "observations" else 11
        first, second = (oral_data(groups, rows=rows, seed=seed) for seed in (1, 2))
    wall, cpu = Evaluations(model, first).objective(repeats)
    return {"objective_wall": wall, "objective_cpu": cpu} | timed_fit(model, first, second)


def batch(fits: int) -> dict[str, Any]:
    """So many bootstrap fits of theophylline at once, the second time."""
    fit = jn.fit(*theophylline(), "focei", progress=False)
    fit.bootstrap(fits, progress=False)
    wall, cpu = time.perf_counter(), time.process_time()
    measured = fit.bootstrap(fits, progress=False)
    return {
        "fit_wall": time.perf_counter() - wall,
        "fit_cpu": time.process_time() - cpu,
        "converged": int((measured.replicates["status"] == "converged").sum()),
    }


def rows(sizes: dict[str, list[int]], groups: int, repeats: int) -> Iterator[dict[str, Any]]:
    """All rows, one at a time."""
    for axis, values in sizes.items():
        for value in values:
            measured = batch(value) if axis == "batch" else point(axis, value, groups, repeats)
            yield {"axis": axis, "value": value} | measured


def as_line(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    objective = f"{1e3 * row['objective_wall']:9.2f} ms an objective, " if "objective_wall" in row else ""
    return f"{row['axis']:13s}{row['value']:7d}: {objective}{row['fit_wall']:8.3f} s a fit (CPU {row['fit_cpu']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two small points an axis, for a check")
    parser.add_argument("--axes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=10)
    add_folder(parser)
    options = parser.parse_args()
    sizes = {axis: (SMALL if options.small else SIZES)[axis] for axis in options.axes}
    groups = 100 if options.small else GROUPS
    results = Record(options.folder / "scaling.json", about_this_process(), groups=groups)
    for row in rows(sizes, groups, options.repeats):
        results.add(row)
        print(as_line(row), flush=True)


if __name__ == "__main__":
    main()
