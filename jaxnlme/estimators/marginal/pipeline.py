"""A fit that maximises an objective over all groups, from model and data to a record.

1. Bind the model to the data, check it and place the groups (`set_up`); read the checkpoint, where there is one.
2. If groups are not finite at the start: stop with a record that names them, or leave them out, as the user chose.
3. Replace the start by that of `starts="pooled"` or `starts="groups"`, if the user asked for one.
4. Evaluate the objective at the start. If groups are not finite there: 2 again.
5. Maximise, check convergence (`algorithm.run_to_convergence`), and make the record (`result.record`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.separability import coupling_notes
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.objective import flatten
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.core.progress import Progress
from jaxnlme.estimators.core.record import failed_start
from jaxnlme.estimators.marginal.algorithm import run_to_convergence
from jaxnlme.estimators.marginal.checkpoint import MarginalCheckpoint
from jaxnlme.estimators.marginal.evaluations import Evaluator
from jaxnlme.estimators.marginal.objective import AbstractObjective, MarginalObjective
from jaxnlme.estimators.marginal.result import record
from jaxnlme.estimators.marginal.search import QuasiNewton
from jaxnlme.estimators.marginal.session import AbstractSearch, Session
from jaxnlme.estimators.setup import STARTS, Setup, set_up
from jaxnlme.model.params import Params
from jaxnlme.numerics.compiling import clock, compile_clock
from jaxnlme.numerics.devices import Processes
from jaxnlme.precision import x64
from jaxnlme.results.record import FitRecord


@dataclasses.dataclass(frozen=True)
class SessionInputs:
    """All that a session starts from: `binding`, `estimator`, `params` to start at, `callbacks`, `placed` groups and
    `checkpoint`; `is_new`: no earlier fit led to `params`, neither in the checkpoint nor as the start."""

    binding: Binding
    estimator: AbstractEstimator
    params: Params
    callbacks: list[Any]
    placed: Any
    checkpoint: MarginalCheckpoint | None
    is_new: bool

    def evaluator(self, params: Params | None = None) -> Evaluator:
        """The evaluator of the estimator's method, to start at `params` (by default those here)."""
        start = self.params if params is None else params
        return Evaluator(self.binding, self.estimator.method, start, self.placed)

    def session(self, objective: AbstractObjective, search: AbstractSearch) -> Session:
        """The session that minimises `objective` by `search`."""
        return Session(objective, search, self.estimator, self.callbacks, self.checkpoint)


def plain_session(inputs: SessionInputs) -> tuple[Session, list[str]]:
    """The session of a likelihood approximation at its start, and sentences for the record: none."""
    return inputs.session(MarginalObjective(inputs.evaluator()), QuasiNewton()), []


def run(
    model: NLMEModel,
    data: GroupedData,
    estimator: AbstractEstimator,
    plan: Plan,
    make_session: Callable[[SessionInputs], tuple[Session, list[str]]] = plain_session,
) -> FitRecord:
    """The record of a fit by `estimator`.

    **Arguments:** `plan`: the options of `fit`; `make_session`: makes the session of a method at its start, with
    sentences for the record.
    **Raises:** DataError, ModelError, OptionError for errors found before iterating.
    """
    timings: dict[str, float] = {}
    began = time.perf_counter()
    with x64(), compile_clock(timings), np.errstate(all="ignore"):  # values that are not finite are checked
        processes = Processes(plan.mesh)
        shown = plan.progress if processes.index == 0 else False
        with Progress(shown, estimator.name, timings=timings) as line:
            opened = Opening(model, data, estimator, plan, processes, timings).open(make_session, line)
            if isinstance(opened, FitRecord):
                return opened
            session, start = opened
            with clock(timings, "optimise"):
                convergence = run_to_convergence(session, plan.standard_errors)
                session.notify_end()
            result = record(session, convergence, start.left_out, start.notes, plan.options(estimator), timings)
    timings["total"] = time.perf_counter() - began
    return result


class Opening:
    """Steps 1 to 4 of a fit.

    **Attributes:** `setup` of the groups that remain; `params`; `left_out`: labels of the other groups, with the
    reason; `notes` for the record; `starts`: the preliminary fit still to be made, None if there is none; `replaced`:
    the preliminary fit whose start is still to be compared with the model's own.
    """

    def __init__(
        self,
        model: NLMEModel,
        data: GroupedData,
        estimator: AbstractEstimator,
        plan: Plan,
        processes: Processes,
        timings: dict[str, float],
    ):
        self.estimator, self.plan, self.processes, self.timings = estimator, plan, processes, timings
        self.setup: Setup = set_up(model, data, estimator, plan.start, plan, processes, timings)
        self.params, self.finite = self.setup.params, self.setup.finite
        self.left_out: list[tuple[Any, str]] = []
        self.notes: list[str] = coupling_notes(self.setup.binding.density)
        self.starts, self.replaced = plan.starts, None
        self.is_new = not isinstance(plan.start, FitRecord)
        self.checkpoint = self._read_checkpoint()
        if self.checkpoint is not None and self.checkpoint.run_state is not None:
            self.finite, self.starts, self.is_new = self.finite & self.checkpoint.rest, None, False
            self.notes.append(_resumed(self.checkpoint))

    def open(
        self, make_session: Callable[[SessionInputs], tuple[Session, list[str]]], line: Progress
    ) -> tuple[Session, Opening] | FitRecord:
        """The session at a start where every group that remains is finite; the record of a fit that did not begin where
        there is none."""
        while True:
            if not self.processes.all(self.finite.all()):
                if self.plan.on_bad_group == "stop" or not self.processes.all(self.finite.any()):
                    options = self.plan.options(self.estimator)
                    binding = self.setup.binding
                    return failed_start(
                        binding, self.estimator, self.params, self.finite, options, self.timings, self.processes
                    )
                self._leave_out()
            self._preliminary_fit()
            binding, placed = self.setup.binding, self.setup.placed
            callbacks = [*self.plan.callbacks, line]
            with clock(self.timings, "first evaluation"):
                session, notes = make_session(
                    SessionInputs(binding, self.estimator, self.params, callbacks, placed, self.checkpoint, self.is_new)
                )
            if self._own_start_is_better(session):
                continue
            groups = session.best.local_groups
            self.finite = np.isfinite(groups.values) & np.isfinite(groups.scores).all(1)
            self.finite |= binding.data.weights == 0
            if self.processes.all(self.finite.all()):
                self.notes += notes
                return session, self

    def _leave_out(self) -> None:
        """Leave out the groups that are not finite."""
        if self.checkpoint is not None:
            self.checkpoint.leave_out(self.finite)
        self.setup, failed = dataclasses.replace(self.setup, finite=self.finite).without_failed_groups(self.processes)
        self.left_out += failed

    def _preliminary_fit(self) -> None:
        """Replace the start by that of the preliminary fit `starts`, once."""
        if self.starts is None:
            return
        with clock(self.timings, "starts"):
            self.params, sentence = STARTS[self.starts](
                self.setup.binding, self.params, self.setup.named_starts, self.setup.placed
            )
        self.notes.append(sentence)
        self.replaced, self.starts = self.starts, None

    def _own_start_is_better(self, session: Session) -> bool:
        """True if the likelihood at the model's own start is higher than at that of the preliminary fit, where
        `session` begins; the own start is then taken instead, once."""
        if self.replaced is None:
            return False
        evaluator, replaced, self.replaced = session.objective.evaluator, self.replaced, None
        own = session.objective.evaluate(np.asarray(flatten(self.setup.params)), evaluator.zero_modes(), None)
        if not (own.value < session.best.value or (np.isfinite(own.value) and not np.isfinite(session.best.value))):
            return False
        self.params = self.setup.params
        self.notes[-1] = (
            f"The likelihood is lower at the start from starts={replaced!r} than at the model's own starts, "
        )
        self.notes[-1] += "from which the fit began."
        return True

    def _read_checkpoint(self) -> MarginalCheckpoint | None:
        if self.plan.checkpoint is None:
            return None
        checkpoint = MarginalCheckpoint(
            self.plan.checkpoint, self.setup.binding, self.estimator, self.params, self.processes
        )
        continued_without = checkpoint.run_state is not None and not self.processes.all(checkpoint.rest.all())
        if continued_without and self.plan.on_bad_group == "stop":
            raise OptionError(
                f"the fit in the checkpoint {checkpoint.path} was continued without some groups; say "
                "on_bad_group='leave out'."
            )
        return checkpoint


def _resumed(checkpoint: MarginalCheckpoint) -> str:
    state = checkpoint.run_state
    assert state is not None
    ended = ", where it had ended" if state.finished else ""
    return f"Resumed from {checkpoint.path} after {state.iterations} iterations{ended}."
