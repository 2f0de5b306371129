"""A page as HTML: templates by jinja2, tables by great-tables; pictures and styles lie inside it."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from typing import Any

import numpy as np

from jaxnlme.errors import JaxnlmeError
from jaxnlme.report.blocks import Digits, Grid, Page, is_number, shown_cell
from jaxnlme.report.settings import REPORT

_NUMBER = re.compile(r"[<>]?\s*[+-]?\d[\d.]*(e[+-]?\d+)?( \(.*\))?")


class MissingReportLibrary(JaxnlmeError, ImportError):
    """jinja2 or great-tables is not installed."""


def require_libraries() -> tuple[Any, Any]:
    """The modules jinja2 and great_tables. **Raises:** MissingReportLibrary, which names the extra to install."""
    try:
        import great_tables
        import jinja2
    except ImportError as error:
        raise MissingReportLibrary("reports need jinja2 and great-tables: pip install 'jaxnlme[report]'") from error
    return jinja2, great_tables


def render(page: Page) -> str:
    """The page as HTML: one file, which asks the network for nothing and runs no script."""
    jinja2, _ = require_libraries()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxnlme.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    counter = iter(range(1, 10_000))

    def table(grid: Grid) -> Any:
        return jinja2.utils.markupsafe.Markup(grid_html(grid, f"table-{next(counter)}"))

    environment.filters["table"] = table
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode("ascii")
    environment.filters["cell"] = lambda value: jinja2.utils.markupsafe.Markup(_cell(value, REPORT.digits))
    return environment.get_template("page.html").render(page=page, record=_json(page.record))


def grid_html(grid: Grid, key: str) -> str:
    """A Grid as a table of great-tables, without its styles: the page has its own, for light and dark.

    Cells with numbers hold the number itself in `data-value`, beside the digits that are shown.
    **Arguments:** `key`: the id of the table in the page.
    """
    _, great_tables = require_libraries()
    import pandas as pd

    columns = [f"c{k}" for k in range(len(grid.header))]
    cells = [[_cell(value, grid.digits) for value in row] for row in grid.rows]
    frame = pd.DataFrame(cells, columns=columns, dtype=object)
    numeric = [all(_on_the_right(row[k]) for row in grid.rows) for k in range(len(columns))]
    shown = great_tables.GT(frame, rowname_col="c0", id=key)
    shown = shown.cols_label(
        cases={c: great_tables.html(html.escape(n)) for c, n in zip(columns, grid.header, strict=True) if c != "c0"}
    )
    shown = shown.tab_stubhead(great_tables.html(html.escape(grid.header[0])))
    shown = shown.cols_align("right", [c for c, right in zip(columns, numeric, strict=True) if right and c != "c0"])
    shown = shown.cols_align("left", [c for c, right in zip(columns, numeric, strict=True) if not right and c != "c0"])
    shown = shown.fmt(lambda cell: cell, columns=columns)
    if grid.title:
        shown = shown.tab_header(great_tables.html(html.escape(grid.title)))
    if grid.note:
        shown = shown.tab_source_note(great_tables.html(html.escape(grid.note)))
    return re.sub(r"<style>.*?</style>", "", shown.as_raw_html(), flags=re.DOTALL)


def _on_the_right(value: Any) -> bool:
    """True for a number, for text that is one ("< 0.0001"), and for an empty cell."""
    return is_number(value) or not shown_cell(value) or bool(_NUMBER.fullmatch(str(value)))


def _cell(value: Any, digits: int) -> str:
    """The HTML of a cell."""
    text = html.escape(shown_cell(value, digits))
    if not is_number(value):
        return text
    exact = float(value.value if isinstance(value, Digits) else value)
    return f'<data value="{exact!r}">{text}</data>'


def _json(record: dict[str, Any]) -> str:
    """The record as JSON for a script element, in which no tag can end."""
    text = json.dumps(plain(record), indent=1, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def plain(value: Any) -> Any:
    """The value in types of JSON: arrays as lists, numbers that are not finite as None, other objects as text."""
    if isinstance(value, dict):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return str(value)
