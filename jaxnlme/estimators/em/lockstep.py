"""Stochastic fits of several data sets in lockstep: each fit runs the code of a single fit, and the iterations of
several fits are computed in one compiled program.

1. Every fit has its own thread, of which one executes at a time (`execution_lock`): threads serve as coroutines, so
   that the code of a single fit needs no second version.
2. A fit that needs iterations submits an IterationRequest and waits.
3. When all fits in progress wait, the requests of the same kind are computed in batches, and the fits continue.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.binding.settings import PLACEMENT
from jaxnlme.estimators.em.blocks import run_block
from jaxnlme.estimators.em.e_step import BLOCK, IterationTrace, StepContext, iterate_block
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.settings import COMPUTING
from jaxnlme.model.density import Density
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.threads import run_concurrently
from jaxnlme.precision import x64

# Fields of a Schedule that all runs of a program share: they decide what is computed (such as searches for modes).
COMMON_FIELDS = ("gain", "update", "annealing", "search_modes", "sum_scores", "reset_chains", "search_from_mean")


class RunInputs(eqx.Module):
    """Inputs of each run of a batch (runs, ...): the data (`buckets`, `weights`), `em_state`, `chain_states`, `keys` as
    integers, and the `iteration` and `tuning_gain` of its Schedules (runs, BLOCK)."""

    buckets: Any
    weights: Any
    em_state: Any
    chain_states: Any
    keys: Any
    iteration: Any
    tuning_gain: Any


def run_batch(density: Density, context: StepContext, schedules: Schedule, count: Any, inputs: RunInputs) -> Any:
    """`iterate_block` for several runs of one design.

    **Arguments:** `schedules` (BLOCK,) and the number `count` of them to run, common to all runs but for the fields
    that `inputs` holds for each run.
    **Returns:** as `iterate_block`, with a leading axis of runs.
    """

    def per_run(inputs: RunInputs):
        run_schedules = eqx.tree_at(
            lambda s: (s.iteration, s.tuning_gain), schedules, (inputs.iteration, inputs.tuning_gain)
        )
        problem = Problem(density, inputs.buckets, jnp.arange(inputs.weights.shape[0]), inputs.weights)
        shared = (context, inputs.em_state, jax.random.wrap_key_data(inputs.keys), run_schedules, count)
        return iterate_block(problem, shared, inputs.chain_states, lambda sums: sums)

    return jax.vmap(per_run)(inputs)


@dataclasses.dataclass(eq=False)
class IterationRequest:
    """Iterations that a run waits for: `schedules` (count,); `data`, the buckets and weights of the run on the host;
    `key_data`, its keys as integers; `traces`, the results so far; `error`, the exception that prevented them; `ready`,
    set when either is complete."""

    run: Run
    schedules: Schedule
    count: int
    data: tuple[Any, Any]
    key_data: np.ndarray
    traces: list[IterationTrace] = dataclasses.field(default_factory=list)
    error: BaseException | None = None
    ready: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Key of requests that can be computed in one batch, each for as many iterations as it needs."""
        common, layout = [np.asarray(getattr(self.schedules, name)) for name in COMMON_FIELDS], self.run.layout
        program = layout.whitened, layout.rows, layout.columns, layout.free
        if all((part == part[0]).all() for part in common):
            return (program, *(part[0].item() for part in common))
        return (program, self.count, *(part.tobytes() for part in common))


class BatchScheduler:
    """Scheduler of fits that wait for each other's requests.

    **Arguments:** `width`, the number of runs computed in one program; None: chosen for the device.
    """

    def __init__(self, width: int | None):
        self.width = width
        self.condition = threading.Condition()
        self.execution_lock = threading.Lock()
        self.waiting: list[IterationRequest] = []
        self.active = self.finished = self.total = 0
        self.failure: BaseException | None = None
        self.compiled = False

    def run_all(self, fits: Sequence[Callable[[], Any]], show: Callable[[int], None]) -> list[Any]:
        """Results of the `fits`, in order. Ctrl-C interrupts those in progress.

        **Arguments:** `fits`, functions without arguments; `show`, called with the number of fits that have ended.
        **Raises:** the exception of a fit, which ends the others as well.
        """
        self.total = len(fits)
        workers = min(self.total, max(2 * (self.width or self._default_width(1)), COMPUTING.min_concurrent_fits))
        if not fits:
            return []
        with ThreadPoolExecutor(workers, thread_name_prefix="jaxnlme-fit") as pool:
            futures = [pool.submit(self._run_fit, fit) for fit in fits]
            self._dispatch(show)
            return [future.result() for future in futures]

    # --- in a fit's thread ---

    def block_function(self) -> Callable[[Run, Schedule, int], IterationTrace]:
        """The `compute_block` of one Run, which submits its iterations to this scheduler."""
        on_host: list[Any] = []  # data and keys of the run, once for all its requests

        def compute_block(run: Run, schedules: Schedule, count: int) -> IterationTrace:
            if not run.placed.in_one_chunk:  # data so large that a batch would not be faster
                return run_block(run, schedules, count)
            if not on_host:
                data, keys = run.placed.held_groups, jax.random.key_data(run.keys)
                on_host.extend((jax.tree.map(np.asarray, data), np.asarray(keys)))
            return self.submit(IterationRequest(run, schedules, count, *on_host))

        return compute_block

    def _run_fit(self, fit: Callable[[], Any]) -> Any:
        """Run one fit in its thread while it holds the execution lock."""
        with self.condition:
            self.active += 1
        try:
            with self.execution_lock:
                return fit()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            with self.condition:
                self.active -= 1
                self.finished += 1
                self.condition.notify_all()

    def submit(self, request: IterationRequest) -> IterationTrace:
        """Trace of the iterations of a request. Waits until they are computed; other fits execute in the meantime.

        **Raises:** the exception that prevented them, such as that of another fit, or KeyboardInterrupt.
        """
        self.execution_lock.release()
        try:
            with self.condition:
                self.waiting.append(request)
                self.condition.notify_all()
            request.ready.wait()
        finally:
            self.execution_lock.acquire()
        if request.error is not None:
            raise request.error
        return jax.tree.map(lambda *parts: np.concatenate(parts), *request.traces)

    # --- in the thread that called `run_all` ---

    def _dispatch(self, show: Callable[[int], None]) -> None:
        """Compute requests whenever all fits in progress wait, until all fits have ended."""
        requests: list[IterationRequest] = []
        while self.finished < self.total:
            try:
                with self.condition:
                    self.condition.wait_for(self._all_waiting)
                    requests, self.waiting = self.waiting, []
                if self.failure is None:
                    show(self.finished)
                    self._compute(requests)
            except BaseException as error:  # raised in the fits; after Ctrl-C they end and return their current point
                self.failure = error
            for request in requests:
                request.error = self.failure
                request.ready.set()

    def _all_waiting(self) -> bool:
        """True if every fit in progress waits, or all have ended."""
        return self.finished == self.total or (self.active > 0 and len(self.waiting) == self.active)

    def _default_width(self, rows: int) -> int:
        """Number of runs with `rows` rows each that are computed in one program."""
        return max(1, PLACEMENT.block_rows // rows) if jax.default_backend() == "cpu" else COMPUTING.gpu_width

    def _compute(self, requests: list[IterationRequest]) -> None:
        """Compute all requests, in batches of at most `width` requests of one kind."""
        if not requests:
            return
        if self.width is None:
            run = requests[0].run
            self.width = min(self.total, self._default_width(run.placed.n_rows * run.n_chains * run.replicates))
        by_kind: dict[Any, list[IterationRequest]] = {}
        # A batch takes as long as its longest request: requests of similar length are put in the same batch.
        for request in sorted(requests, key=lambda request: request.count):
            by_kind.setdefault(request.kind, []).append(request)
        batches = [same[k : k + self.width] for same in by_kind.values() for k in range(0, len(same), self.width)]
        with x64():
            run_concurrently(
                [functools.partial(self._compute_batch, batch) for batch in batches], compile_first=not self.compiled
            )
        self.compiled = True

    def _compute_batch(self, requests: list[IterationRequest]) -> None:
        """Compute requests in one batch; each leaves it when its iterations are complete."""
        done = 0
        while requests:
            count = requests[0].count - done
            if count:
                self._run_iterations(requests, done, count)
            done += count
            requests = [request for request in requests if request.count > done]

    def _run_iterations(self, requests: list[IterationRequest], done: int, count: int) -> None:
        """Run `count` iterations of each request, after the `done` first ones; unused places of the batch repeat the
        first run."""
        assert self.width is not None
        at = np.minimum(done + np.arange(BLOCK), done + count - 1)
        inputs = []
        for request in requests:
            run, schedules = request.run, request.schedules
            schedule_rows = np.asarray(schedules.iteration)[at], np.asarray(schedules.tuning_gain)[at]
            state = run.em_state, run.chain_states[0], request.key_data
            inputs.append(RunInputs(*request.data, *state, *schedule_rows))  # pyright: ignore[reportCallIssue]
        inputs += inputs[:1] * (self.width - len(inputs))
        stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *inputs)
        first = requests[0].run
        schedules = jax.tree.map(lambda leaf: np.asarray(leaf)[at], requests[0].schedules)
        passes = first.replicates * first.estimator.evaluations(first.placed.n_groups_all) * self.width
        program = compiled(run_batch, first.placed.n_rows * passes, often=True)
        outputs = program(first.placed.density, first.context, schedules, np.asarray(count), stacked)
        (em_state, trace), chain_states = jax.tree.map(np.asarray, outputs)
        for j, request in enumerate(requests):
            state, chains = jax.tree.map(lambda leaf, j=j: leaf[j].copy(), (em_state, chain_states))
            request.run.em_state, request.run.chain_states = state, [chains]
            request.traces.append(jax.tree.map(lambda leaf, j=j: leaf[j, :count].copy(), trace))
