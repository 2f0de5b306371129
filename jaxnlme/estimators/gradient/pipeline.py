"""A fit by gradient training, from model and data to a record.

1. Hold groups out: they get weight zero.
2. Open a session of the approximation at the start, as every fit by it does (`marginal/pipeline.py`): it checks model
   and data, leaves out groups that are not finite where the user asked for it, and evaluates the objective once.
3. Train (`algorithm.py`).
4. Polish over all groups (`polish.py`), check convergence, and make the record.

The checkpoint "PATH" is of the training, and "PATH.polish" of the polish.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.stacking import label_keys
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.callbacks import Callbacks
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.core.progress import Progress
from jaxnlme.estimators.gradient.algorithm import Outcome, TrainingRun
from jaxnlme.estimators.gradient.batches import held_out_groups
from jaxnlme.estimators.gradient.checkpoint import GradientCheckpoint
from jaxnlme.estimators.gradient.convergence import unpolished, weights_criterion, with_training
from jaxnlme.estimators.gradient.method import Gradient
from jaxnlme.estimators.gradient.polish import PenalisedObjective, Polish
from jaxnlme.estimators.gradient.result import training_record, with_training_record
from jaxnlme.estimators.gradient.run import Training, units_of
from jaxnlme.estimators.gradient.weights import frozen_weights, modules_without_arrays, trainable
from jaxnlme.estimators.marginal.algorithm import run_to_convergence
from jaxnlme.estimators.marginal.objective import MarginalObjective
from jaxnlme.estimators.marginal.pipeline import Opening, SessionInputs
from jaxnlme.estimators.marginal.result import record
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.numerics.compiling import clock, compile_clock
from jaxnlme.numerics.devices import Processes
from jaxnlme.precision import x64
from jaxnlme.results.record import FitRecord


def run(model: NLMEModel, data: GroupedData, estimator: Gradient, plan: Plan) -> FitRecord:
    """The record of a fit by `estimator`; `plan`: the options of `fit`.

    **Raises:** DataError, ModelError, OptionError for errors found before iterating.
    """
    _check_plan(estimator, plan)
    timings: dict[str, float] = {}
    began = time.perf_counter()
    with x64(), compile_clock(timings), np.errstate(all="ignore"):
        processes = Processes(plan.mesh)
        keys = label_keys(data.labels)
        held = held_out_groups(data, keys, estimator.held_out, estimator.seed)
        held_labels = set(data.labels[held].tolist())
        used = data.with_weights(np.where(held, 0.0, data.weights)) if held.any() else data
        path = plan.checkpoint
        polish_plan = dataclasses.replace(plan, checkpoint=None if path is None else Path(f"{path}.polish"))
        search: list[Polish] = []

        def make_session(inputs: SessionInputs) -> tuple[Session, list[str]]:
            session, polish = _session(inputs, estimator)
            search[:] = [polish]
            return session, []

        with Progress(plan.progress, estimator.name, timings=timings) as line:
            opened = Opening(model, used, estimator, polish_plan, processes, timings).open(make_session, line)
            if isinstance(opened, FitRecord):
                return opened
            session, opening = opened
            out = np.array([label in held_labels for label in session.binding.data.labels.tolist()], bool)
            with clock(timings, "train"):
                training, outcome, free = _train(session, estimator, out, plan, line, began)
            convergence = None
            polish = estimator.polish_of(int(free[session.n_dense :].sum()))
            with clock(timings, "optimise"):
                if not session.resumed:
                    modes = session.objective.evaluator.place_modes(outcome.modes)
                    session.move(session.objective.evaluate(outcome.x, modes, None))
                session.interrupted, session.stopped = outcome.interrupted, outcome.stopped
                if polish == "none" or session.halted or not np.isfinite(session.best.value):
                    convergence = unpolished(session, outcome, estimator.precision)
                else:
                    convergence = run_to_convergence(session, plan.standard_errors)
                session.notify_end()
            criterion = weights_criterion(session, free, polish, search[0])
            convergence = with_training(convergence, outcome, criterion, int(out.sum()), training.trained)
            options = plan.options(estimator)
            result = record(session, convergence, opening.left_out, opening.notes, options, timings)
            result = with_training_record(
                result, estimator, training_record(training, outcome, free, criterion), outcome, options
            )
    timings["total"] = time.perf_counter() - began
    return result


def _check_plan(estimator: Gradient, plan: Plan) -> None:
    """**Raises:** OptionError for options of `fit` that gradient training does not have."""
    if estimator.precision == "float32" and plan.standard_errors:
        raise OptionError(
            "Gradient: precision='float32' gives no standard errors, whose second derivatives need 64 bits; say "
            "standard_errors=False, and for standard errors fit again from the result: "
            "jn.fit(model, data, 'focei', start=fit)."
        )
    if plan.mesh is not None:
        raise OptionError("Gradient computes on one device; leave devices out.")
    if plan.chunk_groups is not None:
        raise OptionError(
            "Gradient keeps all groups on the device and computes batches of them: give batch_groups to jn.Gradient, "
            "and leave chunk_groups out."
        )


def _session(inputs: SessionInputs, estimator: Gradient) -> tuple[Session, Polish]:
    """The session of the polish, at the start of the training; frozen weights are held."""
    evaluator, binding = inputs.evaluator(), inputs.binding
    frozen = frozen_weights(binding.start.free, estimator.freeze)
    objective: Any = MarginalObjective(evaluator)
    if callable(estimator.regularisation) or estimator.regularisation > 0:
        if binding.start.free is None:
            raise OptionError("Gradient: regularisation is of weights of Equinox modules, and this model has none.")
        mask = trainable(binding.start.free, ~frozen)
        objective = PenalisedObjective(evaluator, estimator.regularisation, modules_without_arrays(binding), mask)
    polish = Polish(estimator, estimator.polish_of(int((~frozen).sum())) == "all")
    session = inputs.session(objective, polish)
    session.free[len(binding.fixed) :] &= ~frozen
    return session, polish


def _train(
    session: Session, estimator: Gradient, held_out: np.ndarray, plan: Plan, line: Progress, began: float
) -> tuple[Training, Outcome, np.ndarray]:
    """The training from the point of `session`, its outcome, and the entries (n,) bool that were trained."""
    binding, sums = session.binding, session.best.sums
    free = np.concatenate([~binding.fixed, ~frozen_weights(binding.start.free, estimator.freeze)])
    units = units_of(binding, session.x, np.asarray(sums.outer), float(sums.counted))
    training = Training(binding, estimator, session.x, free, held_out, units)
    checkpoint = None
    if plan.checkpoint is not None:
        params = session.params()
        checkpoint = GradientCheckpoint(plan.checkpoint, binding, estimator, params, session.processes)
        checkpoint.adopt(training.state)
    callbacks = Callbacks([*plan.callbacks, line], session.processes)
    return training, TrainingRun(training, callbacks, checkpoint, began).run(), free
