"""`Derived`: functions of the parameters of a fit, with standard errors and intervals."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.errors import check_level, shown, some
from jaxnlme.model.transforms import AbstractTransform, Identity
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.settings import INFORMATION

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Derived(Printable):
    """Values derived from the parameters of a fit. It prints as sentences and the table.

    **Fields:** `quantities`: names of the derived quantities; `at`: the table of covariates, None without one;
    `estimate` (derived,), all rows of `at` for the first quantity, then for the next; `jacobian` (derived, active):
    derivatives in the packed parameters that were estimated; `parameter_covariance` (active, active): the covariance of
    these; `draws` (draws, derived), None for the delta method; `transforms`: for each quantity the scale of its
    interval; `level` of the intervals in `table`; `sentences`.
    """

    quantities: tuple[str, ...]
    at: pd.DataFrame | None
    estimate: np.ndarray
    jacobian: np.ndarray
    parameter_covariance: np.ndarray
    draws: np.ndarray | None
    transforms: tuple[AbstractTransform, ...]
    level: float
    sentences: tuple[str, ...]

    @functools.cached_property
    def index(self) -> pd.Index:
        """Names of the derived values: the quantity, or pairs of quantity and row of `at`."""
        import pandas as pd

        if self.at is None:
            return pd.Index(self.quantities, name="quantity")
        rows = [label if self.at.index.nlevels == 1 else str(label) for label in self.at.index]
        pairs = [(name, row) for name in self.quantities for row in rows]
        return pd.MultiIndex.from_tuples(pairs, names=["quantity", "row"])

    @functools.cached_property
    def covariance(self) -> pd.DataFrame:
        """Joint covariance matrix of the derived values: by the delta method, or of the draws."""
        import pandas as pd

        return pd.DataFrame(self._covariance, index=self.index, columns=self.index)

    @functools.cached_property
    def _covariance(self) -> np.ndarray:
        if self.draws is None:
            with np.errstate(invalid="ignore"):
                return self.jacobian @ self.parameter_covariance @ self.jacobian.T
        with np.errstate(invalid="ignore", over="ignore"):
            return np.cov(self.draws, rowvar=False).reshape(len(self.estimate), len(self.estimate))

    @functools.cached_property
    def standard_errors(self) -> np.ndarray:
        """Standard errors (derived,); NaN where a value or a derivative is not finite, and where no estimated parameter
        changes the value."""
        with np.errstate(invalid="ignore", over="ignore"):
            if self.draws is None:
                variance = np.einsum("ij,jk,ik->i", self.jacobian, self.parameter_covariance, self.jacobian)
            else:
                variance = np.var(self.draws, axis=0, ddof=1)
            se = np.sqrt(variance)
        known = se <= INFORMATION.rounding * np.maximum(np.abs(self.estimate), np.finfo(float).tiny)
        return np.where(known | ~np.isfinite(self.estimate), np.nan, se)

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """The derived values: `intervals(level)` at the level of the call."""
        return self.intervals()

    def intervals(self, level: float | None = None) -> pd.DataFrame:
        """The table of derived values: the columns of `at`, `estimate`, `se`, `rse%` (100 se / |estimate|), `lower` and
        `upper`: Wald's interval on the scale of `transforms`, carried back, or the percentiles of the draws.

        **Arguments:** `level`, a probability; None: that of the call.
        **Returns:** a data frame, a row per derived value.
        **Raises:** OptionError for a level outside (0, 1).
        """
        import pandas as pd

        level = self.level if level is None else level
        check_level(level)
        se = self.standard_errors
        lower, upper = self._percentiles(level) if self.draws is not None else self._wald(level)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(self.estimate == 0, np.nan, 100.0 * se / np.abs(self.estimate))
        columns = {"estimate": self.estimate, "se": se, "rse%": relative, "lower": lower, "upper": upper}
        table = pd.DataFrame(columns, index=self.index)
        if self.at is None:
            return table
        repeated = pd.concat([self.at] * len(self.quantities), ignore_index=True).set_axis(self.index, axis=0)
        repeated.columns = [f"{name} (at)" if name in columns else name for name in repeated.columns]
        return pd.concat([repeated, table], axis=1)

    def _wald(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        half = float(NormalDist().inv_cdf(0.5 + level / 2.0)) * self.standard_errors
        lower, upper = self.estimate - half, self.estimate + half
        rows = len(self.estimate) // len(self.quantities)
        for k, scale in enumerate(self.transforms):
            if isinstance(scale, Identity):
                continue
            cells = slice(k * rows, (k + 1) * rows)
            value = self.estimate[cells]
            with np.errstate(all="ignore"):
                real, width = np.asarray(scale.to_real(value)), half[cells] * np.exp(np.asarray(scale.log_slope(value)))
                lower[cells], upper[cells] = scale.to_natural(real - width), scale.to_natural(real + width)
        return lower, upper

    def _percentiles(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        assert self.draws is not None
        tail = 50.0 * (1.0 - level)
        # Infinite draws have a rank as others do; NaN has none, and the interval is NaN.
        with np.errstate(invalid="ignore"):
            lower, upper = np.percentile(self.draws, [tail, 100.0 - tail], axis=0)
        known = np.isnan(self.standard_errors) & ~np.isnan(np.ptp(self.draws, axis=0))
        return np.where(known, np.nan, lower), np.where(known, np.nan, upper)

    def _tables(self) -> list[Table]:
        table = self.table.drop(columns="rse%")
        names = [str(pair[0]) if self.at is not None else str(pair) for pair in self.index]
        percent = f"{100 * self.level:g}%"
        header = ["", *(str(name) for name in table.columns[:-4]), "estimate", "se", f"{percent} lower", "upper"]
        rows = [
            [name, *(number(float(cell)) if isinstance(cell, numbers.Real) else str(cell) for cell in cells)]
            for name, cells in zip(names, table.itertuples(index=False), strict=True)
        ]
        return [Table("", header, rows)]


def in_words(names: list[Any]) -> str:
    """Derived values for a sentence: "'half-life'", "'half-life' in row 3"."""
    return some([f"{n[0]!r} in row {shown(n[1])} of at" if isinstance(n, tuple) else repr(n) for n in names])
