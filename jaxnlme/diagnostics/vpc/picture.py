"""The picture of a visual predictive check: observed statistics as lines over bands of the simulated ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_flag
from jaxnlme.diagnostics.vpc.settings import VPC
from jaxnlme.drawing.panels import as_panels, one_or_panels, write_title
from jaxnlme.drawing.style import BLUE, DARK, GREY, SKY, VERMILLION, in_style, plain_text, pyplot, style_axes
from jaxnlme.errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.diagnostics.vpc.record import Vpc

# Colours of the bands: of the median (and of shares and curves), and of the other percentiles.
MIDDLE, OUTER = "#F2B48A", "#A9CFE8"


@in_style
def draw(
    vpc: Vpc, ax: Any = None, *, logy: bool = False, logx: bool = False, points: bool = True, title: str | None = None
) -> Any:
    """The picture of a check: a panel for each stratum (and category, or number of a repeated event), and one of the
    shares beyond the limits of quantification below each.

    **Arguments:** `ax`: None, an axes, or one for each panel, first those of the check, then those of the limits;
    `logy`, `logx`: logarithmic axes, on which values not above zero are not drawn; `points`: draw the observations;
    `title` in the place of "Visual predictive check".
    **Returns:** the axes, an array where there are several.
    **Raises:** OptionError for another number of axes.
    """
    for name, value in {"logy": logy, "logx": logx, "points": points}.items():
        check_flag(name, value)
    panels = _panels(vpc)
    limits = vpc.below_limit is not None
    axes, lower, figure = _axes(ax, len(panels), limits)
    for k, (panel, chosen) in enumerate(zip(axes, panels, strict=True)):
        if vpc.kind == "survival":
            _curve(panel, vpc, chosen)
        else:
            _bins(panel, vpc, chosen, points, logy)
        panel.set_title(plain_text(chosen["title"]), fontsize=9, color=DARK)
        panel.set_ylabel(_y_label(vpc) if figure is None or k % _columns(len(panels)) == 0 else "", fontsize=9)
        if logy and vpc.kind == "continuous":
            panel.set_yscale("log", nonpositive="mask")
        style_axes(panel)
    for k, (panel, chosen) in enumerate(zip(lower, panels, strict=False)):
        _limits(panel, vpc, chosen)
        panel.set_ylabel("share beyond\nlimit" if k % _columns(len(panels)) == 0 or figure is None else "", fontsize=9)
        style_axes(panel)
        panel.set_xlim(axes[k].get_xlim())
    every = [*axes, *lower]
    for panel in every:
        if logx:
            panel.set_xscale("log", nonpositive="mask")
        if figure is None or panel in lower or not limits:
            panel.set_xlabel(vpc.x_name, fontsize=9)
        else:
            panel.tick_params(labelbottom=False)
    words = "Visual predictive check" if title is None else title
    _legend(every, figure, words, vpc.converged)
    return one_or_panels(as_panels(every))


def _panels(vpc: Vpc) -> list[dict[str, Any]]:
    """The panels: the rows of `observed` and `simulated`, and of the stratum in the other tables, and a title."""
    observed = vpc.observed
    split = [*vpc.strata, *(name for name in ("category", "event") if name in observed)]
    if not split:
        return [{"key": {}, "title": "", "rows": np.ones(len(observed), bool)}]
    titles = dict(zip(dict.fromkeys(_keys(observed, list(vpc.strata))), vpc.titles, strict=False))
    panels = []
    keys = list(zip(_keys(observed, split), _keys(observed, list(vpc.strata)), strict=True))
    categories = list(observed["category"].unique()) if "category" in observed else []
    for key, stratum in dict.fromkeys(keys):
        named = dict(zip(split, key, strict=True))
        if categories == [0, 1] and named["category"] == 0:
            continue  # one minus the share of 1
        words = [titles.get(stratum, "")]
        words += [f"{vpc.y_name} = {named['category']}"] if "category" in named else []
        words += [f"event {named['event']}"] if "event" in named else []
        rows = np.array([both == (key, stratum) for both in keys])
        of_stratum = {name: named[name] for name in vpc.strata}
        panels.append({"key": of_stratum, "title": ", ".join(word for word in words if word), "rows": rows})
    return panels


def _keys(table: pd.DataFrame, names: list[str]) -> list[tuple[Any, ...]]:
    if not names:
        return [()] * len(table)
    return list(zip(*(table[name] for name in names), strict=True))


def _of_stratum(table: pd.DataFrame, key: dict[str, Any]) -> pd.DataFrame:
    rows = np.ones(len(table), bool)
    for name, value in key.items():
        rows &= np.array([own == value for own in table[name]])
    return table[rows]


def _bins(panel: Any, vpc: Vpc, chosen: dict[str, Any], points: bool, logy: bool) -> None:
    """Bands, lines, observations and marks of the bins."""
    observed, simulated = vpc.observed[chosen["rows"]], vpc.simulated[chosen["rows"]]
    least = _least_positive(observed, simulated, vpc, chosen) if logy and vpc.kind == "continuous" else -np.inf
    if points and vpc.points is not None and vpc.kind == "continuous":
        _observations(panel, _of_stratum(vpc.points, chosen["key"]))
    column, value = ("percentile", "value") if vpc.kind == "continuous" else ("category", "share")
    level = f"{100 * vpc.level:g}%"
    others = ", ".join(f"{name:g}" for name in observed[column].unique() if name != 50)
    lloq, uloq = vpc.limits
    for name in observed[column].unique():
        rows = (observed[column] == name).to_numpy()
        is_middle = vpc.kind != "continuous" or name == 50
        x = observed["x"].to_numpy(float)[rows]
        y = observed[value].to_numpy(float)[rows]
        low, median, high = (simulated[part].to_numpy(float)[rows] for part in ("low", "median", "high"))
        outside = (y < low) | (y > high)
        low = np.where(np.isnan(low) & ~np.isnan(high) & np.isfinite(lloq), lloq, low)
        low = np.where(high > least, np.fmax(low, least), np.nan)
        high = np.where(np.isnan(high) & ~np.isnan(low) & np.isfinite(uloq), uloq, high)
        what = {"percentile": "median" if is_middle else f"{others}%", "category": "share"}[column]
        _band(panel, x, low, high, MIDDLE if is_middle else OUTER, f"simulated {what}: {level} interval")
        panel.plot(x, median, ":", lw=1.0, color=VERMILLION if is_middle else BLUE, label=f"simulated {what}: median")
        lines = "-" if is_middle else "--"
        label = f"observed {what}"
        panel.plot(x, y, lines, lw=1.5, color=DARK, marker="o", ms=2.8, label=label, zorder=4)
        panel.plot(x[outside], y[outside], "o", ms=5.5, mfc="none", mec=VERMILLION, mew=1.4, zorder=5,
                   label="outside the interval")  # fmt: skip
    for limit in (lloq, uloq):
        if np.isfinite(limit) and vpc.kind == "continuous":
            panel.axhline(limit, color=GREY, lw=0.9, ls="-.", label="limit of quantification")
    _marks(panel, vpc, chosen["key"])
    if vpc.kind == "categorical":
        panel.set_ylim(-0.03, 1.03)


def _least_positive(observed: pd.DataFrame, simulated: pd.DataFrame, vpc: Vpc, chosen: dict[str, Any]) -> float:
    """The value that a logarithmic axis begins at: below it bands are cut off."""
    assert vpc.points is not None
    drawn = [observed["value"], simulated["median"], simulated["low"], _of_stratum(vpc.points, chosen["key"])["y"]]
    values = np.concatenate([part.to_numpy(float) for part in drawn])
    return float(np.min(values[values > 0], initial=np.inf))


def _observations(panel: Any, table: pd.DataFrame) -> None:
    """The observations under the bands, the paler the more there are; of many a part drawn at random, the same in every
    run (every k-th row would be one of few times where groups have equally many rows)."""
    table = table[table["y"].notna()]
    count, drawn = len(table), min(len(table), VPC.most_points)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:drawn])
    size, alpha = (3.4, 0.45) if count < 500 else (2.4, max(250.0 / drawn, 0.15))
    label = "observations" if drawn == count else f"observations ({drawn} of {count})"
    x, y = table["x"].to_numpy()[chosen], table["y"].to_numpy()[chosen]
    panel.plot(x, y, "o", ms=size, color=DARK if count >= 500 else GREY, alpha=alpha, mew=0, label=label,
               zorder=3 if count < 500 else 1.5)  # fmt: skip


def _band(panel: Any, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str, label: str) -> None:
    """The band between `low` and `high`; a bar where a bin has no neighbour with a band."""
    has = np.isfinite(low) & np.isfinite(high)
    panel.fill_between(x, low, high, where=has, color=color, alpha=0.6, lw=0, label=label, zorder=2)
    neighbours = np.append(False, has[:-1]) | np.append(has[1:], False)
    single = has & ~neighbours
    panel.vlines(x[single], low[single], high[single], color=color, lw=6, alpha=0.6, zorder=2)


def _marks(panel: Any, vpc: Vpc, key: dict[str, Any]) -> None:
    """The boundaries of the bins, as marks at the bottom."""
    if vpc.bins is None:
        return
    bins = _of_stratum(vpc.bins, key)
    boundaries = np.unique(np.concatenate([bins["left"], bins["right"]]))
    panel.plot(boundaries, np.full(boundaries.size, 0.012), "|", ms=7, mew=1.0, color=DARK, zorder=3, clip_on=False,
               transform=panel.get_xaxis_transform(), label="boundaries of bins")  # fmt: skip


def _curve(panel: Any, vpc: Vpc, chosen: dict[str, Any]) -> None:
    """A survival curve, or the mean of a covariate, as steps over the band."""
    observed, simulated = vpc.observed[chosen["rows"]], vpc.simulated[chosen["rows"]]
    value = "survival" if "survival" in observed else "mean"
    step = {"step": "post"} if value == "survival" else {}
    time, low, high = (simulated[name].to_numpy(float) for name in ("time", "low", "high"))
    panel.fill_between(time, low, high, color=OUTER, alpha=0.7, lw=0, zorder=2, **step,
                       label=f"simulated: {100 * vpc.level:g}% interval")  # fmt: skip
    style = {"drawstyle": "steps-post"} if value == "survival" else {}
    panel.plot(time, simulated["median"], ":", color=BLUE, lw=1.1, label="simulated: median", **style)
    panel.plot(observed["time"], observed[value], "-", color=DARK, lw=1.5, label="observed", zorder=4, **style)
    if value == "survival":
        panel.set_ylim(-0.03, 1.03)


def _limits(panel: Any, vpc: Vpc, chosen: dict[str, Any]) -> None:
    """Shares beyond the limits of quantification."""
    assert vpc.below_limit is not None
    table = _of_stratum(vpc.below_limit, chosen["key"])
    for side, color, band in (("below", DARK, OUTER), ("above", VERMILLION, MIDDLE)):
        part = table[table["limit"] == side]
        if part.empty:
            continue
        x, share, low, median, high = (part[name].to_numpy(float) for name in ("x", "share", "low", "median", "high"))
        _band(panel, x, low, high, band, f"simulated share {side} the limit: {100 * vpc.level:g}% interval")
        panel.plot(x, median, ":", lw=1.0, color=SKY if side == "below" else VERMILLION)
        panel.plot(x, share, "-", color=color, lw=1.4, marker="o", ms=2.8, label=f"observed share {side} the limit",
                   zorder=4)  # fmt: skip
        outside = (share < low) | (share > high)
        panel.plot(x[outside], share[outside], "o", ms=5.5, mfc="none", mec=VERMILLION, mew=1.4, zorder=5)
    panel.set_ylim(-0.04, 1.04)


def _y_label(vpc: Vpc) -> str:
    if vpc.kind == "categorical":
        return "share"
    return f"{vpc.y_name}, prediction-corrected" if vpc.corrected else vpc.y_name


def _columns(count: int) -> int:
    """Panels in a row: at most three."""
    return count if count <= 3 else 2 if count == 4 else 3


def _axes(ax: Any, count: int, limits: bool) -> tuple[list[Any], list[Any], Any]:
    """The axes of the check and of the limits, and the figure where it was made here.

    **Raises:** OptionError where `ax` holds another number of axes.
    """
    if ax is not None:
        axes = list(np.ravel(np.asarray(ax, dtype=object)))
        needed = count * (2 if limits else 1)
        if len(axes) != needed:
            of_limits = ", half of them for the shares beyond limits" if limits else ""
            raise OptionError(f"this picture has {needed} panels{of_limits}; ax holds {len(axes)} axes.")
        return axes[:count], axes[count:], None
    columns = _columns(count)
    rows = -(-count // columns)
    width = {1: 6.4, 2: 7.2}.get(columns, 8.0)
    height = (3.9 if columns == 1 else 2.9) + (1.3 if limits else 0.0)
    figure = pyplot().figure(figsize=(width, height * rows + 0.9), layout="constrained")
    ratios = [3.0, 1.0] * rows if limits else [1.0] * rows
    grid = figure.add_gridspec(len(ratios), columns, height_ratios=ratios)
    step = 2 if limits else 1
    axes, lower = [], []
    for k in range(count):
        row, column = divmod(k, columns)
        axes.append(figure.add_subplot(grid[step * row, column]))
        if limits:
            lower.append(figure.add_subplot(grid[step * row + 1, column]))
    return axes, lower, figure


def _legend(axes: list[Any], figure: Any, words: str, converged: bool) -> None:
    """One legend of all panels below them, and the title; a legend of its own in axes of the user."""
    entries: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            has_data = not hasattr(handle, "get_xdata") or len(handle.get_xdata())
            if has_data:
                entries.setdefault(label, handle)
    if figure is None:
        axes[0].legend(entries.values(), entries.keys(), frameon=False, fontsize=7.5)
        titled = bool(axes[0].get_title())  # titles of panels stay, marked where the fit did not converge
        write_title(as_panels(axes if titled else axes[:1]), words, False, converged, on_figure=titled)
        return
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    write_title(as_panels(axes), words, True, converged, on_figure=True)
