"""What pictures have in common: colours, axes, and titles that own up to a fit that did not converge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.errors import JaxnlmeError, OptionError

if TYPE_CHECKING:
    from jaxnlme.results.record import Fit

# Okabe and Ito's palette, told apart in the common forms of colour blindness (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
INK, PALE = "#333333", "#8a8a8a"


class Drawer:
    """Draws pictures of `fit`.

    **Errors:** ImportError naming the extra to install, where matplotlib is missing.
    """

    def __init__(self, fit: Fit):
        pyplot()
        self.fit = fit

    def _axes(self, ax: Any, count: int, size: tuple[float, float], share: bool = False) -> np.ndarray:
        """`count` axes: those given, or new ones in a row. **Errors:** OptionError for another number."""
        if ax is None:
            _, axes = pyplot().subplots(1, count, figsize=size, sharey=share, squeeze=False, layout="constrained")
            return axes.ravel()
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) != count:
            raise OptionError(f"this picture has {count} panels; ax holds {len(axes)} axes.")
        return axes

    def _title(self, write: Any, text: str) -> None:
        """A title, and above it that the fit did not converge."""
        if self.fit.converged:
            write(text, fontsize=11, color=INK)
        else:
            write(f"NOT CONVERGED\n{text}", fontsize=11, color=VERMILLION, fontweight="bold")


def heading(axes: np.ndarray) -> Any:
    """What writes the title above one panel or several."""
    return axes[0].set_title if len(axes) == 1 else axes[0].figure.suptitle


def plain(ax: Any) -> None:
    """A light grid behind the data, and no box."""
    ax.grid(True, color="#e6e6e6", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(PALE)
    ax.tick_params(colors=INK, labelsize=8.5)


class MissingPlotLibrary(JaxnlmeError, ImportError):
    """matplotlib is not installed."""


def pyplot() -> Any:
    """matplotlib's pyplot. **Errors:** MissingPlotLibrary, naming the extra to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingPlotLibrary("pictures need matplotlib: pip install 'jaxnlme[plot]'") from error
    return plt
