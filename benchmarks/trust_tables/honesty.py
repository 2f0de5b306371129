"""The table of honesty: hard fits, and how often a program says 'converged' and is right, or wrong."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from results import FOLDER

from trust_tables import asking, hard_fits
from trust_tables.judging import OUTCOMES, WRONG
from trust_tables.programs import PROGRAMS

FILE = "trust_honesty.json"


def run(options: argparse.Namespace) -> None:
    """Go on with the fits that are not on file."""
    asking.run(FILE, hard_fits.fits(options.cases), options)


def counts(rows: list[dict[str, Any]]) -> dict[str, Counter]:
    """Outcomes by program, with `fits` and `far`: converged and wrong by more than one log-likelihood unit."""
    found: dict[str, Counter] = {program.name: Counter() for program in PROGRAMS}
    for row in rows:
        if "outcome" in row:
            of = found[row["program"]]
            of["fits"] += 1
            of[row["outcome"]] += 1
            of["far"] += row["outcome"] == WRONG and (row["below"] is None or row["below"] > 1.0)
    return {name: of for name, of in found.items() if of["fits"]}


def table() -> list[str]:
    """Outcomes by program."""
    rows = asking.read(FILE, FOLDER)["rows"]
    lines = ["| program | fits | " + " | ".join(OUTCOMES) + " |", "| :-- |" + " --: |" * (len(OUTCOMES) + 1)]
    for name, of in counts(rows).items():
        cells = [f"{of[o]} ({of['far']})" if o == WRONG and of[o] else str(of[o]) for o in OUTCOMES]
        lines.append(f"| {name} | {of['fits']} | " + " | ".join(cells) + " |")
    return lines
