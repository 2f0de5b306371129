"""Setup of every fit: the model bound to the data, starting values, and groups placed on their devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.dry_run import place_and_check
from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.multiprocess import agree_levels, bind_own_groups
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import Status
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.starting_values import (
    balanced_error_start,
    pooled_start,
    scaled_error_start,
    scaled_sd_start,
    start_params,
)
from jaxnlme.estimators.two_stage.fit_groups import groups_start
from jaxnlme.model.params import Params
from jaxnlme.numerics.compiling import clock
from jaxnlme.numerics.devices import Processes

# Preliminary fits that give starting values, by the name users write.
STARTS = {"pooled": pooled_start, "groups": groups_start}


@dataclasses.dataclass(frozen=True)
class Setup:
    """A model bound to data, ready to be fitted.

    **Fields:** `model` and `binding`; `params`: the start; `named_starts`: starting values that the user gave by name;
    `default_starts`: True if all other starting values are the defaults of the model; `placed`: the groups on their
    devices; `finite` (groups,) bool: groups that are finite at the start.
    """

    model: NLMEModel
    binding: Binding
    params: Params
    named_starts: Mapping[str, float] | tuple
    default_starts: bool
    placed: PlacedProblem
    finite: np.ndarray

    def without_failed_groups(self, processes: Processes) -> tuple[Setup, list[tuple[Any, str]]]:
        """The Setup of the groups that are `finite`, and labels of the others with the reason."""
        failed = [(label, Status.non_finite_start.sentence) for label in self.binding.data.labels[~self.finite]]
        rest = self.binding.data.select(self.finite)
        model = self.model.for_groups(self.finite, rest.y.shape[1])
        binding = bind_own_groups(model, rest, self.binding, processes)
        placed = self.placed.place_like_this(binding.problem)
        all_finite = np.ones(binding.data.n_groups, bool)
        return dataclasses.replace(self, model=model, binding=binding, placed=placed, finite=all_finite), failed


def set_up(
    model: NLMEModel,
    data: GroupedData,
    estimator: AbstractEstimator,
    start: Any,
    plan: Any,
    processes: Processes,
    timings: dict[str, float],
) -> Setup:
    """Bind a model to data, check it and place the groups.

    **Arguments:** `start` as in `fit`; `plan`: its devices and chunks are used; `timings`: gets the seconds spent.
    **Raises:** DataError, ModelError, OptionError for errors found before iterating.
    """
    with clock(timings, "bind"):
        binding = bind_own_groups(model, data, agree_levels(model, data, processes), processes)
        estimator.check(binding)
    named_starts = start if isinstance(start, Mapping) else ()
    params = processes.run_collectively(lambda: start_params(binding, start))
    default_starts = start is None or bool(named_starts)
    if default_starts:
        params = balanced_error_start(binding, params, named_starts, processes)
    with clock(timings, "check"):
        placed, check = place_and_check(
            binding, params, plan.mesh, plan.chunk_groups, estimator.thread_rows(binding.data.n_groups)
        )
    if default_starts:
        params = scaled_error_start(binding, params, check.misfit, named_starts)
        params = scaled_sd_start(binding, params, check.effect_sizes, named_starts)
    # A group of weight zero need not be finite: it adds nothing.
    finite = check.finite | (binding.data.weights == 0)
    return Setup(model, binding, params, named_starts, default_starts, placed, finite)
