"""TableMethods: the methods of GroupedData for further tables beside the observations, other responses and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxnlme.data import _build as build
from jaxnlme.data import _checks as checks
from jaxnlme.data._columns import level_names, name_list, take_column
from jaxnlme.data._responses import with_response
from jaxnlme.errors import DataError
from jaxnlme.signatures import public

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData


class TableMethods:
    """Base of GroupedData: further tables of other rows, other responses, other weights."""

    @public("data.with_table")
    def with_table(
        self: Any, name: str, frame: Any, group: str | Sequence[str], columns: str | Sequence[str]
    ) -> GroupedData:
        """The same data with a further table of other rows, such as dose events.

        **Arguments:** `name`: the model reads the table as `v.name`; `frame`: as for `from_frame`; `group`: name of its
        column of group labels, which must be labels of the data, or with nested levels the list of the columns of all
        levels; `columns`: names of its numeric columns. A group may have no rows in it.
        **Returns:** GroupedData whose `tables[name]` is (columns (groups, k), mask (groups, k)).
        **Raises:** DataError for unknown labels, text, missing or infinite values, or a name that is in use.
        """
        checks.check_table_name(name, self.x | self.v | self.text | self.tables)
        listed = name_list(columns, "columns")
        if not listed:
            raise DataError(f"table {name!r} lists no columns; expected at least one numeric column.")
        raw = {column: take_column(frame, column, f"table {name!r}") for column in listed}
        levels = level_names(group)
        labels = [take_column(frame, level, "group") for level in levels]
        table, units = build.further_table(name, labels, raw, self, levels)
        return replace(
            self, tables={**self.tables, name: table}, table_units=self.table_units | ({name: units} if units else {})
        )

    def with_weights(self: Any, weights: Any) -> GroupedData:
        """The same data with other group `weights` (groups,), >= 0. **Raises:** DataError for others.

        **Example:**

        ```python
        data.with_weights(np.ones(data.n_groups))
        ```
        """
        return replace(self, weights=checks.check_weights(weights, self.labels))

    def with_response(self: Any, y: Any) -> GroupedData:
        """The same rows with other responses, for example simulated ones.

        A response is observed where it was observed before and `y` is not NaN. Where the data have limits of
        quantification, responses beyond those of their row are censored (see `fit.simulate`).

        **Arguments:** `y` (n_rows,), in the order of the original table, as `Fit.simulate` returns, or (groups, obs).
        **Returns:** GroupedData.
        **Raises:** DataError for another shape or infinite responses.

        **Example:**

        ```python
        data.with_response(fit.simulate(1, key=3)[0])
        ```
        """
        return with_response(self, y)
