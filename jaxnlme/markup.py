"""Pieces of HTML for notebooks and reports: tables, paragraphs, and formulas written as text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# Words that formulas write upright; all other names are variables and set in italics.
_UPRIGHT = {"log", "exp", "sqrt", "corr", "sd", "logit", "probit", "cov", "min", "max", "by", "rows", "censored", "h"}
_TOKEN = re.compile(r"\^(\d+|\w)|[A-Za-z_]\w*|.", re.DOTALL)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text cells, the first of each row a name.

    **Arguments:** `title` above it, empty for none; `header`, empty for pairs of name and value; `rows`.
    **Returns:** HTML; the cells are escaped.
    """
    alignment = "right" if header else "left"

    def line(row: Sequence[str], tag: str) -> str:
        sides = ["left", *[alignment] * (len(row) - 1)]
        cells = [
            f"<{tag} style='text-align:{side};padding:0.1em 0.6em'>{html.escape(cell)}</{tag}>"
            for side, cell in zip(sides, row, strict=True)
        ]
        return f"<tr>{''.join(cells)}</tr>"

    above = f"<p style='margin:0.6em 0 0.1em'><b>{html.escape(title)}</b></p>" if title else ""
    head = f"<thead>{line(header, 'th')}</thead>" if header else ""
    body = "".join(line(row, "td") for row in rows)
    return f"{above}<table style='border-collapse:collapse'>{head}<tbody>{body}</tbody></table>"


def paragraphs(sentences: Iterable[str], first: str = "") -> str:
    """Sentences, each a paragraph, escaped; the first in bold and in the colour `first`, where one is given."""
    lines = []
    for k, sentence in enumerate(sentences):
        text = html.escape(sentence)
        marked = bool(first) and k == 0
        style = f"margin:0.2em 0;color:{first}" if marked else "margin:0.2em 0"
        lines.append(f"<p style='{style}'>{f'<b>{text}</b>' if marked else text}</p>")
    return "".join(lines)


def formula_lines(lines: Iterable[str]) -> str:
    """Formulas (HTML), each on a line of its own, in a serif type."""
    inner = "".join(f"<div style='margin:0.15em 0'>{line}</div>" for line in lines)
    return f"<div class='formulas' style='font-family:Cambria,Georgia,serif;margin:0.4em 0 0.4em 1em'>{inner}</div>"


def variable(name: str, index: str = "") -> str:
    """A variable in italics with an index below it; both are escaped."""
    below = f"<sub>{html.escape(index)}</sub>" if index else ""
    return f"<i>{html.escape(name)}</i>{below}"


def formula(text: str) -> str:
    """A formula in plain text, as residual models have it, such as "y = f + (a + b |f|) e".

    **Returns:** HTML: names in italics, but those of functions; powers raised; the error `e` as epsilon.
    """
    out = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.group(1):
            out.append(f"<sup>{html.escape(match.group(1))}</sup>")
        elif token == "e":
            out.append("<i>&epsilon;</i>")
        elif token == "*":
            out.append("&middot;")
        elif re.match(r"[A-Za-z_]", token) and token not in _UPRIGHT:
            out.append(variable(token))
        else:
            out.append(html.escape(token))
    return "".join(out)
