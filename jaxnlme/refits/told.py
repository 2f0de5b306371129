"""How the records of refits read: sentences first, then tables; and what records with a row a refit have in common."""

from __future__ import annotations

import abc
import html
from typing import TYPE_CHECKING

from jaxnlme.results._tables import Table, html_table, text_table, wrap

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.fit import Fit


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


class Refitted(Told):
    """A record with a row a refit: the values by name, NaN where the refit failed, and how it ended as `status`."""

    fit: Fit

    @property
    @abc.abstractmethod
    def _rows(self) -> pd.DataFrame:
        """The table of refits."""

    @property
    def converged(self) -> pd.Series:
        """Which refits came to a maximum."""
        return self._rows["status"] == "converged"

    @property
    def values(self) -> pd.DataFrame:
        """The values of the refits that converged, a column for each that was not fixed."""
        return self._rows.loc[self.converged, self._moving]

    @property
    def _moving(self) -> list[str]:
        fixed = self.fit.estimates["fixed"]
        return [name for name in self.fit.values if not fixed[name]]

    @property
    def estimates(self) -> pd.Series:
        """The fit's own values."""
        import pandas as pd

        return pd.Series({name: self.fit.values[name] for name in self._moving}, name="estimate")
