"""The training: blocks of steps, and between them checks of the held-out groups, callbacks and checkpoint.

1. Take steps to the next check, end of training, or at most TRAINING.block_steps.
2. After `check_every` steps: the log-likelihood of the held-out groups. The parameters at its highest value are kept.
3. End after `steps` steps; after `patience` checks in a row without a gain; after TRAINING.refused_steps steps in a row
   that were not finite; where a callback asks for it; at Ctrl-C.

Without held-out groups the last parameters are kept.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, final

import jax
import numpy as np

from jaxnlme.estimators.core.callbacks import Callbacks, Iteration
from jaxnlme.estimators.core.objective import unflatten
from jaxnlme.estimators.gradient.checkpoint import GradientCheckpoint, TrainingRunState
from jaxnlme.estimators.gradient.run import COLUMNS, Training, TrainingState
from jaxnlme.estimators.gradient.settings import TRAINING


@dataclasses.dataclass
class Outcome:
    """A training that has ended.

    **Fields:** `x` (n,) and `modes` (groups, random) that were kept; `columns`: arrays (steps,) by name; `check_step`,
    `held_out`: steps and values of the checks; `best_step`; `ending`: a sentence; `interrupted`, `stopped`; `broken`:
    it ended because steps were not finite; `history`: entries as of a fit.
    """

    x: np.ndarray
    modes: np.ndarray
    columns: dict[str, np.ndarray]
    check_step: list[int]
    held_out: list[float]
    best_step: int
    ending: str
    interrupted: bool
    stopped: bool
    broken: bool
    history: list[dict[str, float]]


@final
class TrainingRun:
    """The loop over blocks of a training.

    **Arguments:** `training`; `callbacks`; `checkpoint`, None for none; `started`: time of the start.
    """

    def __init__(self, training: Training, callbacks: Callbacks, checkpoint: GradientCheckpoint | None, started: float):
        self.training, self.callbacks, self.checkpoint, self.started = training, callbacks, checkpoint, started
        self.estimator = training.estimator
        self.columns: dict[str, list[float]] = {name: [] for name in (*COLUMNS, "seconds")}
        self.check_step: list[int] = []
        self.held_out: list[float] = []
        self.best: tuple[int, TrainingState] = (0, training.state)
        self.interrupted = self.stopped = self.finished = False
        self.broken = False
        self.history: list[dict[str, float]] = []
        if checkpoint is not None and checkpoint.run_state is not None:
            self._restore(checkpoint.run_state)

    @property
    def check_every(self) -> int:
        """Steps between checks of the held-out groups."""
        if self.estimator.check_every is not None:
            return self.estimator.check_every
        if self.estimator.steps is None:
            return self.training.batches.steps_per_pass
        return max(1, self.estimator.steps // TRAINING.checks)

    def run(self) -> Outcome:
        """Train to the end."""
        ending = ""
        try:
            if self.training.held is not None and not self.check_step:
                self._check()
            ending = self._over()
            while not ending:
                self._block()
                ending = self._over()
            self.finished = not self.stopped
            self.save()
        except KeyboardInterrupt:
            self.interrupted, ending = True, "Interrupted by the user."
            self.save()
        step, state = self.best if self.training.held is not None else (self.training.step, self.training.state)
        self.training.state = state
        columns = {name: np.array(values, float) for name, values in self.columns.items()}
        return Outcome(
            self.training.x(), self.training.modes(), columns, self.check_step, self.held_out, step, ending,
            self.interrupted, self.stopped, self.broken, self.history,
        )  # fmt: skip

    def _block(self) -> None:
        training = self.training
        steps = TRAINING.block_steps
        if self.estimator.steps is not None:
            steps = min(steps, self.estimator.steps - training.step)
        if training.held is not None:
            steps = min(steps, self.check_every - training.step % self.check_every)
        report = training.run_block(steps)
        seconds = time.perf_counter() - self.started
        for name, values in report.items():
            self.columns[name] += values.tolist()
        self.columns["seconds"] += [seconds] * steps
        if training.held is not None and training.step % self.check_every == 0:
            self._check()
        self._notify(seconds)
        if self.checkpoint is not None and self.checkpoint.due():
            self.save()

    def _check(self) -> None:
        """The log-likelihood of the held-out groups; the state is kept where it is the highest so far."""
        value = self.training.held_out_log_likelihood()
        if not self.held_out or not value <= np.nanmax([-np.inf, *self.held_out]):
            self.best = (self.training.step, self.training.state)
        self.check_step.append(self.training.step)
        self.held_out.append(value)

    def _over(self) -> str:
        """The sentence on why the training ends; empty while it goes on."""
        step, estimator = self.training.step, self.estimator
        if self.stopped:
            return f"Stopped by a callback after {step} steps."
        refused = self.columns["taken"][-TRAINING.refused_steps :]
        if len(refused) == TRAINING.refused_steps and not any(refused):
            self.broken = True
            return (
                f"Ended after {step} steps: the gradients of the last {TRAINING.refused_steps} were not finite; use a "
                "smaller learning rate, other starting values, or clip gradients by optax.clip_by_global_norm."
            )
        if self._without_gain() >= estimator.patience:
            return (
                f"Ended after {step} steps: the held-out log-likelihood did not rise in {estimator.patience} checks; "
                f"the parameters after step {self.best[0]} were kept."
            )
        if estimator.steps is not None and step >= estimator.steps:
            kept = f"; the parameters after step {self.best[0]} were kept" if self.training.held is not None else ""
            return f"All {estimator.steps} steps were taken{kept}."
        return ""

    def _without_gain(self) -> int:
        """Number of checks since the last one that was higher than all before it by TRAINING.least_gain a group."""
        if not self.held_out:
            return 0
        least = TRAINING.least_gain * len(self.training.held_positions)
        highest, last = -np.inf, 0
        for k, value in enumerate(self.held_out):
            if value > highest + least:
                highest, last = value, k
        return len(self.held_out) - 1 - last

    def _notify(self, seconds: float) -> None:
        training = self.training
        log_likelihood, gain = self.columns["log_likelihood"][-1], float("nan")
        entry = {
            "iteration": training.step,
            "evaluations": training.step,
            "log_likelihood": log_likelihood,
            "expected_gain": gain,
            "seconds": seconds,
        }
        self.history.append(entry)
        params = jax.tree.map(np.asarray, unflatten(training.template, training.x()))
        record = Iteration(
            training.step, training.step, log_likelihood, gain, seconds, params, training.binding, "GRADIENT"
        )
        self.stopped = self.callbacks.notify(record)

    # --- checkpoint ---

    def save(self) -> None:
        """Write the checkpoint, if there is one."""
        if self.checkpoint is None:
            return
        training = self.training
        columns = {name: np.array(values, float) for name, values in self.columns.items()}
        now, best = (jax.tree.map(np.asarray, state) for state in (training.state, self.best[1]))
        seconds = time.perf_counter() - self.started
        kept = (self.check_step, self.held_out, seconds, self.finished, self.history)
        self.checkpoint.write(TrainingRunState(training.x(), training.step, now, self.best[0], best, columns, *kept))

    def _restore(self, saved: TrainingRunState) -> None:
        training = self.training
        training.state, training.step = saved.state, saved.step
        self.best = (saved.best_step, saved.best)
        self.columns = {name: values.tolist() for name, values in saved.columns.items()}
        self.check_step, self.held_out = list(saved.check_step), list(saved.held_out)
        self.started -= saved.seconds
        self.history = list(saved.history)


def held_out_labels(training: Training) -> list[Any]:
    """Labels of the held-out groups, in the order of the data."""
    position = {int(p) for p in training.held_positions}
    return [
        label for k, label in enumerate(training.binding.data.labels.tolist()) if int(training.order[k]) in position
    ]
