"""Plots of fits of single groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.drawing.panels import Panels, axes_in_row
from jaxnlme.drawing.style import BLUE, DARK, GREY, VERMILLION, picture, pyplot, style_axes
from jaxnlme.estimators.two_stage.settings import DISPLAY

if TYPE_CHECKING:
    from jaxnlme.estimators.two_stage.group_fits import GroupFits


class GroupPlots:
    """Plots of GroupFits, as `fits.plot`.

    **Raises:** ImportError naming the extra to install, where matplotlib is missing.
    """

    def __init__(self, fits: GroupFits):
        pyplot()
        self.fits = fits

    @picture("fits.plot.intervals")
    def intervals(self, level: float = 0.95, *, pooled: bool = False, ax: Any = None) -> Panels:
        """Estimates and intervals on the transformed scale: a panel per parameter, a row per group, and a line at the
        median over groups. A group that was not fitted has a cross on the left side of the panel; an interval beyond
        the limits of the axis is cut off.

        **Arguments:** `level`, `pooled` as in `GroupFits.intervals`; `ax`: one axes per parameter. Of more than 60
        groups the first 60 are drawn.
        **Returns:** the axes (parameters,).
        **Raises:** OptionError where `ax` holds another number of axes.
        """
        fits = self.fits
        names = fits.single_group.names
        labels = [str(label) for label in fits.binding.data.labels[: DISPLAY.max_groups]]
        m, p = len(labels), len(names)
        table = fits.intervals(level, pooled=pooled).to_numpy().reshape(-1, p, 7)[:m]
        axes = axes_in_row(ax, p, (1.0 + 2.6 * p, 1.4 + 0.2 * max(m, 4)))
        rows = np.arange(m)[::-1]
        for k, (panel, name) in enumerate(zip(axes, names, strict=True)):
            estimate, _, lower, upper = table[:, k, :4].T
            fitted = np.isfinite(estimate)
            if fitted.any():
                middle = np.median(estimate[fitted])
                panel.axvline(middle, color=GREY, lw=1.0, ls="--", zorder=1)
                panel.hlines(rows[fitted], lower[fitted], upper[fitted], color=BLUE, lw=1.6)
                panel.plot(estimate[fitted], rows[fitted], "o", ms=4.5, color=DARK, mec="white", mew=0.5)
                panel.set_xlim(*_limits(estimate[fitted], lower[fitted], upper[fitted]))
            across = panel.get_yaxis_transform()  # x as a fraction of the panel's width, y the group's row
            panel.plot(np.full(m, 0.03)[~fitted], rows[~fitted], "x", ms=5, color=VERMILLION, transform=across)
            scale = fits.single_group.transforms[k]
            shown = name if scale is None or scale.name == "identity" else f"{name} ({scale.name})"
            panel.set(xlabel=shown, ylim=(-0.7, m - 0.3))
            panel.set_yticks(rows, labels if k == 0 or ax is not None else [""] * m)
            style_axes(panel)
        axes[0].set_ylabel(fits.binding.data.group_name)
        total = len(fits.code)
        part = "" if m == total else f", {m} of {total} groups"
        if ax is None:
            title = f"Groups fitted by themselves: {100 * level:g}% intervals{part}"
            axes[0].figure.suptitle(title, fontsize=11, color=DARK)
        return axes


def _limits(estimate: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> tuple[float, float]:
    """Limits of an axis: all intervals, but at most `DISPLAY.axis_reach` times the range from the lower quartile of the
    lower ends to the upper quartile of the upper ends beyond it."""
    low, high = np.nanquantile(lower, 0.25), np.nanquantile(upper, 0.75)
    largest = DISPLAY.axis_reach * max(high - low, 1e-12)
    low, high = max(float(np.min(lower)), low - largest), min(float(np.max(upper)), high + largest)
    margin = 0.05 * (high - low or 1.0)
    return low - margin, high + margin
