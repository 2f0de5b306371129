"""The style of pictures: colours, the style file, and a context in which it holds; the user's own is unchanged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from jaxnlme.errors import JaxnlmeError
from jaxnlme.signatures import public

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

FILE = Path(__file__).parent / "jaxnlme.mplstyle"
# Okabe and Ito's palette; the cycle is that of the style file.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DARK, GREY, PALE = "#333333", "#8a8a8a", "#dddddd"


class MissingPlotLibrary(JaxnlmeError, ImportError):
    """matplotlib is not installed."""


def pyplot() -> Any:
    """matplotlib's pyplot. **Raises:** MissingPlotLibrary, which names the extra to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingPlotLibrary("plots need matplotlib: pip install 'jaxnlme[plot]'") from error
    return plt


@functools.cache
def _parameters() -> Any:
    """The entries of the style file."""
    from matplotlib import rc_params_from_file

    return dict(rc_params_from_file(FILE, use_default_template=False))


@contextmanager
def style() -> Iterator[None]:
    """A context in which figures have the style of the package.

    The first figure of a session loads matplotlib's backend; that of a notebook then turns interactive mode on, which
    has to outlast the context: without it the notebook shows no further figure.

    **Raises:** MissingPlotLibrary.
    """
    plt = pyplot()
    from matplotlib import rc_context

    interactive = plt.isinteractive()
    try:
        with rc_context(_parameters()):
            try:
                yield
            finally:
                interactive = plt.isinteractive()
    finally:
        plt.ion() if interactive else plt.ioff()


def in_style(fn: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorator of a function that draws: inside it the style holds."""

    @functools.wraps(fn)
    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        with style():
            return fn(*args, **options)

    return call


def picture(name: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorator of a public function that draws: inside it the style holds, and calls that do not fit its signature are
    refused in a sentence.

    **Arguments:** `name`: of the function as users write it.
    """
    return lambda fn: in_style(public(name)(fn))


def plain_text(label: Any) -> str:
    """A label of the data as text of a picture, in which dollar signs begin no formula."""
    return str(label).replace("$", r"\$")


def style_axes(ax: Any) -> None:
    """Give axes the style, also those that a user made outside it, and ticks that matplotlib makes later."""
    from matplotlib import rcParams as now

    ax.grid(True, color=now["grid.color"], lw=now["grid.linewidth"])
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(now["axes.edgecolor"])
    ax.tick_params(colors=now["xtick.color"], labelsize=now["xtick.labelsize"])
