"""The four tables of trust.py, a module each: `run(options)` goes on with the rows that are not on file, and
`table(folder)` gives the lines of Markdown of the rows that are, none where there are no rows."""

from __future__ import annotations

import importlib
from types import ModuleType

TABLES = {"honesty": "honesty", "accuracy": "accuracy", "plan": "plan2012", "coverage": "coverage"}
"""Name of a table on the command line and in the pages: its module in this package."""


def module(table: str) -> ModuleType:
    """The module of a table."""
    return importlib.import_module(f"{__name__}.{TABLES[table]}")
