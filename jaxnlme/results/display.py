"""Text and HTML output: tables and wrapped sentences, and the base class of records that print themselves.

- Sentences and tables: `wrap`, `Table`, `text_pairs`, `text_table`, `html_table`, `number`.
- Records: `Printable`, whose sentences come first, then its tables.
"""

from __future__ import annotations

import abc
import dataclasses
import textwrap
from collections.abc import Sequence

import numpy as np

from jaxnlme import markup
from jaxnlme.results.settings import DISPLAY

# --- sentences and tables ---


@dataclasses.dataclass(frozen=True)
class Table:
    """A table. `title` above it; `header`, names of the columns, empty for pairs of name and value; `rows` of cells, a
    name first."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def wrap(sentence: str) -> list[str]:
    """The lines (at most `DISPLAY.width` columns) of a sentence."""
    return textwrap.wrap(sentence, DISPLAY.width, subsequent_indent="  ")


def text_pairs(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of (name, value) pairs: names on the left, wrapped values beside them."""
    width = max(len(name) for name, _ in pairs) + 2
    lines = []
    for name, value in pairs:
        first, *more = textwrap.wrap(value, DISPLAY.width - width) or [""]
        lines.append(name.ljust(width) + first)
        lines += [" " * width + line for line in more]
    return lines


def text_table(table: Table) -> list[str]:
    """The lines of a table: title, header, rows with numbers aligned right; names are cut where lines would be too
    long."""
    rows = [list(row) for row in table.rows]
    widths = [max(len(row[k]) for row in [table.header, *rows]) for k in range(1, len(table.header))]
    name_width = DISPLAY.width - sum(widths) - 2 * len(widths)
    name_width = max(min(name_width, DISPLAY.longest_name), DISPLAY.shortest_name)
    cut = [row[0] if len(row[0]) <= name_width else row[0][: name_width - 3] + "..." for row in rows]
    if len(set(cut)) == len({row[0] for row in rows}):  # names that would be the same are not cut
        for row, name in zip(rows, cut, strict=True):
            row[0] = name
    first = max((len(row[0]) for row in rows), default=0)
    lines = wrap(table.title)
    for row in [list(table.header), *rows]:
        cells = [row[0].ljust(first)] + [cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def html_table(table: Table) -> str:
    """The table as HTML, names in full."""
    return markup.table(table.title, table.header, table.rows)


def number(value: float, digits: int = 4) -> str:
    """A number with `digits` significant digits as text; an empty string for NaN."""
    value = float(value)
    if np.isnan(value):
        return ""
    if value == 0 or np.isinf(value):
        return f"{value:g}"
    size = int(np.floor(np.log10(abs(float(f"{value:.{digits - 1}e}")))))
    if -4 <= size <= digits + 1:
        return f"{value:.{max(digits - 1 - size, 0)}f}"
    return f"{value:.{digits - 1}e}"


# --- records ---

GOOD, BAD = "#1a7f37", "#b3261e"
"""Colours of the first sentence of a fit that converged, and of one that did not, on light and on dark paper."""


class StatusSentences:
    """A status that prints as its `sentences`, in a notebook each a paragraph, the first one coloured."""

    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        good = self.sentences[0].startswith("Converged") if self.sentences else True
        return f"<div>{markup.paragraphs(self.sentences, GOOD if good else BAD)}</div>"


class Printable(abc.ABC):
    """A record that prints as its `sentences`, then its tables; as HTML in a notebook."""

    sentences: tuple[str, ...]

    @abc.abstractmethod
    def _tables(self) -> list[Table]:
        """The tables that follow the sentences."""

    def __str__(self) -> str:
        lines = [line for sentence in self.sentences for line in wrap(sentence)]
        for table in self._tables():
            lines += ["", *text_table(table)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        paragraphs = markup.paragraphs(self.sentences)
        return f"<div>{paragraphs}{''.join(html_table(table) for table in self._tables())}</div>"


def printed_tables(record: Printable) -> list[Table]:
    """The tables that a record prints."""
    return record._tables()
