"""The arithmetic of the tables of trust_plan.csv. Standard library and numpy only."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows on file: numbers as floats (NaN where empty), `set` as an integer."""
    with path.open(newline="") as file:
        return [_numbers(row) for row in csv.DictReader(file)]


def _numbers(row: dict[str, str]) -> Row:
    text = ("design", "method", "start", "reason")
    return {k: v if k in text else int(v) if k == "set" else float(v or "nan") for k, v in row.items()}


def key(row: Row) -> tuple[str, str, str, int]:
    """What a row is about."""
    return row["design"], row["method"], row["start"], int(row["set"])


def section(rows: list[Row]) -> list[str]:
    return []


def small(rows: list[Row]) -> list[str]:
    return []
