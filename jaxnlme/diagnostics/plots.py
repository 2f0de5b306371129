"""Plots of a fit, with matplotlib; the title of each states if the fit did not converge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from jaxnlme.diagnostics.curves import prediction_curves, response_column
from jaxnlme.diagnostics.drawing import BLUE, CYCLE, DARK, GREY, SKY, axes_in_row, pyplot, style_axes, title_setter
from jaxnlme.diagnostics.residuals import endpoint_rows
from jaxnlme.diagnostics.residuals import residuals as residual_table
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.diagnostics.simulation_plots import AbstractSimulationPlots
from jaxnlme.errors import OptionError, near_matches, shown
from jaxnlme.results.by_level import columns_of_effects

if TYPE_CHECKING:
    from jaxnlme.diagnostics.vpc.record import Vpc

# Title of the legend where curves have the fitted rows only.
ROWS_ONLY = "drawn through the fitted rows: the model uses events of other rows"
_INDIVIDUAL = ("ires", "iwres")  # residuals from individual predictions; the others are from population predictions


@final
class Plots(AbstractSimulationPlots):
    """Plots of `fit`, as `fit.plot`. Methods return matplotlib axes (`ax.figure.savefig("name.png")`), and draw into
    `ax` where it is given.

    **Raises:** ImportError naming the extra to install, where matplotlib is missing.
    """

    def individual_fits(
        self,
        groups: Sequence[Any] | None = None,
        x: str | None = None,
        columns: int = 4,
        *,
        by: str | None = None,
        points: int = 100,
        logy: bool = False,
    ) -> np.ndarray:
        """Observations, population curve (dashed) and individual curve, a panel per group.

        **Arguments:** `groups`: labels, the first 24 where None; `x`: the column of the horizontal axis, the first of x
        where None; `columns` of panels; `by`: a column, for each level of which there is a separate curve (where None
        that of several endpoints, that of the residual model, the innermost nested level with random effects, or the
        compartment of a response; a column that is constant in each group has no effect); `points` of a curve, 0 for
        the rows only; `logy`: a logarithmic axis of y, on which values not above zero are not drawn.

        Between the rows of a group a curve uses the other columns of the row before. A model that uses other rows
        (doses as rows, superposed inside the model) would take each of these points for an event: where points between
        the rows change the predictions at the rows, all curves use the fitted rows only, and the title of the legend
        states it.

        **Returns:** the axes (panels,).
        **Raises:** OptionError for unknown groups or columns.
        """
        data = self.fit.data
        x = self._x_name(x)
        observed = data.to_frame()
        levels = self.fit.binding.density.levels
        nested = levels.innermost.name if levels is not None and levels.innermost.depth else None
        endpoints = endpoint_rows(self.fit)
        several = data.endpoint if len(endpoints) > 1 else None
        if several:  # dose records belong to no endpoint
            observed = observed[np.any([rows for _, rows in endpoints], axis=0)]
        of_error = getattr(self.fit.binding.density.error, "by", None)
        by = by or several or of_error or nested or response_column(data)
        if by and observed.groupby(data.group_name, observed=True)[by].nunique(dropna=False).max() == 1:
            by = None
        colors = {
            level: CYCLE[k % len(CYCLE)]
            for k, level in enumerate(observed.groupby(by, observed=True).groups if by else [None])
        }
        positions = self._positions(groups)
        columns = max(1, min(int(columns), len(positions)))
        rows = -(-len(positions) // columns)
        fig, grid = pyplot().subplots(
            rows, columns, sharex=True, sharey=True, squeeze=False, figsize=(0.8 + 2.3 * columns, 1.1 + 1.75 * rows),
            layout="constrained",
        )  # fmt: skip
        panels = grid.ravel()
        curves = prediction_curves(self.fit, positions, x, by, points)
        if several == by and by:
            curves = curves[curves[by].isin(observed[by])]
        for ax, k in zip(panels, positions, strict=False):
            label = data.labels[k]
            of_group, rows_of_group = (table[table[data.group_name] == label] for table in (curves, observed))
            parts = of_group.groupby(by, observed=True) if by else [(None, of_group)]
            for number, (level, curve) in enumerate(parts):
                # Labels of units that differ between groups are too many for a legend.
                unnamed = by == nested and len(colors) > len(CYCLE)
                color = CYCLE[number % len(CYCLE)] if unnamed else colors[level]
                dots = rows_of_group if level is None else rows_of_group[rows_of_group[by] == level]
                suffix = "" if level is None or unnamed else f" ({by} {level})"
                ax.plot(curve[x], curve["population prediction"], "--", color=GREY, lw=1.2, label="population")
                ax.plot(curve[x], curve["individual prediction"], color=color, lw=1.6, label=f"individual{suffix}")
                ax.plot(
                    dots[x], dots[data.y_name], "o", ms=4, color=DARK if by is None else color, mec="white", mew=0.5,
                    label=f"observed{suffix}",
                )  # fmt: skip
            ax.set_title(f"{data.group_name} {label}", fontsize=9, color=DARK)
            if logy:
                ax.set_yscale("log", nonpositive="mask")
            style_axes(ax)
        for column in range(columns):  # the lowest panel of each column has the tick labels
            lowest = grid[(len(positions) - 1 - column) // columns, column]
            lowest.tick_params(labelbottom=True)
            lowest.set_xlabel(x, fontsize=9)
        for ax in panels[len(positions) :]:
            ax.remove()
        entries = [zip(*ax.get_legend_handles_labels(), strict=True) for ax in panels[: len(positions)]]
        handles = {name: handle for pairs in entries for handle, name in pairs}
        wide = 6 if by is None else columns + columns % 2
        fig.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), wide), frameon=False,
            fontsize=9, title=ROWS_ONLY if curves.attrs.get("rows_only") else None, title_fontsize=9,
        )  # fmt: skip
        fig.supylabel(data.y_name, fontsize=10)
        part = "" if len(positions) == data.n_groups else f", {len(positions)} of {data.n_groups} groups"
        self._title(fig.suptitle, f"Individual fits by {self.fit.method}{part}")
        return panels[: len(positions)]

    def observed_predicted(self, level: str = "both", ax: Any = None) -> np.ndarray:
        """Observations against predictions, with the line of identity.

        **Arguments:** `level`: "population", "group" or "both" (two panels); `ax`: one axes per panel. With several
        endpoints each has panels of its own; those without one prediction a row have none.
        **Returns:** the axes (panels,).
        **Raises:** OptionError for another level or number of axes.
        """
        if level not in ("population", "group", "both"):
            raise OptionError(f"level must be 'population', 'group' or 'both'; received {shown(level)}.")
        levels, endpoints = ("population", "group") if level == "both" else (level,), endpoint_rows(self.fit)
        count = len(levels) * len(endpoints)
        axes = axes_in_row(ax, count, (4.0 * count + 0.3, 4.2), share=len(endpoints) == 1)
        y = self.fit.data.to_frame()[self.fit.data.y_name].to_numpy()
        predictions = [np.asarray(self.fit.predict(level=panel_level)) for panel_level in levels]
        panels = iter(axes)
        for label, rows in endpoints:
            name = self.fit.data.y_name if label is None else label
            use = rows & np.isfinite(y)
            finite = np.concatenate([y[use], *(p[use & np.isfinite(p)] for p in predictions)])
            margin = 0.04 * (np.ptp(finite) or 1.0)
            ends = (finite.min() - margin, finite.max() + margin)
            for prediction, panel_level in zip(predictions, levels, strict=True):
                panel = next(panels)
                panel.plot(ends, ends, color=GREY, lw=1.2, zorder=1)
                panel.plot(prediction[use], y[use], "o", ms=4.5, color=BLUE, alpha=0.75, mec="white", mew=0.5)
                panel.set(xlim=ends, ylim=ends, xlabel=f"predicted {name}, {_level_label(panel_level)}")
                panel.set_aspect("equal", adjustable="box")
                style_axes(panel)
                if panel_level == levels[0]:
                    panel.set_ylabel(f"observed {name}")
        self._title(title_setter(axes), f"Observed and predicted by {self.fit.method}")
        return axes

    def residuals(
        self, kind: str = "cwres", against: str = "prediction", ax: Any = None, *, title: str | None = None
    ) -> Any:
        """Residuals against predictions or a column; for weighted residuals with the central 95% range of a standard
        normal.

        **Arguments:** `kind`: a residual of `fit.residuals()`; `against`: "prediction" (that of the population, or the
        individual one for individual residuals), "x" (the first x column), or the name of an x column; `title` in the
        place of "Residuals by ...", below "NOT CONVERGED" for a fit that did not converge.
        **Returns:** the axes; with several endpoints an array of them, a panel for each that has residuals.
        **Raises:** OptionError for an unknown kind or column.
        """
        values = residual_table(self.fit, kind)[kind].to_numpy()
        if against == "prediction":
            level = "group" if kind in _INDIVIDUAL else "population"
            horizontal, name = (
                np.asarray(self.fit.predict(level=level)),
                f"predicted {self.fit.data.y_name}, {_level_label(level)}",
            )
        else:
            name = self._x_name(None if against == "x" else against)
            horizontal = self.fit.data.to_frame()[name].to_numpy()
        endpoints = endpoint_rows(self.fit)
        axes = axes_in_row(ax, len(endpoints), (5.6 * len(endpoints), 3.8))
        for panel, (label, rows) in zip(axes, endpoints, strict=True):
            panel.axhline(0.0, color=DARK, lw=1.0, zorder=1)
            if kind not in ("pres", "ires"):
                for sign in (-1.0, 1.0):
                    panel.axhline(sign * DIAGNOSTICS.normal_quantile, color=GREY, lw=1.0, ls="--", zorder=1)
            panel.plot(horizontal[rows], values[rows], "o", ms=4.5, color=BLUE, alpha=0.75, mec="white", mew=0.5)
            least = DIAGNOSTICS.least_residual_limit if kind not in ("pres", "ires") else 0.0
            limit = 1.1 * max(float(np.nanmax(np.abs(values[rows]))), least)
            of = "" if label is None else f" of {label}"
            panel.set(xlabel=name, ylabel=f"residual{of} ({kind.upper()})", ylim=(-limit, limit))
            style_axes(panel)
        words = f"Residuals by {self.fit.method}" if title is None else title
        self._title(title_setter(axes), words)
        return axes[0] if len(endpoints) == 1 else axes

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
        return check.plot(ax, logy=logy, logx=logx, points=points, title=title)

    def random_effects(self, ax: Any = None) -> Any:
        """Conditional modes of the random effects in units of their SD, a row per effect: dots (a histogram for 40
        groups, or units of a nested level, or more) over the fitted normal density. With shrinkage they vary less than
        the density.

        **Arguments:** `ax`: the axes to draw into, created where None.
        **Returns:** the axes.
        **Raises:** OptionError for a model without random effects.
        """
        effects, shrinkage = columns_of_effects(self.fit.random_effects), self.fit.shrinkage
        sd = np.sqrt(np.diag(self.fit.psi.to_numpy()))
        names = list(effects)
        if not names:
            raise OptionError("the model has no random effects to draw.")
        ax = axes_in_row(ax, 1, (6.4, 1.2 + 1.15 * len(names)))[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = {name: np.nan_to_num(effects[name] / s) for name, s in zip(names, sd, strict=True)}
        largest = max(float(np.abs(values).max()) for values in scaled.values())
        limit = max(DIAGNOSTICS.least_effect_limit, 1.1 * largest)
        grid = np.linspace(-limit, limit, DIAGNOSTICS.density_points)
        normal = np.exp(-0.5 * grid**2)
        for row, name in enumerate(reversed(names)):
            values = scaled[name]
            ax.fill_between(grid, row, row + 0.72 * normal, color=SKY, alpha=0.3, lw=0)
            ax.plot(grid, row + 0.72 * normal, color=BLUE, lw=1.2)
            if len(values) >= DIAGNOSTICS.histogram_from:
                count, boundaries = np.histogram(values, bins="fd", density=True)
                height = 0.72 * count * np.sqrt(2.0 * np.pi)  # the scale on which the normal density peaks at 0.72
                ax.stairs(row + np.minimum(height, 0.98), boundaries, baseline=row, color=DARK, lw=1.0)
            else:
                ax.plot(values, np.full(len(values), row + 0.06), "o", ms=5, color=DARK, mec="white", mew=0.6)
            ax.axhline(row, color=GREY, lw=0.8, zorder=1)
        labels = [f"{name}\nSD {s:.3g}\nshrinkage {h:.0f}%" for name, s, h in zip(names, sd, shrinkage, strict=True)]
        ax.set_yticks([row + 0.3 for row in range(len(names))], labels[::-1], fontsize=9)
        ax.set(xlim=(-limit, limit), ylim=(-0.15, len(names)), xlabel="random effect / its SD")
        style_axes(ax)
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        self._title(ax.set_title, f"Random effects by {self.fit.method}")
        return ax

    def history(self, ax: Any = None) -> Any:
        """Log-likelihood at every iteration, the last value as a number.

        **Arguments:** `ax`: the axes to draw into, created where None.
        **Returns:** the axes.
        **Raises:** OptionError for a fit without a history of the log-likelihood.
        """
        if not self.fit.history:
            raise OptionError("the fit has no history: it did not begin.")
        if "log_likelihood" not in self.fit.history[-1]:
            raise OptionError(
                f"{self.fit.method} does not compute the log-likelihood while it runs; fit.plot.trajectories() shows "
                "the parameters."
            )
        iteration = [entry["iteration"] for entry in self.fit.history]
        values = [entry["log_likelihood"] for entry in self.fit.history]
        ax = axes_in_row(ax, 1, (5.6, 3.6))[0]
        ax.plot(iteration, values, "o-", ms=4, lw=1.4, color=BLUE, mec="white", mew=0.5)
        ax.annotate(
            f"{values[-1]:.3f}", (iteration[-1], values[-1]), (0, -12), textcoords="offset points",
            ha="right", va="top", fontsize=9, color=DARK,
        )  # fmt: skip
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel="iteration", ylabel="log-likelihood")
        style_axes(ax)
        self._title(ax.set_title, f"Progress of {self.fit.method}")
        return ax

    def _positions(self, groups: Sequence[Any] | None) -> list[int]:
        """Positions in the data of the groups with these labels, the first 24 where None."""
        labels = self.fit.data.labels.tolist()
        if groups is None:
            return list(range(min(len(labels), DIAGNOSTICS.most_panels)))
        groups = [groups] if isinstance(groups, str) or not np.iterable(groups) else list(groups)
        for label in groups:
            if label not in labels:
                raise OptionError(f"no group {label!r}; {near_matches(str(label), map(str, labels))}")
        if not groups:
            raise OptionError("groups is empty; name at least one.")
        return [labels.index(label) for label in groups]

    def _x_name(self, x: str | None) -> str:
        """`x`, or the first x column where None. **Raises:** OptionError where there is no such column."""
        names = list(self.fit.data.x)
        if not names:
            raise OptionError("the data have no x column for the horizontal axis.")
        if x is not None and x not in names:
            raise OptionError(f"no x column {x!r}; {near_matches(x, names)}")
        return names[0] if x is None else x


def _level_label(level: str) -> str:
    """The level of a prediction as an axis label."""
    return "individual" if level == "group" else level
