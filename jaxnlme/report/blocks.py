"""The parts of a page: sections of blocks, which `render` writes as HTML."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxnlme.report.settings import REPORT
from jaxnlme.results.display import number


@dataclasses.dataclass(frozen=True)
class Text:
    """Sentences, each a paragraph; `small`: remarks in small type."""

    sentences: Sequence[str]
    small: bool = False
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class Formulas:
    """Equations, lines of HTML."""

    lines: Sequence[str]
    kind: str = "formulas"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Names with a text beside each."""

    rows: Sequence[tuple[str, str]]
    kind: str = "pairs"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table.

    **Fields:** `title` above it; `header`, names of the columns, that of the row names first; `rows` of cells, the
    first the name of the row: text, numbers (shown with `digits`, empty for NaN), or None for nothing; `note` below it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    digits: int = REPORT.digits
    kind: str = "grid"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture: `png`, its bytes; `title` above it and `alternative`, read where it is not seen; `width`, `height` in
    pixels of the page."""

    title: str
    png: bytes
    alternative: str
    width: int
    height: int
    kind: str = "picture"


@dataclasses.dataclass(frozen=True)
class Code:
    """Source text, folded behind its `summary`."""

    summary: str
    text: str
    kind: str = "code"


@dataclasses.dataclass(frozen=True)
class Folded:
    """Blocks behind a `summary` that opens them; printed pages show them."""

    summary: str
    blocks: Sequence[Any]
    kind: str = "folded"


@dataclasses.dataclass(frozen=True)
class Section:
    """Blocks below a heading; `key` is the anchor of links to it."""

    key: str
    title: str
    blocks: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Page:
    """A report.

    **Fields:** `title`; `subtitle`; `outcome`, of the status: "good", "bad"; `status`, its sentences, the outcome
    first; `figures`, pairs of a name and a number or text for the head of the page; `sections`; `record`, the
    numbers of the fit for programs (JSON).
    """

    title: str
    subtitle: str
    outcome: str
    status: Sequence[str]
    figures: Sequence[tuple[str, Any]]
    sections: Sequence[Section]
    record: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Digits:
    """A number that is shown with `digits` significant digits, whatever those of its table."""

    value: float
    digits: int


def shown_cell(value: Any, digits: int = REPORT.digits) -> str:
    """A cell as text: numbers with `digits` significant digits, whole numbers as they are, nothing for None and NaN."""
    if value is None:
        return ""
    if isinstance(value, Digits):
        return shown_cell(value.value, value.digits)
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return number(float(value), digits)
    return str(value)


def is_number(value: Any) -> bool:
    """True for a finite number that is no truth value."""
    value = value.value if isinstance(value, Digits) else value
    numeric = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return numeric and bool(np.isfinite(value))


def present(blocks: Iterable[Any]) -> tuple[Any, ...]:
    """The blocks that are not None and not empty tables or lists of sentences."""
    content = ("rows", "sentences", "lines", "blocks")
    return tuple(
        block
        for block in blocks
        if block is not None and all(len(getattr(block, name)) for name in content if hasattr(block, name))
    )
