"""Units of grouping factors: which rows belong to which, and whether factors are nested."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxnlme.data._columns import take_column
from jaxnlme.errors import DataError
from jaxnlme.formulas.frames import rows_text

if TYPE_CHECKING:
    from jaxnlme.formulas.mixed import RandomTerm


@dataclasses.dataclass(frozen=True)
class Units:
    """The units of one grouping factor.

    **Fields:** `codes` (rows,): the unit of each row, counted in order of first appearance; `first` (units,): the
    position of its first row; `columns`: the columns that label it, in the rows `first`.
    """

    codes: np.ndarray
    first: np.ndarray
    columns: tuple[Any, ...]

    @property
    def count(self) -> int:
        """The number of units."""
        return self.first.size

    @functools.cached_property
    def labels(self) -> list[Any]:
        """The label of each unit: a cell of the column, or a tuple of cells for several columns."""
        cells = [pd.Series(column).tolist() for column in self.columns]
        return cells[0] if len(cells) == 1 else list(zip(*cells, strict=True))


def group_units(group: Sequence[str], frame: Any) -> Units:
    """The units that the combinations of the columns `group` label.

    **Raises:** DataError for unknown columns, and rows without a label.
    """
    columns = [_label_column(frame, name) for name in group]
    codes, count = _codes(columns[0])
    if len(columns) > 1:
        for column in columns[1:]:
            inner, more = _codes(column)
            codes, count = _factorize(codes * more + inner, count * more)
    codes, count = _factorize(codes, count)
    first = np.empty(count, np.intp)
    first[codes[::-1]] = np.arange(codes.size - 1, -1, -1)
    return Units(codes, first, tuple(column[first] for column in columns))


def nested_order(
    random: Sequence[RandomTerm], frame: Any, units: Mapping[tuple[str, ...], Units] | None = None
) -> tuple[tuple[str, ...], ...] | None:
    """The grouping factors from the outermost to the innermost, where every unit lies within one unit of the next
    outer factor; None where factors are crossed.

    **Arguments:** `random`: the terms; `units`: of their grouping factors by columns, where known already.
    **Returns:** the `group` of each factor, each once.
    **Raises:** DataError for unknown columns, and rows without a label.
    """
    groups = list(dict.fromkeys(term.group for term in random))
    known = {group: units[group] if units and group in units else group_units(group, frame) for group in groups}
    groups.sort(key=lambda group: (known[group].count, len(group)))
    for outer, inner in itertools.pairwise(groups):
        # An inner factor that has the columns of the outer one, and further ones, is nested by what it is.
        if not set(outer) <= set(inner):
            outer_codes, units_inside = known[outer].codes, known[inner]
            if not np.array_equal(outer_codes[units_inside.first][units_inside.codes], outer_codes):
                return None
    return tuple(groups)


def _label_column(frame: Any, name: str) -> Any:
    """The labels of column `name`, as an array that factorizes quickly. **Raises:** DataError for missing labels."""
    raw = take_column(frame, name, "the grouping factor")
    if not isinstance(raw, pd.Series):
        raw = pd.Series(raw.to_numpy() if hasattr(raw, "to_numpy") else raw)
    dtype = raw.dtype
    if not (isinstance(dtype, np.dtype) and dtype.kind in "iub") and np.asarray(missing := raw.isna()).any():
        raise DataError(
            f"the grouping factor {name!r} has no label in {rows_text(np.asarray(missing), raw.index)}; every row "
            "needs the label of its unit: fill it in or drop the rows."
        )
    return raw.array if not isinstance(dtype, np.dtype) else raw.to_numpy()


def _codes(column: Any) -> tuple[np.ndarray, int]:
    """Codes of labels (rows,), and a bound of their number; not every code below it need occur."""
    if isinstance(column, pd.Categorical):
        return column.codes.astype(np.intp), len(column.categories)
    if isinstance(column, np.ndarray) and column.dtype.kind in "iu" and column.size:
        least, most = int(column.min()), int(column.max())
        if most - least < 4 * column.size:
            return np.asarray(column - least, np.intp), most - least + 1
    codes, distinct = pd.factorize(column)
    return codes, len(distinct)


def _factorize(codes: np.ndarray, bound: int) -> tuple[np.ndarray, int]:
    """Codes below `bound` counted anew in order of first appearance, and their number."""
    if bound > 4 * codes.size:
        codes, distinct = pd.factorize(codes)
        return codes, len(distinct)
    first = np.full(bound, codes.size, np.intp)
    first[codes[::-1]] = np.arange(codes.size - 1, -1, -1)
    present = np.flatnonzero(first < codes.size)
    numbers = np.empty(bound, np.intp)
    numbers[present[np.argsort(first[present])]] = np.arange(present.size)
    return numbers[codes], present.size
