"""Results files: one JSON file per script, rewritten after every row, so that an interrupted run loses no row."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "results"


def add_folder(parser: argparse.ArgumentParser) -> None:
    """The option that every script has."""
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the results file is written")


class Record:
    """A results file: `about`, further fields, and a list of rows."""

    def __init__(self, path: Path, about: dict[str, Any], rows: str = "rows", **fields: Any):
        self.path = path.resolve()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        self.content = {"about": about, **fields, rows: self.rows}

    def add(self, row: dict[str, Any]) -> None:
        """One more row, on disk at once."""
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        """The file, whole: a reader never sees half of it."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        part.replace(self.path)


def number(value: Any) -> float | None:
    """A float for JSON, which has no NaN and no infinity."""
    return float(value) if value is not None and math.isfinite(value) else None
