"""The table of honesty: hard fits, and how often a program says 'converged' and is right, or wrong."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from reporting.cells import table as markdown
from results import FOLDER

from trust_tables import asking, hard_fits
from trust_tables.hard_fit_kinds import KINDS
from trust_tables.judging import LIMIT, OUTCOMES, WRONG
from trust_tables.programs import PROGRAMS

FILE = "trust_honesty.json"
LETTERS = dict(zip(OUTCOMES, "RWNHC", strict=True))


def run(options: argparse.Namespace) -> None:
    """Go on with the fits that are not on file."""
    asking.run(FILE, hard_fits.fits(options.cases), options)
    asking.explain(FILE, hard_fits.fits(), options.folder)


def rejudge(options: argparse.Namespace) -> None:
    """Judge the answers on file anew."""
    asking.rejudge(FILE, hard_fits.fits(options.cases), options.folder, options.again)
    asking.explain(FILE, hard_fits.fits(), options.folder)


def counts(rows: list[dict[str, Any]]) -> dict[str, Counter]:
    """Outcomes by program, with `fits` and `far`: converged and wrong by more than one log-likelihood unit, of fits
    that have a maximum."""
    found: dict[str, Counter] = {program.name: Counter() for program in PROGRAMS}
    for row in rows:
        if "outcome" in row:
            of = found[row["program"]]
            of["fits"] += 1
            of[row["outcome"]] += 1
            far = row["expects"] != "none" and (row["below"] is None or row["below"] > 1.0)
            of["far"] += row["outcome"] == WRONG and far
    return {name: of for name, of in found.items() if of["fits"]}


def table(folder: Path = FOLDER) -> list[str]:
    """Outcomes by program."""
    rows = asking.read(FILE, folder)["rows"]
    if not rows:
        return []
    body = []
    for name, of in counts(rows).items():
        numbers = [f"{of[o]} ({of['far']})" if o == WRONG and of[o] else str(of[o]) for o in OUTCOMES]
        body.append([name, str(of["fits"]), *numbers])
    return markdown(["program", "fits", *OUTCOMES], body).split("\n")


def cell(row: dict[str, Any] | None) -> str:
    """A fit of the table by cases: the letter of its outcome; where it is wrong, with the distance, or `silent`
    where the fit has no single maximum."""
    if row is None or "outcome" not in row:
        return ""
    letter = LETTERS[row["outcome"]]
    if row["outcome"] != WRONG:
        return letter
    if row["expects"] == "none":
        return f"**{letter}** silent"
    below, gain = row["below"], row.get("gain")
    text = "" if below is None else f" {below:.2g}" if below < 100.0 else f" {below:.0f}"
    return f"**{letter}**{text}" + (" local" if gain is not None and gain <= LIMIT else "")


def details(folder: Path = FOLDER) -> list[str]:
    """Every fit of the list by name, with a letter for each program."""
    rows = {(row["case"], row["program"]): row for row in asking.read(FILE, folder)["rows"]}
    names = [p.name for p in PROGRAMS if any(program == p.name for _, program in rows)]
    cases = list(dict.fromkeys((row["hardness"], row["case"]) for row in rows.values()))
    legend = ", ".join(f"{letter}: {name}" for name, letter in LETTERS.items())
    explanation = (
        f"By fit ({legend}; the number is the distance below the maximum; local: a maximum near these estimates, "
        "not the highest; silent: converged, with no word that there is no single maximum; blank: not expressible, not "
        "run):"
    )
    lines = [explanation, ""]
    lines += ["| kind | fit | " + " | ".join(names) + " |", "| :-- | :-- |" + " :-- |" * len(names)]
    for kind in KINDS:
        for hardness, case in cases:
            if hardness == kind:
                cells = [cell(rows.get((case, name))) for name in names]
                lines.append(f"| {kind} | {case} | " + " | ".join(cells) + " |")
    return lines
