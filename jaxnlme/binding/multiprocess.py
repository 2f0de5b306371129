"""Binding where each of several processes has its own groups: factor levels, centres and strata are those of all
data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding, bind, check_grouped_data
from jaxnlme.binding.series import correlation_of, few
from jaxnlme.data._columns import object_array
from jaxnlme.data._layout import pad_rows
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import DataError, ModelError, some
from jaxnlme.model.covariance.heterogeneous import Heterogeneous
from jaxnlme.model.declaration import ModelDeclaration
from jaxnlme.model.residual_error.correlation_base import SeriesLayout
from jaxnlme.model.residual_error.endpoints import EndpointErrors
from jaxnlme.model.residual_error.variance_scale import VarianceScale
from jaxnlme.numerics.devices import Processes


def agree_levels(model: ModelDeclaration, data: GroupedData, processes: Processes) -> Binding | None:
    """A binding whose factor levels, centres and strata are those of the groups of all processes; None where the data
    of one process determine them, because there is one or because the model uses none.

    Only the columns that covariate formulas or strata use are exchanged between the processes.

    **Arguments:** `model`; `data`: the groups of this process; `processes`.
    **Raises:** DataError where the tables of the processes have different columns or a group in common; ModelError for
    designs with an entry for each group.
    """
    if processes.count == 1:
        return None
    processes.run_collectively(lambda: _check_data(model, data))
    _check_consistent(data, processes)
    names = _shared_columns(model, data)
    if not names and correlation_of(model.error) is None and data.limits is None:
        return None
    all_groups = _union(data, processes.gather(_columns(data, names)))
    return processes.run_collectively(lambda: bind(model, all_groups))


def bind_own_groups(model: ModelDeclaration, data: GroupedData, like: Binding | None, processes: Processes) -> Binding:
    """`bind` of this process's groups, with arrays of the same axes in every process.

    **Arguments:** `like`: from `agree_levels`, or the binding of more groups; as in `bind`.
    **Raises:** as `bind`, in every process.
    """
    if processes.count == 1:
        return bind(model, data, like=like)
    return _same_axes(processes.run_collectively(lambda: bind(model, data, like=like, buckets=1)), processes)


def _check_data(model: ModelDeclaration, data: GroupedData) -> None:
    check_grouped_data(data)
    if data.nested:
        raise ModelError(
            f"nested levels ({', '.join(data.level_names)}) are fitted by one process only; run this fit without "
            "jax.distributed."
        )
    designs = (model.fixed_design, model.random_design)
    if any(np.ndim(design) > 2 for design in designs if design is not None):
        raise ModelError(
            "fixed_design or random_design has an entry for each group, which several processes "
            "cannot share; declare the model with covariates=[...], which read the same columns in every process."
        )


def _check_consistent(data: GroupedData, processes: Processes) -> None:
    """Check that all processes have the same columns and different groups.

    **Raises:** DataError, in every process.
    """
    names = {
        "group": data.group_name,
        "y": data.y_name,
        "x": list(data.x),
        "v": list(data.v),
        "endpoint": data.endpoint,
        "text": [f"{name} ({values.ndim} axes)" for name, values in data.text.items()],
        "tables": {name: list(columns) for name, (columns, _) in data.tables.items()},
        "levels": {name: list(levels) for name, levels in data.levels.items()},
        "limits of quantification": data.limits is not None,
    }
    first, *others = processes.gather(names)
    for number, names in enumerate(others, 1):
        for role, value in first.items():
            if names[role] != value:
                raise DataError(
                    f"the processes have different {role}: {value} in process 0, {names[role]} in process {number}; "
                    "every process must read the same columns, in the same order, of its own groups."
                )
    owner: dict[Any, int] = {}
    for number, labels in enumerate(processes.gather(data.labels.tolist())):
        twice = [label for label in labels if owner.setdefault(label, number) != number]
        if twice:
            raise DataError(
                f"group {some([str(label) for label in twice])} is in process {owner[twice[0]]} and in process "
                f"{number}: all rows of a group must be in one process."
            )


def _shared_columns(model: ModelDeclaration, data: GroupedData) -> list[str]:
    """Names of the columns whose values in all groups determine the model: those of covariate formulas, of strata, of a
    residual correlation, and of a factor by which the covariance differs."""
    formulas = " ".join(c.formula for parameter in model.parameters for c in parameter.covariates)
    columns, used = [*data.x, *data.v, *data.text], set()
    if isinstance(model.error, EndpointErrors):
        used |= {data.endpoint}
    for error in (model.error, *getattr(model.error, "members", ())):
        correlation, scale = correlation_of(error), getattr(error, "scale", None)
        used |= {getattr(error, "by", None)}
        used |= set() if correlation is None else {correlation.time, correlation.within}
        used |= {by for by, _ in scale.strata} if isinstance(scale, VarianceScale) else set()
    specs = model.covariance.values() if isinstance(model.covariance, Mapping) else [model.covariance]
    used |= {spec.by for spec in specs if isinstance(spec, Heterogeneous)}
    return [name for name in columns if name in used or re.search(rf"(?<!\w){re.escape(name)}(?!\w)", formulas)]


def _columns(data: GroupedData, names: list[str]) -> dict[str, Any]:
    columns = {
        role: {name: values for name, values in getattr(data, role).items() if name in names}
        for role in ("x", "v", "text")
    }
    limits = None if data.limits is None else data.limits.arrays
    return columns | {"limits": limits, "rows": data.rows, "observed": data.observed, "labels": data.labels.tolist()}


def _union(data: GroupedData, parts: list[dict[str, Any]]) -> GroupedData:
    """One data set of the groups of all processes, with the exchanged columns (`_columns`) only."""
    obs = max(part["rows"].shape[1] for part in parts)

    def join(role: str) -> dict[str, np.ndarray]:
        return {name: np.concatenate([pad_rows(part[role][name], obs) for part in parts]) for name in parts[0][role]}

    rows = np.concatenate([pad_rows(part["rows"], obs, True) for part in parts])
    labels = [label for part in parts for label in part["labels"]]
    limits = data.limits
    if limits is not None:
        joined = {name: np.concatenate([pad_rows(p["limits"][name], obs) for p in parts]) for name in limits.arrays}
        limits = dataclasses.replace(limits, **joined).where(rows)
    return dataclasses.replace(
        data,
        y=np.zeros(rows.shape),
        x=join("x"),
        v=join("v"),
        text=join("text"),
        rows=rows,
        observed=np.concatenate([pad_rows(part["observed"], obs, True) for part in parts]),
        weights=np.ones(len(rows)),
        labels=object_array(labels),
        row_index=np.where(rows, np.cumsum(rows).reshape(rows.shape) - 1, -1),
        tables={},
        index=None,
        limits=limits,
    )


def _same_axes(binding: Binding, processes: Processes) -> Binding:
    """The binding in which a covariate that varies within groups in any process has an obs axis in this one, and the
    series of correlated residuals have the distances of all processes."""
    (bucket,) = binding.problem.buckets
    dimensions = processes.gather([np.ndim(column) for column in bucket.covariates])
    covariates = [
        np.broadcast_to(column[:, None], bucket.y.shape) if np.ndim(column) == 1 and max(dims) == 2 else column
        for column, *dims in zip(bucket.covariates, *dimensions, strict=True)
    ]
    problem = eqx.tree_at(lambda p: p.buckets[0].covariates, binding.problem, tuple(covariates))
    if bucket.layout is not None:
        layout = _with_all_distances(bucket.layout, processes)
        problem = eqx.tree_at(lambda p: p.buckets[0].layout, problem, layout)
    for k, member in enumerate(bucket.members):
        if member.layout is not None:
            layout = _with_all_distances(member.layout, processes)
            problem = eqx.tree_at(lambda p, k=k: p.buckets[0].members[k].layout, problem, layout)
    return dataclasses.replace(binding, problem=problem)


def _with_all_distances(layout: SeriesLayout, processes: Processes) -> SeriesLayout:
    """The layout with the distances that occur in any process."""
    offsets, lags, extents = zip(*processes.gather((layout.offsets, layout.lags, layout.extent)), strict=True)
    return dataclasses.replace(layout, offsets=_few_of(offsets), lags=_few_of(lags), extent=max(extents))


def _few_of(distances: Sequence[tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
    """The distances of all processes; None if they are many, in one process or together."""
    return few({distance for part in distances for distance in part or ()}) if None not in distances else None
