"""Lanes: many minimisations of one problem side by side, in one compiled program that is kept busy.

Whole fits differ in how many evaluations they need, and a batch that runs until its slowest member is done wastes most
of its work. So a fixed number of lanes, the width, advances evaluation by evaluation; a lane that has ended is given
the next job, whose first evaluation is one like any other. Only the last jobs leave lanes idle, one program serves any
number of jobs, and what has ended is on the host: Ctrl-C loses no finished fit.
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
from jaxnlme.estimators.marginal.method import GROUPS_PER_PARAMETER, MaximumLikelihood, MaximumLikelihoodState
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.bfgs import BFGS, BFGSState
from jaxnlme.numerics.compiling import compiled
from jaxnlme.refits.jobs import Jobs, Outcomes, blank_outcomes
from jaxnlme.typing import PyTree

# Few widths, so that batches of other sizes share programs.
WIDTHS = (1, 4, 16, 64)
# Mode searches pause after so many steps in every lane, and the lanes concerned take them up again in the next pass
# from where they stand: a slow search (there are some far from a maximum) holds up no other lane. At most so many
# pauses.
STEPS, PAUSES = 8, 4
# What an evaluation may keep per row and lane, and the memory it may fill: a share of a device's own, or so much on a
# host. (A one-compartment model with three effects keeps 280 bytes on a CPU; large models and integrals keep more.)
BYTES_PER_ROW = 2_000
HOST_BYTES, DEVICE_SHARE = 2**30, 0.25
# A lane whose step was refused this close to its maximum is at the end of what rounding allows.
CLOSE = 1e-8
# A minimisation that backtracks more than once a step, all in all, is going nowhere.
MOST_EVALUATIONS = 3
# Seconds after which the host looks at the lanes again, also for Ctrl-C.
SECONDS_PER_CALL = 0.5


class BatchState(eqx.Module):
    """What the lanes hold on the device, a leading axis of lanes everywhere: `state` of the minimisation; `running`;
    `fresh`: the evaluation under way is a job's first; `pauses` of its mode searches so far, and the `modes` that these
    had reached; `lost` and `common` at the state's point, as in Outcomes."""

    state: MaximumLikelihoodState
    running: Any
    fresh: Any
    pauses: Any
    modes: Any
    lost: Any
    common: Any


def width_for(jobs: int, rows: int) -> int:
    """The number of lanes for `jobs` jobs on `rows` rows each: of WIDTHS the largest that memory holds, and on a host,
    which computes wide batches hardly faster than narrow ones, that leaves jobs to refill lanes with."""
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
    """Runs every job to its end (see `MaximumLikelihood.terminate`), `width` at a time (None: chosen by `width_for`).
    `expected`: how many jobs the program will serve, these and later ones, of about so many `evaluations` each.

    A lane that is not finite ends there, and touches no other. Call it inside the 64-bit context. Ctrl-C returns what
    has ended.
    """
    n_jobs, n = jobs.x.shape
    total = n_jobs if expected is None else expected
    width = width_for(total, problem.n_rows) if width is None else width
    out = blank_outcomes(n_jobs, n)
    line = CountLine(progress, name, n_jobs)
    shared, template, estimator = on_device((problem, template, estimator))
    metrics = np.full((1, n, n), np.nan) if jobs.metrics is None else jobs.metrics
    which = np.zeros(n_jobs, int) if jobs.metric is None else jobs.metric
    metrics, modes = on_device((np.asarray(metrics, float), np.asarray(jobs.modes, float)))
    # `compiled` reckons with fifty runs of its program.
    advance = compiled(_advance, total * evaluations * problem.n_rows // 50)
    batch = on_device(_blank_state(width, n, modes.shape))
    held, queue = np.full(width, -1), 0
    # Lanes without a job hold the first one's numbers, and are never run.
    rows = np.zeros(width, int)
    own: PyTree = jax.tree.map(np.array, jobs.own(rows))
    x, free = jobs.x[rows].astype(float), jobs.free[rows].astype(bool)
    limit = 8
    try:
        while True:
            idle = np.flatnonzero(held < 0)[: n_jobs - queue]
            if len(idle):
                held[idle] = np.arange(queue, queue + len(idle))
                queue += len(idle)
                x[idle], free[idle] = jobs.x[held[idle]], jobs.free[held[idle]]
                _put(own, idle, jobs.own(held[idle]))
                given = on_device((own, x, free, which[np.maximum(held, 0)]))
            refill = np.isin(np.arange(width), idle)
            started = time.perf_counter()
            # While jobs wait, a sixteenth of the lanes is let idle at most.
            wanted = max(width // 16, 1) if queue < n_jobs else width
            bounds = np.array([limit, wanted])  # an array: the compiled program would be made anew for a number
            batch, passes = advance(estimator, shared, template, metrics, modes, *given, refill, batch, bounds)
            running = np.asarray(batch.running)
            seconds = (time.perf_counter() - started) / max(int(passes), 1)
            limit = int(np.clip(SECONDS_PER_CALL / max(seconds, 1e-6), 1, 64))
            ended = np.flatnonzero(~running & (held >= 0))
            _store(out, held[ended], ended, batch)
            held[ended] = -1
            line.show(int(out.done.sum()))
            if queue == n_jobs and not running.any():
                break
    except KeyboardInterrupt:
        out = dataclasses.replace(out, interrupted=True)
    line.close()
    return out


def _advance(
    estimator: MaximumLikelihood,
    shared: Problem,
    template: Params,
    metrics: Any,
    modes: Any,
    own: Problem,
    x: Any,
    free: Any,
    which: Any,
    refill: Any,
    batch: BatchState,
    bounds: Any,
) -> tuple[BatchState, Any]:
    """Up to bounds[0] evaluations of every lane, fewer when bounds[1] lanes have ended; lanes in `refill` begin a job.

    One evaluation stands in the program: a job's first and those of the search differ in what is made of them."""
    density = shared.density
    dense = template.pack().shape[0]
    many = shared.n_groups >= GROUPS_PER_PARAMETER * dense
    counted = shared.weights
    steps = estimator.method.search.steps
    paused = eqx.tree_at(lambda e: e.method.search.steps, estimator, jnp.minimum(steps, STEPS))

    def evaluate(own, at, z):
        problem = eqx.combine(own, shared)
        result = paused.evaluate(problem, template, at, z)
        ended = (result.status == Status.ok) | (result.status == Status.no_observations)
        lost = jnp.sum(~ended & (problem.weights != 0))
        common = jnp.sum(jnp.where(counted == 0, 0.0, counted * result.values))
        common = jnp.where(jnp.any(~ended & (counted != 0)), jnp.nan, common)
        slow = jnp.any((result.status == Status.mode_not_found) & (problem.weights != 0))
        slow &= jnp.any(jnp.abs(jnp.nan_to_num(result.modes - z)) > 1e-9)
        return result, lost, common, slow

    def begin(at, result, free, which):
        metric = metrics[which]
        state = estimator.init(density, template, at, result, free)
        renewed = state.minimiser.renew(state.bfgs, metric)
        use = jnp.all(jnp.isfinite(metric))
        bfgs = jax.tree.map(lambda new, old: jnp.where(use, new, old), renewed, state.bfgs)
        return eqx.tree_at(lambda s: s.bfgs, state, bfgs)

    def pass_(carry):
        batch, count = carry
        state = batch.state
        trial = _choose(batch.running, jax.vmap(estimator.trial)(state), state.bfgs.x)
        at = _choose(batch.fresh, x, trial)
        start = _choose(batch.fresh, jnp.broadcast_to(modes, state.modes.shape), state.modes)
        start = _choose(batch.pauses > 0, batch.modes, start)
        result, lost, common, slow = jax.vmap(evaluate)(own, at, start)
        pause = batch.running & slow & (batch.pauses < PAUSES) & ((batch.pauses + 1) * STEPS < steps)
        go = batch.running & ~pause
        told = jax.vmap(lambda state, result: estimator.tell(state, result, many))(state, result)
        told = _choose(go, told, state)
        first = batch.fresh & go
        state = jax.lax.cond(
            jnp.any(first),
            lambda: _choose(first, jax.vmap(begin)(at, result, free, which), told),
            lambda: told,
        )
        accepted = first | (go & (state.bfgs.iterations > batch.state.bfgs.iterations))
        over = jax.vmap(estimator.terminate)(state) | (~accepted & (state.bfgs.decrement < CLOSE))
        over |= state.bfgs.evaluations >= MOST_EVALUATIONS * estimator.max_iterations
        lost, common = _choose(accepted, (lost, common), (batch.lost, batch.common))
        new = BatchState(
            state=state,
            running=batch.running & ~(over & go),
            fresh=batch.fresh & pause,
            pauses=jnp.where(pause, batch.pauses + 1, 0),
            modes=result.modes,
            lost=lost,
            common=common,
        )
        return new, count + 1

    batch = eqx.tree_at(lambda l: (l.running, l.fresh), batch, (batch.running | refill, batch.fresh | refill))
    running = jnp.sum(batch.running)

    def go_on(carry):
        batch, count = carry
        left = jnp.sum(batch.running)
        return (left > 0) & (count < bounds[0]) & (running - left < bounds[1])

    return jax.lax.while_loop(go_on, pass_, (batch, jnp.zeros((), int)))


def _choose(mask: Any, yes: PyTree, no: PyTree) -> PyTree:
    """Lane by lane, `yes` where `mask` (lanes,), else `no`."""

    def one(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(one, yes, no)


def _put(own: PyTree, batch: np.ndarray, new: PyTree) -> None:
    """Writes the jobs' own leaves into those that the lanes hold."""
    for held, leaf in zip(jax.tree.leaves(own), jax.tree.leaves(new), strict=True):
        held[batch] = leaf


def _store(out: Outcomes, jobs: np.ndarray, batch: np.ndarray, held: BatchState) -> None:
    if not len(jobs):
        return
    bfgs = held.state.bfgs
    for target, source in (
        (out.x, bfgs.x),
        (out.value, bfgs.value),
        (out.log_likelihood, held.state.log_likelihood),
        (out.common, held.common),
        (out.decrement, bfgs.decrement),
        (out.iterations, bfgs.iterations),
        (out.evaluations, bfgs.evaluations),
        (out.lost, held.lost),
    ):
        target[jobs] = np.asarray(source)[batch]
    out.done[jobs] = True


def _blank_state(width: int, n: int, modes: tuple[int, ...]) -> BatchState:
    """Lanes that hold nothing yet (numpy)."""

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
        fresh=zeros(dtype=bool),
        pauses=zeros(dtype=int),
        modes=zeros(*modes),
        lost=zeros(dtype=int),
        common=zeros(),
    )
