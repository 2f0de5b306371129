"""Small tables as aligned text and as HTML, without dependence on a terminal."""

from __future__ import annotations

import abc
import dataclasses
import html
import textwrap
from collections.abc import Sequence

import numpy as np

WIDTH = 99
LONGEST_NAME = 30


@dataclasses.dataclass(frozen=True)
class Table:
    """`header` names the columns of `rows`, whose first column is a name; no header: pairs of name and value."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def wrap(sentence: str) -> list[str]:
    """The lines of a sentence."""
    return textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")


def text_pairs(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Names on the left, values beside them, wrapped."""
    width = max(len(name) for name, _ in pairs) + 2
    lines = []
    for name, value in pairs:
        first, *more = textwrap.wrap(value, WIDTH - width) or [""]
        lines.append(name.ljust(width) + first)
        lines += [" " * width + line for line in more]
    return lines


def text_table(table: Table) -> list[str]:
    """Title, header and rows, numbers to the right; names are cut where the line would be too long."""
    rows = [list(row) for row in table.rows]
    widths = [max(len(row[k]) for row in [table.header, *rows]) for k in range(1, len(table.header))]
    room = max(min(WIDTH - sum(widths) - 2 * len(widths), LONGEST_NAME), 8)
    for row in rows:
        row[0] = row[0] if len(row[0]) <= room else row[0][: room - 3] + "..."
    first = max(len(row[0]) for row in rows)
    lines = wrap(table.title)
    for row in [list(table.header), *rows]:
        cells = [row[0].ljust(first)] + [cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def html_table(table: Table) -> str:
    """The table in HTML; names in full."""
    rest = "right" if table.header else "left"

    def line(row: Sequence[str], tag: str) -> str:
        sides = ["left", *[rest] * (len(row) - 1)]
        cells = [
            f"<{tag} style='text-align:{side};padding:0.1em 0.6em'>{html.escape(cell)}</{tag}>"
            for side, cell in zip(sides, row, strict=True)
        ]
        return f"<tr>{''.join(cells)}</tr>"

    title = f"<p style='margin:0.6em 0 0.1em'><b>{html.escape(table.title)}</b></p>" if table.title else ""
    header = f"<thead>{line(table.header, 'th')}</thead>" if table.header else ""
    body = "".join(line(row, "td") for row in table.rows)
    return f"{title}<table style='border-collapse:collapse'>{header}<tbody>{body}</tbody></table>"


def number(value: float, digits: int = 4) -> str:
    """`digits` significant digits; an empty cell for NaN."""
    value = float(value)
    if np.isnan(value):
        return ""
    if value == 0 or np.isinf(value):
        return f"{value:g}"
    size = int(np.floor(np.log10(abs(float(f"{value:.{digits - 1}e}")))))
    if -4 <= size <= digits + 1:
        return f"{value:.{max(digits - 1 - size, 0)}f}"
    return f"{value:.{digits - 1}e}"


# ---- records that are not a page of their own: sentences first, then tables


class Printable(abc.ABC):
    """A record that prints as its `sentences` and tables, the same in a notebook."""

    sentences: tuple[str, ...]

    @abc.abstractmethod
    def _tables(self) -> list[Table]:
        """The tables under the sentences."""

    def __str__(self) -> str:
        lines = [line for sentence in self.sentences for line in wrap(sentence)]
        for table in self._tables():
            lines += ["", *text_table(table)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        said = "".join(f"<p style='margin:0.2em 0'>{html.escape(sentence)}</p>" for sentence in self.sentences)
        return f"<div>{said}{''.join(html_table(table) for table in self._tables())}</div>"
