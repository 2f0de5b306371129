"""Docstrings of the package as Markdown: an extension of griffe, which reads them for the API reference."""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

from jaxnlme.signatures import documented

SECTION = re.compile(r"(?<!\n)\n(?=\*\*[A-Z][a-z ]+:\*\*)")
# Two sections on one line, as in "**Returns:** a scalar.  **Raises:** none."
SAME_LINE = re.compile(r"(?<=\S) +(?=\*\*(?:Returns|Raises|Errors|Source|Fields|Example):\*\*)")


class Docstrings(griffe.Extension):
    """Each section (**Arguments:**, **Returns:**, ...) is a paragraph of its own; methods that are `documented_by` a
    function have its docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = inspect.cleandoc(full_docstring(obj))
            obj.docstring.value = as_markdown(text)


def full_docstring(obj: griffe.Object) -> str:
    """The docstring that `help` shows."""
    own = obj.docstring.value if obj.docstring is not None else ""
    for decorator in getattr(obj, "decorators", ()):
        match = re.fullmatch(r"documented_by\(['\"](.+)['\"]\)", str(decorator.value))
        if match:
            return documented(own, match[1])
    return own


def as_markdown(docstring: str) -> str:
    """The text of a docstring with blank lines where Markdown needs them."""
    text = SAME_LINE.sub("\n\n", docstring)
    text = SECTION.sub("\n\n", text)
    # A list needs a blank line before it.
    return re.sub(r"(?m)^(?!- |  )(.*\S.*)\n(?=- )", r"\1\n\n", text)
