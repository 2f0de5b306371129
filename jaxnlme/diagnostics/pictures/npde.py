"""Picture of normalised prediction discrepancies and distribution errors."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.diagnostics.pictures.plotter import AbstractPlotter
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.drawing.marks import dots, histogram, limits_around, normal_density, normal_quantiles, smooth
from jaxnlme.drawing.panels import Panels, axes_in_grid
from jaxnlme.drawing.style import DARK, GREY, picture, style_axes
from jaxnlme.errors import OptionError, shown

KINDS = ("npde", "npd")


class AbstractNpdePictures(AbstractPlotter):
    """The picture of npde."""

    @picture("fit.plot.npde")
    def npde(
        self, record: Any = None, kind: str = "npde", x: str | None = None, ax: Any = None, **options: Any
    ) -> Panels:
        """Normalised prediction distribution errors in four panels: normal quantiles, a histogram with the standard
        normal density, and their values against a column of x and the mean prediction, with smooth curves and the
        central 95% range. Under the model they are standard normal.

        **Arguments:** `record`: of `fit.npde()`, computed with the `options` of that method where None; `kind`: "npde"
        or "npd", which are not decorrelated; `x`: the column, the first of x where None; `ax`: four axes.
        **Returns:** the axes (4,).
        **Raises:** OptionError for another kind, record or number of axes, and options beside a record.
        """
        if kind not in KINDS:
            raise OptionError(f"kind must be 'npde' or 'npd'; received {shown(kind)}.")
        if record is not None and options:
            raise OptionError(
                f"record is given, and so are options of fit.npde(): {', '.join(options)}; drop one of them."
            )
        record = self.fit.npde(**options) if record is None else record  # pyright: ignore[reportAttributeAccessIssue]
        table = getattr(record, "table", None)
        if table is None or kind not in table or "ypred" not in table:
            raise OptionError(f"record must be that of fit.npde(), or None; received {type(record).__name__}.")
        x = self._x_name(x)
        values, panels = table[kind].to_numpy(float), axes_in_grid(ax, 4, 2, (3.5, 2.7))
        finite = values[np.isfinite(values)]
        normal_quantiles(panels[0], values)
        panels[0].set_ylabel(kind)
        histogram(panels[1], values)
        low, high = limits_around(finite, DIAGNOSTICS.least_effect_limit)
        normal_density(panels[1], 1.0, low, high)
        panels[1].set(xlabel=kind, ylabel="density", xlim=(low, high))
        for panel, column, name in (
            (panels[2], x, self._label(x)),
            (panels[3], "ypred", "mean of simulated responses"),
        ):
            at = table[column].to_numpy(float)
            panel.axhline(0.0, color=DARK, lw=1.0, zorder=1)
            for sign in (-1.0, 1.0):
                panel.axhline(sign * DIAGNOSTICS.normal_quantile, color=GREY, lw=1.0, ls="--", zorder=1)
            dots(panel, at, values)
            smooth(panel, at, values)
            panel.set(xlabel=name, ylabel=kind, ylim=(low, high))
        for panel in panels:
            style_axes(panel)
        self._title(panels, f"{kind} by {self.fit.method}", ax is None)
        return panels
