"""The tables of trust.py: sections of the benchmark page, and small tables between markers of the project's README.

A table is a module of trust_tables: `table(folder)` gives the lines of its section, `details(folder)`, where it has
them, those below; `small_table(folder)`, where it has one, those for the README, else the same as `table`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import trust_tables
from results import FOLDER, HERE

from reporting.cells import origin

TITLES = {
    "honesty": "Trust: honesty on hard fits",
    "accuracy": "Trust: distance from the exact maximum",
    "plan": "Trust: data in the design of Plan et al. (2012)",
    "coverage": "Trust: coverage of intervals",
}
README = HERE.parent / "README.md"
END = "<!-- end -->"


def section(name: str, folder: Path) -> str:
    """The section of one table on the benchmark page."""
    module = trust_tables.module(name)
    heading, minutes = f"### {TITLES[name]}", folder / "trust_minutes.json"
    lines = module.table(folder)
    if not lines:
        return f"{heading}\n\nThere are no rows yet: `python benchmarks/trust.py --table {name}`."
    parts = [heading]
    file = folder / f"trust_{name}.json"
    if file.exists() and "about" in (results := json.loads(file.read_text())):
        parts.append(origin(results | {"rows": []}, file.name))
    spent = json.loads(minutes.read_text()).get(name) if minutes.exists() else None
    if spent:
        parts.append(
            f"`python benchmarks/trust.py --table {name}`: {spent:.0f} minutes of wall time, on two shared cores."
        )
    details = getattr(module, "details", None)
    return "\n\n".join([*parts, "\n".join(lines), *(["\n".join(details(folder))] if details is not None else [])])


def sections(folder: Path = FOLDER) -> list[str]:
    """The sections of the benchmark page."""
    return [section(name, folder) for name in trust_tables.TABLES]


def small(name: str, folder: Path = FOLDER) -> str:
    """The small table of the README, empty where there are no rows."""
    module = trust_tables.module(name)
    return "\n".join(getattr(module, "small_table", module.table)(folder))


def write_readme(path: Path = README) -> None:
    """The small tables between their markers, all else as it was."""
    text = path.read_text(encoding="utf-8")
    for name in trust_tables.TABLES:
        mark = f"<!-- trust: {name} -->"
        if mark in text and (lines := small(name)):
            pattern = re.compile(re.escape(mark) + r".*?" + re.escape(END), flags=re.DOTALL)
            text = pattern.sub(lambda _, m=mark, t=lines: f"{m}\n\n{t}\n\n{END}", text, count=1)
    path.write_text(text, encoding="utf-8")
