"""Tables of random effects by grouping level, and effects of some of the levels only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.errors import OptionError, near_matches, shown
from jaxnlme.model.levels import units_with_response

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.binding.bind import Binding
    from jaxnlme.data.grouped import GroupedData


def unit_index(data: GroupedData, depth: int) -> tuple[pd.Index, np.ndarray]:
    """The units of a grouping level, by label and the labels of the levels around it, and their positions.

    **Arguments:** `depth`: 0 for the groups, 1 for the first nested level, ...
    **Returns:** a pandas index (units of all groups,), and pairs (group, unit) (units of all groups, 2).
    """
    import pandas as pd

    if depth == 0:
        cells = np.stack([np.arange(data.n_groups), np.zeros(data.n_groups, int)], axis=1)
        return pd.Index(data.labels, name=data.group_name), cells
    cells = np.argwhere(data.nested[depth - 1].present)
    labels, unit = [], cells[:, 1]
    for level in reversed(data.nested[:depth]):
        labels.append(level.labels[cells[:, 0], unit])
        unit = level.parent[cells[:, 0], unit]
    labels.append(data.labels[cells[:, 0]])
    arrays = [pd.Series(column, dtype=object).infer_objects() for column in reversed(labels)]
    return pd.MultiIndex.from_arrays(arrays, names=data.level_names[: depth + 1]), cells


def _indicator(binding: Binding, effect: int) -> np.ndarray | None:
    """True for the units (groups, units) that have a distinct effect, where the covariance differs by a factor; None:
    all have it."""
    random = binding.random
    if not random.indicators or random.indicators[effect] is None:
        return None
    indicator = np.asarray(random.indicators[effect]) > 0
    depth = random.depths[effect]
    if depth == 0:
        return indicator[:, None]
    return np.take_along_axis(indicator, binding.data.nested[depth - 1].first_row, axis=1)


def by_unit(data: GroupedData, table: pd.DataFrame, depth: int) -> pd.DataFrame:
    """A table by row with a row for each unit of a grouping level within whose units its columns are constant: the
    outermost such level among those of the first `depth` levels and deeper; the table itself where there is none.

    **Arguments:** `table`: rows in the order of the original table; `depth`: 1 for the groups, 2 for the first nested
    level, ...
    """
    group = np.broadcast_to(np.arange(data.n_groups)[:, None], data.rows.shape)
    for d in range(depth - 1, len(data.level_names)):
        index, cells = unit_index(data, d)
        unit = data.nested[d - 1].unit if d else np.zeros(data.rows.shape, int)
        position = np.zeros((data.n_groups, int(unit.max()) + 1), int)
        position[cells[:, 0], cells[:, 1]] = np.arange(len(cells))
        of_row = data.rows_to_column(position[group, unit])
        first = np.unique(of_row, return_index=True)[1]
        values = table.iloc[first]
        if all((values[c].to_numpy()[of_row] == table[c].to_numpy()).all() for c in table.columns):
            return values.set_axis(index)
    return table


def effects_by_level(binding: Binding, values: np.ndarray) -> Any:
    """Values of the random effects of every unit as a table of units by effects; NaN in units of other levels of a
    factor by which the covariance differs.

    **Arguments:** `values` (groups, random).
    **Returns:** a data frame by group; with random effects at nested levels a dictionary of data frames by level.
    """
    import pandas as pd

    density, data = binding.density, binding.data
    if density.levels is None:
        table = pd.DataFrame(values, index=unit_index(data, 0)[0], columns=list(density.effect_names))
        for k, name in enumerate(density.effect_names):
            if (has_it := _indicator(binding, k)) is not None:
                table.loc[~has_it[:, 0], name] = np.nan
        return table
    out = {}
    for level, part in zip(density.levels.levels, density.levels.split(values), strict=True):
        index, cells = unit_index(data, level.depth)
        names = [density.effect_names[k] for k in level.effects]
        table = part[cells[:, 0], cells[:, 1] if level.depth else 0]
        out[level.name] = pd.DataFrame(table, index=index, columns=names)
        for k, name in zip(level.effects, names, strict=True):
            if (has_it := _indicator(binding, k)) is not None:
                out[level.name].loc[~has_it[cells[:, 0], cells[:, 1] if level.depth else 0], name] = np.nan
    return out


def informative_units(binding: Binding) -> np.ndarray:
    """True for the units whose random effects the data may inform (groups, units of all levels), as
    `Levels.informative` has them; (groups, 1) without nested levels."""
    density, data = binding.density, binding.data
    observed = np.asarray(data.observed.any(axis=1, keepdims=True))
    if density.levels is None:
        return observed
    parts: list[np.ndarray] = []
    for level in density.levels.levels:
        if level.depth == 0:
            parts.append(observed)
            continue
        nested = data.nested[level.depth - 1]
        with_response = units_with_response(nested.unit, data.observed, level.units)
        known = np.zeros(with_response.shape, bool)
        known[:, : nested.labels.shape[1]] = nested.present
        parts.append(with_response if density.levels.separable else known)
    return np.concatenate(parts, axis=1)


def effect_columns(binding: Binding, values: np.ndarray) -> list[np.ndarray]:
    """For each distinct effect its values over the informative units of the groups that have a response and a positive
    weight.

    **Arguments:** `values` (groups, random).
    """
    density, data = binding.density, binding.data
    counted = data.observed.any(axis=1) & (data.weights > 0)
    informative = informative_units(binding) & counted[:, None]
    out = []
    for k in range(len(density.effect_names)):
        part, chosen = values[:, [k]], informative
        if density.levels is not None:
            entries = density.levels.entries_of_effect[k]
            part, chosen = values[:, entries], informative[:, density.levels.unit_of_entry[entries]]
        mask = _indicator(binding, k)
        out.append(part[chosen if mask is None else chosen & mask])
    return out


def columns_of_effects(tables: Any) -> dict[str, np.ndarray]:
    """The values of each effect over the units of its level, from what `effects_by_level` returns."""
    by_level = tables.values() if isinstance(tables, dict) else [tables]
    return {name: table[name].dropna().to_numpy() for table in by_level for name in table.columns}


def level_depth(data: GroupedData, level: Any) -> int:
    """The number of grouping levels, from the outermost on, that a prediction takes the random effects of.

    **Arguments:** `level`: "population" or 0: none; "group": all; the name of a level, or its number from 1 on: those
    up to it.
    **Raises:** OptionError for anything else.
    """
    names = data.level_names
    if isinstance(level, str):
        if level in ("population", "group"):
            return 0 if level == "population" else len(names)
        if level in names:
            return names.index(level) + 1
        raise OptionError(
            f"level {level!r} is not known; {near_matches(level, ['group', 'population', *names])} Levels by number "
            f"are 0 (population) to {len(names)}."
        )
    if isinstance(level, (int, np.integer)) and not isinstance(level, bool) and 0 <= level <= len(names):
        return int(level)
    raise OptionError(
        f"level must be 'population', 'group', the name of a grouping level ({', '.join(map(repr, names))}) or a "
        f"number from 0 to {len(names)}; received {shown(level)}."
    )


def up_to_depth(binding: Binding, z: np.ndarray, depth: int) -> np.ndarray:
    """The whitened effects `z` (groups, random) with those of deeper levels set to zero."""
    levels = binding.density.levels
    if levels is None:
        return z if depth else np.zeros_like(z)
    parts = [
        part if level.depth < depth else np.zeros_like(part)
        for level, part in zip(levels.levels, levels.split(z), strict=True)
    ]
    return levels.join(parts)


def modes_of_known_units(fitted: Binding, binding: Binding, modes: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The modes (groups, random) of the groups of `binding`, from those of the fit: a nested unit has the effects of
    the unit with its labels in the fit, and zero where there is none.

    **Arguments:** `fitted`: the binding of the fit; `modes` (fitted groups, random); `index` (groups,): position of
    each group in the fit, -1 for new groups.
    """
    levels, old_levels = binding.density.levels, fitted.density.levels
    if levels is None or old_levels is None:
        return modes[index]
    out = []
    for level, part in zip(old_levels.levels, old_levels.split(modes), strict=True):
        if level.depth == 0:
            out.append(part[index])
            continue
        units = next(entry.units for entry in levels.levels if entry.depth == level.depth)
        new = np.zeros((len(index), units, part.shape[-1]))
        for (group, unit), known in units_in_common(fitted.data, binding.data, level.depth):
            new[group, unit] = part[known]
        out.append(new)
    return levels.join(out)


def units_in_common(
    fitted: GroupedData, data: GroupedData, depth: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The units of a nested level that two data sets have in common, by their labels and those of the levels around
    them: for each the position (group, unit) in `data`, and in `fitted`."""
    known, here = (dict(_labels_and_cells(part, depth)) for part in (fitted, data))
    return [(cell, known[label]) for label, cell in here.items() if label in known]


def _labels_and_cells(data: GroupedData, depth: int) -> list[tuple[tuple, tuple[int, int]]]:
    index, cells = unit_index(data, depth)
    return [(label, (int(group), int(unit))) for label, (group, unit) in zip(index, cells, strict=True)]
