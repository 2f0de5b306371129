"""Pictures of a fit as compressed PNG, by the methods of `fit.plot`."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.errors import JaxnlmeError, OptionError, near_matches
from jaxnlme.report.blocks import Picture, Text
from jaxnlme.report.settings import REPORT


def draw(fit: Any, pictures: Mapping[str, tuple[str, Mapping[str, Any]]]) -> tuple[list[Any], list[str]]:
    """Pictures of `fit.plot`.

    **Arguments:** `pictures`: by name of a method its title in the page and its arguments.
    **Returns:** the pictures, and sentences on those that the fit does not have (such as residuals of an outcome
    without Gaussian moments), each with the reason.
    """
    drawn, missing = [], []
    for name, (title, options) in pictures.items():
        try:
            drawn.append(draw_by(lambda name=name, options=options: getattr(fit.plot, name)(**options), title))
        except JaxnlmeError as error:
            missing.append(f"No picture “{title}”: {error}")
    return drawn, missing


def draw_by(method: Callable[[], Any], title: str) -> Picture:
    """The picture that `method`, which returns axes, draws; its figures are closed again."""
    import matplotlib.pyplot as plt
    from matplotlib import style

    before = set(plt.get_fignums())
    try:
        # Whatever style a session has, pages look alike; interactive sessions show none of the figures.
        with plt.ioff(), style.context("default"):
            return picture_of(figure_of(method()), title)
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def figure_of(axes: Any) -> Any:
    """The figure of one axes or of an array of them."""
    first = np.ravel(np.asarray(axes, dtype=object))[0]
    return first.figure


def picture_of(figure: Any, title: str) -> Picture:
    """A figure as a PNG of few colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=REPORT.dpi, facecolor="white", format="png")
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(title, compressed(buffer.getvalue()), title, width, height)


def compressed(png: bytes) -> bytes:
    """A PNG with a palette of `REPORT.colours` colours: a third of its size."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    few = image.quantize(REPORT.colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, format="png", optimize=True)
    return min(buffer.getvalue(), png, key=len)


def chosen(
    pictures: Any, known: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The pictures of a page by name of their method: all `known` for True, none for False, or those named.

    **Raises:** OptionError for unknown names.
    """
    if pictures is True:
        return dict(known)
    if pictures is False:
        return {}
    names = [pictures] if isinstance(pictures, str) else pictures
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise OptionError("pictures must be True, False, or names of methods of fit.plot.")
    for name in names:
        if name not in known:
            raise OptionError(f"pictures: {name!r} is no picture of this report; {near_matches(name, known)}")
    return {name: known[name] for name in names}


def missing_library() -> Text | None:
    """A sentence where matplotlib is not installed; None where it is."""
    if importlib.util.find_spec("matplotlib") is not None:
        return None
    return Text(("No pictures: matplotlib is not installed (pip install 'jaxnlme[plot]').",))
