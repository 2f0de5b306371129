"""A stochastic fit while it runs, on the host: iterations in blocks, callbacks, checkpoints, Ctrl-C."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.estimators.core.callbacks import Callback, Callbacks, Iteration
from jaxnlme.estimators.em.checkpoint import OuterState, StochasticCheckpoint
from jaxnlme.estimators.em.e_step import (
    BLOCK,
    ChainState,
    IterationTrace,
    StepContext,
    loop,
    maximisation_step,
    simulation_step,
)
from jaxnlme.estimators.em.m_step import EMState, Schedule
from jaxnlme.estimators.em.saem import AbstractStochastic
from jaxnlme.estimators.em.scores import GroupScoreSums
from jaxnlme.estimators.em.sufficient_statistics import ParameterLayout, layout, whitened
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.sampling.control_variates import coefficients, enough, n_control_variates
from jaxnlme.sampling.samplers import resting


class NonFiniteParameters(Exception):
    """The parameters of a run are no longer finite."""


class Run:
    """A stochastic estimation under way: `em_state` (replicates, ...), `chain_states` by piece, the `iteration` that comes
    next, and what the iterations so far left: `packed` (iterations, replicates, packed); `warm`, whether it began near
    the maximum, at `starts` (replicates, packed); `boundary_start` (packed,), where psi is singular in the fit that it goes
    on from."""

    def __init__(
        self,
        binding: Binding,
        estimator: AbstractStochastic,
        starts: Sequence[Params],
        placed: PlacedProblem,
        warm: bool,
        callbacks: Sequence[Callback],
        show: Callable[[str, float], None],
        checkpoint: StochasticCheckpoint | None = None,
        boundary_start: np.ndarray | None = None,
    ):
        self.binding, self.estimator, self.placed = binding, estimator, placed
        self.callbacks = Callbacks(callbacks, placed.processes)
        # Who is told of every iteration goes one by one, and all processes do where one does.
        self.has_callbacks = placed.processes.any(bool(callbacks))
        self.show, self.checkpoint = show, checkpoint
        self.chains = estimator.n_chains(placed.n_all)
        beta, theta, error = (np.asarray(getattr(starts[0], part), float) for part in ("beta", "covariance", "error"))
        self.template = Params(beta, theta, error, starts[0].free)
        self.keys = keys_of(estimator.seed, len(starts))
        packed = np.stack([np.asarray(start.pack(), float) for start in starts])
        self.starts, self.warm, self.boundary_start = packed, warm, boundary_start
        self.model_start = np.asarray(binding.start.pack(), float)  # the model's own start
        self.replicates, self.n = packed.shape
        # The layout of a psi inside of what it can be; where the replicates left it, if they did.
        self.interior_layout = layout(binding, estimator.m_step, placed.processes)
        self.interior_point = packed
        self.reset_layout(self.interior_layout, packed)
        self.iteration = 0
        self.packed: list[np.ndarray] = []
        self.accepted: list[np.ndarray] = []
        self.started = time.perf_counter()
        self.interrupted = self.stopped = False
        self.outer_state = OuterState()
        self.labels = self.context.sampler.labels
        self.history: list[dict[str, float]] = []
        self.phase = "settling"  # where nothing is written but at its beginning
        if checkpoint is not None and checkpoint.run_state is not None:
            self._restore(checkpoint.run_state)

    def reset_layout(self, layout: ParameterLayout, packed: np.ndarray) -> None:
        """Puts the replicates at `packed` (replicates, packed) under a layout, with chains that begin anew."""
        self.layout = layout
        context = StepContext(layout, self.estimator.sampler(self.binding.density.n_effects), self.template)
        self.context = on_device(context) if self.placed.mesh is None else context
        self.em_state = EMState.blank(layout, packed)
        self.chain_states = self.spread(self.blank_chain_states())
        self.has_control_variates = False  # whether control variates have been fitted

    # --- the chains between host and device ---

    def blank_chain_states(self) -> ChainState:
        groups, q = self.placed.n_groups, self.binding.density.n_effects
        chains = resting(groups, self.replicates, self.chains, q, self.context.sampler.memory())
        return ChainState(chains, *self.blank_sums())

    def blank_sums(self) -> tuple[np.ndarray, GroupScoreSums]:
        """Coefficients of the control variates, and what settling iterations sum up, before the first of them."""
        q = self.binding.density.n_effects
        k, n = n_control_variates(q), self.n

        def zeros(*rest: int) -> np.ndarray:
            return np.zeros((self.placed.n_groups, self.replicates, *rest))

        return zeros(n, k), GroupScoreSums(zeros(n), zeros(q), zeros(q, q), zeros(k), zeros(k, k), zeros(n, k))

    def spread(self, chain_states: Any) -> list[Any]:
        """A pytree (groups, ...) on the host as one pytree per piece."""
        leaves, tree = jax.tree.flatten(chain_states)
        parts = [self.placed.spread(leaf) for leaf in leaves]
        return [jax.tree.unflatten(tree, leaves) for leaves in zip(*parts, strict=True)]

    def to_host(self, pieces: Sequence[Any]) -> Any:
        """One pytree per piece as one of numpy arrays (groups, ...)."""
        return jax.tree.map(lambda *parts: self.placed.own(parts), *pieces)

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of every process, one after the other."""
        return [item for own in self.placed.processes.everyone(items) for item in own]

    # --- iterating ---

    def iterate(self, schedules: Schedule, phase: str, keep_traces: bool = False) -> list[IterationTrace]:
        """Runs the iterations of `schedules` (iterations,); returns the Trace of each block where `keep_traces`.

        **Errors:** Broken where the parameters are not finite any more.
        """
        out: list[IterationTrace] = []
        total = len(schedules.iteration)
        done = 0
        while done < total and not self.stopped:
            count = min(1 if self.has_callbacks else BLOCK, total - done)
            part = jax.tree.map(lambda leaf, at=done, n=count: np.asarray(leaf)[at : at + n], schedules)
            trace = self._block(part, count)
            done += count
            self.iteration += count
            self.packed.append(np.asarray(trace.packed))
            self.accepted.append(np.asarray(trace.simulated.accepted / trace.simulated.groups[..., None]))
            if keep_traces:
                out.append(jax.tree.map(np.asarray, trace))
            if not (self.packed[-1][-1] < np.inf).all():  # log standard deviations may be minus infinity
                raise NonFiniteParameters(phase)
            self.phase = phase
            self.history.append({"iteration": self.steps - 1, "seconds": self.seconds})
            self._notify_iteration(phase)
            # What a settling run sums up is not in the file: it begins again where it began, and so does an extension.
            kept = phase not in ("settling", "extension")
            if self.checkpoint is not None and kept and self.checkpoint.due():
                self.checkpoint.write(self.run_state())
        return out

    def save_point(self) -> None:
        """Notes where a settling run begins."""
        if self.checkpoint is not None:
            self.checkpoint.write(self.run_state())

    def save_interrupted(self) -> None:
        """Writes the file of a run that is broken off, where it can go on from there."""
        if self.checkpoint is not None and self.phase not in ("settling", "extension"):
            self.checkpoint.write(self.run_state())

    def run_state(self) -> dict[str, np.ndarray]:
        """All that another process needs to go on with the same numbers."""
        chain_states = self.to_host(self.chain_states)
        out = {f"em_state.{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(self.em_state))}
        out |= {f"chains.{k}": leaf for k, leaf in enumerate(jax.tree.leaves(chain_states))}
        out |= {"iteration": np.asarray(self.iteration), "course": np.asarray(dataclasses.astuple(self.outer_state))}
        out |= {"has_control_variates": np.asarray(self.has_control_variates), "before": self.interior_point}
        out |= {"whitened": np.asarray(self.layout.whitened), "free": np.asarray(self.layout.free)}
        out |= {name: np.asarray(getattr(self.layout, name), int) for name in ("rows", "columns")}
        # What is decided by how the fit began is decided by that when it goes on, whatever start is given then.
        out |= {"starts": self.starts, "warm": np.asarray(self.warm)}
        if self.packed:
            out |= {"packed": np.concatenate(self.packed), "accepted": np.concatenate(self.accepted)}
        return out

    def _restore(self, run_state: dict[str, np.ndarray]) -> None:
        if run_state["whitened"]:
            held = frozenset(np.flatnonzero(np.asarray(self.interior_layout.free) & ~run_state["free"]).tolist())
            rows, columns = (tuple(run_state[name].tolist()) for name in ("rows", "columns"))
            self.reset_layout(whitened(self.interior_layout, held, rows, columns), self.starts)
        leaves, tree = jax.tree.flatten(self.em_state)
        self.em_state = jax.tree.unflatten(tree, [run_state[f"em_state.{k}"] for k in range(len(leaves))])
        leaves, tree = jax.tree.flatten(self.blank_chain_states())
        self.chain_states = self.spread(
            jax.tree.unflatten(tree, [run_state[f"chains.{k}"] for k in range(len(leaves))])
        )
        self.iteration = int(run_state["iteration"])
        self.outer_state = OuterState(*(int(part) for part in run_state["course"]))
        self.has_control_variates, self.interior_point = bool(run_state["has_control_variates"]), run_state["before"]
        self.starts, self.warm = run_state["starts"], bool(run_state["warm"])
        if "packed" in run_state:
            self.packed, self.accepted = [run_state["packed"]], [run_state["accepted"]]

    def _block(self, schedules: Schedule, count: int) -> IterationTrace:
        passes = self.replicates * self.estimator.evaluations(self.placed.n_all)
        if self.placed.in_one:
            full = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], BLOCK - count, 0)]), schedules)
            shared = (self.context, self.em_state, self.keys, full, np.asarray(count))
            (self.em_state, trace), chain_states = self.placed.loop(loop, shared, self.chain_states[0], passes)
            self.chain_states = [chain_states]
            return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], trace)
        traces = []
        for k in range(count):
            schedule = jax.tree.map(lambda leaf, k=k: leaf[k], schedules)
            sums, self.chain_states = self.placed.run(
                simulation_step,
                (self.context, self.em_state.packed, self.keys, schedule),
                self.chain_states,
                passes=passes,
            )
            sums = jax.tree.map(np.asarray, sums)
            self.em_state = compiled(maximisation_step, 0)(
                self.placed.density, self.context, self.em_state, sums, schedule
            )
            self.em_state = jax.tree.map(np.asarray, self.em_state)
            traces.append(IterationTrace(self.em_state.packed, sums))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *traces)

    def params(self, replicate: int = 0) -> Params:
        """Params (numpy) where a replicate stands."""
        return jax.tree.map(np.asarray, self.template.unpack(np.asarray(self.em_state.packed)[replicate]))

    def last_finite(self) -> np.ndarray:
        """Where the replicates (replicates, packed) stood when all of their parameters were last finite."""
        rows = np.concatenate([self.starts[None], *self.packed])
        return rows[np.flatnonzero((rows < np.inf).all(axis=(1, 2)))[-1]].copy()

    def set_parameters(self, packed: np.ndarray) -> None:
        """Puts the replicates at `packed` (replicates, packed)."""
        self.em_state = eqx.tree_at(lambda r: r.packed, self.em_state, packed)

    def restart_sums(self) -> None:
        """Sets what settling iterations sum up to zero, also what is not a number. Control variates stay: of whatever
        size, fixed before the draws, their mean is zero at any parameters."""
        blank = self.spread(self.blank_sums()[1])
        self.chain_states = [
            ChainState(one.chains, one.control_coefficients, own)
            for one, own in zip(self.chain_states, blank, strict=True)
        ]

    def sums(self) -> GroupScoreSums:
        """What settling iterations summed up (groups, replicates, ...)."""
        return self.to_host([one.sums for one in self.chain_states])

    def fit_control_variates(self, iterations: int) -> bool:
        """Fits the control variates' coefficients to the draws of the settling `iterations` so far; False where these
        are too few."""
        if not enough(iterations * self.chains, self.binding.density.n_effects):
            return False
        sums = self.sums()
        means = jax.tree.map(lambda leaf: leaf / iterations, sums)
        fitted = coefficients(means.crossed, means.score, means.functions, means.squares, iterations * self.chains)
        pieces = self.spread(fitted)
        self.chain_states = [
            ChainState(one.chains, own, one.sums) for one, own in zip(self.chain_states, pieces, strict=True)
        ]
        self.has_control_variates = True
        return True

    @property
    def phases(self) -> dict[str, tuple[int, int]]:
        """The first and the last iteration of the phases that the run goes through: none from the edge of psi."""
        return {} if self.outer_state.started_at_boundary else self.estimator.phases(self.warm)

    @property
    def fixed_at_boundary(self) -> frozenset[int]:
        """Packed entries that are held where psi is at its edge, beside those that the user fixed."""
        return frozenset(k for k, own in enumerate(self.interior_layout.free) if own and not self.layout.free[k])

    # --- telling ---

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def steps(self) -> int:
        """Iterations so far, burn-in left out; negative during burn-in."""
        return self.iteration - self.estimator.burn_in

    def notify(self, state: str) -> None:
        """Tells the callbacks where the first replicate stands."""
        if not self.has_callbacks:
            return
        step = self.steps - (0 if state == "init" else 1)
        entry = Iteration(
            step, self.iteration, float("nan"), float("nan"), self.seconds, self.params(), self.binding,
            self.estimator.method.name, state,
        )  # fmt: skip
        stop = self.callbacks.notify(entry)
        # At the end there is nothing left to stop.
        self.stopped = self.stopped or (stop and state != "done")

    def _notify_iteration(self, phase: str) -> None:
        self.notify("iter")
        self.show(f"{self.estimator.method.name}: iteration {self.steps}, {phase}, {self.seconds:.0f} s", self.seconds)

    def lost(self) -> np.ndarray:
        """Labels of the groups none of whose draws has a finite density."""
        alive = self.to_host([chain_states.chains.alive for chain_states in self.chain_states])
        return self.binding.data.labels[~alive.all(axis=1)]


def keys_of(seed: int | tuple[int, ...], replicates: int) -> Any:
    """One JAX key a replicate."""
    base = (
        jax.random.key(seed)
        if isinstance(seed, int)
        else jax.random.wrap_key_data(jax.numpy.asarray(seed, jax.numpy.uint32))
    )
    return jax.vmap(lambda k: jax.random.fold_in(base, k))(np.arange(replicates))
