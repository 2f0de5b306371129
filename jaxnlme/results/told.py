"""How records read that are not a page of their own: sentences first, then tables."""

from __future__ import annotations

import abc
import html

from jaxnlme.results._tables import Table, html_table, text_table, wrap


class Told(abc.ABC):
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
