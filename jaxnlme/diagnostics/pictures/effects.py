"""Pictures of the random effects: densities, pairs, covariates, intervals by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_names
from jaxnlme.diagnostics.pictures.plotter import AbstractPlotter, categories, level_text
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.drawing.marks import boxes, dots, histogram, normal_density, smooth
from jaxnlme.drawing.panels import Panels, axes_in_grid, axes_in_row, chosen_labels, on_page, one_or_panels
from jaxnlme.drawing.style import BLUE, DARK, GREY, SKY, picture, plain_text, style_axes
from jaxnlme.errors import OptionError, check_level, near_matches
from jaxnlme.results.by_level import columns_of_effects

if TYPE_CHECKING:
    import pandas as pd


class AbstractEffectPictures(AbstractPlotter):
    """Pictures of random effects (conditional modes on the transformed scale)."""

    @picture("fit.plot.random_effects")
    def random_effects(self, ax: Any = None) -> Any:
        """Conditional modes of the random effects in units of their SD, a row per effect: dots (a histogram for 40
        groups, or units of a nested level, or more) over the fitted normal density. With shrinkage they vary less than
        the density.

        **Arguments:** `ax`: the axes to draw into, created where None.
        **Returns:** the axes.
        **Raises:** OptionError for a model without random effects.

        **Example:**

        ```python
        fit.plot.random_effects()
        ```
        """
        effects, shrinkage = columns_of_effects(self.fit.random_effects), self.fit.shrinkage
        sd = np.sqrt(np.diag(self.fit.psi.to_numpy()))
        names = list(effects)
        if not names:
            raise OptionError("the model has no random effects to draw.")
        created = ax is None
        panels = axes_in_row(ax, 1, (6.4, 1.2 + 1.15 * len(names)))
        ax = panels[0]
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
        style_axes(ax)
        ax.set_yticks([row + 0.3 for row in range(len(names))], labels[::-1])
        ax.set(xlim=(-limit, limit), ylim=(-0.15, len(names)), xlabel="random effect / its SD")
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        self._title(panels, f"Random effects by {self.fit.method}", created)
        return ax

    @picture("fit.plot.effect_histograms")
    def effect_histograms(self, ax: Any = None) -> Any:
        """Histograms of the random effects with the density of their fitted distribution, N(0, SD^2): a panel per
        effect. With shrinkage the histogram is narrower than the density.

        **Arguments:** `ax`: one axes per effect.
        **Returns:** the axes of one panel, or an array of axes.
        **Raises:** OptionError for a model without random effects.

        **Example:**

        ```python
        fit.plot.effect_histograms()
        ```
        """
        sd = self._sd()
        effects = columns_of_effects(self.fit.random_effects)
        shrinkage = self.fit.shrinkage
        panels = axes_in_grid(ax, len(sd), 3, (2.7, 2.3))
        for panel, (name, scale) in zip(panels, sd.items(), strict=True):
            values = effects[name]
            histogram(panel, values)
            limit = max(3.2 * scale, 1.05 * float(np.abs(values).max()))
            normal_density(panel, scale, -limit, limit)
            foot = np.full(len(values), 0.025)
            panel.plot(values, foot, "|", color=DARK, ms=7, mew=0.9, alpha=0.8 if len(values) < 200 else 0.1,
                       transform=panel.get_xaxis_transform())  # fmt: skip
            panel.set(xlabel=name, xlim=(-limit, limit))
            panel.set_title(f"SD {scale:.3g}, shrinkage {shrinkage[name]:.0f}%")
            panel.set_yticks([])
            style_axes(panel)
            panel.spines["left"].set_visible(False)
        self._title(panels, f"Random effects by {self.fit.method}", ax is None) if len(panels) > 1 else None
        return one_or_panels(panels)

    @picture("fit.plot.effect_pairs")
    def effect_pairs(self, level: str | None = None, ax: Any = None) -> Panels:
        """Random effects against each other: histograms with their fitted densities on the diagonal, below it a panel
        per pair, above it the correlation of the conditional modes and that of the model.

        **Arguments:** `level`: the grouping level, the outermost with random effects where None; `ax`: effects times
        effects axes, by rows.
        **Returns:** the axes (effects, effects).
        **Raises:** OptionError for an unknown level, and fewer than two random effects.

        **Example:**

        ```python
        fit.plot.effect_pairs()
        ```
        """
        tables = self._effect_tables()
        level = next(iter(tables)) if level is None else level
        if level not in tables:
            raise OptionError(f"level {level!r} has no random effects; {near_matches(str(level), list(tables))}")
        table, sd = tables[level], self._sd()
        names = [name for name in table.columns if name in sd]
        if len(names) < 2:
            raise OptionError("pairs need two random effects of one level with a variance above zero.")
        panels = axes_in_grid(ax, len(names) ** 2, len(names), (1.9, 1.8))
        grid = panels.reshape(len(names), len(names)).view(Panels)
        psi = self.fit.psi
        for (row, column), panel in np.ndenumerate(grid):
            down, across = names[row], names[column]
            if row == column:
                values = table[down].dropna().to_numpy()
                histogram(panel, values)
                limit = max(3.2 * sd[down], 1.05 * float(np.abs(values).max()))
                normal_density(panel, sd[down], -limit, limit)
                panel.set_yticks([])
            elif row > column:
                dots(panel, table[across], table[down])
                panel.axhline(0.0, color=GREY, lw=0.8, zorder=1)
                panel.axvline(0.0, color=GREY, lw=0.8, zorder=1)
            style_axes(panel)
            if row < column:
                modes, model = table[across].corr(table[down]), psi.loc[down, across] / (sd[down] * sd[across])
                panel.text(0.5, 0.5, f"modes {modes:+.2f}\nmodel {model:+.2f}", ha="center", va="center",
                           transform=panel.transAxes)  # fmt: skip
                panel.set_axis_off()
            if row == len(names) - 1:
                panel.set_xlabel(across)
            if column == 0:
                panel.set_ylabel(down)
        self._title(panels, f"Pairs of random effects by {self.fit.method}", ax is None)
        return grid

    @picture("fit.plot.effects_covariates")
    def effects_covariates(
        self, covariates: str | Sequence[str] | None = None, effects: str | Sequence[str] | None = None, ax: Any = None
    ) -> Any:
        """Random effects against covariates, a row of panels per effect: boxes for categories (and numbers of at most
        five values), dots with a smooth curve for others. The effects are those of the fitted model: a covariate that
        is in the model already shows what it leaves.

        **Arguments:** `covariates`: columns that are constant within the units of the effect, all of them where None;
        `effects`: names, all where None; `ax`: one axes per panel.
        **Returns:** the axes of one panel, or an array of axes (panels,).
        **Raises:** OptionError for unknown names, and data without covariates.

        **Example:**

        ```python
        fit.plot.effects_covariates("Wt")
        ```
        """
        sd, tables = self._sd(), self._effect_tables()
        chosen = list(sd) if effects is None else check_names("effects", effects, "random effects")
        for name in chosen:
            if name not in sd:
                raise OptionError(
                    f"no random effect {name!r} with a variance above zero; {near_matches(name, list(sd))}"
                )
        known = {level: self._unit_covariates(table) for level, table in tables.items()}
        of_effect = {name: next(level for level, t in tables.items() if name in t.columns) for name in chosen}
        columns = list(dict.fromkeys(c for level in of_effect.values() for c in known[level].columns))
        wanted = columns if covariates is None else check_names("covariates", covariates, "columns")
        for name in wanted:
            if name not in columns:
                raise OptionError(
                    f"{name!r} is no column that is constant within groups and differs between them; "
                    f"{near_matches(name, columns)}"
                )
        pairs = [(e, c) for e in chosen for c in wanted if c in known[of_effect[e]].columns]
        if not pairs:
            raise OptionError("the data have no column that is constant within groups and differs between them.")
        panels = axes_in_grid(ax, len(pairs), len(wanted) if len(wanted) > 1 else 3, (2.6, 2.2))
        for panel, (effect, covariate) in zip(panels, pairs, strict=True):
            table, values = tables[of_effect[effect]][effect], known[of_effect[effect]][covariate]
            use = table.notna().to_numpy()
            b, c = table.to_numpy()[use], values.to_numpy()[use]
            levels = categories(c, self.fit.data.levels.get(covariate))
            panel.axhline(0.0, color=GREY, lw=1.0, zorder=1)
            if levels is None:
                dots(panel, c, b)
                smooth(panel, c, b)
            else:
                boxes(panel, [b[c == k] for k in levels], [level_text(k) for k in levels])
            panel.set(xlabel=self._label(covariate), ylabel=effect)
            style_axes(panel)
        self._title(panels, f"Random effects and covariates by {self.fit.method}", ax is None)
        return one_or_panels(panels)

    @picture("fit.plot.effect_intervals")
    def effect_intervals(
        self,
        effects: str | Sequence[str] | None = None,
        level: float = 0.95,
        *,
        order: str | None = None,
        page: int = 1,
        per_page: int = DIAGNOSTICS.most_rows,
        ax: Any = None,
    ) -> Any:
        """Conditional modes of the random effects with their intervals given the parameters, a panel per effect, a row
        per group (or unit of the effects' level).

        **Arguments:** `effects`: names of one grouping level, all of the outermost where None; `level` of the intervals
        (normal, from `fit.random_effects_se`); `order`: an effect by whose size the rows are sorted, in natural order
        of labels where None; `page`, `per_page`: rows; `ax`: one axes per effect.
        **Returns:** the axes of one panel, or an array of axes (panels,).
        **Raises:** OptionError for unknown names, effects of several levels, a page that there is not.

        **Example:**

        ```python
        fit.plot.effect_intervals(order="cl")
        ```
        """
        from scipy.special import ndtri

        check_level(level)
        tables, sd = self._effect_tables(), self._sd()
        first = next(iter(tables))
        chosen = (
            [n for n in tables[first].columns if n in sd]
            if effects is None
            else check_names("effects", effects, "random effects")
        )
        for name in chosen:
            if name not in sd:
                raise OptionError(
                    f"no random effect {name!r} with a variance above zero; {near_matches(name, list(sd))}"
                )
        of_level = {next(key for key, t in tables.items() if name in t.columns) for name in chosen}
        if len(of_level) != 1:
            raise OptionError("effects must be of one grouping level; draw each level by itself.")
        key = of_level.pop()
        table, spread = tables[key], self._effect_tables("random_effects_se")[key]
        labels = [plain_text(", ".join(map(str, n)) if isinstance(n, tuple) else n) for n in table.index]
        if order is not None and order not in table.columns:
            raise OptionError(f"order: no random effect {order!r}; {near_matches(str(order), list(table.columns))}")
        natural = chosen_labels(table.index.tolist() if table.index.nlevels == 1 else labels, None)
        rows = natural if order is None else np.argsort(-table[order].to_numpy(), kind="stable").tolist()
        rows, part = on_page(rows, page, per_page, what="rows")
        at, half = np.arange(len(rows))[::-1], float(ndtri(0.5 + level / 2.0))
        panels = axes_in_row(ax, len(chosen), (1.0 + 2.4 * len(chosen), 1.3 + 0.17 * max(len(rows), 5)))
        for k, (panel, name) in enumerate(zip(panels, chosen, strict=True)):
            b, se = table[name].to_numpy()[rows], spread[name].to_numpy()[rows]
            style_axes(panel)
            panel.axvline(0.0, color=GREY, lw=1.0, ls="--", zorder=1)
            panel.hlines(at, b - half * se, b + half * se, color=SKY, lw=2.0)
            panel.plot(b, at, "o", ms=4, color=BLUE, mec="white", mew=0.5)
            panel.set(xlabel=name, ylim=(-0.7, len(rows) - 0.3))
            panel.set_yticks(at, [labels[row] for row in rows] if k == 0 or ax is not None else [""] * len(rows))
            panel.tick_params(axis="y", labelsize=7.5)
        panels[0].set_ylabel(", ".join(map(plain_text, table.index.names)))
        words = f"Random effects by {self.fit.method}, {100 * level:g}% intervals"
        self._title(panels, f"{words}{', ' + part if part else ''}", ax is None)
        return one_or_panels(panels)

    def _effect_tables(self, name: str = "random_effects") -> dict[str, pd.DataFrame]:
        """The tables of effects by grouping level. **Raises:** OptionError for a model without random effects."""
        tables = getattr(self.fit, name)
        tables = tables if isinstance(tables, dict) else {self.fit.data.group_name: tables}
        tables = {level: table for level, table in tables.items() if len(table.columns)}
        if not tables:
            raise OptionError("the model has no random effects to draw.")
        return tables

    def _unit_covariates(self, table: pd.DataFrame) -> pd.DataFrame:
        """The columns that are constant within the units of a table of effects and differ between them, a row per
        unit."""
        data = self.fit.data
        names = [name for name in [*data.v, *data.text, *data.x] if name != data.endpoint]
        keys = list(table.index.names)
        by_unit = self._frame.groupby(keys, sort=False, observed=True)[names]
        constant = (by_unit.nunique(dropna=False) <= 1).all()
        values = by_unit.first().reindex(table.index)
        kept = [name for name in names if constant[name] and values[name].nunique() > 1]
        return values[kept].astype({name: object for name in kept if values[name].dtype.name == "category"})
