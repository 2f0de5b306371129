"""A stochastic fit while it runs, on the host: iterations in blocks, callbacks, checkpoints, Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, final

import equinox as eqx
import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.estimators.core.callbacks import Callback, Callbacks, Iteration
from jaxnlme.estimators.em.blocks import replicate_keys, run_block
from jaxnlme.estimators.em.checkpoint import StochasticCheckpoint
from jaxnlme.estimators.em.e_step import BLOCK, ChainState, IterationTrace, StepContext
from jaxnlme.estimators.em.m_step import EMState, Schedule
from jaxnlme.estimators.em.parameter_layout import ParameterLayout, parameter_layout
from jaxnlme.estimators.em.run_state import OuterState, restore_run, run_arrays
from jaxnlme.estimators.em.saem import AbstractStochastic
from jaxnlme.estimators.em.scores import GroupScoreSums
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.sampling.control_variates import enough_draws, fit_coefficients, n_control_variates
from jaxnlme.sampling.samplers import initial_chains

# Names of the phases beyond those that the method schedules, as progress lines and messages show them.
FIXED_PARAMETERS, ADDED_AVERAGING = "draws at fixed parameters", "added averaging"
# Phases within which no checkpoint is written: the sums of a round of draws at fixed parameters are not in the file, so
# a resumed run repeats that round, and the averaging that followed it, from the point saved at its beginning.
UNSAVED_PHASES = (FIXED_PARAMETERS, ADDED_AVERAGING)


class NonFiniteParameters(Exception):
    """The parameters of a run are no longer finite; the argument is the name of the phase."""


@final
class Run:
    """A stochastic estimation in progress, of one or more replicates.

    **Arguments:** `binding`; `estimator`; `starts`, Params of each replicate; `placed`, the groups on their devices;
    `warm`: the starts come from an earlier fit, near the maximum; `callbacks`; `show(text)`, the progress line;
    `checkpoint`, None for no file; `boundary_start` (packed,): the estimates of the earlier fit, if psi is singular
    there; `compute_block`: the function that runs a block of iterations, such as that of a BatchScheduler.

    **Fields:** `em_state` (replicates, ...), parameters and averaged statistics; `chain_states`, one per chunk of
    `placed`; `iteration`, number of the next iteration, burn-in included; `starts` (replicates, packed), `model_start`
    (packed,), the model's own starting values; `layout`, the M-step in use, and `interior_layout`, the one for psi in
    the interior; `interior_point` (replicates, packed), the parameters before psi was first moved to the boundary;
    `packed_trace` (blocks of (iterations, replicates, packed)) and `acceptance_trace` (blocks of (iterations,
    replicates, updates)); `outer_state`; `prepare`, called while the first block is compiled; `interrupted` by Ctrl-C,
    `stopped` by a callback.
    """

    def __init__(
        self,
        binding: Binding,
        estimator: AbstractStochastic,
        starts: Sequence[Params],
        placed: PlacedProblem,
        warm: bool,
        callbacks: Sequence[Callback],
        show: Callable[[str], None],
        checkpoint: StochasticCheckpoint | None = None,
        boundary_start: np.ndarray | None = None,
        compute_block: Callable[[Run, Schedule, int], IterationTrace] | None = None,
    ):
        self.binding, self.estimator, self.placed = binding, estimator, placed
        self.compute_block = run_block if compute_block is None else compute_block
        self.prepare: Callable[[], None] | None = None
        self.callbacks = Callbacks(callbacks, placed.processes)
        # Callbacks are called after each iteration, so blocks are of one iteration, in all processes if in one.
        self.has_callbacks = placed.processes.any(bool(callbacks))
        self.show, self.checkpoint = show, checkpoint
        self.n_chains = estimator.n_chains(placed.n_groups_all)
        beta, theta, error = (np.asarray(getattr(starts[0], part), float) for part in ("beta", "covariance", "error"))
        self.template = Params(beta, theta, error, starts[0].free)
        self.keys = replicate_keys(estimator.seed, len(starts))
        packed = np.stack([np.asarray(start.pack(), float) for start in starts])
        self.starts, self.warm, self.boundary_start = packed, warm, boundary_start
        self.model_start = np.asarray(binding.start.pack(), float)
        self.replicates, self.n_packed = packed.shape
        self.interior_layout = parameter_layout(binding, estimator.m_step, placed.processes)
        self.interior_point = packed
        self.reset_layout(self.interior_layout, packed)
        self.iteration = 0
        self.packed_trace: list[np.ndarray] = []
        self.acceptance_trace: list[np.ndarray] = []
        self.start_time = time.perf_counter()
        self.interrupted = self.stopped = False
        self.outer_state = OuterState()
        self.update_labels = self.context.sampler.labels
        self.history: list[dict[str, float]] = []
        self.phase = FIXED_PARAMETERS  # an interrupt before the first iteration must write no file
        if checkpoint is not None and checkpoint.run_state is not None:
            restore_run(self, checkpoint.run_state)

    def reset_layout(self, layout: ParameterLayout, packed: np.ndarray) -> None:
        """Put the replicates at `packed` (replicates, packed) under another layout, with blank statistics and
        chains."""
        self.layout = layout
        context = StepContext(layout, self.estimator.sampler(self.binding.density), self.template)
        self.context = on_device(context) if self.placed.mesh is None else context
        self.em_state = EMState.initial(layout, packed)
        self.chain_states = self.to_device(self.blank_chain_states())
        self.has_control_variates = False  # True once their coefficients are fitted

    # --- chains between host and device ---

    def blank_chain_states(self) -> ChainState:
        """Chains (groups, replicates, ...) before their first iteration, on the host."""
        groups, q, sampler = self.placed.n_groups, self.binding.density.n_effects, self.context.sampler
        state, scales = sampler.initial_state(), sampler.initial_log_scales(q)
        chains = initial_chains(groups, self.replicates, self.n_chains, q, state, scales)
        return ChainState(chains, *self.blank_sums())

    def blank_sums(self) -> tuple[np.ndarray, GroupScoreSums]:
        """Zero coefficients of the control variates (groups, replicates, packed, functions), and zero sums over score
        iterations."""
        q = self.binding.density.n_effects
        k, n = n_control_variates(q, self.layout.levels), self.n_packed

        def zeros(*rest: int) -> np.ndarray:
            return np.zeros((self.placed.n_groups, self.replicates, *rest))

        return zeros(n, k), GroupScoreSums(zeros(n), zeros(q), zeros(q, q), zeros(k), zeros(k, k), zeros(n, k))

    def to_device(self, tree: Any) -> list[Any]:
        """A pytree of host arrays (groups, ...) as one pytree per chunk of `placed`."""
        leaves, structure = jax.tree.flatten(tree)
        parts = [self.placed.scatter(leaf) for leaf in leaves]
        return [jax.tree.unflatten(structure, leaves) for leaves in zip(*parts, strict=True)]

    def to_host(self, chunks: Sequence[Any]) -> Any:
        """One pytree per chunk as one pytree of numpy arrays (groups, ...)."""
        return jax.tree.map(lambda *parts: self.placed.collect(parts), *chunks)

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in the order of the processes."""
        return [item for process_items in self.placed.processes.gather(items) for item in process_items]

    # --- iterating ---

    def iterate(self, schedules: Schedule, phase: str, keep_traces: bool = False) -> list[IterationTrace]:
        """Run the iterations of a schedule, or as many as callbacks allow.

        **Arguments:** `schedules`, leaves (iterations,); `phase`, its name for progress lines and messages.
        **Returns:** the trace of each block if `keep_traces`, otherwise an empty list.
        **Raises:** NonFiniteParameters if a parameter is NaN or plus infinity.
        """
        traces: list[IterationTrace] = []
        total = len(schedules.iteration)
        done = 0
        while done < total and not self.stopped:
            count = min(1 if self.has_callbacks else BLOCK, total - done)
            part = jax.tree.map(lambda leaf, at=done, n=count: np.asarray(leaf)[at : at + n], schedules)
            if phase in UNSAVED_PHASES:
                self.phase = phase
            trace = self._advance(part, count)
            done += count
            if keep_traces:
                traces.append(trace)
            if not (self.packed_trace[-1][-1] < np.inf).all():  # log standard deviations may be minus infinity
                raise NonFiniteParameters(phase)
            self.phase = phase
            self._report_iteration(phase)
            if self.checkpoint is not None and phase not in UNSAVED_PHASES and self.checkpoint.due():
                self.checkpoint.write(self.run_state())
        return traces

    def _advance(self, schedules: Schedule, count: int) -> IterationTrace:
        """Run `count` iterations of `schedules` (count,) and record them: all of it or, if Ctrl-C or an exception comes
        between, nothing, so that a checkpoint never holds a part of a block.

        **Returns:** the trace, as numpy arrays.
        """
        before = self.em_state, self.chain_states, self.iteration
        blocks = len(self.packed_trace), len(self.acceptance_trace), len(self.history)
        try:
            trace = jax.tree.map(np.asarray, self.compute_block(self, schedules, count))
            accepted = trace.simulation_sums.accepted / trace.simulation_sums.n_groups[..., None]
            self.packed_trace.append(trace.packed)
            self.acceptance_trace.append(accepted)
            self.iteration += count
            self.history.append({"iteration": self.iterations_after_burn_in - 1, "seconds": self.seconds})
        except BaseException:
            self.em_state, self.chain_states, self.iteration = before
            for records, length in zip((self.packed_trace, self.acceptance_trace, self.history), blocks, strict=True):
                del records[length:]
            raise
        return trace

    def save_point(self) -> None:
        """Write the checkpoint at the beginning of a round of draws at fixed parameters."""
        if self.checkpoint is not None:
            self.checkpoint.write(self.run_state())

    def save_interrupted(self) -> None:
        """Write the checkpoint of a run that ends early, unless its phase can only be resumed from its beginning."""
        if self.checkpoint is not None and self.phase not in UNSAVED_PHASES:
            self.checkpoint.write(self.run_state())

    def run_state(self) -> dict[str, np.ndarray]:
        """Arrays from which another process continues with the same numbers."""
        return run_arrays(self)

    def params(self, replicate: int = 0) -> Params:
        """Current Params (numpy) of a replicate."""
        return jax.tree.map(np.asarray, self.template.unpack(np.asarray(self.em_state.packed)[replicate]))

    def last_finite(self) -> np.ndarray:
        """Parameters (replicates, packed) after the last iteration in which those of all replicates were finite."""
        rows = np.concatenate([self.starts[None], *self.packed_trace])
        return rows[np.flatnonzero((rows < np.inf).all(axis=(1, 2)))[-1]].copy()

    def set_parameters(self, packed: np.ndarray) -> None:
        """Put the replicates at `packed` (replicates, packed)."""
        self.em_state = eqx.tree_at(lambda state: state.packed, self.em_state, packed)

    def reset_sums(self) -> None:
        """Set the sums over score iterations to zero, NaN included. The coefficients of the control variates stay: if
        fixed before the draws, control variates have mean zero at any parameters, whatever their coefficients."""
        blank = self.to_device(self.blank_sums()[1])
        self.chain_states = [
            ChainState(chunk.chains, chunk.control_coefficients, zero_sums)
            for chunk, zero_sums in zip(self.chain_states, blank, strict=True)
        ]

    def score_sums(self) -> GroupScoreSums:
        """Sums over the score iterations since `reset_sums` (groups, replicates, ...)."""
        return self.to_host([chunk.sums for chunk in self.chain_states])

    def fit_control_variates(self, iterations: int) -> bool:
        """Fit the coefficients of the control variates to the draws of the score `iterations` since `reset_sums`;
        False, and nothing is done, if these are too few."""
        if not enough_draws(iterations * self.n_chains, self.binding.density.n_effects, self.layout.levels):
            return False
        sums = self.score_sums()
        means = jax.tree.map(lambda leaf: leaf / iterations, sums)
        fitted = fit_coefficients(
            means.score_control_products,
            means.score,
            means.control_variates,
            means.control_products,
            iterations * self.n_chains,
        )
        self.chain_states = [
            ChainState(chunk.chains, chunk_coefficients, chunk.sums)
            for chunk, chunk_coefficients in zip(self.chain_states, self.to_device(fitted), strict=True)
        ]
        self.has_control_variates = True
        return True

    @property
    def phases(self) -> dict[str, tuple[int, int]]:
        """First and last iteration of each scheduled phase; none for a run that starts at the boundary of psi."""
        return {} if self.outer_state.started_at_boundary else self.estimator.phases(self.warm)

    @property
    def fixed_at_boundary(self) -> frozenset[int]:
        """Packed entries held fixed because psi is on the boundary, beside those that the user fixed."""
        return frozenset(k for k, free in enumerate(self.interior_layout.free) if free and not self.layout.free[k])

    # --- reporting ---

    @property
    def seconds(self) -> float:
        """Seconds since the run was set up."""
        return time.perf_counter() - self.start_time

    @property
    def iterations_after_burn_in(self) -> int:
        """Iterations so far, burn-in not counted; negative during burn-in."""
        return self.iteration - self.estimator.burn_in

    def notify(self, state: str) -> None:
        """Call the callbacks with the first replicate's parameters; `state` is "init", "iter" or "done"."""
        if not self.has_callbacks:
            return
        step = self.iterations_after_burn_in - (0 if state == "init" else 1)
        entry = Iteration(
            step, self.iteration, float("nan"), float("nan"), self.seconds, self.params(), self.binding,
            self.estimator.method.name, state,
        )  # fmt: skip
        stop = self.callbacks.notify(entry)
        # After the last iteration there is nothing to stop.
        self.stopped = self.stopped or (stop and state != "done")

    def _report_iteration(self, phase: str) -> None:
        self.notify("iter")
        self.show(f"iteration {self.iterations_after_burn_in}, {phase}")

    def groups_without_density(self) -> np.ndarray:
        """Labels of the groups none of whose draws has a finite density."""
        any_finite = self.to_host([chunk.chains.any_finite for chunk in self.chain_states])
        return self.binding.data.labels[~any_finite.all(axis=1)]
