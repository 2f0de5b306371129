"""Pictures of a fit, drawn with matplotlib; every one of them says so where the fit did not converge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.diagnostics.curves import prediction_curves
from jaxnlme.diagnostics.drawing import BLUE, CYCLE, INK, PALE, SKY, heading, plain, pyplot
from jaxnlme.diagnostics.simulation_plots import SimulationPlots
from jaxnlme.errors import OptionError, near_matches

MOST_GROUPS = 24
ROWS_ONLY = "drawn through the fitted rows: the model reads other rows' events"
_INDIVIDUAL = ("ires", "iwres")  # residuals from individual predictions; the others belong to the population


class Plots(SimulationPlots):
    """The pictures of `fit`, as `fit.plot`. Methods return matplotlib axes (`ax.figure.savefig("name.png")`) and draw
    into `ax` where one is given.

    **Errors:** ImportError naming the extra to install, where matplotlib is missing.
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
        """A panel a group: observations, the population's curve (dashed) and the group's own.

        **Arguments:** `groups`: labels, the first 24 where None; `x`: the column along the axis, the first of x where
        None; `columns` of panels; `by`: a column whose levels have curves of their own (the residual model's where
        None; a column constant in each group splits nothing); `points` of a curve, 0 for the rows alone;
        `logy`: a logarithmic axis of y, on which what is not above zero is not drawn.

        Between the rows of a group a curve takes the other columns from the row before. A model that reads other rows
        (doses as rows, superposed inside the model) would take each of these points for an event: where points between
        the rows change the predictions at the rows, all curves go through the fitted rows alone, and the legend's title
        says so.

        **Returns:** the axes (panels,).
        """
        data = self.fit.data
        x = self._x_name(x)
        by = by or getattr(self.fit.binding.density.error, "by", None)
        seen = data.to_frame()
        if by and seen.groupby(data.group_name, observed=True)[by].nunique(dropna=False).max() == 1:
            by = None
        colors = {
            level: CYCLE[k % len(CYCLE)]
            for k, level in enumerate(seen.groupby(by, observed=True).groups if by else [None])
        }
        chosen = self._positions(groups)
        columns = max(1, min(int(columns), len(chosen)))
        rows = -(-len(chosen) // columns)
        fig, grid = pyplot().subplots(
            rows, columns, sharex=True, sharey=True, squeeze=False, figsize=(0.8 + 2.3 * columns, 1.1 + 1.75 * rows),
            layout="constrained",
        )  # fmt: skip
        panels = grid.ravel()
        curves = prediction_curves(self.fit, chosen, x, by, points)
        for ax, k in zip(panels, chosen, strict=False):
            label = data.labels[k]
            here, there = (table[table[data.group_name] == label] for table in (curves, seen))
            for level, curve in here.groupby(by, observed=True) if by else [(None, here)]:
                color = colors[level]
                dots = there if level is None else there[there[by] == level]
                known = "" if level is None else f" ({by} {level})"
                ax.plot(curve[x], curve["population prediction"], "--", color=PALE, lw=1.2, label="population")
                ax.plot(curve[x], curve["individual prediction"], color=color, lw=1.6, label=f"individual{known}")
                ax.plot(
                    dots[x], dots[data.y_name], "o", ms=4, color=INK if by is None else color, mec="white", mew=0.5,
                    label=f"observed{known}",
                )  # fmt: skip
            ax.set_title(f"{data.group_name} {label}", fontsize=9, color=INK)
            if logy:
                ax.set_yscale("log", nonpositive="mask")
            plain(ax)
        for column in range(columns):  # the lowest panel of each column carries the axis
            lowest = grid[(len(chosen) - 1 - column) // columns, column]
            lowest.tick_params(labelbottom=True)
            lowest.set_xlabel(x, fontsize=9)
        for ax in panels[len(chosen) :]:
            ax.remove()
        entries = [zip(*ax.get_legend_handles_labels(), strict=True) for ax in panels[: len(chosen)]]
        handles = {name: handle for pairs in entries for handle, name in pairs}
        fig.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 6), frameon=False,
            fontsize=9, title=ROWS_ONLY if curves.attrs.get("rows_only") else None, title_fontsize=9,
        )  # fmt: skip
        fig.supylabel(data.y_name, fontsize=10)
        part = "" if len(chosen) == data.n_groups else f", {len(chosen)} of {data.n_groups} groups"
        self._title(fig.suptitle, f"Individual fits by {self.fit.method}{part}")
        return panels[: len(chosen)]

    def observed_predicted(self, level: str = "both", ax: Any = None) -> np.ndarray:
        """Observations against predictions, with the line of identity.

        **Arguments:** `level`: "population", "group" or "both" (two panels); `ax`: one axes a panel.
        **Returns:** the axes (panels,).
        """
        if level not in ("population", "group", "both"):
            raise OptionError(f"level must be 'population', 'group' or 'both'; received {level!r}.")
        levels = ("population", "group") if level == "both" else (level,)
        axes = self._axes(ax, len(levels), (4.0 * len(levels) + 0.3, 4.2), share=True)
        y = self.fit.data.to_frame()[self.fit.data.y_name].to_numpy()
        pairs = [(np.asarray(self.fit.predict(level=one)), one) for one in levels]
        finite = np.concatenate([y[np.isfinite(y)], *(p[np.isfinite(p) & np.isfinite(y)] for p, _ in pairs)])
        margin = 0.04 * (np.ptp(finite) or 1.0)
        ends = (finite.min() - margin, finite.max() + margin)
        for panel, (prediction, one) in zip(axes, pairs, strict=True):
            panel.plot(ends, ends, color=PALE, lw=1.2, zorder=1)
            panel.plot(prediction, y, "o", ms=4.5, color=BLUE, alpha=0.75, mec="white", mew=0.5)
            panel.set(xlim=ends, ylim=ends, xlabel=f"predicted {self.fit.data.y_name}, {_spoken(one)}")
            panel.set_aspect("equal", adjustable="box")
            plain(panel)
        axes[0].set_ylabel(f"observed {self.fit.data.y_name}")
        self._title(heading(axes), f"Observed and predicted by {self.fit.method}")
        return axes

    def residuals(
        self, kind: str = "cwres", against: str = "prediction", ax: Any = None, *, title: str | None = None
    ) -> Any:
        """Residuals as dots around zero, weighted ones with the lines between which 95% are expected.

        **Arguments:** `kind`: a residual of `fit.residuals()`; `against`: "prediction" (the population's, or the
        individual's for individual residuals), "x" (the first x column), or the name of an x column; `title` in the
        place of "Residuals by ..." (that a fit did not converge stands above it all the same).
        **Returns:** the axes.
        """
        values = self.fit.residuals(kind)[kind].to_numpy()
        if against == "prediction":
            level = "group" if kind in _INDIVIDUAL else "population"
            along, name = (
                np.asarray(self.fit.predict(level=level)),
                f"predicted {self.fit.data.y_name}, {_spoken(level)}",
            )
        else:
            name = self._x_name(None if against == "x" else against)
            along = self.fit.data.to_frame()[name].to_numpy()
        ax = self._axes(ax, 1, (5.6, 3.8))[0]
        ax.axhline(0.0, color=INK, lw=1.0, zorder=1)
        if kind not in ("pres", "ires"):
            for edge in (-1.96, 1.96):
                ax.axhline(edge, color=PALE, lw=1.0, ls="--", zorder=1)
        ax.plot(along, values, "o", ms=4.5, color=BLUE, alpha=0.75, mec="white", mew=0.5)
        reach = 1.1 * max(float(np.nanmax(np.abs(values))), 2.2 if kind not in ("pres", "ires") else 0.0)
        ax.set(xlabel=name, ylabel=f"residual ({kind.upper()})", ylim=(-reach, reach))
        plain(ax)
        self._title(ax.set_title, f"Residuals by {self.fit.method}" if title is None else title)
        return ax

    def random_effects(self, ax: Any = None) -> Any:
        """Conditional modes of the random effects, in units of their SD, a row an effect: dots (a histogram from 40
        groups on) over the fitted normal density. Shrinkage draws them together.

        **Returns:** the axes.
        """
        effects, shrinkage = self.fit.random_effects, self.fit.shrinkage
        sd = np.sqrt(np.diag(self.fit.psi.to_numpy()))
        names = list(effects.columns)
        if not names:
            raise OptionError("the model has no random effects to draw.")
        ax = self._axes(ax, 1, (6.4, 1.2 + 1.15 * len(names)))[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.nan_to_num(effects.to_numpy() / sd)
        reach = max(3.2, 1.1 * float(np.abs(scaled).max()))
        along = np.linspace(-reach, reach, 201)
        normal = np.exp(-0.5 * along**2)
        for row, name in enumerate(reversed(names)):
            values = scaled[:, names.index(name)]
            ax.fill_between(along, row, row + 0.72 * normal, color=SKY, alpha=0.3, lw=0)
            ax.plot(along, row + 0.72 * normal, color=BLUE, lw=1.2)
            if len(values) >= 40:
                count, edge = np.histogram(values, bins="fd", density=True)
                height = 0.72 * count * np.sqrt(2.0 * np.pi)  # the scale on which the normal density peaks at 0.72
                ax.stairs(row + np.minimum(height, 0.98), edge, baseline=row, color=INK, lw=1.0)
            else:
                ax.plot(values, np.full(len(values), row + 0.06), "o", ms=5, color=INK, mec="white", mew=0.6)
            ax.axhline(row, color=PALE, lw=0.8, zorder=1)
        labels = [f"{name}\nSD {s:.3g}\nshrinkage {h:.0f}%" for name, s, h in zip(names, sd, shrinkage, strict=True)]
        ax.set_yticks([row + 0.3 for row in range(len(names))], labels[::-1], fontsize=9)
        ax.set(xlim=(-reach, reach), ylim=(-0.15, len(names)), xlabel="random effect / its SD")
        plain(ax)
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        self._title(ax.set_title, f"Random effects by {self.fit.method}")
        return ax

    def history(self, ax: Any = None) -> Any:
        """The log-likelihood at every iteration, the last one in numbers.

        **Returns:** the axes.
        """
        if not self.fit.history:
            raise OptionError("the fit has no history: it did not begin.")
        if "log_likelihood" not in self.fit.history[-1]:
            raise OptionError(
                f"{self.fit.method} does not know the log-likelihood while it runs; fit.plot.trajectories() draws the "
                "parameters."
            )
        iteration = [entry["iteration"] for entry in self.fit.history]
        values = [entry["log_likelihood"] for entry in self.fit.history]
        ax = self._axes(ax, 1, (5.6, 3.6))[0]
        ax.plot(iteration, values, "o-", ms=4, lw=1.4, color=BLUE, mec="white", mew=0.5)
        ax.annotate(
            f"{values[-1]:.3f}", (iteration[-1], values[-1]), (0, -12), textcoords="offset points",
            ha="right", va="top", fontsize=9, color=INK,
        )  # fmt: skip
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel="iteration", ylabel="log-likelihood")
        plain(ax)
        self._title(ax.set_title, f"Progress of {self.fit.method}")
        return ax

    def _positions(self, groups: Sequence[Any] | None) -> list[int]:
        labels = self.fit.data.labels.tolist()
        if groups is None:
            return list(range(min(len(labels), MOST_GROUPS)))
        groups = [groups] if isinstance(groups, str) or not np.iterable(groups) else list(groups)
        for label in groups:
            if label not in labels:
                raise OptionError(f"no group {label!r}; {near_matches(str(label), map(str, labels))}")
        if not groups:
            raise OptionError("groups is empty; name at least one.")
        return [labels.index(label) for label in groups]

    def _x_name(self, x: str | None) -> str:
        known = list(self.fit.data.x)
        if not known:
            raise OptionError("the data have no x column to draw along.")
        if x is not None and x not in known:
            raise OptionError(f"no x column {x!r}; {near_matches(x, known)}")
        return known[0] if x is None else x


def _spoken(level: str) -> str:
    return "individual" if level == "group" else level
