"""Rows of the fixed-effects design at all combinations of categories, with numeric covariates at given values."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxnlme.errors import OptionError
from jaxnlme.formulas.design import DesignMatrix
from jaxnlme.formulas.frames import as_table
from jaxnlme.formulas.term_factors import Predictors, predictors
from jaxnlme.linear.inference.settings import INFERENCE

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceGrid:
    """The fixed effects of a fit at combinations of categories.

    **Fields:** `matrix`: the DesignMatrix of the fixed effects; `predictors`: its columns; `levels`: the categories of
    each categorical column, in the order in which the rows of a grid vary, the last one fastest; `numeric`: a table of
    the numeric columns of the data.
    """

    matrix: DesignMatrix
    predictors: Predictors
    levels: Mapping[str, tuple[Any, ...]]
    numeric: pd.DataFrame

    def design(self, numeric: Mapping[str, float], levels: Mapping[str, tuple[Any, ...]] | None = None) -> np.ndarray:
        """The rows of the design (combinations, fixed) at the categories `levels`, None for all, and `numeric` values
        of the other columns; `levels` may hold values of numeric columns as well."""
        return self.matrix.for_frame(self.table(numeric, levels))

    def table(self, numeric: Mapping[str, float], levels: Mapping[str, tuple[Any, ...]] | None = None) -> pd.DataFrame:
        """The table of the rows of `design`."""
        levels = self.levels if levels is None else levels
        cells = combinations(levels)
        count = len(cells)
        table: dict[str, Any] = {
            name: _column(self.levels.get(name, ()), [cell[k] for cell in cells]) for k, name in enumerate(levels)
        }
        table |= {name: np.full(count, float(value)) for name, value in numeric.items()}
        return pd.DataFrame(table, index=pd.RangeIndex(count))

    def numeric_rows(self, count: int) -> list[dict[str, float]]:
        """About `count` rows of the numeric columns, spread over those of the data."""
        if self.numeric.empty:
            return [{}]
        chosen = np.unique(np.linspace(0, len(self.numeric) - 1, count).round().astype(int))
        return [{str(name): value for name, value in row.items()} for _, row in self.numeric.iloc[chosen].iterrows()]

    @property
    def means(self) -> dict[str, float]:
        """The means of the numeric columns over the rows of the data."""
        return {str(name): float(values.mean()) for name, values in self.numeric.items()}


def reference_grid(fit: LinearFit) -> ReferenceGrid:
    """The ReferenceGrid of the fixed effects of a fit.

    **Raises:** OptionError where the grid would be larger than `INFERENCE.most_grid_rows`, or columns have no place in
    one (see `predictors`).
    """
    fixed = fit.model.fixed
    found = predictors(fixed, fit.model.frame)
    rows = int(np.prod([float(len(levels)) for levels in found.levels.values()]))
    if rows > INFERENCE.most_grid_rows:
        raise OptionError(
            f"the categories of {', '.join(found.levels)} have {rows} combinations; the limit for a reference grid is "
            f"{INFERENCE.most_grid_rows}: use fit.contrast with combinations of your own."
        )
    table = as_table(fit.model.frame, found.numeric, f"formula {fixed.formula!r}")
    return ReferenceGrid(fixed, found, dict(found.levels), table.astype(float))


def combinations(levels: Mapping[str, tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """All combinations of categories, the last column varying fastest."""
    return list(itertools.product(*levels.values()))


def _column(levels: tuple[Any, ...], values: list[Any]) -> Any:
    """A column of categories, or of numbers where these are numbers."""
    if all(isinstance(level, (int, float, np.number)) and not isinstance(level, bool) for level in levels):
        return np.asarray(values)
    return pd.Categorical(values, categories=list(levels))
