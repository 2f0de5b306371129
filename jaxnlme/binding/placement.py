"""Placement of a Problem on devices: padded to shapes that data sets of similar size share, on one device, distributed
over several, or in chunks that a device computes one after the other. No other module handles padding."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnlme.binding.continued_columns import directions
from jaxnlme.binding.padding import Chunk, agreed_shapes, pad_groups, split_into_chunks
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.settings import PLACEMENT
from jaxnlme.data._layout import next_size
from jaxnlme.errors import OptionError, shown
from jaxnlme.model.density import Group
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled, without_garbage_collection
from jaxnlme.numerics.devices import AXIS, Processes
from jaxnlme.numerics.settings import COMPUTATION, SOLVERS
from jaxnlme.numerics.threads import cores, in_background, run_concurrently


class PlacedProblem:
    """The groups of a Problem, placed where they are computed.

    **Arguments:** `problem` (numpy leaves); `mesh`: the devices over which groups are distributed, with the one axis
    "groups"; if it spans several processes, each has its own groups; `chunk`: the largest number of groups on a device
    at a time; `grid`: pad to a coarse grid of shapes, so that data of similar size reuse the compiled programs; `rows`:
    pad the rows of a group as well; `thread_rows`: rows of data for which another thread is used.

    **Fields:** `n_groups`: groups of this process; `n_groups_all`: groups of all processes; `chunks`; `n_slots`: slots
    of all chunks, fillers included; `n_rows`: rows computed at a time, in all processes, counted by
    their cost (`SOLVERS`); `rows_unpadded`: true if
    groups have as many rows as their bucket.
    **Raises:** OptionError where there are more devices than groups, or `chunk` is not a positive whole number.
    """

    def __init__(
        self,
        problem: Problem,
        mesh: Mesh | None = None,
        chunk: int | None = None,
        *,
        grid: bool = True,
        rows: bool = True,
        thread_rows: int | None = None,
    ):
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, (int, np.integer)) or chunk < 1):
            raise OptionError(f"chunk_groups must be a number of groups, at least 1, or None; received {shown(chunk)}.")
        self.mesh, self.processes, self.rows = mesh, Processes(mesh), rows
        self.chunked, self._chunk, self._grid = chunk is not None, chunk, grid
        self._thread_rows = thread_rows
        self.n_groups = problem.n_groups
        self._buckets, self._weights = problem.buckets, np.asarray(problem.weights)
        self.density = on_device(problem.density) if mesh is None else problem.density
        shapes = agreed_shapes(self.processes, problem.buckets)
        self.n_groups_all = sum(self.processes.gather(self.n_groups))
        if mesh is not None and self.n_groups_all < mesh.devices.size:
            raise OptionError(f"{mesh.devices.size} devices for {self.n_groups_all} groups; name fewer devices.")
        total = sum(count * obs for count, obs, _ in shapes)
        bits = PLACEMENT.coarse_bits if total <= COMPUTATION.rows_if_run_fifty_times else PLACEMENT.fine_bits

        def round_up(n: int) -> int:
            return next_size(n, bits) if grid else n

        unpadded = [(obs, tables) for _, obs, tables in shapes]
        self._widths = [
            (round_up(obs), {name: round_up(k) for name, k in tables.items()}) if rows else (obs, tables)
            for obs, tables in unpadded
        ]
        padded = self._widths != unpadded or not all(np.all(bucket.x.mask) for bucket in problem.buckets)
        self._directions = directions(problem.buckets) if padded else ()
        self.rows_unpadded = not rows or self._widths == unpadded
        threads = self._number_of_threads(total)
        self.chunks = self._split(problem, [count for count, _, _ in shapes], threads, round_up)
        self.n_slots = sum(len(part.source) for part in self.chunks)
        self.n_rows = self.processes.count * max(
            sum(len(positions) * self._widths[k][0] for k, positions, _ in part.parts) for part in self.chunks
        )
        if threads > 1:  # the chunks are computed concurrently
            self.n_rows *= len(self.chunks)
        if self.density.solves_equations:
            self.n_rows *= SOLVERS.rows_of_a_row
        self._slot = np.empty(self.n_groups, int)
        source = np.concatenate([part.source for part in self.chunks])
        real = np.flatnonzero(np.concatenate([part.real for part in self.chunks]))
        self._slot[source[real]] = real
        self._compiled: set[Any] = set()  # programs, with the structure of their arguments, that have been compiled
        self._in_preparation: dict[Any, Future] = {}  # programs that another thread compiles
        self._held = None if self.chunked else [self._load(number) for number in range(len(self.chunks))]

    def _number_of_threads(self, rows: int) -> int:
        """Number of threads for `rows` rows of data. Larger matrices are factored by LAPACK, whose batches use threads
        of their own: one program at a time."""
        if self.chunked or self.mesh is not None or self.density.n_effects > COMPUTATION.unrolled:
            return 1
        return min(cores(), rows // (self._thread_rows or PLACEMENT.thread_rows))

    def _split(self, problem: Problem, counts: list[int], threads: int, round_up: Callable[[int], int]) -> list[Chunk]:
        """The chunks of the groups: those that the caller asked for, or one for each thread.

        **Arguments:** `counts`: groups of each bucket; `threads`; `round_up(n)`: the size of the grid from n on.
        """
        n_devices = 1 if self.mesh is None else self.mesh.devices.size // self.processes.count

        def slots_for(count: int, at_most: int | None = None) -> int:
            """Number of slots for `count` groups, or for `at_most` if they are more: the same on each device."""
            full = round_up(-(-count // n_devices))
            return n_devices * (full if at_most is None else min(full, -(-at_most // n_devices)))

        chunk_size = round_up(-(-max(counts, default=1) // threads)) if threads > 1 else self._chunk
        return split_into_chunks(problem, counts, slots_for, n_devices, chunk_size)

    def place_like_this(self, problem: Problem) -> PlacedProblem:
        """Another `problem` of the same model, placed with the same options."""
        return PlacedProblem(
            problem, self.mesh, self._chunk, grid=self._grid, rows=self.rows, thread_rows=self._thread_rows
        )

    # --- transfers to and from the devices ---

    def to_devices(self, tree: Any) -> Any:
        """The pytree with its numpy leaves, which have a leading slots axis, on the devices; JAX arrays stay."""
        if self.mesh is None:
            return on_device(tree)
        sharding = NamedSharding(self.mesh, P(AXIS))
        return jax.tree.map(
            lambda leaf: (
                jax.make_array_from_process_local_data(sharding, leaf) if isinstance(leaf, np.ndarray) else leaf
            ),
            tree,
        )

    def scatter(self, values: np.ndarray) -> list[Any]:
        """Values (groups, ...) of this process's groups as one array (slots, ...) per chunk, the inverse of `collect`;
        fillers have the values of the group they copy."""
        out = [np.asarray(values)[part.source] for part in self.chunks]
        return out if self.chunked else [self.to_devices(part) for part in out]

    def collect(self, arrays: Sequence[Any]) -> np.ndarray:
        """One array (slots, ...) per chunk as a numpy array (groups, ...) of this process's groups, in the order of the
        data, without fillers."""
        return np.concatenate([_local(part) for part in arrays])[self._slot]

    def collect_by_bucket(self, outputs: Sequence[Sequence[Any]]) -> list[Any]:
        """Outputs of `run` for each bucket of each chunk (`Problem.map_buckets`) as one numpy pytree (groups, ...) per
        bucket, without fillers."""
        by_bucket: list[list[Any]] = [[] for _ in self._buckets]
        for chunk, chunk_outputs in zip(self.chunks, outputs, strict=True):
            for (k, _, count), output in zip(chunk.parts, chunk_outputs, strict=True):
                by_bucket[k].append(jax.tree.map(lambda leaf, count=count: _local(leaf)[:count], output))
        return [jax.tree.map(lambda *parts: np.concatenate(parts), *parts) for parts in by_bucket]

    def _load(self, number: int) -> tuple[tuple[Group, ...], Any]:
        """Buckets and weights of a chunk on the devices."""
        chunk = self.chunks[number]
        buckets = tuple(
            pad_groups(self._buckets[k], positions, *self._widths[k], self._directions)
            for k, positions, _ in chunk.parts
        )
        weights = np.where(chunk.real, self._weights[chunk.source], 0.0)
        return self.to_devices((buckets, weights))

    # --- computing ---

    def run(
        self,
        fn: Callable[..., tuple[Any, Any]],
        shared: Any,
        per_group: Sequence[Any] | None = None,
        *,
        once: bool = False,
        passes: int | None = None,
    ) -> tuple[Any, list[Any]]:
        """`fn(problem, shared, per_group) -> (sums, groups)` over all groups, by one compiled program.

        **Arguments:** `fn`: a function of a module (a new lambda would be compiled again), called with a Problem of a
        part of the groups; `shared`: a pytree passed whole to every part; `per_group`: one pytree (slots, ...) per
        chunk, from `scatter` or an earlier `run`; `once`: the program is unlikely to run again with these shapes;
        `passes`: for a program that runs many hundred times, the number of passes over the rows in each run.
        **Returns:** `sums`, added up over all parts, and `groups`, one pytree (slots, ...) per chunk; see `collect`.
        """
        program = self._program_of(fn, once, passes)
        if program in self._in_preparation:  # an exception there is raised by this thread's call, too
            wait([self._in_preparation.pop(program)])
        values: Sequence[Any] = [None] * len(self.chunks) if per_group is None else per_group
        if self._held is not None:
            calls = [
                functools.partial(program, self.density, *held, shared, chunk_values)
                for held, chunk_values in zip(self._held, values, strict=True)
            ]
            key = (program, jax.tree.structure(shared))
            new = key not in self._compiled
            with without_garbage_collection() if new else contextlib.nullcontext():
                results = run_concurrently(calls, compile_first=new)
            self._compiled.add(key)
            sums = [sums for sums, _ in results]
            total = sums[0] if len(sums) == 1 else functools.reduce(_added, sums)
            return total, [groups for _, groups in results]
        # The device computes one chunk while the host reads the results of the previous one.
        total, out, running = None, [], None
        for number in [*range(len(self.chunks)), None]:
            result = None
            if number is not None:
                result = program(self.density, *self._load(number), shared, self.to_devices(values[number]))
            if running is not None:
                sums, groups = jax.tree.map(np.asarray, running[0]), jax.tree.map(_local, running[1])
                total = sums if total is None else _added(total, sums)
                out.append(groups)
            running = result
        return total, out

    def _program_of(self, fn: Callable, once: bool, passes: int | None) -> Any:
        rows = self.n_rows * (passes or 1)
        return compiled(_program(fn, self.mesh, False), rows, once=once, often=passes is not None)

    def prepare(self, fn: Callable[..., tuple[Any, Any]], shared: Any, per_group: Sequence[Any]) -> None:
        """Compile the program of a later `run` in another thread; `run` waits for it.

        **Arguments:** as for `run`, of groups that are on the devices, with any values.
        """
        assert self._held is not None
        program, arguments = self._program_of(fn, False, None), (self.density, *self._held[0], shared, per_group[0])
        self._in_preparation[program] = in_background(lambda: program.lower(*arguments).compile())

    @property
    def in_one_chunk(self) -> bool:
        """True if all groups are in one chunk on the devices, so that one program can iterate over them (`loop`)."""
        return self._held is not None and len(self.chunks) == 1

    @property
    def held_groups(self) -> tuple[tuple[Group, ...], Any]:
        """Buckets and weights (slots, ...) of groups in one chunk (`in_one_chunk`)."""
        assert self._held is not None
        return self._held[0]

    def loop(
        self,
        fn: Callable[..., tuple[Any, Any]],
        shared: Any,
        per_group: Any,
        passes: int,
        prepare: Callable[[], None] | None = None,
    ) -> tuple[Any, Any]:
        """`fn(problem, shared, per_group, total) -> (result, groups)` over groups in one chunk (`in_one_chunk`), by one
        compiled program that may need sums over all groups many times: `total(sums)` adds up those of all devices.

        **Arguments:** as for `run`, with one pytree for `per_group`; `passes`: passes over the rows in each run;
        `prepare()`: called when the program is compiled first, to prepare others meanwhile.
        **Returns:** `result`, the same on all devices, and `groups`, a pytree (slots, ...).
        """
        program = compiled(_program(fn, self.mesh, True), self.n_rows * passes, often=True)
        assert self._held is not None
        arguments = (self.density, *self._held[0], shared, per_group)
        if (program, "loop") not in self._compiled:
            with without_garbage_collection():
                lowered = program.lower(*arguments)
            if prepare is not None and self.mesh is None:
                prepare()
            lowered.compile()
        self._compiled.add((program, "loop"))
        return program(*arguments)


def _added(a: Any, b: Any) -> Any:
    """a + b for the sums of two parts, on the host."""
    return jax.tree.map(lambda left, right: np.add(np.asarray(left), np.asarray(right)), a, b)


@functools.cache
def _program(fn: Callable, mesh: Mesh | None, inner_sums: bool) -> Callable:
    """`fn` on the parts of a Problem. On a mesh each device computes its own groups; sums over devices are taken once,
    at the end, or by `fn` itself, which is then passed the function `total` (`inner_sums`)."""

    def total(sums):
        return sums if mesh is None else jax.lax.psum(sums, AXIS)

    def on_problem(density, buckets, weights, shared, per_group):
        problem = Problem(density, buckets, jnp.arange(weights.shape[0]), weights)
        return fn(problem, shared, per_group, total) if inner_sums else fn(problem, shared, per_group)

    if mesh is None:
        return on_problem

    def distributed(*args):
        arrays, static = eqx.partition(args, eqx.is_array)

        def part(*arrays):
            sums, groups = on_problem(*eqx.combine(arrays, static))
            return sums if inner_sums else total(sums), groups

        # An explicit shard_map: a search ends on each device when its own groups are done, and only sums are exchanged.
        specs = (P(), P(AXIS), P(AXIS), P(), P(AXIS))
        return jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=(P(), P(AXIS)), check_vma=False)(*arrays)

    return distributed


def _local(array: Any) -> np.ndarray:
    """The part of an array on the devices of this process, as a numpy array."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
