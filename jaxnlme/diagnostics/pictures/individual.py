"""Individual fits: the data of each group with its curves, on pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.arguments import check_flag
from jaxnlme.data._endpoints import label_text
from jaxnlme.data._pictures import dose_marks, rows_of
from jaxnlme.diagnostics.curves import prediction_curves, response_column
from jaxnlme.diagnostics.pictures.plotter import AbstractPlotter
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.drawing.marks import responses
from jaxnlme.drawing.panels import Panels, axes_in_grid, chosen_labels, legend_below, lowest, on_page
from jaxnlme.drawing.style import CYCLE, DARK, GREY, picture, plain_text, style_axes
from jaxnlme.errors import OptionError, check_whole_number, near_matches

# Title of the legend where curves have the fitted rows only.
ROWS_ONLY = "drawn through the fitted rows: the model uses events of other rows"

OFF_SCALE = "curves: f of the structural model, which need not be the mean of this outcome"


class AbstractIndividualPictures(AbstractPlotter):
    """Pictures of the data, and of the fit of each group."""

    @picture("fit.plot.data")
    def data(self, x: str | None = None, **options: Any) -> Any:
        """The responses that were fitted, a line per group.

        **Arguments:** `x`, `options`: see `GroupedData.plot`.
        **Returns:** the axes of one panel, or an array of axes.
        **Raises:** as `GroupedData.plot`.

        **Example:**

        ```python
        fit.plot.data()
        ```
        """
        return self.fit.data.plot(x, **options)

    @picture("fit.plot.individual_fits")
    def individual_fits(
        self,
        groups: Sequence[Any] | None = None,
        x: str | None = None,
        columns: int = 4,
        *,
        by: str | None = None,
        points: int = 100,
        logx: bool = False,
        logy: bool = False,
        page: int = 1,
        per_page: int = DIAGNOSTICS.most_panels,
        ax: Any = None,
    ) -> Panels:
        """Observations, population curve (dashed) and individual curve, a panel per group; with several endpoints a
        panel per group and endpoint. Censored responses are hollow triangles at their limit, doses marks at the foot.

        **Arguments:** `groups`: labels in the order drawn, all in natural order where None; `page` from 1 on, with
        `per_page` groups each; `x`: the column of the horizontal axis, the first of x where None; `columns` of panels;
        `by`: a column, for each level of which there is a separate curve (where None that of the residual model, the
        innermost nested level with random effects, or the compartment of a response; a column that is constant in each
        group has no effect); `points` of a curve, 0 for the rows only; `logx`, `logy`: logarithmic axes, on which
        values not above zero are not drawn; `ax`: one axes per panel.

        Between the rows of a group a curve uses the other columns of the row before. A model that uses other rows
        (doses as rows, superposed inside the model) would take each of these points for an event: where points between
        the rows change the predictions at the rows, all curves use the fitted rows only, and the title of the legend
        states it.

        **Returns:** the axes (panels,).
        **Raises:** OptionError for unknown groups or columns, a page that there is not, and another number of axes.

        **Example:**

        ```python
        fit.plot.individual_fits()
        ```
        """
        data = self.fit.data
        check_flag("logx", logx)
        check_flag("logy", logy)
        points, columns = check_whole_number("points", points, 0), check_whole_number("columns", columns, 1)
        x, (by, nested) = self._x_name(x), self._split(by)
        endpoints: list[Any] = [label for label, _ in self._endpoints if label is not None] or [None]
        if endpoints != [None]:
            by, nested = data.endpoint, None
        positions, part = on_page(chosen_labels(data.labels.tolist(), groups), page, per_page, len(endpoints))
        wide = max(columns // len(endpoints), 1) * len(endpoints)
        share_y = True if endpoints == [None] else "col" if wide == len(endpoints) else False
        panels = axes_in_grid(ax, len(positions) * len(endpoints), wide, (2.3, 1.75), True, share_y)
        curves = prediction_curves(self.fit, positions, x, by, points)
        for k, panel in enumerate(panels):
            position, endpoint = positions[k // len(endpoints)], endpoints[k % len(endpoints)]
            self._draw_group(panel, position, endpoint, x, by, nested, curves)
            title = plain_text(f"{data.group_name} {data.labels[position]}")
            panel.set_title(title if endpoint is None else f"{title}, {endpoint}")
            if logx:
                panel.set_xscale("log", nonpositive="mask")
            if logy:
                panel.set_yscale("log", nonpositive="mask")
            style_axes(panel)
        self._common_parts(panels, wide, x, endpoints, curves, ax is None)
        count = f", {len(positions)} of {data.n_groups} groups" if len(positions) < data.n_groups else ""
        self._title(panels, f"Individual fits by {self.fit.method}{', ' + part if part else count}", ax is None, True)
        return panels

    def _split(self, by: str | None) -> tuple[str | None, str | None]:
        """The column whose levels have separate curves, None where each group has one level; and the innermost nested
        level. **Raises:** OptionError for an unknown column."""
        data = self.fit.data
        levels = self.fit.binding.density.levels
        nested = levels.innermost.name if levels is not None and levels.innermost.depth else None
        if by is not None and by not in self._frame:
            raise OptionError(f"by: no column {by!r}; {near_matches(str(by), list(map(str, self._frame)))}")
        of_error = getattr(self.fit.binding.density.error, "by", None)
        by = by or of_error or nested or response_column(data)
        if by and self._frame.groupby(data.group_name, observed=True)[by].nunique(dropna=False).max() == 1:
            by = None
        return by, nested

    def _draw_group(
        self, ax: Any, position: int, endpoint: str | None, x: str, by: str | None, nested: str | None, curves: Any
    ) -> None:
        """Curves and responses of a group, of one endpoint where there are several."""
        data = self.fit.data
        of_group = curves[curves[data.group_name] == data.labels[position]]
        rows = rows_of(data, position, endpoint)
        kind = np.zeros(rows.size, int) if data.limits is None else data.limits.kind[position]
        at, y = data.x[x][position], data.y[position]
        if endpoint is not None:
            of_group = of_group[of_group[by].map(label_text) == endpoint]
        levels = self._levels(by) if by and endpoint is None else [None]
        # Labels of units that differ between groups are too many for a legend.
        unnamed = by == nested and len(levels) > len(CYCLE)
        if levels != [None]:
            level_of_row = self._level_of_rows(str(by))[position]
            levels = [level for level in levels if (of_group[by] == level).any() or (level_of_row[rows] == level).any()]
        for number, level in enumerate(levels):
            place = number if unnamed or level is None else self._levels(by).index(level)
            color = CYCLE[place % len(CYCLE)]
            suffix = "" if level is None or unnamed else plain_text(f" ({by} {level})")
            curve = of_group if level is None else of_group[of_group[by] == level]
            here = rows if level is None else rows & (self._level_of_rows(str(by))[position] == level)
            # The curve of a group of one row is a point, which a line does not show.
            look: dict[str, Any] = {"marker": "_", "ms": 9} if len(curve) == 1 else {}
            ax.plot(curve[x], curve["population prediction"], "--", color=GREY, lw=1.2, label="population", **look)
            ax.plot(curve[x], curve["individual prediction"], color=color, lw=1.6, label=f"individual{suffix}", **look)
            observed = DARK if level is None else color
            responses(ax, at[here], y[here], kind[here], observed, label=f"observed{suffix}", ms=4)
        dose_marks(ax, data, position, x)

    def _levels(self, by: str | None) -> list[Any]:
        """The levels of a column."""
        if ("levels", by) not in self._computed:
            groups = self._frame.groupby(by, observed=True).groups if by else {}
            self._computed["levels", by] = list(groups)
        return self._computed["levels", by]

    def _level_of_rows(self, by: str) -> np.ndarray:
        """The level of a column in each row (groups, obs)."""
        if ("rows", by) not in self._computed:
            data = self.fit.data
            out = np.full(data.rows.shape, None, object)
            places = np.argwhere(data.rows)[data.table_order]
            out[places[:, 0], places[:, 1]] = self._frame[by].astype(object).to_numpy()
            self._computed["rows", by] = out
        return self._computed["rows", by]

    def _common_parts(
        self, panels: Panels, wide: int, x: str, endpoints: list[Any], curves: Any, created: bool
    ) -> None:
        """Labels of axes, and one legend for all panels."""
        for panel in lowest(panels, wide) if created else panels:
            panel.set_xlabel(self._label(x))
        if endpoints != [None]:
            for k, panel in enumerate(panels):
                if not created or k % wide < len(endpoints):
                    panel.set_ylabel(self._label(None, endpoints[k % len(endpoints)]))
        elif created:
            panels.figure.supylabel(self._label(None), fontsize=9)
        else:
            for panel in panels:
                panel.set_ylabel(self._label(None))
        pairs = [pair for ax in panels for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
        handles = {name: handle for handle, name in pairs}
        title = ROWS_ONLY if curves.attrs.get("rows_only") else None if self._on_scale else OFF_SCALE
        if created:
            legend_below(panels.figure, handles, title)
        elif len(panels):
            panels[0].legend(handles.values(), handles.keys(), title=title)
