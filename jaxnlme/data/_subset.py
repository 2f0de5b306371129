"""Data of some of the groups, and data with more or fewer padded rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.data import _build as build

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData


def subset(data: GroupedData, chosen: np.ndarray) -> GroupedData:
    """The `chosen` groups (positions), padded to the largest of them."""
    tables, units = {}, {}
    for name, (columns, mask) in data.tables.items():
        width = max(int(mask[chosen].sum(axis=1).max()), 1)
        tables[name] = ({c: a[chosen, :width] for c, a in columns.items()}, mask[chosen, :width])
        if name in data.table_units:
            units[name] = {level: unit[chosen, :width] for level, unit in data.table_units[name].items()}
    short = with_width(data, int(data.sizes[chosen].max()), chosen)
    return replace(
        short,
        v={name: values[chosen] for name, values in data.v.items()},
        weights=data.weights[chosen],
        labels=data.labels[chosen],
        tables=tables,
        table_units=units,
        events=None if data.events is None else data.events.of_groups(chosen, data.labels[chosen]),
    )


def with_width(data: GroupedData, obs: int, chosen: np.ndarray) -> GroupedData:
    """The `chosen` groups (positions) with `obs` rows: padding repeats the last column, which is the group's last row
    or padding."""
    slot = np.minimum(np.arange(obs), data.rows.shape[1] - 1)
    cells = np.ix_(chosen, slot)
    real = np.arange(obs) < data.sizes[chosen][:, None]
    observed = data.observed[cells] & real
    return replace(
        data,
        y=build.safe_response(data.y[cells], observed),
        x={name: values[cells] for name, values in data.x.items()},
        text={name: values[cells] if values.ndim == 2 else values[chosen] for name, values in data.text.items()},
        rows=real,
        observed=observed,
        row_index=np.where(real, data.row_index[cells], -1),
        limits=None if data.limits is None else data.limits.at(cells).where(observed),
        nested=tuple(level.of_groups(chosen, cells) for level in data.nested),
    )
