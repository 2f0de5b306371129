"""Pictures of profiles, bootstraps and case deletion, from their records."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.diagnostics.pictures.plotter import AbstractPlotter
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.drawing.marks import histogram, note
from jaxnlme.drawing.panels import Panels, axes_in_grid, axes_in_row, write_title
from jaxnlme.drawing.style import BLUE, DARK, GREY, VERMILLION, in_style, picture, plain_text, style_axes
from jaxnlme.errors import OptionError, check_whole_number


class AbstractRefitPictures(AbstractPlotter):
    """Pictures of refits."""

    @picture("fit.plot.profile")
    def profile(self, record: Any = None, ax: Any = None) -> Panels:
        """Profile likelihoods: see `draw_profile`.

        **Arguments:** `record`: of `fit.profile()`, computed where None; `ax`: one axes per parameter.
        **Returns:** the axes (parameters,).
        **Raises:** OptionError for a record of another kind, and another number of axes.
        """
        record = self.fit.profile() if record is None else record  # pyright: ignore[reportAttributeAccessIssue]
        return draw_profile(_record(record, "profile", "intervals", "table", "level"), ax)

    @picture("fit.plot.bootstrap")
    def bootstrap(self, record: Any = None, level: float = 0.95, kind: str = "percentile", ax: Any = None) -> Panels:
        """Histograms of bootstrap replicates: see `draw_bootstrap`.

        **Arguments:** `record`: of `fit.bootstrap()`, computed with its 500 replicates where None; `level`, `kind`: of
        the intervals, as of `Bootstrap.intervals`; `ax`: one axes per parameter.
        **Returns:** the axes (parameters,).
        **Raises:** OptionError for a record of another kind, and another number of axes.
        """
        record = self.fit.bootstrap() if record is None else record  # pyright: ignore[reportAttributeAccessIssue]
        return draw_bootstrap(_record(record, "bootstrap", "intervals", "values"), level, kind, ax)

    @picture("fit.plot.influence")
    def influence(self, record: Any = None, most: int = 20, ax: Any = None) -> Panels:
        """Influence of groups by case deletion, or of cases by implicit derivatives: see `draw_influence`.

        **Arguments:** `record`: of `fit.jackknife()`, computed where None, or of `fit.influence()`, for groups or
        observations; `most`: cases drawn; `ax`: three axes.
        **Returns:** the axes (3,).
        **Raises:** OptionError for a record of another kind, and another number of axes.
        """
        record = self.fit.jackknife() if record is None else record  # pyright: ignore[reportAttributeAccessIssue]
        return draw_influence(_record(record, "jackknife", "influence"), most, ax)


def _record(record: Any, method: str, *fields: str) -> Any:
    """`record`. **Raises:** OptionError where it lacks the `fields` of the records of `method`."""
    if not all(hasattr(record, field) for field in fields):
        raise OptionError(f"record must be that of fit.{method}(), or None; received {type(record).__name__}.")
    return record


@in_style
def draw_profile(record: Any, ax: Any = None) -> Panels:
    """Signed root of the deviance against each value, a panel per parameter, with the limits of the interval. The
    dashed line is that of the Wald interval: where the curve departs from it, that interval is inaccurate.

    **Arguments:** `record`: a Profile; `ax`: one axes per parameter, created where None.
    **Returns:** the axes (parameters,).
    **Raises:** OptionError for another number of axes.
    """
    from scipy.special import ndtri

    names = list(record.intervals.index)
    panels = axes_in_grid(ax, len(names), 4, (2.4, 2.1))
    quantile = float(ndtri(0.5 + record.level / 2.0))
    for panel, name in zip(panels, names, strict=True):
        table, row = record.table, record.intervals.loc[name]
        points = table[(table["parameter"] == name) & table["zeta"].notna()].sort_values("value")
        panel.plot(points["value"], points["zeta"], "-", marker="o", ms=3, color=BLUE)
        ends = np.array([row["wald lower"], row["wald upper"]], float)
        if np.isfinite(ends).all():
            panel.plot(ends, [-quantile, quantile], "--", color=GREY, lw=1.1, zorder=1)
        for sign, end in ((-1.0, "lower"), (1.0, "upper")):
            panel.axhline(sign * quantile, color=GREY, lw=0.8, ls=":")
            if np.isfinite(row[end]) and f"{end} limit" not in str(row["note"]):
                panel.axvline(row[end], color=VERMILLION, lw=1.0)
        panel.set_xlabel(str(name))
        style_axes(panel)
    for panel in panels[:: min(len(names), 4)] if ax is None else panels:
        panel.set_ylabel("signed root of deviance")
    write_title(panels, f"Profile likelihood, {100 * record.level:g}% intervals", ax is None, record.fit.converged)
    return panels


@in_style
def draw_bootstrap(record: Any, level: float = 0.95, kind: str = "percentile", ax: Any = None) -> Panels:
    """Histograms of the replicates that converged, a panel per parameter, with the estimate (solid line) and the
    interval (dashed lines).

    **Arguments:** `record`: a Bootstrap or a Sir; `level`, `kind`: as of `Bootstrap.intervals`; `ax`: one axes per
    parameter, created where None.
    **Returns:** the axes (parameters,).
    **Raises:** OptionError for another number of axes, and for intervals that cannot be computed.
    """
    values, intervals = record.values, record.intervals(level, kind)
    names = list(intervals.index)
    panels = axes_in_grid(ax, len(names), 4, (2.3, 1.9))
    for panel, name in zip(panels, names, strict=True):
        column = values[name].to_numpy(float)
        histogram(panel, column[np.isfinite(column)])
        panel.axvline(intervals.loc[name, "estimate"], color=DARK, lw=1.5, label="estimate")
        for end in ("lower", "upper"):
            panel.axvline(
                intervals.loc[name, end], color=VERMILLION, lw=1.1, ls="--", label=f"{100 * level:g}% interval"
            )
        panel.set(xlabel=str(name), yticks=[])
        style_axes(panel)
        panel.spines["left"].set_visible(False)
    what = getattr(record, "what", "bootstrap replicates")
    title = f"{len(values)} {what}, {kind} intervals at {100 * level:g}%"
    write_title(panels, title, ax is None, record.fit.converged)
    return panels


@in_style
def draw_influence(record: Any, most: int = 20, ax: Any = None) -> Panels:
    """The most influential groups (or observations), the first on top: likelihood displacement, Cook's distance, and
    changes of the values without the case in standard errors.

    **Arguments:** `record`: a Jackknife or an Influence; `most`: cases drawn; `ax`: three axes.
    **Returns:** the axes (3,).
    **Raises:** OptionError for another number of axes.
    """
    most = check_whole_number("most", most, 1)
    table = record.influence
    if most > DIAGNOSTICS.most_rows:
        raise OptionError(f"most={most}: at most {DIAGNOSTICS.most_rows} rows are legible.")
    cases = getattr(record, "by", "groups")
    shown, names = table.head(most), [str(name) for name in table.columns[2:]]
    rows = np.arange(len(shown))[::-1]
    texts = [", ".join(map(str, label)) if isinstance(label, tuple) else str(label) for label in shown.index]
    labels = [plain_text(text) for text in texts]
    if ax is None:
        panels = axes_in_row(None, 3, (4.6 + 0.5 * len(names), 1.7 + 0.24 * max(len(shown), 6)))
        panels[0].get_gridspec().set_width_ratios([1.3, 1.3, max(0.34 * len(names), 1.0)])
    else:
        panels = axes_in_row(ax, 3, (0.0, 0.0))
    for panel, column, words in zip(panels, ("displacement", "cook"), ("likelihood displacement", "Cook's distance"),
                                    strict=False):  # fmt: skip
        size = shown[column].to_numpy(float)
        panel.hlines(rows, 0.0, np.nan_to_num(size), color=BLUE, lw=1.4)
        panel.plot(size, rows, "o", ms=5, color=BLUE, mec="white", mew=0.5)
        panel.set(xlabel=words, ylim=(-0.7, len(rows) - 0.3))
        style_axes(panel)
        panel.grid(False, axis="y")
        panel.set_yticks(rows, labels if column == "displacement" or ax is not None else [""] * len(rows))
        if np.isnan(size).any():
            note(panel, f"{int(np.isnan(size).sum())} not computed")
    panels[0].set_ylabel(", ".join(map(str, table.index.names)))
    changes = shown[table.columns[2:]].to_numpy(float)
    limit = max(float(np.nanmax(np.abs(changes), initial=0.0)), 0.1)
    shades = panels[2].pcolormesh(
        np.arange(len(names) + 1) - 0.5,
        np.arange(len(rows) + 1) - 0.5,
        changes[::-1],
        cmap="PuOr_r",
        vmin=-limit,
        vmax=limit,
    )
    panels[2].grid(False)
    panels[2].set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    panels[2].set_yticks(rows, [""] * len(rows))
    panels[2].set(ylim=(-0.7, len(rows) - 0.3))
    panels[2].tick_params(length=0, labelsize=8)
    panels.figure.colorbar(shades, ax=panels[2], label=f"change without the {cases[:-1]} (SE)", fraction=0.08, pad=0.03)
    part = f"the {len(shown)} most influential of {len(table)} {cases}" if len(shown) < len(table) else f"all {cases}"
    means = "case deletion" if hasattr(record, "deleted") else "implicit derivatives"
    write_title(panels, f"Influence by {means}: {part}", ax is None, record.fit.converged)
    return panels
