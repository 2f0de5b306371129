"""What the records with a row a refit have in common."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from jaxnlme.results.display import Printable

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import Fit


class ReplicateTable(Printable):
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
