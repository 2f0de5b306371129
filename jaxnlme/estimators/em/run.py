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
from jaxnlme.binding.placement import Placed
from jaxnlme.estimators.core.callbacks import Audience, Callback, Iteration
from jaxnlme.estimators.em.checkpoint import Course, StochasticCheckpoint
from jaxnlme.estimators.em.e_step import BLOCK, Lanes, Setup, Trace, loop, move, simulate
from jaxnlme.estimators.em.m_step import Control, Running
from jaxnlme.estimators.em.saem import AbstractStochastic
from jaxnlme.estimators.em.scores import Sums
from jaxnlme.estimators.em.sufficient_statistics import Layout, layout, whitened
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.sampling.control_variates import coefficients, enough, n_controls
from jaxnlme.sampling.samplers import resting


class Broken(Exception):
    """The parameters of a run are no longer finite."""


class Run:
    """A stochastic estimation under way: `running` (replicates, ...), `lanes` by piece, the `iteration` that comes
    next, and what the iterations so far left: `packed` (iterations, replicates, packed); `warm`, whether it began near
    the maximum, at `starts` (replicates, packed); `edge_start` (packed,), where psi is singular in the fit that it goes
    on from."""

    def __init__(
        self,
        binding: Binding,
        estimator: AbstractStochastic,
        starts: Sequence[Params],
        placed: Placed,
        warm: bool,
        callbacks: Sequence[Callback],
        show: Callable[[str, float], None],
        checkpoint: StochasticCheckpoint | None = None,
        edge_start: np.ndarray | None = None,
    ):
        self.binding, self.estimator, self.placed = binding, estimator, placed
        self.audience = Audience(callbacks, placed.processes)
        # Who is told of every iteration goes one by one, and all processes do where one does.
        self.told = placed.processes.any(bool(callbacks))
        self.show, self.checkpoint = show, checkpoint
        self.chains = estimator.n_chains(placed.n_all)
        beta, theta, error = (np.asarray(getattr(starts[0], part), float) for part in ("beta", "covariance", "error"))
        self.template = Params(beta, theta, error, starts[0].free)
        self.keys = keys_of(estimator.seed, len(starts))
        packed = np.stack([np.asarray(start.pack(), float) for start in starts])
        self.starts, self.warm, self.edge_start = packed, warm, edge_start
        self.usual = np.asarray(binding.start.pack(), float)  # the model's own start
        self.replicates, self.n = packed.shape
        # The layout of a psi inside of what it can be; where the replicates left it, if they did.
        self.inside = layout(binding, estimator.m_step, placed.processes)
        self.before = packed
        self.lay_out(self.inside, packed)
        self.iteration = 0
        self.packed: list[np.ndarray] = []
        self.accepted: list[np.ndarray] = []
        self.started = time.perf_counter()
        self.interrupted = self.stopped = False
        self.course = Course()
        self.labels = self.setup.sampler.labels
        self.history: list[dict[str, float]] = []
        self.phase = "settling"  # where nothing is written but at its beginning
        if checkpoint is not None and checkpoint.standing is not None:
            self._restore(checkpoint.standing)

    def lay_out(self, layout: Layout, packed: np.ndarray) -> None:
        """Puts the replicates at `packed` (replicates, packed) under a layout, with chains that begin anew."""
        self.layout = layout
        setup = Setup(layout, self.estimator.sampler(self.binding.density.n_effects), self.template)
        self.setup = on_device(setup) if self.placed.mesh is None else setup
        self.running = Running.blank(layout, packed)
        self.lanes = self.spread(self.blank_lanes())
        self.controlled = False  # whether control variates have been fitted

    # --- the chains between host and device ---

    def blank_lanes(self) -> Lanes:
        groups, q = self.placed.n_groups, self.binding.density.n_effects
        chains = resting(groups, self.replicates, self.chains, q, self.setup.sampler.memory())
        return Lanes(chains, *self.blank_sums())

    def blank_sums(self) -> tuple[np.ndarray, Sums]:
        """Coefficients of the control variates, and what settling iterations sum up, before the first of them."""
        q = self.binding.density.n_effects
        k, n = n_controls(q), self.n

        def zeros(*rest: int) -> np.ndarray:
            return np.zeros((self.placed.n_groups, self.replicates, *rest))

        return zeros(n, k), Sums(zeros(n), zeros(q), zeros(q, q), zeros(k), zeros(k, k), zeros(n, k))

    def spread(self, lanes: Any) -> list[Any]:
        """A pytree (groups, ...) on the host as one pytree per piece."""
        leaves, tree = jax.tree.flatten(lanes)
        parts = [self.placed.spread(leaf) for leaf in leaves]
        return [jax.tree.unflatten(tree, leaves) for leaves in zip(*parts, strict=True)]

    def own(self, pieces: Sequence[Any]) -> Any:
        """One pytree per piece as one of numpy arrays (groups, ...)."""
        return jax.tree.map(lambda *parts: self.placed.own(parts), *pieces)

    def of_all(self, items: list[Any]) -> list[Any]:
        """The items of every process, one after the other."""
        return [item for own in self.placed.processes.everyone(items) for item in own]

    # --- iterating ---

    def go(self, controls: Control, phase: str, keep: bool = False) -> list[Trace]:
        """Runs the iterations of `controls` (iterations,); returns the Trace of each block where `keep`.

        **Errors:** Broken where the parameters are not finite any more.
        """
        out: list[Trace] = []
        total = len(controls.iteration)
        done = 0
        while done < total and not self.stopped:
            count = min(1 if self.told else BLOCK, total - done)
            part = jax.tree.map(lambda leaf, at=done, n=count: np.asarray(leaf)[at : at + n], controls)
            trace = self._block(part, count)
            done += count
            self.iteration += count
            self.packed.append(np.asarray(trace.packed))
            self.accepted.append(np.asarray(trace.simulated.accepted / trace.simulated.groups[..., None]))
            if keep:
                out.append(jax.tree.map(np.asarray, trace))
            if not (self.packed[-1][-1] < np.inf).all():  # log standard deviations may be minus infinity
                raise Broken(phase)
            self.phase = phase
            self.history.append({"iteration": self.steps - 1, "seconds": self.seconds})
            self._tell(phase)
            # What a settling run sums up is not in the file: it begins again where it began, and so does an extension.
            kept = phase not in ("settling", "extension")
            if self.checkpoint is not None and kept and self.checkpoint.due():
                self.checkpoint.write(self.standing())
        return out

    def hold(self) -> None:
        """Notes where a settling run begins."""
        if self.checkpoint is not None:
            self.checkpoint.write(self.standing())

    def keep(self) -> None:
        """Writes the file of a run that is broken off, where it can go on from there."""
        if self.checkpoint is not None and self.phase not in ("settling", "extension"):
            self.checkpoint.write(self.standing())

    def standing(self) -> dict[str, np.ndarray]:
        """All that another process needs to go on with the same numbers."""
        lanes = self.own(self.lanes)
        out = {f"running.{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(self.running))}
        out |= {f"lanes.{k}": leaf for k, leaf in enumerate(jax.tree.leaves(lanes))}
        out |= {"iteration": np.asarray(self.iteration), "course": np.asarray(dataclasses.astuple(self.course))}
        out |= {"controlled": np.asarray(self.controlled), "before": self.before}
        out |= {"whitened": np.asarray(self.layout.whitened), "free": np.asarray(self.layout.free)}
        out |= {name: np.asarray(getattr(self.layout, name), int) for name in ("rows", "columns")}
        # What is decided by how the fit began is decided by that when it goes on, whatever start is given then.
        out |= {"starts": self.starts, "warm": np.asarray(self.warm)}
        if self.packed:
            out |= {"packed": np.concatenate(self.packed), "accepted": np.concatenate(self.accepted)}
        return out

    def _restore(self, standing: dict[str, np.ndarray]) -> None:
        if standing["whitened"]:
            held = frozenset(np.flatnonzero(np.asarray(self.inside.free) & ~standing["free"]).tolist())
            rows, columns = (tuple(standing[name].tolist()) for name in ("rows", "columns"))
            self.lay_out(whitened(self.inside, held, rows, columns), self.starts)
        leaves, tree = jax.tree.flatten(self.running)
        self.running = jax.tree.unflatten(tree, [standing[f"running.{k}"] for k in range(len(leaves))])
        leaves, tree = jax.tree.flatten(self.blank_lanes())
        self.lanes = self.spread(jax.tree.unflatten(tree, [standing[f"lanes.{k}"] for k in range(len(leaves))]))
        self.iteration = int(standing["iteration"])
        self.course = Course(*(int(part) for part in standing["course"]))
        self.controlled, self.before = bool(standing["controlled"]), standing["before"]
        self.starts, self.warm = standing["starts"], bool(standing["warm"])
        if "packed" in standing:
            self.packed, self.accepted = [standing["packed"]], [standing["accepted"]]

    def _block(self, controls: Control, count: int) -> Trace:
        passes = self.replicates * self.estimator.evaluations(self.placed.n_all)
        if self.placed.in_one:
            full = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], BLOCK - count, 0)]), controls)
            shared = (self.setup, self.running, self.keys, full, np.asarray(count))
            (self.running, trace), lanes = self.placed.loop(loop, shared, self.lanes[0], passes)
            self.lanes = [lanes]
            return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], trace)
        traces = []
        for k in range(count):
            control = jax.tree.map(lambda leaf, k=k: leaf[k], controls)
            sums, self.lanes = self.placed.run(
                simulate, (self.setup, self.running.packed, self.keys, control), self.lanes, passes=passes
            )
            sums = jax.tree.map(np.asarray, sums)
            self.running = compiled(move, 0)(self.placed.density, self.setup, self.running, sums, control)
            self.running = jax.tree.map(np.asarray, self.running)
            traces.append(Trace(self.running.packed, sums))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *traces)

    def params(self, replicate: int = 0) -> Params:
        """Params (numpy) where a replicate stands."""
        return jax.tree.map(np.asarray, self.template.unpack(np.asarray(self.running.packed)[replicate]))

    def last_finite(self) -> np.ndarray:
        """Where the replicates (replicates, packed) stood when all of their parameters were last finite."""
        rows = np.concatenate([self.starts[None], *self.packed])
        return rows[np.flatnonzero((rows < np.inf).all(axis=(1, 2)))[-1]].copy()

    def place(self, packed: np.ndarray) -> None:
        """Puts the replicates at `packed` (replicates, packed)."""
        self.running = eqx.tree_at(lambda r: r.packed, self.running, packed)

    def restart_sums(self) -> None:
        """Sets what settling iterations sum up to zero, also what is not a number. Control variates stay: of whatever
        size, fixed before the draws, their mean is zero at any parameters."""
        blank = self.spread(self.blank_sums()[1])
        self.lanes = [Lanes(one.chains, one.control, own) for one, own in zip(self.lanes, blank, strict=True)]

    def sums(self) -> Sums:
        """What settling iterations summed up (groups, replicates, ...)."""
        return self.own([one.sums for one in self.lanes])

    def set_controls(self, iterations: int) -> bool:
        """Fits the control variates' coefficients to the draws of the settling `iterations` so far; False where these
        are too few."""
        if not enough(iterations * self.chains, self.binding.density.n_effects):
            return False
        sums = self.sums()
        means = jax.tree.map(lambda leaf: leaf / iterations, sums)
        control = coefficients(means.crossed, means.score, means.functions, means.squares, iterations * self.chains)
        pieces = self.spread(control)
        self.lanes = [Lanes(one.chains, own, one.sums) for one, own in zip(self.lanes, pieces, strict=True)]
        self.controlled = True
        return True

    @property
    def phases(self) -> dict[str, tuple[int, int]]:
        """The first and the last iteration of the phases that the run goes through: none from the edge of psi."""
        return {} if self.course.began_at_edge else self.estimator.phases(self.warm)

    @property
    def held(self) -> frozenset[int]:
        """Packed entries that are held where psi is at its edge, beside those that the user fixed."""
        return frozenset(k for k, own in enumerate(self.inside.free) if own and not self.layout.free[k])

    # --- telling ---

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def steps(self) -> int:
        """Iterations so far, burn-in left out; negative during burn-in."""
        return self.iteration - self.estimator.burn_in

    def tell(self, state: str) -> None:
        """Tells the callbacks where the first replicate stands."""
        if not self.told:
            return
        step = self.steps - (0 if state == "init" else 1)
        entry = Iteration(
            step, self.iteration, float("nan"), float("nan"), self.seconds, self.params(), self.binding,
            self.estimator.method.name, state,
        )  # fmt: skip
        stop = self.audience.tell(entry)
        # At the end there is nothing left to stop.
        self.stopped = self.stopped or (stop and state != "done")

    def _tell(self, phase: str) -> None:
        self.tell("iter")
        self.show(f"{self.estimator.method.name}: iteration {self.steps}, {phase}, {self.seconds:.0f} s", self.seconds)

    def lost(self) -> np.ndarray:
        """Labels of the groups none of whose draws has a finite density."""
        alive = self.own([lanes.chains.alive for lanes in self.lanes])
        return self.binding.data.labels[~alive.all(axis=1)]


def keys_of(seed: int | tuple[int, ...], replicates: int) -> Any:
    """One JAX key a replicate."""
    base = (
        jax.random.key(seed)
        if isinstance(seed, int)
        else jax.random.wrap_key_data(jax.numpy.asarray(seed, jax.numpy.uint32))
    )
    return jax.vmap(lambda k: jax.random.fold_in(base, k))(np.arange(replicates))
