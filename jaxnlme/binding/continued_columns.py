"""Padded rows of columns that rise (or fall) from row to row in every group, such as times: they go on rising, by small
steps. A solver of differential equations is handed such a column as the times of its solution, in order and each once;
repeated rows would be ties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.settings import CHECKS, PLACEMENT
from jaxnlme.model.density import Group
from jaxnlme.records import Rows


def directions(groups: Sequence[Group]) -> tuple[int, ...]:
    """For each column of x 1 if it rises from row to row in every group, -1 if it falls, 0 for others.

    **Arguments:** `groups`: stacked groups (buckets), with numpy leaves.
    """
    columns = len(groups[0].x.values) if groups else 0
    parts = [(g.x.values, np.asarray(g.x.mask)) for g in groups]
    return tuple(_direction([(np.asarray(values[k]), mask) for values, mask in parts]) for k in range(columns))


def _direction(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
    for sign in (1, -1):
        moves = False
        for column, mask in parts:
            if not np.issubdtype(column.dtype, np.floating) or column.ndim != 2:
                return 0
            # Most columns that are no times are out of order in the first groups.
            for groups in (slice(0, PLACEMENT.first_groups), slice(PLACEMENT.first_groups, None)):
                real = mask[groups, 1:]
                rises = sign * np.diff(column[groups], axis=1) > 0
                if not rises[real].all():
                    break
                moves = moves or bool(real.any())
            else:
                continue
            break
        else:
            return sign if moves else 0
    return 0


def with_continued_columns(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Stacked groups (buckets) whose columns go on in padded rows; see `continued`."""
    if all(np.all(group.x.mask) for group in groups):
        return groups
    signs = directions(groups)
    return tuple(eqx.tree_at(lambda g: g.x, group, continued(group.x, signs)) for group in groups)


def continued(x: Rows, directions: tuple[int, ...]) -> Rows:
    """Predictors whose columns go on in their direction in padded rows; other columns as they are.

    The step is a small fraction of the distance of the group's last two rows (of the mean distance in a group of one
    row), and at least a few units of rounding.

    **Arguments:** `x`: of stacked groups, columns (groups, obs), whose masks are false in padded rows.
    """
    mask = np.asarray(x.mask)
    if not any(directions) or mask.all():
        return x
    rows = mask.sum(axis=1, keepdims=True)
    last = np.maximum(rows - 1, 0)
    beyond = np.maximum(np.arange(mask.shape[1]) - last, 0)
    values = tuple(
        _column(np.asarray(column), last, beyond, mask, sign) if sign else column
        for column, sign in zip(x.values, directions, strict=True)
    )
    return eqx.tree_at(lambda rows: rows.values, x, values)


def _column(column: np.ndarray, last: np.ndarray, beyond: np.ndarray, mask: np.ndarray, sign: int) -> np.ndarray:
    end = np.take_along_axis(column, last, axis=1)
    gap = np.abs(end - np.take_along_axis(column, np.maximum(last - 1, 0), axis=1))
    pairs = int(mask[:, 1:].sum())
    mean = np.sum(np.abs(end - column[:, :1])) / pairs if pairs else 1.0
    rounding = PLACEMENT.least_step * np.spacing(np.maximum(np.abs(end), mean))
    step = np.maximum(PLACEMENT.step * np.where(last > 0, gap, mean), rounding)
    return np.where(mask, column, end + sign * step * beyond)


def otherwise_padded(column: Any, mask: Any) -> Any:
    """A column (obs,) of one group with other values in its padded rows, for a comparison: one that goes on rising
    rises by its last distance, in all padded rows together; others repeat their first row instead of their last.

    **Arguments:** `column`, `mask` (obs,): traced arrays.
    """
    rows = jnp.sum(mask)
    end = column[jnp.maximum(rows - 1, 0)]
    rise = jnp.where(mask, 0.0, column - end)
    factor = CHECKS.padding_rise / (PLACEMENT.step * jnp.maximum(mask.shape[0] - rows, 1))
    return jnp.where(mask, column, jnp.where(jnp.any(rise != 0), end + rise * factor, column[0]))
