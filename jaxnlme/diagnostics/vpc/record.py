"""Vpc, the record of a visual predictive check, with its tables and picture."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.results.display import Printable, Table, number

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("continuous", "categorical", "survival")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Vpc(Printable):
    """A visual predictive check: what was observed, and intervals of the same over simulated data sets.

    **Fields:**

    - `observed`: a row for each stratum, bin and percentile (or category): columns of the strata, `bin` (from 1 on),
      `x` (where the bin is drawn), `percentile` or `category`, and `value` or `share`. Empty where a percentile falls
      among censored observations. Times to event: `time`, `survival` (or `mean`), `at_risk`, `events`.
    - `simulated`: the same rows with `low`, `median` and `high` over the replicates.
    - `bins`: a row for each bin with observations: `left`, `right`, `x`, `observations`.
    - `below_limit`: where there are limits of quantification, the `share` of the observations `below` and `above` them
      (column `limit`), with `low`, `median` and `high` of the simulated shares; None otherwise.
    - `points`: the observations (`x`, `y`), corrected as the percentiles are; empty beyond a limit.
    - `kind`: "continuous", "categorical" or "survival"; `replicates`; `level` of the intervals; `x_name`, `y_name`:
      labels of the axes; `strata`: names of their columns; `sentences`: how the check was made.

    **Example:**

    ```python
    vpc = fit.vpc(replicates=200, seed=1)
    print(vpc.outside)
    vpc.plot()
    ```
    """

    observed: pd.DataFrame
    simulated: pd.DataFrame
    bins: pd.DataFrame | None
    below_limit: pd.DataFrame | None
    points: pd.DataFrame | None
    kind: str
    replicates: int
    level: float
    x_name: str
    y_name: str
    strata: tuple[str, ...]
    sentences: tuple[str, ...]
    titles: tuple[str, ...] = ("",)
    """The strata in words, in the order of the tables."""
    limits: tuple[float, float] = (-np.inf, np.inf)
    """The largest lower and the smallest upper limit of quantification."""
    corrected: bool = False
    """True where responses are prediction-corrected."""
    converged: bool = True
    """False for simulations from a fit that did not converge."""

    @property
    def outside(self) -> pd.DataFrame:
        """The rows of `observed` that are outside the interval of `simulated`."""
        return self.observed[self._compared() & ~self._inside()]

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """The picture of the check; see `fit.plot.vpc`.

        **Arguments:** `ax`: None, an axes, or one for each panel; `options`: `logy`, `logx`, `points` and `title`.
        **Returns:** the axes of the panels.
        **Raises:** OptionError for another number of axes; ImportError where matplotlib is missing.
        """
        from jaxnlme.diagnostics.vpc.picture import draw

        return draw(self, ax, **options)

    def _tables(self) -> list[Table]:
        observed = self.observed
        if not len(observed):
            return []
        keys = [name for name in (*self.strata, "event", "percentile", "category") if name in observed]
        keys = keys or ["all"]
        table = observed.assign(all="all", inside=self._inside(), compared=self._compared())
        rows = []
        for label, part in table.groupby(keys, sort=False, observed=True):
            names = [_cell(value) for value in label]
            used = int(part["compared"].sum())
            inside = int((part["inside"] & part["compared"]).sum())
            rows.append([*names, f"{inside} of {used}", number(100.0 * inside / used, 3) if used else ""])
        what = "times" if self.kind == "survival" else "bins"
        title = f"{what} where the observed value is inside the {100 * self.level:g}% interval of the simulated ones:"
        return [Table(title, [*(key if key != "all" else "" for key in keys), what, "%"], rows)]

    def _compared(self) -> np.ndarray:
        """True for the rows with an observed value and an interval."""
        simulated = self.simulated
        return np.isfinite(self._value()) & simulated["low"].notna().to_numpy() & simulated["high"].notna().to_numpy()

    def _inside(self) -> np.ndarray:
        value, simulated = self._value(), self.simulated
        return (value >= simulated["low"].to_numpy()) & (value <= simulated["high"].to_numpy())

    def _value(self) -> np.ndarray:
        """The observed statistic (rows,)."""
        name = next(name for name in ("value", "share", "survival", "mean") if name in self.observed)
        return self.observed[name].to_numpy(float)


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
