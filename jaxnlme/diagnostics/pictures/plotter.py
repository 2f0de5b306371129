"""Base of the pictures of a fit: its predictions, residuals and columns, computed once, and titles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._pictures import axis_label, x_column
from jaxnlme.diagnostics.residuals import endpoint_rows
from jaxnlme.diagnostics.residuals import residuals as residual_table
from jaxnlme.drawing.panels import Panels, natural_order, write_title
from jaxnlme.drawing.style import pyplot
from jaxnlme.errors import OptionError, near_matches
from jaxnlme.results.by_level import columns_of_effects

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

INDIVIDUAL = ("ires", "iwres", "normalized")  # residuals from individual predictions; others: from the population's
UNWEIGHTED = ("pres", "ires")
# Numeric columns with at most this many different values are drawn as categories.
MOST_CATEGORIES = 5


class AbstractPlotter:
    """Base class of the pictures of `fit`.

    **Raises:** ImportError naming the extra to install, where matplotlib is missing.
    """

    def __init__(self, fit: FitRecord):
        pyplot()
        self.fit = fit
        self._computed: dict[Any, Any] = {}

    def _prediction(self, level: str) -> np.ndarray:
        """Predictions (rows,) at a level."""
        if level not in self._computed:
            self._computed[level] = np.asarray(self.fit.predict(level=level))
        return self._computed[level]

    def _residual(self, *kinds: str) -> list[np.ndarray]:
        """Residuals (rows,) of each kind. **Raises:** as `fit.residuals`."""
        new = [kind for kind in kinds if ("residual", kind) not in self._computed]
        if new:
            table = residual_table(self.fit, new)
            self._computed |= {("residual", kind): table[kind].to_numpy() for kind in new}
        return [self._computed["residual", kind] for kind in kinds]

    @property
    def _frame(self) -> pd.DataFrame:
        """The data as a table, a row per row of the original one."""
        if "frame" not in self._computed:
            self._computed["frame"] = self.fit.data.to_frame()
        return self._computed["frame"]

    @property
    def _endpoints(self) -> list[tuple[str | None, np.ndarray]]:
        """The endpoints with Gaussian moments and their rows; see `endpoint_rows`."""
        if "endpoints" not in self._computed:
            self._computed["endpoints"] = endpoint_rows(self.fit)
        return self._computed["endpoints"]

    @property
    def _kind(self) -> np.ndarray:
        """Kind of each response (rows,): 0 observed, 1 below its limit, 2 above, 3 in an interval."""
        limits, data = self.fit.data.limits, self.fit.data
        return np.zeros(data.n_rows, int) if limits is None else data.rows_to_column(limits.kind)

    @property
    def _on_scale(self) -> bool:
        """True if predictions are on the scale of the responses: of outcomes with Gaussian moments, and of generalised
        linear models."""
        return self.fit.binding.density.error.has_residuals or bool(getattr(self.fit, "on_scale_of_data", False))

    def _label(self, name: str | None, endpoint: str | None = None) -> str:
        """The label of the axis of a column; of the response of an `endpoint` where there is one."""
        data = self.fit.data
        return axis_label(data, endpoint if endpoint is not None else data.y_name if name is None else name)

    def _predicted(self, level: str, endpoint: str | None = None) -> str:
        """The label of an axis of predictions."""
        words = "individual" if level == "group" else level
        if not self._on_scale:
            return f"f of the structural model, {words}"
        return f"predicted {self._label(None, endpoint)}, {words}"

    def _x_name(self, x: str | None) -> str:
        return x_column(self.fit.data, x)

    def _column(self, name: str) -> np.ndarray:
        """A column of the data (rows,). **Raises:** OptionError where there is none."""
        data = self.fit.data
        known = [*data.x, *data.v, *data.text]
        if name not in known:
            raise OptionError(f"no column {name!r}; {near_matches(str(name), known)}")
        column = self._frame[name]
        return column.astype(object).to_numpy() if column.dtype.name == "category" else column.to_numpy()

    def _sd(self) -> dict[str, float]:
        """The SD of each effect of non-zero variance. **Raises:** OptionError where there is none."""
        psi = self.fit.psi
        if not len(psi):
            raise OptionError("the model has no random effects to draw.")
        variances = dict(zip(map(str, psi.index), np.diag(psi.to_numpy()).tolist(), strict=True))
        sd = {name: float(np.sqrt(variance)) for name, variance in variances.items() if variance > 0}
        if not sd:
            raise OptionError("the variances of all random effects are zero: there is nothing to draw.")
        return sd

    def _scaled_effects(self) -> dict[str, np.ndarray]:
        effects = columns_of_effects(self.fit.random_effects)
        return {name: effects[name] / sd for name, sd in self._sd().items()}

    def _title(self, panels: Panels, text: str, created: bool, on_figure: bool = False) -> None:
        """The title of a picture; a fit that did not converge is marked."""
        write_title(panels, text, created, self.fit.converged, on_figure)


def categories(values: np.ndarray, declared: Any = None) -> list[Any] | None:
    """The levels of a column drawn as categories, in declared or natural order; None for a numeric one."""
    values = np.asarray(values)
    if values.dtype != object:
        found = np.unique(values[np.isfinite(values)])
        return found.tolist() if len(found) <= MOST_CATEGORIES else None
    found = list(dict.fromkeys(value for value in values.tolist() if value is not None and value == value))
    if declared is not None:
        return [level for level in declared if level in found]
    return [found[k] for k in natural_order(found)]


def level_text(level: Any) -> str:
    """A level of a category as text: 1.0 is "1"."""
    return f"{level:g}" if isinstance(level, float) else str(level)
