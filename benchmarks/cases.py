"""The problems that are timed: a table, another of the same shape, a Psi structure and start values that all share."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
THEOPHYLLINE = HERE.parent / "jaxnlme" / "data" / "tables" / "Theoph.csv"  # R's table: Dose in mg/kg, Wt in kg
STRUCTURES = ("diagonal", "full")
THEOPHYLLINE_STARTS = (1.5, 2.8, 32.0)  # 1/h, l/h, l
SIMULATED_STARTS = (1.2, 3.2, 36.0)  # away from simulate.TRUTH by 10 to 25 %
OTHER_SEED = 20241


@dataclass(frozen=True)
class Case:
    """One problem. `other` is a table of the same shape with other numbers, which is fitted first where a fit with
    everything compiled is timed; `effects`, how many of ka, cl, vol (in this order) carry a random effect."""

    name: str
    groups: int
    psi: str
    table: Path
    other: Path
    starts: tuple[float, float, float]
    effects: int = 3


def theophylline(folder: Path, psi: str = "diagonal", from_zero: bool = True) -> Case:
    """Theophylline with the dose in mg, and the same subjects with other concentrations (5 % noise, seeded). Not
    `from_zero`: without the samples at time 0, which are 120 rows and saemix's copy of the table."""
    noise = random.Random(OTHER_SEED)
    with THEOPHYLLINE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if from_zero or float(row["Time"]) > 0]
    table, other = folder / "theophylline.csv", folder / "theophylline_other.csv"
    with table.open("w") as table_file, other.open("w") as other_file:
        for file in (table_file, other_file):
            file.write("Subject,Time,Dose,conc\n")
        for row in rows:
            dose, conc = float(row["Dose"]) * float(row["Wt"]), float(row["conc"])
            start = f"{row['Subject']},{row['Time']},{dose:.6g}"
            table_file.write(f"{start},{conc}\n")
            other_file.write(f"{start},{conc * (1 + 0.05 * noise.gauss(0, 1)):.4f}\n")
    groups = len({row["Subject"] for row in rows})
    return Case("theophylline", groups, psi, table, other, THEOPHYLLINE_STARTS)


def simulated(folder: Path, groups: int, psi: str, effects: int = 3, other: bool = True) -> Case:
    """Simulated subjects (simulate.py, in a process of its own so that this one stays small); without an `other` table,
    `table` itself takes its place. With fewer than three `effects`, the others' standard deviations are zero."""
    paths = []
    seeds = [("", ()), ("_other", ("--seed", str(OTHER_SEED)))]
    for label, seed in seeds if other else seeds[:1]:
        path = folder / f"simulated_{groups}_{psi}{label}.csv"
        command = [sys.executable, str(HERE / "simulate.py"), "--groups", str(groups), "--psi", psi, "--out", str(path)]
        subprocess.run([*command, "--effects", str(effects), *seed], check=True)
        paths.append(path)
    return Case("simulated", groups, psi, paths[0], paths[-1], SIMULATED_STARTS, effects)
