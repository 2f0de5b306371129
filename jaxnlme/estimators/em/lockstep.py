"""Runs of stochastic fits side by side: each is conducted as if it were alone, and their iterations are computed
together, several runs in one compiled program.

Every fit has a thread of its own, of which one at a time moves: threads serve as coroutines, so that the code of a
single fit stays the only one there is. A fit that needs iterations waits; when all wait, those that need the same kind
are computed together.
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

from jaxnlme.binding.problem import BLOCK_ROWS, Problem
from jaxnlme.estimators.em.e_step import BLOCK, IterationTrace, StepContext, loop
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.run import Run
from jaxnlme.model.density import Density
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.threads import at_a_time
from jaxnlme.precision import x64

# Side by side where a GPU computes; a CPU computes as many as fit its cache together, where more only cost memory.
WIDEST = 256
# Fits under way at a time, at least: enough of them that each kind of iterations fills a program.
UNDER_WAY = 64
# What of a Control a program must have in common for all: whether modes are searched decides what is computed at all.
COMMON = ("gain", "update", "annealing", "refresh", "sum_scores", "begin")


class Own(eqx.Module):
    """What each run has for itself (runs, ...): the data, where it stands, its chains, `keys` as plain numbers, and the
    `iteration` and `tune` of its Controls (runs, BLOCK)."""

    buckets: Any
    weights: Any
    em_state: Any
    chain_states: Any
    keys: Any
    iteration: Any
    tune: Any


def together(density: Density, context: StepContext, schedules: Schedule, count: Any, own: Own) -> Any:
    """`loop` of several runs of one design: the Controls (BLOCK,), but for what is a run's own, and how many of them to
    run are the same for all."""

    def one(own: Own):
        theirs = eqx.tree_at(lambda c: (c.iteration, c.tune), schedules, (own.iteration, own.tune))
        problem = Problem(density, own.buckets, jnp.arange(own.weights.shape[0]), own.weights)
        shared = (context, own.em_state, jax.random.wrap_key_data(own.keys), theirs, count)
        return loop(problem, shared, own.chain_states, lambda sums: sums)

    return jax.vmap(one)(own)


class BatchedRun(Run):
    """A Run whose iterations are computed at a Meeting."""

    def __init__(self, meeting: BatchScheduler, *args: Any):
        super().__init__(*args)
        self.meeting = meeting
        if self.placed.in_one:
            self.data = jax.tree.map(np.asarray, self.placed.whole)
            self.plain_keys = np.asarray(jax.random.key_data(self.keys))

    def _block(self, schedules: Schedule, count: int) -> IterationTrace:
        if not self.placed.in_one:  # data so large that nothing is gained by company
            return super()._block(schedules, count)
        return self.meeting.join(IterationRequest(self, schedules, count))


@dataclasses.dataclass(eq=False)
class IterationRequest:
    """Iterations that a run waits for: `schedules` (count,); `traces`, what has been computed; `error`, why there is
    nothing."""

    run: BatchedRun
    schedules: Schedule
    count: int
    traces: list[IterationTrace] = dataclasses.field(default_factory=list)
    error: BaseException | None = None
    ready: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests of one kind can be computed together, as long as the shortest lasts."""
        common, layout = [np.asarray(getattr(self.schedules, name)) for name in COMMON], self.run.layout
        program = layout.whitened, layout.rows, layout.columns, layout.free
        if all((part == part[0]).all() for part in common):
            return (program, *(part[0].item() for part in common))
        return (program, self.count, *(part.tobytes() for part in common))


class BatchScheduler:
    """Where runs wait for each other. **Arguments:** `width`, how many are computed in one program; None: chosen."""

    def __init__(self, width: int | None):
        self.width = width
        self.state = threading.Condition()
        self.baton = threading.Lock()
        self.waiting: list[IterationRequest] = []
        self.active = self.finished = self.total = 0
        self.failure: BaseException | None = None
        self.compiled = False

    def hold(self, fits: Sequence[Callable[[], Any]], show: Callable[[int], None]) -> list[Any]:
        """What the `fits` return, in order; `show` is told how many have ended. Ctrl-C interrupts those under way.

        **Errors:** what a fit raises; the others end with it.
        """
        self.total = len(fits)
        workers = min(self.total, max(2 * (self.width or self._usual(1)), UNDER_WAY))
        if not fits:
            return []
        with ThreadPoolExecutor(workers, thread_name_prefix="jaxnlme-fit") as pool:
            futures = [pool.submit(self._alone, fit) for fit in fits]
            self._dispatch(show)
            return [future.result() for future in futures]

    # --- in a fit's thread ---

    def _alone(self, fit: Callable[[], Any]) -> Any:
        with self.state:
            self.active += 1
        try:
            with self.baton:
                return fit()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            with self.state:
                self.active -= 1
                self.finished += 1
                self.state.notify_all()

    def join(self, request: IterationRequest) -> IterationTrace:
        """Waits until the iterations of a request have been computed, while other fits move."""
        self.baton.release()
        try:
            with self.state:
                self.waiting.append(request)
                self.state.notify_all()
            request.ready.wait()
        finally:
            self.baton.acquire()
        if request.error is not None:
            raise request.error
        return jax.tree.map(lambda *parts: np.concatenate(parts), *request.traces)

    # --- in the thread that holds the meeting ---

    def _dispatch(self, show: Callable[[int], None]) -> None:
        requests: list[IterationRequest] = []
        while self.finished < self.total:
            try:
                with self.state:
                    self.state.wait_for(self._complete)
                    requests, self.waiting = self.waiting, []
                if self.failure is None:
                    show(self.finished)
                    self._compute(requests)
            except BaseException as error:  # the fits raise it, or, where it is Ctrl-C, end there
                self.failure = error
            for request in requests:
                request.error = self.failure
                request.ready.set()

    def _complete(self) -> bool:
        """Whether every fit under way waits, or all have ended."""
        return self.finished == self.total or (self.active > 0 and len(self.waiting) == self.active)

    def _usual(self, rows: int) -> int:
        return max(1, BLOCK_ROWS // rows) if jax.default_backend() == "cpu" else WIDEST

    def _compute(self, requests: list[IterationRequest]) -> None:
        """Computes all requests, as many together as the width allows."""
        if not requests:
            return
        if self.width is None:
            run = requests[0].run
            self.width = min(self.total, self._usual(run.placed.n_rows * run.chains * run.replicates))
        kinds: dict[Any, list[IterationRequest]] = {}
        # A program lasts as long as its longest: those that last about as long go together.
        for request in sorted(requests, key=lambda one: one.count):
            kinds.setdefault(request.kind, []).append(request)
        parts = [of[k : k + self.width] for of in kinds.values() for k in range(0, len(of), self.width)]
        with x64():
            at_a_time([functools.partial(self._part, part) for part in parts], ahead=not self.compiled)
        self.compiled = True

    def _part(self, requests: list[IterationRequest]) -> None:
        """Computes requests side by side; each leaves when it has its count."""
        done = 0
        while requests:
            count = requests[0].count - done
            if count:
                self._step(requests, done, count)
            done += count
            requests = [request for request in requests if request.count > done]

    def _step(self, requests: list[IterationRequest], done: int, count: int) -> None:
        """`count` iterations of each run; places that are left over are filled with the first one."""
        assert self.width is not None
        at = np.minimum(done + np.arange(BLOCK), done + count - 1)
        owns = []
        for request in requests:
            run, schedules = request.run, request.schedules
            clock = np.asarray(schedules.iteration)[at], np.asarray(schedules.tune)[at]
            owns.append(Own(*run.data, run.em_state, run.chain_states[0], run.plain_keys, *clock))  # pyright: ignore[reportCallIssue]
        owns += owns[:1] * (self.width - len(owns))
        own = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *owns)
        first = requests[0].run
        schedules = jax.tree.map(lambda leaf: np.asarray(leaf)[at], requests[0].schedules)
        passes = first.replicates * first.estimator.evaluations(first.placed.n_all) * self.width
        program = compiled(together, first.placed.n_rows * passes, often=True)
        found = program(first.placed.density, first.context, schedules, np.asarray(count), own)
        (em_state, trace), chain_states = jax.tree.map(np.asarray, found)
        for j, request in enumerate(requests):
            theirs = jax.tree.map(lambda leaf, j=j: leaf[j].copy(), (em_state, chain_states))
            request.run.em_state, request.run.chain_states = theirs[0], [theirs[1]]
            request.traces.append(jax.tree.map(lambda leaf, j=j: leaf[j, :count].copy(), trace))
