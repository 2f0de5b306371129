"""The four tables of trust.py, a module each: `run(options)` goes on with the rows that are not on file, and
`table()` gives the lines of Markdown of the rows that are."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

TABLES = {"honesty": "honesty", "accuracy": "accuracy", "plan": "plan2012", "coverage": "coverage"}
"""Name of a table on the command line and in the pages: its module in this package."""


def module(table: str) -> ModuleType | None:
    """The module of a table, or None where the package has none."""
    name = f"{__name__}.{TABLES[table]}"
    return importlib.import_module(name) if importlib.util.find_spec(name) is not None else None
