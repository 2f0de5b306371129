"""Docstrings of the package as Markdown: an extension of griffe, which reads them for the API reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"(?<!\n)\n(?=\*\*[A-Z][a-z ]+:\*\*)")
# Two sections on one line, as in "**Returns:** a scalar.  **Raises:** none."
SAME_LINE = re.compile(r"(?<=\S) +(?=\*\*(?:Returns|Raises|Errors|Source|Fields|Example):\*\*)")


class Docstrings(griffe.Extension):
    """Each section (**Arguments:**, **Returns:**, ...) is a paragraph of its own."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """The text of a docstring with blank lines where Markdown needs them."""
    text = SAME_LINE.sub("\n\n", docstring)
    text = SECTION.sub("\n\n", text)
    # A list needs a blank line before it.
    return re.sub(r"(?m)^(?!- |  )(.*\S.*)\n(?=- )", r"\1\n\n", text)
