"""Pictures of checks by simulation: npde, and visual predictive checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._pictures import axis_label
from jaxnlme.diagnostics.npde.of_fit import npde_of_fit
from jaxnlme.diagnostics.pictures.plotter import AbstractPlotter
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.drawing.marks import dots, histogram, limits_around, normal_density, normal_quantiles, smooth
from jaxnlme.drawing.panels import Panels, as_panels, axes_in_grid
from jaxnlme.drawing.style import DARK, GREY, picture, style_axes
from jaxnlme.errors import OptionError, shown

if TYPE_CHECKING:
    from jaxnlme.diagnostics.vpc.record import Vpc

KINDS = ("npde", "npd")


class AbstractSimulationPictures(AbstractPlotter):
    """Pictures of checks by simulation."""

    @picture("fit.plot.vpc")
    def vpc(
        self,
        check: Vpc | None = None,
        *,
        ax: Any = None,
        logy: bool = False,
        logx: bool = False,
        points: bool = True,
        title: str | None = None,
        **options: Any,
    ) -> Any:
        """Visual predictive check: observed percentiles (or shares, or survival curves) as lines over the bands of the
        simulated ones, with the observations and marks at the boundaries of the bins; below it the share of the
        observations beyond limits of quantification. A panel for each stratum.

        **Arguments:** `check`: what `fit.vpc(...)` returned, None to compute it here with the `options` of `fit.vpc`;
        `ax`: None, an axes, or one for each panel; `logy`, `logx`: logarithmic axes; `points`: draw the observations;
        `title`.
        **Returns:** the axes, an array where there are several.
        **Raises:** OptionError for another number of axes, and those of `fit.vpc`.
        """
        from jaxnlme.diagnostics.vpc.of_fit import vpc_of_fit
        from jaxnlme.diagnostics.vpc.record import Vpc

        if check is not None and not isinstance(check, Vpc):
            raise OptionError(f"check is what fit.vpc(...) returns; received {shown(check)}.")
        if check is not None and options:
            raise OptionError(f"{next(iter(options))} is an option of fit.vpc, which has been computed; leave it out.")
        check = vpc_of_fit(self.fit, **options) if check is None else check
        drawn = check.plot(ax, logy=logy, logx=logx, points=points, title=title)
        for panel in as_panels(drawn):  # labels with units, where the data declare them
            panel.set_xlabel(self._label(panel.get_xlabel()))
            panel.set_ylabel(axis_label(self.fit.data, panel.get_ylabel()))
        return drawn

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
        if record is None:
            record = npde_of_fit(self.fit, **{"decorrelation": "none" if kind == "npd" else "cholesky", **options})
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
