"""Random effects of every unit with the covariates of the unit, one table for each grouping level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.diagnostics.tidy import by_level
from jaxnlme.results.by_level import effects_by_level, unit_index
from jaxnlme.results.effect_draws import effect_draws

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

ETA = "eta_"


def effect_tables(fit: FitRecord, of: str = "modes", seed: int = 0) -> dict[str, pd.DataFrame]:
    """By grouping level with random effects a table with a row for each unit.

    **Arguments:** `of`: "modes", the conditional modes; "draws", one draw from the conditional distribution of each
    unit, with `seed`.
    **Returns:** columns: labels of the unit; "eta_NAME" of each effect, on the transformed scale; covariates that are
    constant within the units of the level; `n_obs`, observed responses of the unit, and `weight` of its group.
    """
    if of == "modes":
        effects = by_level(fit.random_effects, fit.data)
    else:
        z = effect_draws(fit, fit.binding, fit.conditional, 1, seed).z[:, 0]
        effects = by_level(effects_by_level(fit.binding, fit.binding.density.effects_at(fit.params, z)), fit.data)
    return {name: _with_covariates(fit.data, name, table) for name, table in effects.items()}


def covariate_names(data: GroupedData, table: pd.DataFrame) -> list[str]:
    """The columns of a table of `effect_tables` that are covariates."""
    known = {*data.level_names, "n_obs", "weight", *(name for name in table if str(name).startswith(ETA))}
    return [str(name) for name in table if name not in known]


def effect_columns_of(table: pd.DataFrame) -> list[str]:
    """Names of the effects in a table of `effect_tables`."""
    return [str(name).removeprefix(ETA) for name in table if str(name).startswith(ETA)]


def _with_covariates(data: GroupedData, level: str, effects: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    depth = data.level_names.index(level)
    of_row, cells = unit_of_rows(data, depth)
    count, frame = len(cells), data.to_frame()
    first = np.unique(of_row, return_index=True)[1]
    columns: dict[str, Any] = {name: frame[name].to_numpy()[first] for name in data.level_names[: depth + 1]}
    columns |= {f"{ETA}{name}": effects[name].to_numpy() for name in effects}
    for name in (*data.v, *data.x, *data.text):
        if name == data.endpoint or name in columns:
            continue
        codes = pd.factorize(frame[name])[0]
        low, high = np.full(count, np.iinfo(int).max), np.full(count, -1)
        np.minimum.at(low, of_row, codes)
        np.maximum.at(high, of_row, codes)
        if (low == high).all():
            columns[name] = frame[name].array[first]
    observed = data.rows_to_column(data.observed)
    columns["n_obs"] = np.bincount(of_row, observed, count).astype(int)
    columns["weight"] = data.weights[cells[:, 0]]
    return pd.DataFrame(columns)


def unit_of_rows(data: GroupedData, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The position (rows,) of the unit of each row among those of a level, and the pairs (group, unit) of these."""
    _, cells = unit_index(data, depth)
    unit = data.nested[depth - 1].unit if depth else np.zeros(data.rows.shape, int)
    position = np.zeros((data.n_groups, int(unit.max()) + 1), int)
    position[cells[:, 0], cells[:, 1]] = np.arange(len(cells))
    group = np.broadcast_to(np.arange(data.n_groups)[:, None], data.rows.shape)
    return data.rows_to_column(position[group, unit]), cells
