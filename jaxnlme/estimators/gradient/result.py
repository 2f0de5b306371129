"""The record of a fit by gradient training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.estimators.gradient.algorithm import Outcome, held_out_labels
from jaxnlme.estimators.gradient.method import Gradient
from jaxnlme.estimators.gradient.run import Training
from jaxnlme.results.record import FitRecord
from jaxnlme.results.training import TrainingRecord


def training_record(training: Training, outcome: Outcome, free: np.ndarray, criterion: str) -> TrainingRecord:
    """The TrainingRecord of a training that has ended; `free` (n,) bool: entries that were trained."""
    weights = free[len(training.binding.fixed) :]
    return TrainingRecord(
        **outcome.columns,
        check_step=np.array(outcome.check_step, int),
        held_out=np.array(outcome.held_out, float),
        steps_per_pass=training.batches.steps_per_pass,
        batch_groups=training.batches.size,
        groups=training.trained,
        held_out_groups=len(training.held_positions),
        best_step=outcome.best_step,
        weights=int(weights.sum()),
        frozen=int((~weights).sum()),
        labels=tuple(held_out_labels(training)),
        precision=training.estimator.precision,
        ending=outcome.ending,
        weights_criterion=criterion,
    )


def with_training_record(
    result: FitRecord, estimator: Gradient, record: TrainingRecord, outcome: Outcome, options: dict[str, Any]
) -> FitRecord:
    """The FitRecord of the polish as that of the whole fit: its history begins with the training."""
    last = outcome.history[-1]["iteration"] if outcome.history else 0
    seconds = outcome.history[-1]["seconds"] if outcome.history else 0.0
    polished = [
        entry | {"iteration": entry["iteration"] + last, "seconds": max(entry["seconds"], seconds)}
        for entry in result.history
    ]
    changed: Any = dataclasses.replace(
        result,
        estimator=estimator,
        history=(*outcome.history, *polished),
        options=options,
        interrupted=result.interrupted or outcome.interrupted,
        stopped=result.stopped or outcome.stopped,
        training=record,
    )
    return changed
