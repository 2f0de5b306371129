"""What every fit begins with: the model met with data, starting values, groups where they are computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.dry_run import place
from jaxnlme.binding.multiprocess import bind_multiprocess, rebind_multiprocess
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import Status
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.starting_values import pooled_start, scaled_error_start, start_params
from jaxnlme.estimators.two_stage.fit_groups import groups_start
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.params import Params
from jaxnlme.numerics.compiling import clock
from jaxnlme.numerics.devices import Processes

# Fits that starting values may come from, by the word users write.
STARTS = {"pooled": pooled_start, "groups": groups_start}


@dataclasses.dataclass(frozen=True)
class Setup:
    """`model` and `binding`; `params` to start at; `given`, what the user said by name, and `own`, whether the rest is
    the model's own; `placed`, the groups where they are computed; `finite` (groups,), those that may begin."""

    model: NLMEModel
    binding: Binding
    params: Params
    given: Mapping[str, float] | tuple
    own: bool
    placed: PlacedProblem
    finite: np.ndarray

    def without_lost(self, processes: Processes) -> tuple[Setup, list[tuple[Any, str]]]:
        """The same with the groups that are `finite`, and the labels of the others with the reason."""
        lost = [(label, Status.non_finite_start.sentence) for label in self.binding.data.labels[~self.finite]]
        rest = self.binding.data.select(self.finite)
        model = self.model.for_groups(self.finite, rest.y.shape[1])
        binding = rebind_multiprocess(model, rest, self.binding, processes)
        placed = self.placed.again(binding.problem)
        every = np.ones(binding.data.n_groups, bool)
        return dataclasses.replace(self, model=model, binding=binding, placed=placed, finite=every), lost


def set_up(
    model: NLMEModel,
    data: GroupedData,
    estimator: AbstractEstimator,
    start: Any,
    plan: Any,
    processes: Processes,
    timings: dict[str, float],
) -> Setup:
    """Binds, checks and places a model; `start` as `fit` takes one, `plan` for devices and chunks.

    **Errors:** DataError, ModelError, OptionError for faults found before iterating.
    """
    with clock(timings, "bind"):
        binding = bind_multiprocess(model, data, processes)
        estimator.check(binding)
    given = start if isinstance(start, Mapping) else ()
    params = processes.together(lambda: start_params(binding, start))
    with clock(timings, "check"):
        placed, found = place(
            binding, params, plan.mesh, plan.chunk_groups, estimator.thread_rows(binding.data.n_groups)
        )
    own = start is None or bool(given)
    if own:
        params = scaled_error_start(binding, params, found.misfit, given)
    # A group of weight zero may be anything: it adds nothing.
    return Setup(model, binding, params, given, own, placed, found.finite | (binding.data.weights == 0))
