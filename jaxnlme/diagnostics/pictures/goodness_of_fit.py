"""Observations against predictions, residuals, quantiles, and pages of these."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.arguments import check_flag
from jaxnlme.diagnostics.pictures.plotter import INDIVIDUAL, UNWEIGHTED, AbstractPlotter, categories, level_text
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.drawing.marks import (
    boxes,
    dots,
    identity_line,
    limits_around,
    normal_quantiles,
    note,
    responses,
    smooth,
)
from jaxnlme.drawing.panels import Panels, axes_in_grid, axes_in_row, one_or_panels
from jaxnlme.drawing.style import DARK, GREY, picture, style_axes
from jaxnlme.errors import OptionError, shown


class AbstractFitPictures(AbstractPlotter):
    """Pictures of predictions and residuals."""

    @picture("fit.plot.observed_predicted")
    def observed_predicted(self, level: str = "both", ax: Any = None, *, log: bool = False) -> Panels:
        """Observations against predictions, with the line of identity and a smooth curve. Censored observations are
        hollow triangles at their limit; where they are more than 5% there is no curve: one through the others would
        bend away from the truth.

        **Arguments:** `level`: "population", "group" or "both" (two panels); `ax`: one axes per panel; `log`:
        logarithmic axes, on which values not above zero are not drawn. With several endpoints each has panels of its
        own; those without one prediction a row have none.
        **Returns:** the axes (panels,).
        **Raises:** OptionError for another level or number of axes.

        **Example:**

        ```python
        fit.plot.observed_predicted()
        ```
        """
        if level not in ("population", "group", "both"):
            raise OptionError(f"level must be 'population', 'group' or 'both'; received {shown(level)}.")
        check_flag("log", log)
        levels, endpoints = ("population", "group") if level == "both" else (level,), self._endpoints
        for name in levels:
            self._prediction(name)
        panels = axes_in_grid(ax, len(levels) * len(endpoints), len(levels), (3.4, 3.2))
        for k, panel in enumerate(panels):
            self._observed_predicted(panel, levels[k % len(levels)], *endpoints[k // len(levels)], log)
        self._title(panels, f"Observed and predicted by {self.fit.method}", ax is None)
        return panels

    def _observed_predicted(self, ax: Any, level: str, endpoint: str | None, rows: np.ndarray, log: bool) -> None:
        """One panel, with the range of all predictions computed before; where f need not be on the scale of the
        responses, without a line of identity."""
        y, prediction = self._frame[self.fit.data.y_name].to_numpy(), self._prediction(level)
        use = rows & np.isfinite(y)
        drawn = use & ((y > 0) & (prediction > 0)) if log else use
        both = [self._computed[name][drawn] for name in ("population", "group") if name in self._computed]
        if self._on_scale:
            identity_line(ax, y[drawn], *both, log=log)
        elif log:
            ax.set(xscale="log", yscale="log")
        if log and (use & ~drawn).any():
            note(ax, f"{int((use & ~drawn).sum())} not above zero: not drawn")
        responses(ax, prediction[drawn], y[drawn], self._kind[drawn])
        if self._smooth_is_fair(rows):
            smooth(ax, prediction[drawn & (self._kind == 0)], y[drawn & (self._kind == 0)], log=log)
        if (self._kind[drawn] > 0).any():
            ax.legend(loc="lower right", handletextpad=0.2)
        ax.set(xlabel=self._predicted(level, endpoint), ylabel=f"observed {self._label(None, endpoint)}")
        style_axes(ax)

    def _smooth_is_fair(self, rows: np.ndarray) -> bool:
        """True where few of `rows` are censored: a curve through the others is biased where many are."""
        return float(np.mean(self._kind[rows] > 0)) <= DIAGNOSTICS.most_censored if rows.any() else True

    @picture("fit.plot.residuals")
    def residuals(
        self,
        kind: str = "cwres",
        against: str = "prediction",
        ax: Any = None,
        *,
        title: str | None = None,
        smooth: bool = True,
        logx: bool = False,
    ) -> Any:
        """Residuals against predictions or a column, with a smooth curve; for weighted residuals with the central 95%
        range of a standard normal. Boxes for a column of categories. Censored rows have no residual; where they are
        more than 5% there is no curve.

        **Arguments:** `kind`: a residual of `fit.residuals()`; `against`: "prediction" (that of the population, or the
        individual one for individual residuals), "x" (the first x column), or the name of a column of x or v; `title`
        in the place of "Residuals by ...", below "NOT CONVERGED" for a fit that did not converge; `smooth`: with the
        curve; `logx`: a logarithmic horizontal axis; `ax`: one axes per endpoint.
        **Returns:** the axes; with several endpoints an array of them, a panel for each that has residuals.
        **Raises:** OptionError for an unknown kind or column; ModelError for an outcome without residuals.

        **Example:**

        ```python
        fit.plot.residuals()
        ```
        """
        check_flag("smooth", smooth)
        check_flag("logx", logx)
        self._residual(kind)
        against = self._x_name(None) if against == "x" else against
        if against != "prediction":
            self._column(against)
        endpoints = self._endpoints
        panels = axes_in_row(ax, len(endpoints), (min(5.6 * len(endpoints), 9.0), 3.8))
        for panel, (label, rows) in zip(panels, endpoints, strict=True):
            self._residual_panel(panel, kind, against, label, rows, smooth, logx)
        words = f"Residuals by {self.fit.method}" if title is None else title
        self._title(panels, words, ax is None)
        return one_or_panels(panels)

    def _residual_panel(
        self,
        ax: Any,
        kind: str,
        against: str,
        endpoint: str | None,
        rows: np.ndarray,
        with_smooth: bool = True,
        logx: bool = False,
    ) -> None:
        """Residuals of an endpoint against the prediction or a column."""
        (values,) = self._residual(kind)
        weighted = kind not in UNWEIGHTED
        use = rows & np.isfinite(values)
        if (self._kind[rows] > 0).any():
            note(ax, f"{int((self._kind[rows] > 0).sum())} censored: no residual")
        with_smooth = with_smooth and self._smooth_is_fair(rows)
        ax.axhline(0.0, color=DARK, lw=1.0, zorder=1)
        for sign in (-1.0, 1.0) if weighted else ():
            ax.axhline(sign * DIAGNOSTICS.normal_quantile, color=GREY, lw=1.0, ls="--", zorder=1)
        level = "group" if kind in INDIVIDUAL else "population"
        horizontal = self._prediction(level) if against == "prediction" else self._column(against)
        levels = None
        if against != "prediction":
            levels = categories(horizontal[use], self.fit.data.levels.get(against)) if use.any() else None
            levels = None if against in self.fit.data.x and horizontal.dtype != object else levels
        if levels is None:
            dots(ax, horizontal[use], values[use])
            if logx:
                ax.set_xscale("log", nonpositive="mask")
            if with_smooth and logx:
                positive = use & (horizontal > 0)
                line = smooth(ax, np.log(horizontal[positive]), values[positive])
                if line is not None:
                    line.set_xdata(np.exp(line.get_xdata()))
            elif with_smooth:
                smooth(ax, horizontal[use], values[use])
        else:
            parts = [values[use & (horizontal == level_k)] for level_k in levels]
            boxes(ax, parts, [level_text(level_k) for level_k in levels])
        of = "" if endpoint is None else f" of {endpoint}"
        name = self._predicted(level, endpoint) if against == "prediction" else self._label(against)
        ax.set(xlabel=name, ylabel=f"residual{of} ({kind.upper()})")
        ax.set_ylim(limits_around(values[use], DIAGNOSTICS.least_residual_limit if weighted else 0.0))
        style_axes(ax)

    @picture("fit.plot.gof")
    def gof(self, ax: Any = None, *, residual: str = "cwres", x: str | None = None, log: bool = False) -> Panels:
        """The four panels of goodness of fit: observations against population and individual predictions, and residuals
        against a column of x and against the population prediction, with smooth curves; with several endpoints four
        panels of each.

        **Arguments:** `ax`: one axes per panel; `residual`: a kind of `fit.residuals()`; `x`: the column, the first of
        x where None; `log`: logarithmic axes of observations and predictions.
        **Returns:** the axes (panels,).
        **Raises:** OptionError for an unknown kind or column; ModelError for an outcome without residuals.

        **Example:**

        ```python
        fit.plot.gof()
        ```
        """
        check_flag("log", log)
        self._residual(residual)
        x = self._x_name(x)
        panels = axes_in_grid(ax, 4 * len(self._endpoints), 2, (3.5, 2.9))
        for k, (endpoint, rows) in enumerate(self._endpoints):
            self._four_panels(panels[4 * k : 4 * k + 4], endpoint, rows, residual, x, log)
        self._title(panels, f"Goodness of fit by {self.fit.method}", ax is None)
        return panels

    def _four_panels(
        self, panels: np.ndarray, endpoint: str | None, rows: np.ndarray, residual: str, x: str, log: bool
    ) -> None:
        """The four panels of an endpoint."""
        for level in ("population", "group"):
            self._prediction(level)
        for panel, level in zip(panels[:2], ("population", "group"), strict=True):
            self._observed_predicted(panel, level, endpoint, rows, log)
        for panel, against in zip(panels[2:], (x, "prediction"), strict=True):
            self._residual_panel(panel, residual, against, endpoint, rows)

    @picture("fit.plot.qq")
    def qq(self, of: str = "cwres", ax: Any = None) -> Any:
        """Ordered residuals, or random effects, against quantiles of the standard normal distribution, with the line of
        identity and pointwise 95% intervals of a standard normal sample. Random effects are the conditional modes in
        units of their SD: with shrinkage they are flatter than the line.

        **Arguments:** `of`: a weighted residual of `fit.residuals()`, or "effects"; `ax`: one axes per endpoint, or
        effect.
        **Returns:** the axes of one panel, or an array of axes.
        **Raises:** OptionError for residuals that are not weighted, and a model without random effects; ModelError for
        an outcome without residuals.

        **Example:**

        ```python
        fit.plot.qq()
        ```
        """
        if of in UNWEIGHTED:
            raise OptionError(f"{of!r} are not standardised; use 'iwres', 'cwres' or another weighted residual.")
        if of == "effects":
            parts = {f"{name} / SD": values for name, values in self._scaled_effects().items()}
            title = f"Random effects by {self.fit.method}"
        else:
            (values,) = self._residual(of)
            parts = {
                of.upper() if label is None else f"{of.upper()} of {label}": values[rows]
                for label, rows in self._endpoints
            }
            title = f"Normal quantiles of residuals by {self.fit.method}"
        panels = axes_in_grid(ax, len(parts), 3, (2.9, 2.7) if len(parts) > 1 else (3.8, 3.4))
        for panel, (name, values) in zip(panels, parts.items(), strict=True):
            normal_quantiles(panel, values)
            panel.set_ylabel(name)
            style_axes(panel)
        self._title(panels, title, ax is None)
        return one_or_panels(panels)
