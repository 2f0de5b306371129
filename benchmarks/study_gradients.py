"""Exact gradients against differences for every error model, covariance and likelihood approximation: all combinations,
of which the tests take pairs.

    python benchmarks/study_gradients.py [--limit N] [--approximations FOCEI Laplace]

Writes one row a combination to results/gradients.csv, replacing earlier rows of the approximations named: the largest
difference between the exact gradient and a central difference of fourth order, relative to the largest entry of the
gradient, over random parameter vectors; prints the largest of each approximation.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
jax.config.update("jax_enable_x64", True)

from jaxnlme.binding.bind import bind  # noqa: E402
from tests.problems import (  # noqa: E402
    APPROXIMATIONS,
    COVARIANCES,
    ERRORS,
    decay_data,
    decay_model,
    differences,
    slopes,
    stencil,
)

COLUMNS = ("approximation", "covariance", "error", "relative_error", "seconds")
STEP = 1e-3
POINTS = 3


def worst(error: str, covariance: str, approximation: str) -> float:
    """The largest relative error of the gradient over `POINTS` random parameter vectors."""
    spec, psi = COVARIANCES[covariance]
    binding = bind(decay_model(spec, ERRORS[error]), decay_data().pad_to(9))
    template = binding.params(psi=0.3 * psi)
    centre = np.concatenate([template.beta, template.covariance, template.error])
    rng = np.random.default_rng(0)
    errors_at_points = []
    for _ in range(POINTS):
        point = centre + rng.uniform(-0.15, 0.15, len(centre))
        value, gradient = slopes(binding.problem, APPROXIMATIONS[approximation], template, stencil(point, STEP))
        expected = differences(np.asarray(value), len(point), STEP)
        errors_at_points.append(np.max(np.abs(np.asarray(gradient)[0] - expected)) / np.max(np.abs(expected)))
    return float(np.max(errors_at_points))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=None, help="stop after so many combinations")
    parser.add_argument("--approximations", nargs="+", default=list(APPROXIMATIONS), choices=list(APPROXIMATIONS))
    options = parser.parse_args()
    combinations = list(itertools.product(options.approximations, COVARIANCES, ERRORS))[: options.limit]
    target = Path(__file__).resolve().parent / "results" / "gradients.csv"
    target.parent.mkdir(exist_ok=True)
    kept_rows = []
    if target.exists():
        with target.open(newline="") as file:
            rows = [{"approximation": row.get("rung")} | row for row in csv.DictReader(file)]  # the column's old name
            kept_rows = [row for row in rows if row["approximation"] not in options.approximations]
    errors: dict[str, float] = {}
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([row[name] for name in COLUMNS] for row in kept_rows)
        for approximation, covariance, error in combinations:
            started = time.perf_counter()
            value = worst(error, covariance, approximation)
            writer.writerow([approximation, covariance, error, f"{value:.2e}", f"{time.perf_counter() - started:.1f}"])
            file.flush()
            errors[approximation] = max(errors.get(approximation, 0.0), value) if np.isfinite(value) else np.nan
    for approximation, value in errors.items():
        print(f"{approximation:8s} largest relative error {value:.1e}")


if __name__ == "__main__":
    main()
