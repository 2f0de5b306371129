"""Base class of the records with a row per refit."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from jaxnlme.results.display import Printable

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord


class AbstractReplicateTable(Printable):
    """Record with a row per refit: the values by name, NaN where the refit failed, and its outcome `status`."""

    fit: FitRecord

    @property
    @abc.abstractmethod
    def _refit_table(self) -> pd.DataFrame:
        """The table of refits."""

    @property
    def interrupted(self) -> bool:
        """True if Ctrl-C ended the refits before all were run."""
        return bool((self._refit_table["status"] == "not run").any())

    @property
    def converged(self) -> pd.Series:
        """True for refits that reached a maximum."""
        return self._refit_table["status"] == "converged"

    @property
    def values(self) -> pd.DataFrame:
        """Values of the refits that converged, a column per value that was not fixed."""
        return self._refit_table.loc[self.converged, self._free_names]

    @property
    def _free_names(self) -> list[str]:
        """Names of the values that were not fixed."""
        fixed = self.fit.estimates["fixed"]
        return [name for name in self.fit.values if not fixed[name]]

    @property
    def estimates(self) -> pd.Series:
        """Values of the fit that was refitted."""
        import pandas as pd

        return pd.Series({name: self.fit.values[name] for name in self._free_names}, name="estimate")
