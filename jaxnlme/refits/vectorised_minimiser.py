"""Vectorised minimiser: a fixed number of minimisations of one problem at a time, in one compiled program.

Fits differ in the number of evaluations they need, and a batch that runs until its slowest fit has converged wastes
most of its work. Therefore:

1. the batch has `width` slots, each of which holds one job (a minimisation);
2. one pass evaluates the objective of all slots once and advances each of them (`_advance`);
3. every few passes the host stores the jobs that have ended and puts the next jobs into their slots (`run_batch`); the
   first evaluation of a job is an evaluation like any other.

Slots are idle only during the last jobs, one program serves any number of jobs, and finished jobs are on the host, so
that an interruption (Ctrl-C) loses none of them.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.errors import Status
from jaxnlme.estimators.core.progress import CountLine
from jaxnlme.estimators.marginal.method import MaximumLikelihood, MaximumLikelihoodState
from jaxnlme.estimators.marginal.settings import SEARCH
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.bfgs import BFGS, BFGSState
from jaxnlme.numerics.compiling import compiled
from jaxnlme.refits.jobs import Jobs, Outcomes, blank_outcomes
from jaxnlme.typing import PyTree

# Numbers of slots; few of them, so that batches of other sizes use the same programs.
WIDTHS = (1, 4, 16, 64)
# Steps of the mode searches in one pass, and the largest number of times that a job's evaluation is continued in
# the next pass from the modes reached so far. A slow mode search, as occurs far from a maximum, then does not delay the
# other slots.
MODE_STEPS_PER_PASS, MOST_PAUSES = 8, 4
# Memory that an evaluation may use per row and slot, in bytes. (A one-compartment model with three effects uses 280
# bytes on a CPU; large models and integrals use more.)
BYTES_PER_ROW = 2_000
# Memory available to a batch: bytes on a host, a fraction of its memory on a device.
HOST_BYTES, DEVICE_SHARE = 2**30, 0.25
# Predicted gain (log-likelihood units) below which a rejected step ends a job: rounding allows no further progress.
ROUNDING_GAIN = 1e-8
# Evaluations, in multiples of the largest number of iterations, after which a job ends: it backtracks in most steps.
MOST_EVALUATIONS = 3
# Seconds that one call of the program should take, after which the host refills slots and handles Ctrl-C.
SECONDS_PER_CALL = 0.5


class BatchState(eqx.Module):
    """State of the slots, a leading axis of slots in every leaf.

    **Fields:** `state` of the minimisations; `running`; `first_evaluation`: the evaluation in progress is the first of
    a job; `pauses`: how often the evaluation in progress was continued in a next pass, and `modes` reached by then;
    `n_failed_modes` and `full_log_likelihood` at the current point, as in Outcomes.
    """

    state: MaximumLikelihoodState
    running: Any
    first_evaluation: Any
    pauses: Any
    modes: Any
    n_failed_modes: Any
    full_log_likelihood: Any


def width_for(jobs: int, rows: int) -> int:
    """Number of slots for `jobs` jobs on `rows` rows each: the largest of WIDTHS that memory allows and, on a CPU,
    which is hardly faster for wide batches than for small ones, that is small enough for slots to be refilled."""
    stats = jax.local_devices()[0].memory_stats() or {}
    memory = DEVICE_SHARE * stats["bytes_limit"] if "bytes_limit" in stats else HOST_BYTES
    most = max(jobs / 2, 1.5 * min(jobs, 16)) if jax.default_backend() == "cpu" else 1.5 * jobs
    allowed = [w for w in WIDTHS if w * rows * BYTES_PER_ROW <= memory and w <= most]
    return max(allowed, default=1)


def run_batch(
    problem: Problem,
    template: Params,
    estimator: MaximumLikelihood,
    jobs: Jobs,
    *,
    width: int | None = None,
    expected: int | None = None,
    evaluations: int = 12,
    progress: bool | None = False,
    name: str = "fits",
) -> Outcomes:
    """Run every job until it ends (see `MaximumLikelihood.terminate`), inside the 64-bit context.

    **Arguments:** `problem`, `template`: common to all jobs; `width`: the number of slots, by `width_for` where None;
    `expected`: the number of jobs that the program will serve, in this call and later ones, of about `evaluations`
    evaluations each; `progress`, `name`: a line that counts finished jobs.
    **Returns:** Outcomes. A job whose objective is not finite ends without affecting the others; Ctrl-C returns the
    jobs that have ended, `interrupted` true.
    """
    n_jobs, n = jobs.x.shape
    total = n_jobs if expected is None else expected
    width = width_for(total, problem.n_rows) if width is None else width
    out = blank_outcomes(n_jobs, n)
    progress_line = CountLine(progress, name, n_jobs)
    shared, template, estimator = on_device((problem, template, estimator))
    inverse_hessians = np.full((1, n, n), np.nan) if jobs.inverse_hessians is None else jobs.inverse_hessians
    hessian_index = np.zeros(n_jobs, int) if jobs.hessian_index is None else jobs.hessian_index
    inverse_hessians, modes = on_device((np.asarray(inverse_hessians, float), np.asarray(jobs.modes, float)))
    # `compiled` assumes about fifty runs of a program.
    advance = compiled(_advance, total * evaluations * problem.n_rows // 50)
    batch = on_device(_empty_slots(width, n, modes.shape))
    job_in_slot, next_job = np.full(width, -1), 0
    # Slots without a job hold the values of the first one, and are never run.
    rows = np.zeros(width, int)
    overlay: PyTree = jax.tree.map(np.array, jobs.overlay(rows))
    x, free = jobs.x[rows].astype(float), jobs.free[rows].astype(bool)
    most_passes = 8
    try:
        while True:
            idle = np.flatnonzero(job_in_slot < 0)[: n_jobs - next_job]
            if len(idle):
                job_in_slot[idle] = np.arange(next_job, next_job + len(idle))
                next_job += len(idle)
                x[idle], free[idle] = jobs.x[job_in_slot[idle]], jobs.free[job_in_slot[idle]]
                _write_rows(overlay, idle, jobs.overlay(job_in_slot[idle]))
                per_slot = on_device((overlay, x, free, hessian_index[np.maximum(job_in_slot, 0)]))
            refilled = np.isin(np.arange(width), idle)
            started = time.perf_counter()
            # While jobs are waiting, at most a sixteenth of the slots may become idle.
            most_ended = max(width // 16, 1) if next_job < n_jobs else width
            bounds = np.array([most_passes, most_ended])  # an array: for numbers the program would be compiled anew
            batch, passes = advance(
                estimator, shared, template, inverse_hessians, modes, *per_slot, refilled, batch, bounds
            )
            running = np.asarray(batch.running)
            seconds = (time.perf_counter() - started) / max(int(passes), 1)
            most_passes = int(np.clip(SECONDS_PER_CALL / max(seconds, 1e-6), 1, 64))
            ended = np.flatnonzero(~running & (job_in_slot >= 0))
            _store(out, job_in_slot[ended], ended, batch)
            job_in_slot[ended] = -1
            progress_line.show(int(out.done.sum()))
            if next_job == n_jobs and not running.any():
                break
    except KeyboardInterrupt:
        out = dataclasses.replace(out, interrupted=True)
    progress_line.close()
    return out


def _advance(
    estimator: MaximumLikelihood,
    shared: Problem,
    template: Params,
    inverse_hessians: Any,
    modes: Any,
    overlay: Problem,
    x: Any,
    free: Any,
    hessian_index: Any,
    refilled: Any,
    batch: BatchState,
    bounds: Any,
) -> tuple[BatchState, Any]:
    """At most bounds[0] passes over the slots, fewer as soon as bounds[1] slots have ended; the slots in `refilled`
    (slots,) bool start a job.

    The program contains one evaluation of the objective: first evaluations and those of line searches differ only in
    how the result is used.

    **Returns:** the state of the slots, and the number of passes.
    """
    density = shared.density
    dense = template.pack().shape[0]
    many = shared.n_groups >= SEARCH.groups_per_parameter * dense
    full_weights = shared.weights
    mode_steps = estimator.method.search.steps
    interruptible = eqx.tree_at(
        lambda e: e.method.search.steps, estimator, jnp.minimum(mode_steps, MODE_STEPS_PER_PASS)
    )

    def evaluate(overlay, at, z):
        problem = eqx.combine(overlay, shared)
        result = interruptible.evaluate(problem, template, at, z)
        mode_found = (result.status == Status.ok) | (result.status == Status.no_observations)
        n_failed_modes = jnp.sum(~mode_found & (problem.weights != 0))
        full_log_likelihood = jnp.sum(jnp.where(full_weights == 0, 0.0, full_weights * result.values))
        full_log_likelihood = jnp.where(jnp.any(~mode_found & (full_weights != 0)), jnp.nan, full_log_likelihood)
        slow = jnp.any((result.status == Status.mode_not_found) & (problem.weights != 0))
        slow &= jnp.any(jnp.abs(jnp.nan_to_num(result.modes - z)) > 1e-9)
        return result, n_failed_modes, full_log_likelihood, slow

    def initial_state(at, result, free, hessian_index):
        inverse_hessian = inverse_hessians[hessian_index]
        state = estimator.init(density, template, at, result, free)
        with_inverse = state.minimiser.with_inverse(state.bfgs, inverse_hessian)
        use = jnp.all(jnp.isfinite(inverse_hessian))
        bfgs = jax.tree.map(lambda new, old: jnp.where(use, new, old), with_inverse, state.bfgs)
        return eqx.tree_at(lambda s: s.bfgs, state, bfgs)

    def one_pass(carry):
        batch, count = carry
        state = batch.state
        trial = _select(batch.running, jax.vmap(estimator.trial)(state), state.bfgs.x)
        at = _select(batch.first_evaluation, x, trial)
        start = _select(batch.first_evaluation, jnp.broadcast_to(modes, state.modes.shape), state.modes)
        start = _select(batch.pauses > 0, batch.modes, start)
        result, n_failed_modes, full_log_likelihood, slow = jax.vmap(evaluate)(overlay, at, start)
        more_steps = (batch.pauses < MOST_PAUSES) & ((batch.pauses + 1) * MODE_STEPS_PER_PASS < mode_steps)
        pause = batch.running & slow & more_steps
        evaluated = batch.running & ~pause
        updated = jax.vmap(lambda state, result: estimator.update(state, result, many))(state, result)
        updated = _select(evaluated, updated, state)
        first = batch.first_evaluation & evaluated
        state = jax.lax.cond(
            jnp.any(first),
            lambda: _select(first, jax.vmap(initial_state)(at, result, free, hessian_index), updated),
            lambda: updated,
        )
        accepted = first | (evaluated & (state.bfgs.iterations > batch.state.bfgs.iterations))
        ended = jax.vmap(estimator.terminate)(state) | (~accepted & (state.bfgs.decrement < ROUNDING_GAIN))
        ended |= state.bfgs.evaluations >= MOST_EVALUATIONS * estimator.max_iterations
        n_failed_modes, full_log_likelihood = _select(
            accepted, (n_failed_modes, full_log_likelihood), (batch.n_failed_modes, batch.full_log_likelihood)
        )
        new = BatchState(
            state=state,
            running=batch.running & ~(ended & evaluated),
            first_evaluation=batch.first_evaluation & pause,
            pauses=jnp.where(pause, batch.pauses + 1, 0),
            modes=result.modes,
            n_failed_modes=n_failed_modes,
            full_log_likelihood=full_log_likelihood,
        )
        return new, count + 1

    batch = eqx.tree_at(
        lambda b: (b.running, b.first_evaluation), batch, (batch.running | refilled, batch.first_evaluation | refilled)
    )
    running_at_start = jnp.sum(batch.running)

    def proceed(carry):
        batch, count = carry
        running = jnp.sum(batch.running)
        return (running > 0) & (count < bounds[0]) & (running_at_start - running < bounds[1])

    return jax.lax.while_loop(proceed, one_pass, (batch, jnp.zeros((), int)))


def _select(mask: Any, yes: PyTree, no: PyTree) -> PyTree:
    """For each slot `yes` where `mask` (slots,) bool, else `no`."""

    def per_leaf(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(per_leaf, yes, no)


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


def _empty_slots(width: int, n: int, modes: tuple[int, ...]) -> BatchState:
    """The state of `width` slots without a job (numpy); `modes`: the shape (groups, random)."""

    def zeros(*shape: int, dtype: Any = float) -> Any:
        return np.zeros((width, *shape), dtype)

    bfgs = BFGSState(
        x=zeros(n),
        value=zeros(),
        gradient=zeros(n),
        inverse=zeros(n, n),
        direction=zeros(n),
        slope=zeros(),
        step=zeros(),
        decrement=zeros(),
        evaluations=zeros(dtype=int),
        iterations=zeros(dtype=int),
        stalled=zeros(dtype=bool),
    )
    state = MaximumLikelihoodState(bfgs, BFGS(zeros(n, dtype=bool), zeros(n) + 1.0), zeros(*modes), zeros())
    return BatchState(
        state=state,
        running=zeros(dtype=bool),
        first_evaluation=zeros(dtype=bool),
        pauses=zeros(dtype=int),
        modes=zeros(*modes),
        n_failed_modes=zeros(dtype=int),
        full_log_likelihood=zeros(),
    )
