"""A stochastic fit, from model and data through a run of SAEM or IMP to a record.

1. Bind the model to the data, check it and place the groups (`set_up`); limit residual scales that the user did not
   give to the variation of the responses.
2. If groups are not finite at the start: stop with a record that names them, or leave them out, as the user chose.
3. Replace the start by that of `starts="pooled"` or `starts="groups"`, if the user asked for one.
4. Starting values suited to simulation (`simulation_starts.py`): standard deviations widened, a singular psi moved into
   the interior, or kept on the boundary if an earlier fit ended there; dispersed starts for further replicates.
5. Read the checkpoint, where there is one.
6. Run (`algorithm.run_algorithm`) and make the record (`result.to_record`).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.separability import coupling_notes
from jaxnlme.data.grouped import GroupedData
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.core.progress import ProgressLine
from jaxnlme.estimators.core.record import failed_start
from jaxnlme.estimators.em.algorithm import run_algorithm
from jaxnlme.estimators.em.checkpoint import StochasticCheckpoint
from jaxnlme.estimators.em.e_step import IterationTrace
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.post_estimation import prepare_likelihood
from jaxnlme.estimators.em.result import to_record
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.saem import AbstractStochastic
from jaxnlme.estimators.em.simulation_starts import (
    is_singular_and_free,
    limit_residual_scale,
    moved_inside,
    replicate_starts,
    simulation_start,
)
from jaxnlme.estimators.setup import STARTS, Setup, set_up
from jaxnlme.model.params import Params
from jaxnlme.numerics.compiling import clock, compile_clock
from jaxnlme.numerics.devices import Processes
from jaxnlme.precision import x64
from jaxnlme.results.record import FitRecord


def run(
    model: NLMEModel,
    data: GroupedData,
    estimator: AbstractStochastic,
    plan: Plan,
    compute_block: Callable[[Run, Schedule, int], IterationTrace] | None = None,
) -> FitRecord:
    """The record of a fit by a method that draws the random effects.

    **Arguments:** `plan`: the options of `fit`; `compute_block`: as of a Run.
    **Raises:** DataError, ModelError, OptionError for errors found before iterating.
    """
    timings: dict[str, float] = {}
    began = time.perf_counter()
    with x64(), compile_clock(timings), np.errstate(all="ignore"):  # values that are not finite are checked
        processes = Processes(plan.mesh)
        shown = plan.progress if processes.index == 0 else False
        with ProgressLine(shown, estimator.name, timings=timings) as line:
            start = _start(model, data, estimator, plan, processes, timings)
            if isinstance(start, FitRecord):
                return start
            with clock(timings, "run"):
                stochastic_run = Run(
                    start.setup.binding,
                    estimator,
                    start.replicates,
                    start.setup.placed,
                    start.warm,
                    plan.callbacks,
                    line.show,
                    start.checkpoint,
                    start.boundary_start,
                    compute_block,
                )
                stochastic_run.prepare = functools.partial(prepare_likelihood, stochastic_run)
                outcome = run_algorithm(stochastic_run)
            line.show("log-likelihood and standard errors")
            options = plan.options(estimator)
            result = to_record(
                stochastic_run, outcome, plan.standard_errors, start.left_out, start.notes, options, timings
            )
    timings["total"] = time.perf_counter() - began
    return result


@dataclasses.dataclass(frozen=True)
class _RunStart:
    """Start of a run (steps 1 to 5).

    **Fields:** `setup` of the groups that remain; `left_out`: labels of the other groups, with the reason;
    `replicates`: Params of each replicate; `warm`: the start is an earlier fit; `boundary_start` (packed,): the
    estimates of that fit, if the run starts on the boundary of psi; `checkpoint`; `notes` for the record.
    """

    setup: Setup
    left_out: list[tuple[Any, str]]
    replicates: list[Params]
    warm: bool
    boundary_start: np.ndarray | None
    checkpoint: StochasticCheckpoint | None
    notes: list[str]


def _start(
    model: NLMEModel,
    data: GroupedData,
    estimator: AbstractStochastic,
    plan: Plan,
    processes: Processes,
    timings: dict[str, float],
) -> _RunStart | FitRecord:
    """The start of a run; the record of a fit that did not begin, because groups are not finite at the start."""
    # Step 1.
    setup = _set_up(model, data, estimator, plan, processes, timings)
    # Step 2.
    left_out: list[tuple[Any, str]] = []
    if not processes.all(setup.finite.all()):
        if plan.on_bad_group == "stop" or not processes.all(setup.finite.any()):
            options = plan.options(estimator)
            return failed_start(setup.binding, estimator, setup.params, setup.finite, options, timings, processes)
        setup, left_out = setup.without_failed_groups(processes)
    # Step 3.
    setup, notes = _preliminary_fit(setup, plan)
    notes = coupling_notes(setup.binding.density) + notes
    # Step 4.
    warm = _is_warm(plan)
    boundary_start = np.asarray(setup.params.pack(), float) if _keeps_boundary(setup, estimator, plan) else None
    if boundary_start is None:
        params, sentences = simulation_start(setup.binding, setup.params, _first_start(plan))
        notes += sentences
    else:
        params = moved_inside(setup.binding, setup.params)
    user_starts = plan.start if _has_several_starts(plan) else None
    replicates = replicate_starts(setup.binding, params, user_starts, estimator)
    # Step 5.
    checkpoint = None
    if plan.checkpoint is not None:
        checkpoint = StochasticCheckpoint(plan.checkpoint, setup.binding, estimator, params, processes)
        notes += checkpoint.resumed
    return _RunStart(setup, left_out, replicates, warm, boundary_start, checkpoint, notes)


def _set_up(
    model: NLMEModel,
    data: GroupedData,
    estimator: AbstractStochastic,
    plan: Plan,
    processes: Processes,
    timings: dict[str, float],
) -> Setup:
    """The Setup of a fit, with residual scales that the user did not give limited (step 1)."""
    setup = set_up(model, data, estimator, _first_start(plan), plan, processes, timings)
    if not setup.default_starts:
        return setup
    params = limit_residual_scale(setup.binding, setup.params, setup.named_starts, processes)
    return dataclasses.replace(setup, params=params)


def _preliminary_fit(setup: Setup, plan: Plan) -> tuple[Setup, list[str]]:
    """The Setup at the start of the preliminary fit `starts`, with a sentence on it, if the user asked for one (step
    3)."""
    if plan.starts is None:
        return setup, []
    params, sentence = STARTS[plan.starts](setup.binding, setup.params, setup.named_starts, setup.placed)
    return dataclasses.replace(setup, params=params), [sentence]


def _has_several_starts(plan: Plan) -> bool:
    """True if the user gave a start for each of several replicates."""
    return isinstance(plan.start, (list, tuple))


def _first_start(plan: Plan) -> Any:
    """The start as the user gave it, the first one of several."""
    return plan.start[0] if _has_several_starts(plan) else plan.start


def _is_warm(plan: Plan) -> bool:
    """True if every start is an earlier fit, near the maximum."""
    starts = plan.start if _has_several_starts(plan) else [plan.start]
    return all(isinstance(start, FitRecord) for start in starts)


def _keeps_boundary(setup: Setup, estimator: AbstractStochastic, plan: Plan) -> bool:
    """True if the run starts on the boundary of psi where an earlier fit ended: only without priors, whose density of a
    standard deviation may be zero at zero, and for a single replicate, because several start dispersed, in the
    interior."""
    single_warm_start = _is_warm(plan) and not _has_several_starts(plan) and estimator.replicates == 1
    return single_warm_start and not setup.binding.density.priors and is_singular_and_free(setup.binding, setup.params)
