"""Simulated tables of linear.py, one file of doubles a column, and the models that are fitted to them.

A problem is written to a folder: `problem.json` (rows, columns, the model in every spelling that a program needs) and,
for each call, `N.column.f64` for the columns of call N, which differ in their seed and have the same shape.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

Table = dict[str, np.ndarray]
SEED = 20240


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model and its tables.

    **Fields:** `simulate`: a table from a seed; `formula`, as lme4 writes it; `fixed` and `slopes`, its fixed part and
    the covariates of its random slopes; `levels`: grouping factors, outermost first; `crossed`; `ar1`: residuals with
    AR(1) within units.
    """

    simulate: Callable[[int], Table]
    formula: str
    fixed: str
    slopes: tuple[str, ...]
    levels: tuple[str, ...]
    crossed: bool = False
    ar1: bool = False


def one_level(units: int, rows: int, correlation: float = 0.0) -> Callable[[int], Table]:
    """Random intercepts and slopes of `units` subjects with `rows` rows each, residuals with AR(1)."""

    def simulate(seed: int) -> Table:
        random = np.random.default_rng(seed)
        subject = np.repeat(np.arange(units), rows)
        x = np.tile(np.linspace(0.0, 1.0, rows), units) + 0.1 * random.standard_normal(units * rows)
        effects = random.multivariate_normal([0.0, 0.0], [[1.0, 0.3], [0.3, 0.5]], units)[subject]
        noise = random.standard_normal((units, rows))
        for k in range(1, rows):
            noise[:, k] = correlation * noise[:, k - 1] + np.sqrt(1.0 - correlation**2) * noise[:, k]
        y = 2.0 + x + effects[:, 0] + effects[:, 1] * x + 0.7 * noise.ravel()
        return {"g": subject, "x": x, "y": y}

    return simulate


def two_levels(names: tuple[str, str], counts: tuple[int, int], rows: int, slopes: bool) -> Callable[[int], Table]:
    """Random intercepts, and slopes, of units and of units inside them, whose labels are those of their place."""

    def simulate(seed: int) -> Table:
        random = np.random.default_rng(seed)
        n_outer, n_inner = counts[0], counts[0] * counts[1]
        outer, inner = np.repeat(np.arange(n_outer), counts[1] * rows), np.repeat(np.arange(n_inner), rows)
        x = np.tile(np.linspace(0.0, 1.0, rows), n_inner) + 0.1 * random.standard_normal(len(inner))
        y = 2.0 + random.standard_normal(n_outer)[outer] + 0.8 * random.standard_normal(n_inner)[inner]
        y = y + 0.5 * random.standard_normal(len(inner))
        if slopes:
            y = y + (1.0 + 0.6 * random.standard_normal(n_outer)[outer]) * x
            y = y + 0.5 * random.standard_normal(n_inner)[inner] * x
        return {names[0]: outer, names[1]: inner % counts[1], "x": x, "y": y}

    return simulate


def ratings(seed: int) -> Table:
    """Ratings of 1,128 lecturers by 2,972 students in 73,421 rows, as many as R's InstEval has; some lecturers are
    rated hundreds of times, others a few times, and every student and lecturer occurs."""
    random, students, lecturers, rows = np.random.default_rng(seed), 2972, 1128, 73_421
    share = random.gamma(0.8, size=lecturers) + 0.01
    student = np.concatenate([np.arange(students), random.integers(0, students, rows - students)])
    lecturer = np.concatenate([np.arange(lecturers), random.choice(lecturers, rows - lecturers, p=share / share.sum())])
    random.shuffle(student)
    y = 3.2 + 0.33 * random.standard_normal(students)[student] + 0.52 * random.standard_normal(lecturers)[lecturer]
    return {"s": student, "d": lecturer, "y": y + 1.18 * random.standard_normal(rows)}


SLOPES = ("y ~ x + (x | g)", "y ~ x", ("x",), ("g",))
PROBLEMS = {
    "subjects": Problem(one_level(5_000, 20), *SLOPES),
    "many subjects": Problem(one_level(50_000, 20), *SLOPES),
    "casks": Problem(
        two_levels(("batch", "cask"), (500, 20), 10, False),
        "y ~ 1 + (1 | batch/cask)", "y ~ 1", (), ("batch", "cask"),
    ),
    "wafers": Problem(
        two_levels(("wafer", "site"), (200, 20), 25, True),
        "y ~ x + (x | wafer/site)", "y ~ x", ("x",), ("wafer", "site"),
    ),
    "ratings": Problem(
        ratings, "y ~ 1 + (1 | s) + (1 | d)", "y ~ 1", (),
        ("s", "d"), crossed=True,
    ),
    "without AR(1)": Problem(one_level(5_000, 20, 0.4), *SLOPES),
    "AR(1)": Problem(one_level(5_000, 20, 0.4), *SLOPES, ar1=True),
}  # fmt: skip


def write(problem: Problem, folder: Path, calls: int) -> Path:
    """The folder of a problem with the tables of so many calls."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, str] = {}
    rows = 0
    for call in range(calls):
        for name, column in problem.simulate(SEED + call).items():
            columns[name] = "integer" if column.dtype.kind == "i" else "number"
            rows = len(column)
            column.astype("<f8").tofile(folder / f"{call}.{name}.f64")
    written = {key: value for key, value in dataclasses.asdict(problem).items() if key != "simulate"}
    (folder / "problem.json").write_text(json.dumps(written | {"columns": columns, "rows": rows, "calls": calls}))
    return folder


def read(folder: Path, call: int) -> tuple[dict, Table]:
    """The model and the table of a call; labels of units are integers."""
    model = json.loads((folder / "problem.json").read_text())
    table = {}
    for name, kind in model["columns"].items():
        column = np.fromfile(folder / f"{call}.{name}.f64", "<f8")
        table[name] = column.astype(np.int64) if kind == "integer" else column
    return model, table
