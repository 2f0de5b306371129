"""PictureMethods: the methods of GroupedData for pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._endpoints import endpoint_values, label_text
from jaxnlme.drawing.marks import counts, pale_lines, responses
from jaxnlme.drawing.panels import (
    axes_in_grid,
    chosen_labels,
    legend_below,
    lowest,
    natural_order,
    on_page,
    one_or_panels,
    write_title,
)
from jaxnlme.drawing.style import BLUE, CYCLE, DARK, picture, plain_text, style_axes
from jaxnlme.errors import DataError, OptionError, near_matches, shown
from jaxnlme.signatures import public

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData

PER_PAGE = 24
# Whole numbers with at most as many different values are drawn as counts.
FEW_VALUES = 10


class PictureMethods:
    """Base of GroupedData: labels of axes, and a picture of the responses."""

    @public("data.with_axis_labels")
    def with_axis_labels(self: Any, labels: Mapping[str, str]) -> GroupedData:
        """The same data with labels of axes for its columns, such as units: `{"conc": "Concentration (mg/L)"}`. All
        pictures of the data and of their fits have them.

        **Arguments:** `labels`: text by the name of a column; others keep their labels.
        **Returns:** GroupedData.
        **Raises:** DataError for a name that is no column, and a label that is no text.

        **Example:**

        ```python
        data.with_axis_labels({"conc": "Theophylline (mg/L)", "Time": "Time (h)"})
        ```
        """
        known = [self.y_name, *self.level_names, *self.x, *self.v, *self.text]
        known += [] if self.endpoint is None else endpoint_names(self)
        if not isinstance(labels, Mapping):
            raise DataError("labels must be a dictionary from names of columns to text.")
        for name, text in labels.items():
            if name not in known:
                raise DataError(f"axis labels: no column or endpoint {name!r}; {near_matches(str(name), known)}")
            if not isinstance(text, str):
                raise DataError(f"axis labels: the label of {name!r} must be text; received {text!r}.")
        return replace(self, axis_labels={**self.axis_labels, **labels})

    @picture("data.plot")
    def plot(
        self: Any,
        x: str | None = None,
        *,
        by: str | None = None,
        groups: Sequence[Any] | None = None,
        facets: bool = False,
        page: int = 1,
        per_page: int = PER_PAGE,
        columns: int = 4,
        logx: bool = False,
        logy: bool = False,
        ax: Any = None,
    ) -> Any:
        """Responses, a line per group (per unit of the innermost nested level): a panel for each endpoint with all
        groups, or with `facets` a panel for each group. Responses of at most ten whole numbers are circles with their
        counts in the place of lines. Censored responses are hollow triangles at their limit; doses
        are marks at the foot of a group's panel.

        **Arguments:** `x`: the column of the horizontal axis, the first of x where None; `by`: a column that is
        constant within groups, for each level of which lines have another colour (at most six); `groups`: labels, all
        in natural order where None; `page`, `per_page`, `columns`: of facets; `logx`, `logy`: logarithmic axes, on
        which values not above zero are not drawn; `ax`: one axes per panel.
        **Returns:** the axes of one panel, or an array of axes (panels,).
        **Raises:** OptionError for unknown groups or columns, a page that there is not, and another number of axes.

        **Example:**

        ```python
        data.plot(logy=True)
        data.plot(facets=True, per_page=6, page=2)
        ```
        """
        for name, value in {"facets": facets, "logx": logx, "logy": logy}.items():
            if not isinstance(value, (bool, np.bool_)):
                raise OptionError(f"{name} must be True or False; received {shown(value)}.")
        x = x_column(self, x)
        positions = chosen_labels(self.labels.tolist(), groups)
        endpoints = endpoint_names(self) if self.endpoint is not None else [None]
        levels, level_of = _levels(self, by)
        if facets:
            positions, part = on_page(positions, page, per_page, len(endpoints))
            wide = max(columns // len(endpoints), 1) * len(endpoints)
            panels = axes_in_grid(ax, len(positions) * len(endpoints), wide, (2.3, 1.75), True, len(endpoints) == 1)
            for k, ax_k in enumerate(panels):
                endpoint, position = endpoints[k % len(endpoints)], positions[k // len(endpoints)]
                color = CYCLE[levels.index(level_of[position])] if by else BLUE
                draw_group(ax_k, self, position, x, endpoint, color)
                dose_marks(ax_k, self, position, x)
                title = plain_text(f"{self.group_name} {self.labels[position]}")
                ax_k.set_title(title if endpoint is None else f"{title}, {endpoint}")
        else:
            part, wide = "", len(endpoints)
            panels = axes_in_grid(ax, len(endpoints), wide, (6.4 / len(endpoints) ** 0.5, 3.4))
            for ax_k, endpoint in zip(panels, endpoints, strict=True):
                _together(ax_k, self, positions, x, endpoint, levels, level_of)
        for ax_k in panels:
            if logx:
                ax_k.set_xscale("log", nonpositive="mask")
            if logy:
                ax_k.set_yscale("log", nonpositive="mask")
            style_axes(ax_k)
        for ax_k in panels if ax is not None else lowest(panels, wide):
            ax_k.set_xlabel(axis_label(self, x))
        y_labels = [axis_label(self, self.y_name if e is None else e) for e in endpoints]
        if facets and ax is None and len(endpoints) == 1:
            panels.figure.supylabel(y_labels[0], fontsize=9)
        elif not facets:
            for ax_k, text in zip(panels, y_labels, strict=True):
                ax_k.set_ylabel(text)
        if by:
            _legend_of_levels(panels, levels, axis_label(self, by), facets, ax is None)
        words = f"{self.n_obs} responses of {self.n_groups} groups" if groups is None else f"{len(positions)} groups"
        write_title(panels, part[:1].upper() + part[1:] if part else words, ax is None, on_figure=facets)
        return one_or_panels(panels)


def endpoint_names(data: GroupedData) -> list[str]:
    """The labels of the endpoints with a response, as text, in natural order."""
    found = sorted({label_text(value) for value in endpoint_values(data)[data.observed].tolist()})
    return [found[k] for k in natural_order(found)]


def axis_label(data: GroupedData, name: str) -> str:
    """The label of an axis for the column or endpoint `name`."""
    return data.axis_labels.get(name, plain_text(name))


def response_label(data: GroupedData, rows: GroupedData) -> str:
    """The label of the axis of responses of `rows`, by the labels of `data`: of their endpoint, where they have one."""
    names = {label_text(value) for value in endpoint_values(rows)[rows.rows].tolist()} if rows.endpoint else set()
    return axis_label(data, names.pop() if len(names) == 1 else data.y_name)


def x_column(data: GroupedData, x: str | None) -> str:
    """`x`, or the first x column where None. **Raises:** OptionError where there is no such column."""
    names = [name for name in data.x if name != data.endpoint] or list(data.x)
    if not names:
        raise OptionError("the data have no x column for the horizontal axis.")
    if x is not None and x not in names:
        raise OptionError(f"no x column {x!r}; {near_matches(str(x), names)}")
    return names[0] if x is None else x


def rows_of(data: GroupedData, position: int, endpoint: str | None) -> np.ndarray:
    """True (obs,) for the rows of a group with a response of the endpoint."""
    rows = data.observed[position].copy()
    if endpoint is not None:
        rows &= np.array([label_text(value) == endpoint for value in endpoint_values(data)[position].tolist()], bool)
    return rows


def draw_group(ax: Any, data: GroupedData, position: int, x: str, endpoint: str | None, color: str = BLUE) -> None:
    """The responses of a group with lines between them."""
    rows = rows_of(data, position, endpoint)
    pale_lines(ax, _pieces(data, position, x, rows), color)
    kind = None if data.limits is None else data.limits.kind[position][rows]
    responses(ax, data.x[x][position][rows], data.y[position][rows], kind, color)


def dose_marks(ax: Any, data: GroupedData, position: int, x: str) -> None:
    """Marks at the foot of a panel at the times of the doses of a group, where `x` is the time of its records."""
    if data.events is None or data.events.facts.time != x or "events" not in data.tables:
        return
    columns, mask = data.tables["events"]
    given = mask[position] & (columns["amount"][position] > 0)
    times = np.unique(columns["time"][position][given])
    last = float(np.max(data.x[x][position][data.rows[position]]))
    times = times[times <= last]
    if len(times):
        # Ticks upwards (matplotlib's marker 2), darker than the grid, which often has a line at the time of the dose.
        ax.plot(
            times, np.zeros(len(times)), ls="", marker=2, color=DARK, ms=6, mew=1.2,
            transform=ax.get_xaxis_transform(), label="dose",
        )  # fmt: skip


def _pieces(data: GroupedData, position: int, x: str, rows: np.ndarray) -> list[np.ndarray]:
    """Points (points, 2) of the lines of a group: one, or one for each unit of the innermost nested level."""
    unit = data.nested[-1].unit[position] if data.nested else np.zeros(len(rows), int)
    pieces = []
    for k in np.unique(unit[rows]):
        chosen = np.flatnonzero(rows & (unit == k))
        chosen = chosen[np.argsort(data.x[x][position][chosen], kind="stable")]
        pieces.append(np.stack([data.x[x][position][chosen], data.y[position][chosen]], axis=1))
    return pieces


def _together(
    ax: Any, data: GroupedData, positions: Sequence[int], x: str, endpoint: str | None, levels: list[Any], level_of: Any
) -> None:
    """All groups in one panel, by level of a column where there are `levels`."""
    rows = {position: rows_of(data, position, endpoint) for position in positions}
    values = np.concatenate([data.y[position][rows[position]] for position in positions])
    distinct = np.unique(values)
    # Lines between a few repeated values hide each other, and say nothing.
    discrete = len(distinct) <= FEW_VALUES and len(values) > 5 * len(distinct) and bool((distinct % 1 == 0).all())
    for k, level in enumerate(levels or [None]):
        here = [position for position in positions if level is None or level_of[position] == level]
        if not here:
            continue
        if discrete:
            at, y = (np.concatenate([part[p][rows[p]] for p in here]) for part in (data.x[x], data.y))
            counts(ax, at, y, CYCLE[k])
            continue
        pale_lines(ax, [piece for p in here for piece in _pieces(data, p, x, rows[p])], CYCLE[k])
        at, y = (np.concatenate([part[p][rows[p]] for p in here]) for part in (data.x[x], data.y))
        kind = None if data.limits is None else np.concatenate([data.limits.kind[p][rows[p]] for p in here])
        responses(ax, at, y, kind, CYCLE[k])
    censored = data.limits is not None and data.limits.censored.any()
    if censored:
        ax.legend(loc="best")


def _levels(data: GroupedData, by: str | None) -> tuple[list[Any], np.ndarray]:
    """The levels of the column `by` in natural order, and that of each group. **Raises:** OptionError."""
    if by is None:
        return [], np.zeros(data.n_groups)
    columns = data.x | data.v | data.text
    if by not in columns:
        raise OptionError(f"by: no column {by!r}; {near_matches(str(by), list(columns))}")
    values = columns[by]
    if values.ndim == 2:
        differs = np.array([len(set(values[k][data.rows[k]].tolist())) > 1 for k in range(data.n_groups)])
        if differs.any():
            raise OptionError(f"by={by!r} differs between rows of {data.group_name} {data.labels[differs.argmax()]}.")
        values = values[:, 0]
    found = list(dict.fromkeys(values.tolist()))
    if len(found) > len(CYCLE):
        raise OptionError(
            f"by={by!r} has {len(found)} levels; at most {len(CYCLE)} colours can be distinguished: cut it first."
        )
    return [found[k] for k in natural_order(found)], values


def _legend_of_levels(panels: Any, levels: list[Any], title: str, facets: bool, created: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=CYCLE[k], marker="o", ms=4) for k in range(len(levels))]
    names = [f"{level:g}" if isinstance(level, float) else plain_text(level) for level in levels]
    if created and (facets or len(panels) > 1):
        legend_below(panels.figure, dict(zip(names, handles, strict=True)), title)
    else:
        panels[0].legend(handles, names, title=title)
