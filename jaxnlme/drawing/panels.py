"""Axes of pictures: figures of panels, pages of many panels, titles."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxnlme.drawing.style import DARK, VERMILLION, pyplot
from jaxnlme.errors import OptionError, check_whole_number, near_matches

Label = TypeVar("Label")
# Most panels on a page: more are too small to read, and take minutes to draw.
MOST_PANELS = 60
# Letters of a title that fit into an inch; longer titles have several lines.
LETTERS_PER_INCH = 11
# Width of an entry of a legend in inches: of the line with its distances, and of a letter.
LEGEND_LINE, LEGEND_LETTER = 0.65, 0.065


class Panels(np.ndarray):
    """The axes of a picture of several panels: an array of matplotlib axes that prints in one line.

    `panels[0]`, `for ax in panels`, `panels.figure.savefig("name.png")`.
    """

    @property
    def figure(self) -> Any:
        """The figure of the first panel."""
        return self.flat[0].figure

    def __repr__(self) -> str:
        count = f"{self.size} panel{'s' * (self.size != 1)}"
        titles = [title for ax in self.flat if (title := ax.get_title() or ax.get_ylabel())]
        shown = ", ".join(titles[:3]).replace("\n", " ") + ("..." if len(titles) > 3 else "")
        return f"<{count}: {shown}>" if shown else f"<{count}>"

    __str__ = __repr__


def as_panels(axes: Any) -> Panels:
    """Axes, one or several, as Panels (panels,)."""
    flat = np.ravel(np.asarray(axes, dtype=object))
    return flat.view(Panels)


def axes_in_row(ax: Any, count: int, size: tuple[float, float], share: bool = False) -> Panels:
    """`count` axes: `ax`, or new ones in a row of figure `size` (inches), with a common y axis where `share`.

    **Raises:** OptionError where `ax` holds another number of axes.
    """
    if ax is not None:
        return _of_user(ax, count)
    _, axes = pyplot().subplots(1, count, figsize=size, sharey=share, squeeze=False, layout="constrained")
    return as_panels(axes)


def axes_in_grid(
    ax: Any, count: int, columns: int, size: tuple[float, float], share_x: Any = False, share_y: Any = False
) -> Panels:
    """`count` axes: `ax`, or new ones in rows of `columns`, each panel of `size` (inches).

    With a common x axis the lowest panel of each column has the tick labels.

    **Raises:** OptionError where `ax` holds another number of axes.
    """
    if ax is not None:
        return _of_user(ax, count)
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    _, grid = pyplot().subplots(
        rows, columns, sharex=share_x, sharey=share_y, squeeze=False, layout="constrained",
        figsize=(0.8 + size[0] * columns, 1.1 + size[1] * rows),
    )  # fmt: skip
    for unused in grid.ravel()[count:]:
        unused.remove()
    if share_x:
        for column in range(columns):
            grid[(count - 1 - column) // columns, column].tick_params(labelbottom=True)
    return as_panels(grid.ravel()[:count])


def lowest(panels: Panels, columns: int) -> list[Any]:
    """The lowest panel of each column of a grid, which have the label of a common x axis."""
    columns = max(1, min(columns, len(panels)))
    return [panels[(len(panels) - 1 - k) // columns * columns + k] for k in range(columns)]


def _of_user(ax: Any, count: int) -> Panels:
    axes = as_panels(ax)
    if len(axes) != count:
        raise OptionError(f"this plot has {count} panel{'s' * (count != 1)}; ax holds {len(axes)} axes.")
    return axes


def natural_order(labels: Sequence[Any]) -> list[int]:
    """Positions of `labels` in natural order: numbers by size, also inside text ("Pat 2" before "Pat 10")."""

    def key(position: int) -> tuple[Any, ...]:
        label = labels[position]
        if isinstance(label, (int, float, np.number)) and not isinstance(label, bool):
            return ((0, float(label), ""),)
        parts = re.split(r"(\d+)", str(label))
        return tuple((0, float(part), "") if part.isdigit() else (1, 0.0, part.casefold()) for part in parts if part)

    return sorted(range(len(labels)), key=key)


def chosen_labels(labels: Sequence[Any], groups: Any) -> list[int]:
    """Positions of the `groups` among `labels`, in the order they are named; all in natural order where None.

    **Raises:** OptionError for a label that is not there, and an empty list.
    """
    known = list(labels)
    if groups is None:
        return natural_order(known)
    groups = [groups] if isinstance(groups, str) or not np.iterable(groups) else list(groups)
    for label in groups:
        if label not in known:
            raise OptionError(f"no group {label!r}; {near_matches(str(label), map(str, known))}")
    if not groups:
        raise OptionError("groups is empty; name at least one.")
    return [known.index(label) for label in groups]


def on_page(
    positions: Sequence[int], page: Any, per_page: Any, each: int = 1, what: str = "panels"
) -> tuple[list[int], str]:
    """The `positions` on a page, and words for the title: "groups 25 to 48 of 59 (page 2 of 3)", empty for all on one.

    **Arguments:** `page` from 1 on; `per_page`: groups on a page; `each`: panels of a group; `what`
    these are.
    **Raises:** OptionError for numbers that are not whole, a page that there is not, and more panels than are legible.
    """
    per_page = check_whole_number("per_page", per_page, 1)
    page = check_whole_number("page", page, 1)
    if min(per_page, len(positions)) * each > MOST_PANELS:
        raise OptionError(
            f"per_page={per_page} makes {min(per_page, len(positions)) * each} {what}; at most {MOST_PANELS} are "
            "legible: use page=1, 2, ... instead."
        )
    pages = max(-(-len(positions) // per_page), 1)
    if page > pages:
        raise OptionError(
            f"page={page}, but {len(positions)} groups at {per_page} a page have {pages} page{'s' * (pages != 1)}."
        )
    first = (page - 1) * per_page
    part = list(positions[first : first + per_page])
    if len(part) == len(positions):
        return part, ""
    return part, f"groups {first + 1} to {first + len(part)} of {len(positions)} (page {page} of {pages})"


def legend_below(figure: Any, entries: Mapping[str, Any], title: str | None = None) -> None:
    """One legend under all panels of a figure, with as many columns as its width has room for.

    **Arguments:** `entries`: artists by label.
    """
    width = LEGEND_LINE + LEGEND_LETTER * max(map(len, entries), default=0)
    columns = max(1, min(len(entries), int(figure.get_size_inches()[0] / width)))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns, title=title)


def write_title(panels: Panels, text: str, created: bool, converged: bool = True, on_figure: bool = False) -> None:
    """The title: of the axes for one panel (unless `on_figure`), of the figure for several that were `created` here; a
    fit that did not converge is marked above it, in axes of the user on each panel."""
    on_axes = len(panels) == 1 and not on_figure
    width = panels.figure.get_size_inches()[0] * (panels[0].get_position().width if on_axes and not created else 1.0)
    text = "\n".join(textwrap.fill(line, max(int(LETTERS_PER_INCH * width), 12)) for line in text.split("\n"))
    words = text if converged else f"NOT CONVERGED\n{text}"
    look: dict[str, Any] = {"fontsize": 11, "color": DARK}
    if not converged:
        look = {"fontsize": 11, "color": VERMILLION, "fontweight": "bold"}
    if on_axes:
        panels[0].set_title(words, **look)
    elif created:
        panels.figure.suptitle(words, **look)
    elif not converged:
        for ax in panels:
            ax.set_title(f"NOT CONVERGED\n{ax.get_title()}".strip(), color=VERMILLION)


def one_or_panels(panels: Panels) -> Any:
    """The axes of one panel, or all Panels."""
    return panels[0] if len(panels) == 1 else panels
