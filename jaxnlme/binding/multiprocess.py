"""A model met with data that several processes hold, each its own groups: what depends on all the data is agreed on."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding, bind
from jaxnlme.data._columns import object_array
from jaxnlme.data._layout import widened
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import DataError, ModelError, some
from jaxnlme.model.model import NLMEModel
from jaxnlme.numerics.devices import Processes


def bind_multiprocess(model: NLMEModel, data: GroupedData, processes: Processes) -> Binding:
    """`bind` of this process's groups, with the levels, centres and strata of all groups of every process.

    Columns that covariate formulas or strata read travel between the processes; nothing else of the data does.

    **Errors:** DataError where the tables have other columns or share a group; ModelError for designs with an entry a
    group.
    """
    if processes.count == 1:
        return bind(model, data)
    processes.together(lambda: _check_data(model, data))
    _check_alike(data, processes)
    wanted = _wanted(model, data)
    like = None
    if wanted:
        columns = _columns(data, wanted)
        whole = _union(data, processes.everyone(columns))
        like = processes.together(lambda: bind(model, whole))
    binding = processes.together(lambda: bind(model, data, like=like, buckets=1))
    return _same_axes(binding, processes)


def rebind_multiprocess(model: NLMEModel, data: GroupedData, like: Binding, processes: Processes) -> Binding:
    """Fewer groups of each process, with the levels, centres and strata of `like`."""
    if processes.count == 1:
        return bind(model, data, like=like)
    return _same_axes(bind(model, data, like=like, buckets=1), processes)


def _check_data(model: NLMEModel, data: GroupedData) -> None:
    if not isinstance(data, GroupedData):
        raise ModelError(f"data must be a jn.GroupedData; received {type(data).__name__}. See GroupedData.from_frame.")
    designs = (model.fixed_design, model.random_design)
    if any(np.ndim(design) > 2 for design in designs if design is not None):
        raise ModelError(
            "fixed_design or random_design has an entry for each group, and several processes cannot agree on its "
            "form; declare the model with covariates=[...], which read the same columns in every process."
        )


def _check_alike(data: GroupedData, processes: Processes) -> None:
    """**Errors:** DataError, in every process, where columns differ or a group is in two processes."""
    names = {
        "group": data.group_name,
        "y": data.y_name,
        "x": list(data.x),
        "v": list(data.v),
        "text": [f"{name} ({values.ndim} axes)" for name, values in data.text.items()],
        "tables": {name: list(columns) for name, (columns, _) in data.tables.items()},
        "levels": {name: list(levels) for name, levels in data.levels.items()},
    }
    first, *others = processes.everyone(names)
    for number, other in enumerate(others, 1):
        for place, value in first.items():
            if other[place] != value:
                raise DataError(
                    f"the processes hold different {place}: {value} in process 0, {other[place]} in process {number}; "
                    "every process reads the same columns, in the same order, of its own groups."
                )
    owner: dict[Any, int] = {}
    for number, labels in enumerate(processes.everyone(data.labels.tolist())):
        twice = [label for label in labels if owner.setdefault(label, number) != number]
        if twice:
            raise DataError(
                f"group {some([str(label) for label in twice])} is in process {owner[twice[0]]} and in process "
                f"{number}: all rows of a group belong in one process."
            )


def _wanted(model: NLMEModel, data: GroupedData) -> list[str]:
    """Columns whose values in all groups decide on the model: those of covariate formulas and of strata."""
    formulas = " ".join(c.formula for parameter in model.parameters for c in parameter.covariates)
    by = getattr(model.error, "by", None)
    known = [*data.x, *data.v, *data.text]
    return [name for name in known if name == by or re.search(rf"(?<!\w){re.escape(name)}(?!\w)", formulas)]


def _columns(data: GroupedData, wanted: list[str]) -> dict[str, Any]:
    picked = {
        place: {name: values for name, values in getattr(data, place).items() if name in wanted}
        for place in ("x", "v", "text")
    }
    return picked | {"rows": data.rows, "observed": data.observed, "labels": data.labels.tolist()}


def _union(data: GroupedData, parts: list[dict[str, Any]]) -> GroupedData:
    """One data set of the groups of every process, with the columns at hand only."""
    obs = max(part["rows"].shape[1] for part in parts)

    def join(place: str) -> dict[str, np.ndarray]:
        return {name: np.concatenate([widened(part[place][name], obs) for part in parts]) for name in parts[0][place]}

    rows = np.concatenate([widened(part["rows"], obs, True) for part in parts])
    labels = [label for part in parts for label in part["labels"]]
    return dataclasses.replace(
        data,
        y=np.zeros(rows.shape),
        x=join("x"),
        v=join("v"),
        text=join("text"),
        rows=rows,
        observed=np.concatenate([widened(part["observed"], obs, True) for part in parts]),
        weights=np.ones(len(rows)),
        labels=object_array(labels),
        row_index=np.where(rows, np.cumsum(rows).reshape(rows.shape) - 1, -1),
        tables={},
        index=None,
    )


def _same_axes(binding: Binding, processes: Processes) -> Binding:
    """A covariate that varies within groups in one process has an obs axis in every process."""
    (bucket,) = binding.problem.buckets
    found = processes.everyone([np.ndim(column) for column in bucket.covariates])
    wide = [
        np.broadcast_to(column[:, None], bucket.y.shape) if np.ndim(column) == 1 and max(dims) == 2 else column
        for column, *dims in zip(bucket.covariates, *found, strict=True)
    ]
    problem = eqx.tree_at(lambda p: p.buckets[0].covariates, binding.problem, tuple(wide))
    return dataclasses.replace(binding, problem=problem)
