"""Common parts of the plots: colours, axes, and titles that mark a fit that did not converge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.errors import JaxnlmeError, OptionError

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord

# Okabe and Ito's palette, distinguishable in the common forms of colour blindness (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DARK, GREY = "#333333", "#8a8a8a"


class AbstractPlotter:
    """Base class of the plots of `fit`.

    **Raises:** ImportError naming the extra to install, where matplotlib is missing.
    """

    def __init__(self, fit: FitRecord):
        pyplot()
        self.fit = fit

    def _title(self, write: Any, text: str) -> None:
        """Set a title by calling `write`, with "NOT CONVERGED" above it for a fit that did not converge."""
        if self.fit.converged:
            write(text, fontsize=11, color=DARK)
        else:
            write(f"NOT CONVERGED\n{text}", fontsize=11, color=VERMILLION, fontweight="bold")


def axes_in_row(ax: Any, count: int, size: tuple[float, float], share: bool = False) -> np.ndarray:
    """`count` axes: `ax`, or new ones in a row of figure `size` (inches), with a common y axis where `share`.

    **Raises:** OptionError where `ax` holds another number of axes.
    """
    if ax is None:
        _, axes = pyplot().subplots(1, count, figsize=size, sharey=share, squeeze=False, layout="constrained")
        return axes.ravel()
    axes = np.ravel(np.asarray(ax, dtype=object))
    if len(axes) != count:
        raise OptionError(f"this plot has {count} panels; ax holds {len(axes)} axes.")
    return axes


def title_setter(axes: np.ndarray) -> Any:
    """The function that sets the title: of the axes for one panel, of the figure for several."""
    return axes[0].set_title if len(axes) == 1 else axes[0].figure.suptitle


def style_axes(ax: Any) -> None:
    """Set a light grid behind the data and remove the box."""
    ax.grid(True, color="#e6e6e6", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(colors=DARK, labelsize=8.5)


class MissingPlotLibrary(JaxnlmeError, ImportError):
    """matplotlib is not installed."""


def pyplot() -> Any:
    """matplotlib's pyplot. **Raises:** MissingPlotLibrary, which names the extra to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingPlotLibrary("plots need matplotlib: pip install 'jaxnlme[plot]'") from error
    return plt
