"""Vectorised minimiser: a fixed number of minimisations of one problem at a time, in one compiled program.

Fits differ in the number of evaluations they need, and a batch that runs until its slowest fit has converged wastes
most of its work. Therefore:

1. the batch has `width` slots, each of which holds one job (a minimisation);
2. one pass evaluates the objective of all slots once and advances each of them (`batch_passes.advance`);
3. every few passes the host stores the jobs that have ended and puts the next jobs into their slots (`run_jobs`); the
   first evaluation of a job is an evaluation like any other.

Slots are idle only during the last jobs, one program serves any number of jobs, and finished jobs are on the host, so
that an interruption (Ctrl-C) loses none of them.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.core.progress import ProgressLine
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.refits.batch_passes import BatchState, advance, empty_slots
from jaxnlme.refits.jobs import Jobs, Outcomes, blank_outcomes
from jaxnlme.refits.settings import BATCH
from jaxnlme.typing import PyTree


def width_for(jobs: int, rows: int) -> int:
    """Number of slots for `jobs` jobs on `rows` rows each: the largest of `BatchSettings.widths` that memory allows
    and, on a CPU, which is hardly faster for wide batches than for small ones, that is small enough for slots to be
    refilled."""
    stats = jax.local_devices()[0].memory_stats() or {}
    memory = BATCH.device_fraction * stats["bytes_limit"] if "bytes_limit" in stats else BATCH.host_bytes
    most = BATCH.width_per_job * jobs
    if jax.default_backend() == "cpu":
        most = max(BATCH.cpu_width_per_job * jobs, BATCH.width_per_job * min(jobs, BATCH.cpu_few_jobs))
    allowed = [w for w in BATCH.widths if w * rows * BATCH.bytes_per_row <= memory and w <= most]
    return max(allowed, default=1)


def run_jobs(
    problem: Problem,
    template: Params,
    estimator: MaximumLikelihood,
    jobs: Jobs,
    *,
    width: int | None = None,
    expected: int | None = None,
    evaluations: int = BATCH.expected_evaluations,
    progress: bool | None = False,
    name: str = "fits",
) -> Outcomes:
    """Run every job until it ends (see `MaximumLikelihood.terminate`), inside the 64-bit context.

    **Arguments:** `problem`, `template` (Params): common to all jobs; `estimator`: the objective, and the rule by which
    a job ends; `jobs`: where each starts, and how its data differ; `width`: the number of slots, by `width_for` where
    None; `expected`: the number of jobs that the program will serve, in this call and later ones, of about
    `evaluations` evaluations each; `progress`, `name`: a line that counts finished jobs.
    **Returns:** Outcomes. A job whose objective is not finite ends without affecting the others; Ctrl-C returns the
    jobs that have ended, `interrupted` true.
    """
    n_jobs, n = jobs.x.shape
    total = n_jobs if expected is None else expected
    slots = _Slots(jobs, width_for(total, problem.n_rows) if width is None else width)
    inverse_hessians = np.full((1, n, n), np.nan) if jobs.inverse_hessians is None else jobs.inverse_hessians
    common = on_device(
        (estimator, problem, template, np.asarray(inverse_hessians, float), np.asarray(jobs.modes, float))
    )
    program = compiled(advance, total * evaluations * problem.n_rows // BATCH.runs_per_program)
    batch = on_device(empty_slots(slots.width, n, template.pack().shape[0], jobs.modes.shape))
    out = blank_outcomes(n_jobs, n)
    passes_per_call = BATCH.first_passes
    try:
        with ProgressLine(progress, name, n_jobs) as line:
            while not slots.finished:
                refilled = slots.refill()
                started = time.perf_counter()
                # An array: for numbers the program would be compiled anew.
                bounds = np.array([passes_per_call, slots.most_ended])
                batch, passes = program(*common, *slots.contents, refilled, batch, bounds)
                running = np.asarray(batch.running)
                seconds = (time.perf_counter() - started) / max(int(passes), 1)
                passes_per_call = int(np.clip(BATCH.seconds_per_call / max(seconds, 1e-6), 1, BATCH.max_passes))
                _store(out, *slots.release(running), batch)
                line.show("refits", int(out.done.sum()))
    except KeyboardInterrupt:
        out = dataclasses.replace(out, interrupted=True)
    return out


class _Slots:
    """The jobs in the slots, on the host.

    `width`: the number of slots; `contents`: overlay, starting points, free entries and index of the initial inverse
    Hessian of every slot, on the device. Slots without a job hold the values of the first one, and are never run.

    **Arguments:** `jobs`; `width`.
    """

    def __init__(self, jobs: Jobs, width: int):
        self.jobs, self.width = jobs, width
        self._job, self._next = np.full(width, -1), 0
        rows = np.zeros(width, int)
        self._overlay: PyTree = jax.tree.map(np.array, jobs.overlay(rows))
        self._x, self._free = jobs.x[rows].astype(float), jobs.free[rows].astype(bool)
        n_jobs = len(jobs.x)
        self._hessian_index = np.zeros(n_jobs, int) if jobs.hessian_index is None else jobs.hessian_index
        self.contents: tuple[Any, ...] = ()

    @property
    def finished(self) -> bool:
        """True if every job has ended."""
        return self._next == len(self.jobs.x) and bool((self._job < 0).all())

    @property
    def most_ended(self) -> int:
        """Number of jobs that may end before the host refills slots: few while jobs are waiting."""
        return max(self.width // BATCH.idle_slots, 1) if self._next < len(self.jobs.x) else self.width

    def refill(self) -> np.ndarray:
        """Put the next jobs into the slots without one; True (slots,) for these slots."""
        jobs = self.jobs
        idle = np.flatnonzero(self._job < 0)[: len(jobs.x) - self._next]
        if len(idle):
            self._job[idle] = np.arange(self._next, self._next + len(idle))
            self._next += len(idle)
            self._x[idle], self._free[idle] = jobs.x[self._job[idle]], jobs.free[self._job[idle]]
            _write_rows(self._overlay, idle, jobs.overlay(self._job[idle]))
            hessian_index = self._hessian_index[np.maximum(self._job, 0)]
            self.contents = on_device((self._overlay, self._x, self._free, hessian_index))
        return np.isin(np.arange(self.width), idle)

    def release(self, running: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take the jobs that have ended, by `running` (slots,) bool, out of their slots; these jobs and slots."""
        ended = np.flatnonzero(~running & (self._job >= 0))
        jobs = self._job[ended]
        self._job[ended] = -1
        return jobs, ended


def _write_rows(overlay: PyTree, slots: np.ndarray, new: PyTree) -> None:
    """Write the overlays `new` of jobs into the rows `slots` of the overlay of all slots, in place."""
    for target, source in zip(jax.tree.leaves(overlay), jax.tree.leaves(new), strict=True):
        target[slots] = source


def _store(out: Outcomes, jobs: np.ndarray, slots: np.ndarray, batch: BatchState) -> None:
    """Copy the results of `slots` into the rows `jobs` of the outcomes, in place."""
    if not len(jobs):
        return
    bfgs = batch.state.bfgs
    for target, source in (
        (out.x, bfgs.x),
        (out.value, bfgs.value),
        (out.log_likelihood, batch.state.log_likelihood),
        (out.full_log_likelihood, batch.full_log_likelihood),
        (out.decrement, bfgs.decrement),
        (out.iterations, bfgs.iterations),
        (out.evaluations, bfgs.evaluations),
        (out.n_failed_modes, batch.n_failed_modes),
    ):
        target[jobs] = np.asarray(source)[slots]
    out.done[jobs] = True
