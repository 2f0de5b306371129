"""GroupedData: a long table as padded arrays (groups, obs) with masks, checked on construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data import _build as build
from jaxnlme.data import _checks as checks
from jaxnlme.data._columns import column_names, level_names, name_list, take_column
from jaxnlme.data._display import describe, digest, to_frame, to_html
from jaxnlme.data._endpoints import check_endpoint, endpoint_column, known_endpoint, label_texts
from jaxnlme.data._further_tables import TableMethods
from jaxnlme.data._layout import split_by_size
from jaxnlme.data._limit_columns import LimitColumns
from jaxnlme.data._limits import Limits
from jaxnlme.data._nested import NestedLevel
from jaxnlme.data._notes import notes_of
from jaxnlme.data._pictures import PictureMethods
from jaxnlme.data._subset import subset, with_width
from jaxnlme.data.events.records import EventRecords
from jaxnlme.data.nonmem.methods import NonmemMethods
from jaxnlme.data.nonmem.reader import NonmemReader
from jaxnlme.errors import DataError, check_whole_number
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class GroupedData(NonmemMethods, TableMethods, PictureMethods):
    """Observations in groups (subjects), padded to a common number of rows: numpy arrays on the host.

    Build it with `from_frame`, `from_csv`, `from_arrays` or `from_nonmem`.

    **Fields:**

    - `y` (groups, obs): responses, float64; where none was observed the first observed value of the group, or 1.
    - `x`: predictors by name, each (groups, obs), float64; padding repeats the group's last row.
    - `v`: group-level predictors by name, each (groups,).
    - `text`: text, category and truth-value columns as objects, (groups,) if declared in v, (groups, obs) if in x; for
      covariate formulas and `by=` only.
    - `rows` (groups, obs): true on real rows; `observed` (groups, obs): true on real rows with a response.
    - `weights` (groups,): weights of the groups' log-likelihoods, >= 0.
    - `labels` (groups,): group labels, in order of first appearance.
    - `row_index` (groups, obs): 0-based row of the original table, -1 in padding.
    - `group_name`, `y_name`: names of the group and response columns.
    - `tables`: further tables (dose events), each a pair (columns (groups, k), mask (groups, k)).
    - `levels`: declared order of categorical columns.
    - `nested`: the levels inside the groups (occasions of a subject), outermost first, each a NestedLevel.
    - `table_units`: for a further table by nested level the unit (groups, k) of each row.
    - `endpoint`: name of the column of x or text with the label of each row's endpoint (response), None: there is one.
    - `index`: the index of the original pandas table, None for 0, 1, ...
    - `events`: the records of doses and resets, None without any; the doses made of them are `tables["events"]`.
    - `reader`: how `from_nonmem` read the table, None for other tables; `remarks`: sentences on that.
    - `limits`: of quantification, None without any. A censored row counts as observed; its y is its limit.
    - `axis_labels`: labels of axes in pictures by column, such as "Concentration (mg/L)".

    **Example:**

    ```python
    data = jn.GroupedData.from_frame(table, group="Subject", y="conc", x=["Time", "Dose"], v=["Wt"])
    print(data, data.n_groups, data.n_obs)
    ```
    """

    y: np.ndarray
    x: dict[str, np.ndarray]
    v: dict[str, np.ndarray]
    text: dict[str, np.ndarray]
    rows: np.ndarray
    observed: np.ndarray
    weights: np.ndarray
    labels: np.ndarray
    row_index: np.ndarray
    group_name: str = "group"
    y_name: str = "y"
    tables: dict[str, tuple[dict[str, np.ndarray], np.ndarray]] = field(default_factory=dict)
    levels: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    index: Any = None
    nested: tuple[NestedLevel, ...] = ()
    table_units: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    events: EventRecords | None = None
    reader: NonmemReader | None = None
    remarks: tuple[str, ...] = ()
    endpoint: str | None = None
    limits: Limits | None = None
    axis_labels: dict[str, str] = field(default_factory=dict)

    @classmethod
    @public("GroupedData.from_frame")
    def from_frame(
        cls,
        frame: Any,
        group: str | Sequence[str],
        y: str,
        x: str | Sequence[str] = (),
        v: str | Sequence[str] = (),
        weights: str | None = None,
        *,
        endpoint: str | None = None,
        need_response: bool = True,
        censoring: str | None = None,
        limit: str | None = None,
        lloq: Any = None,
        uloq: Any = None,
    ) -> GroupedData:
        """Data from a long table with one row per observation, rows in any order.

        **Arguments:**

        - `frame`: a pandas or polars data frame, or a dictionary of arrays.
        - `group`, `y`: names of the group and response columns; rows with an empty response are kept, without an
          observation. Nested levels are listed from the outermost on, as in `group=["Subject", "Occasion"]`; labels of
          an inner level count within the unit of the level before, so they may be used again in others.
        - `x`: names of columns that vary within a group.
        - `v`: names of columns that are constant within each group.
        - `weights`: name of a column of group weights, constant within each group, >= 0.
        - `endpoint`: name of the column that labels the endpoint (response) of each row, by numbers or text; it is one
          of x without being listed there. Only rows with a response need a label.
        - `need_response`: False accepts a table without observed responses, or without the column `y` (for predictions
          and simulations).
        - `censoring`: name of a column of 0 (observed), 1 (the response is below the value of `y`) and -1 (above it).
        - `limit`: name of a column with the other end of the interval of censored rows, empty where there is none.
        - `lloq`, `uloq`: lower and upper limit of quantification, a number, a dictionary of those by endpoint, or the
          name of a column: responses below `lloq` or above `uloq` are censored there (docs/censoring.md).

        **Returns:** GroupedData.
        **Raises:** DataError naming column and rows, what was expected, and the remedy.

        **Example:**

        ```python
        jn.GroupedData.from_frame(table, group="Subject", y="conc", x=["Time", "Dose"], v=["Wt"])
        ```
        """
        checks.check_single_names(y, need_response)
        levels, x_names, v_names = level_names(group), name_list(x, "x"), name_list(v, "v")
        checks.check_roles(levels, y, x_names, v_names)
        labels = [take_column(frame, level, "group") for level in levels]
        absent = not need_response and y not in column_names(frame)
        response = np.full(len(labels[0]), np.nan) if absent else take_column(frame, y, "y")
        columns = {name: take_column(frame, name, "x") for name in x_names}
        if endpoint is not None:
            check_endpoint(endpoint, {"the group": levels, "the response": [y], "in v": v_names})
            raw = take_column(frame, endpoint, "endpoint")
            columns[endpoint] = endpoint_column(raw, endpoint, labels[0], levels[0], response)
        return cls(
            **build.assemble(
                labels,
                response,
                columns,
                {name: take_column(frame, name, "v") for name in v_names},
                None if weights is None else take_column(frame, weights, "weights"),
                levels,
                y,
                weights or "weights",
                need_response,
                LimitColumns.of_frame(frame, censoring, limit, lloq, uloq, label_texts(columns, endpoint)),
            ),
            index=getattr(frame, "index", None) if hasattr(frame, "iloc") else None,
            endpoint=endpoint,
        )

    @classmethod
    @public("GroupedData.from_csv")
    def from_csv(
        cls,
        path: str | Path,
        group: str | Sequence[str],
        y: str,
        x: str | Sequence[str] = (),
        v: str | Sequence[str] = (),
        weights: str | None = None,
        *,
        endpoint: str | None = None,
        **read_csv: Any,
    ) -> GroupedData:
        """Data from a CSV file.

        **Arguments:** `path`; `group`, `y`, `x`, `v`, `weights`, `endpoint`: as for `from_frame`; `read_csv`: options
        of `pandas.read_csv`, such as `sep=";"` or `na_values="."`, and the limits of `from_frame`, such as `lloq=0.5`.
        **Returns:** GroupedData.  **Raises:** DataError, as `from_frame`; the exceptions of `pandas.read_csv`.

        **Example:**

        ```python
        table.to_csv("theophylline.csv", index=False)
        jn.GroupedData.from_csv("theophylline.csv", group="Subject", y="conc", x=["Time", "Dose"])
        ```
        """
        import pandas as pd

        checks.check_csv_path(path)
        limits = {name: read_csv.pop(name) for name in ("censoring", "limit", "lloq", "uloq") if name in read_csv}
        frame = pd.read_csv(path, **read_csv)
        return cls.from_frame(frame, group, y, x, v, weights, endpoint=endpoint, **limits)

    @classmethod
    @public("GroupedData.from_arrays")
    def from_arrays(
        cls,
        y: Any,
        group: Any,
        x: Any = None,
        v: Any = None,
        weights: Any = None,
        group_name: str = "group",
        y_name: str = "y",
        endpoint: str | None = None,
        *,
        censoring: Any = None,
        limit: Any = None,
        lloq: Any = None,
        uloq: Any = None,
    ) -> GroupedData:
        """Data from arrays.

        **Arguments:**

        - `y`, `group` (rows,): responses, NaN where missing, and group labels; a dictionary of label arrays by name,
          outermost first, for nested levels.
        - `x`: a dictionary of arrays (rows,), or a vector or matrix (rows, xdim), whose columns are called x0, x1, ...
        - `v`: the same with arrays (groups,), in order of first appearance of the groups, or (rows,), constant within
          each group; columns of a matrix are called v0, v1, ...
        - `weights` (groups,) or (rows,): group weights, >= 0.
        - `group_name`, `y_name`: names for messages and tables; `endpoint`: as for `from_frame`, a column of x.
        - `censoring`, `limit`, `lloq`, `uloq`: as for `from_frame`, with arrays (rows,) in the place of columns.

        **Returns:** GroupedData.  **Raises:** DataError, as `from_frame`.

        **Example:**

        ```python
        jn.GroupedData.from_arrays(table["conc"], table["Subject"], x={"Time": table["Time"]})
        ```
        """
        labels = group if isinstance(group, Mapping) else {group_name: group}
        outermost = next(iter(labels.items()), (group_name, ()))
        x_columns, v_columns, weights = build.array_columns(y, outermost[1], x, v, weights, outermost[0])
        checks.check_roles(level_names(list(labels)), y_name, list(x_columns), list(v_columns))
        known_endpoint(endpoint, x_columns)
        limits = LimitColumns.of_arrays(censoring, limit, lloq, uloq, label_texts(x_columns, endpoint))
        roles = list(labels.values()), y, x_columns, v_columns, weights, list(labels), y_name
        return cls(**build.assemble(*roles, limits=limits), endpoint=endpoint)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return self.y.shape[0]

    @property
    def level_names(self) -> tuple[str, ...]:
        """The names of the grouping levels, outermost first."""
        return (self.group_name, *(level.name for level in self.nested))

    @property
    def n_obs(self) -> int:
        """Number of observed responses."""
        return int(self.observed.sum())

    @property
    def n_rows(self) -> int:
        """Number of real rows, with and without a response."""
        return int(self.rows.sum())

    @property
    def sizes(self) -> np.ndarray:
        """Real rows of each group (groups,)."""
        return self.rows.sum(axis=1)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences on properties that are valid but may be mistakes: unsorted or repeated times, groups with one row,
        constant columns."""
        return notes_of(self)

    def rows_to_column(self, values: Any) -> np.ndarray:
        """`values` (groups, obs, ...) as one column (n_rows, ...) in the order of the original table. **Raises:**
        DataError for values of another shape."""
        values = np.asarray(values)
        if values.shape[:2] != self.rows.shape:
            raise DataError(f"values have shape {values.shape}; expected {self.rows.shape}, one per cell of the data.")
        return values[self.rows][self.table_order]

    @cached_property
    def table_order(self) -> np.ndarray:
        """Positions (n_rows,) of the real rows, group by group, in the order of the original table."""
        return np.argsort(self.row_index[self.rows], kind="stable")

    @property
    def row_labels(self) -> Any:
        """The pandas index (n_rows,) of the rows in the order of the original table; results by row have this index."""
        import pandas as pd

        if self.index is None:
            return pd.RangeIndex(self.n_rows)
        return self.index[np.sort(self.row_index[self.rows], kind="stable")]

    def to_frame(self) -> pd.DataFrame:
        """The data as a long table in the original order of rows: group, y (NaN where missing), x, v and text
        columns.

        **Example:**

        ```python
        data.to_frame().head()
        ```
        """
        return to_frame(self)

    def select(self, groups: Any) -> GroupedData:
        """Data of some of the groups, padded to the largest of them.

        **Arguments:** `groups`: positions, or a boolean mask (groups,).  **Returns:** GroupedData.
        **Raises:** DataError if no group is chosen, or for a mask or positions that do not fit.

        **Example:**

        ```python
        data.select([1, 2])
        ```
        """
        return subset(self, checks.check_selection(groups, self.n_groups))

    def pad_to(self, obs: int) -> GroupedData:
        """The same data padded to `obs` rows per group. **Raises:** DataError if a group has more rows."""
        obs = check_whole_number("obs", obs, 1, "the rows of each group")
        if obs < self.sizes.max():
            raise DataError(f"cannot pad to {obs} rows: the largest group has {self.sizes.max()}.")
        return with_width(self, obs, np.arange(self.n_groups))

    def bucket_indices(self, count: int | None = None) -> list[np.ndarray]:
        """Positions of the groups in buckets of similar size, small groups first, with the fewest padded cells.

        **Arguments:** `count`: number of buckets; None: one, or two to four if the padded cells exceed both 2e6 and
        three times the real rows.
        **Returns:** one array of positions per bucket; fewer buckets if there are fewer different sizes.
        **Raises:** DataError for a count below 1.
        """
        checks.check_buckets(count)
        return split_by_size(self.sizes, count)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of names, labels, weights and values; it does not depend on padding.

        **Example:**

        ```python
        data.fingerprint()
        ```
        """
        return digest(self)

    def __repr__(self) -> str:
        return "GroupedData: {}\n  {}".format(*describe(self))

    def _repr_html_(self) -> str:
        return to_html(self)
