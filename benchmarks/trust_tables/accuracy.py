"""The table of accuracy: how far each program's estimates are below the exact maximum on published tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from reporting.cells import table as markdown
from results import FOLDER

from trust_tables import asking
from trust_tables.problem import Estimates, HardFit
from trust_tables.programs import PROGRAMS
from trust_tables.tables import published

FILE = "trust_accuracy.json"
Columns = dict[str, np.ndarray]


def _log(*values: float) -> tuple[float, ...]:
    return tuple(map(float, np.log(values)))


def _theophylline(table: Columns, weighted: bool) -> Columns:
    dose = table["Dose"] * table["Wt"] if weighted else table["Dose"]
    return {"g": table["Subject"], "y": table["conc"], "t": table["Time"], "dose": dose}


def _rapi(table: Columns) -> Columns:
    men = (table["gender"] == "Men").astype(float)
    return {"g": table["id"], "y": table["rapi"], "t": table["time"], "u": men, "w": men * table["time"]}


def _toenail(table: Columns) -> Columns:
    return {"g": table["id"], "y": table["y"], "t": table["time"], "w": table["treatment"] * table["time"]}


def _renamed(table: Columns, g: str, y: str, t: str) -> Columns:
    return {"g": table[g], "y": table[y], "t": table[t]}


_THEOPHYLLINE: dict[str, Any] = {
    "curve": "oral", "random": ("ka", "cl", "vol"), "sds": (0.5, 0.5, 0.5), "sigma": 1.0,
}  # fmt: skip
# name: (table, its columns, the fields of the fit); programs start at `beta`, `sds`, `sigma`.
PUBLISHED: dict[str, tuple[str, Callable[[Columns], Columns], dict[str, Any]]] = {
    "theophylline, mg": (
        "Theoph", lambda table: _theophylline(table, True),
        _THEOPHYLLINE | {"beta": _log(1.0, 2.0, 20.0)},
    ),
    "theophylline, mg/kg": (
        "Theoph", lambda table: _theophylline(table, False),
        _THEOPHYLLINE | {"beta": _log(1.0, 0.03, 0.3)},
    ),
    "indomethacin": (
        "Indometh", lambda table: _renamed(table, "Subject", "conc", "time"),
        {"curve": "biexponential", "random": ("a1", "k1", "a2"), "beta": _log(2.0, 2.0, 0.5, 0.2),
         "sds": (0.3, 0.3, 0.3), "sigma": 0.1},
    ),
    "orange trees": (
        "Orange", lambda table: _renamed(table, "Tree", "circumference", "age"),
        {"curve": "logistic", "random": ("asym",), "beta": (170.0, 700.0, 350.0), "sds": (20.0,), "sigma": 10.0},
    ),
    "Loblolly": (
        "Loblolly", lambda table: _renamed(table, "Seed", "height", "age"),
        {"curve": "asymptotic", "random": ("asym",), "beta": (100.0, -8.5, -3.3), "sds": (5.0,), "sigma": 1.0},
    ),
    "PD1": (
        "PD1", lambda table: _renamed(table, "subject", "response", "dose"),
        {"curve": "emax", "random": ("e0", "top", "half"), "beta": (20.0, *_log(300.0, 20.0)),
         "sds": (5.0, 0.5, 0.5), "sigma": 10.0},
    ),
    "rapi": (
        "rapi", _rapi,
        {"curve": "four_columns", "random": ("base", "slope"), "beta": (1.6, 0.01, 0.0, 0.0), "sds": (0.7, 0.1),
         "sigma": None, "family": "poisson", "psi": "full"},
    ),
    "toenail": (
        "toenail", _toenail,
        {"curve": "three_columns", "random": ("base", "slope"), "beta": (-2.0, -0.5, 0.0), "sds": (4.0, 1.0),
         "sigma": None, "family": "bernoulli"},
    ),
}  # fmt: skip


def fits(containing: list[str] | None = None) -> Iterator[HardFit]:
    """The published tables whose name contains one of these and that a folder has."""
    for name, (file, columns, fields) in PUBLISHED.items():
        table = published(file)
        if containing and not any(part in name for part in containing):
            continue
        if table is None:
            print(f"{name}: the table {file}.csv is in none of the folders, and left out", flush=True)
            continue
        psi = np.diag(np.square(fields["sds"])).tolist()
        truth: Estimates = {"beta": list(fields["beta"]), "psi": psi, "sigma": fields["sigma"], "inner": None}
        yield HardFit(name, "published", columns=columns(table), truth=truth, **fields)


def run(options: argparse.Namespace) -> None:
    """Go on with the tables that are not on file."""
    asking.run(FILE, fits(options.cases), options)


def rejudge(options: argparse.Namespace) -> None:
    """Judge the answers on file anew."""
    asking.rejudge(FILE, fits(options.cases), options.folder, options.again)


def cell(row: dict[str, Any] | None) -> str:
    """Distance below the exact maximum, a star where the program does not say that it converged."""
    if row is None or "outcome" not in row:
        return ""
    if row.get("below_exact") is None:
        return "fails"
    below = max(row["below_exact"], 0.0)
    text = "0.000" if below < 0.0005 else f"{below:.3f}" if below < 10.0 else f"{below:.1f}"
    return text if row["answer"].get("converged") else text + "\\*"


def table(folder: Path = FOLDER) -> list[str]:
    """Distances by program and table."""
    rows = {(row["case"], row["program"]): row for row in asking.read(FILE, folder)["rows"]}
    if not rows:
        return []
    names = [name for name in PUBLISHED if any(case == name for case, _ in rows)]
    body = [[program.name, *(cell(rows.get((name, program.name))) for name in names)] for program in PROGRAMS]
    return markdown(["program", *names], [row for row in body if any(row[1:])]).split("\n")
