"""Roles of columns in data that a new table is read like: those of a fit, for a table to predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data.nonmem.names import STANDARD
from jaxnlme.errors import DataError

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData
    from jaxnlme.data.nonmem.reader import NonmemReader


class FittedRoles:
    """The names and roles of columns of `data`, which `reader` (or one with the same names) read.

    **Fields:** `names`: the columns of `data` by meaning ("id", "dv", "time", "cmt", "endpoint"), None without one;
    `dose_rows`: records of doses are rows.
    """

    def __init__(self, data: GroupedData, reader: NonmemReader):
        self.data = data
        self.names: dict[str, Any] = {
            "id": data.group_name,
            "dv": data.y_name,
            "time": data.events.facts.time if data.events is not None else self._in_x(reader, "time"),
            "cmt": self._in_x(reader, "cmt"),
            "endpoint": data.endpoint,
        }
        self.dose_rows = data.events is not None and data.events.facts.rows_are_records

    @property
    def covariates(self) -> list[Any]:
        """Names of the covariates."""
        data = self.data
        taken = {*self.names.values(), *data.level_names}
        return [name for name in (*data.x, *data.v, *data.text) if name not in taken]

    def varies(self, name: Any) -> bool:
        """True for a covariate with a value for each row."""
        text = self.data.text
        return name in self.data.x or (name in text and text[name].ndim == 2)

    def usual_compartments(self, is_event: np.ndarray) -> np.ndarray:
        """The compartments (rows,) of a table that names none, where those of the data leave no choice.

        **Raises:** DataError where they do.
        """
        name, data = self.names["cmt"], self.data
        observed = np.unique(data.x[name][data.observed])
        dosed = (0,) if data.events is None else data.events.facts.dosed
        if len(observed) != 1 or (len(dosed) != 1 and is_event.any()):
            raise DataError(
                f"the table has no column {name!r}, and the fitted data have doses or observations in several "
                "compartments; add the column."
            )
        return np.where(is_event, dosed[0] if is_event.any() else 0, observed[0]).astype(float)

    def _in_x(self, reader: NonmemReader, meaning: str) -> Any:
        name = str(reader.columns.get(meaning) or STANDARD[meaning][0]).casefold()
        return next((other for other in self.data.x if str(other).casefold() == name), None)
