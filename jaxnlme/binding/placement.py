"""A Problem laid out where it is computed: padded to shapes that other data share, on one device, dealt out to several,
or in chunks that go through a device one after the other. The one place that knows about padding."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnlme.binding.padding import agreed_shapes, padded, split_in_pieces
from jaxnlme.binding.problem import Problem
from jaxnlme.data._layout import next_size
from jaxnlme.errors import OptionError
from jaxnlme.model.density import Group
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import SMALL, compiled, uncollected
from jaxnlme.numerics.devices import AXIS, Processes
from jaxnlme.numerics.linalg import UNROLLED
from jaxnlme.numerics.threads import at_a_time, cores

# Significant bits of padded sizes: a quarter more at the worst where compiling costs more than computing, 3% in all
# where it does not.
COARSE, FINE = 3, 7

# Rows that are worth a thread of their own on a CPU, where nobody says otherwise: a program runs through its blocks of
# groups on one core.
THREAD_ROWS = 5_000


class PlacedProblem:
    """The groups of a Problem where they are computed.

    **Arguments:** `problem` (numpy leaves); `mesh`: devices to deal the groups out to, one axis "groups", of several
    processes where each holds its own groups; `chunk`: how many groups at most are on a device at a time; `grid`: pad
    to a grid of shapes, so that other data of similar size find the compiled programs; `rows`: whether the rows of a
    group may be padded, too; `thread_rows`: rows that are worth a thread of their own.

    `n_groups`: this process's; `n_all`: those of every process; `size`: places of all pieces, stand-ins included;
    `same_rows`: no group has more rows than its bucket.
    **Errors:** OptionError where there are more devices than groups, or `chunk` is no positive whole number.
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
            raise OptionError(f"chunk_groups is a number of groups, at least 1, or None; received {chunk!r}.")
        self.mesh, self.processes, self.rows = mesh, Processes(mesh), rows
        self.n_groups = problem.n_groups
        self._buckets, self._weights = problem.buckets, np.asarray(problem.weights)
        self.density = on_device(problem.density) if mesh is None else problem.density
        wide = 1 if mesh is None else mesh.devices.size // self.processes.count
        shapes = agreed_shapes(self.processes, problem.buckets)
        self.n_all = sum(self.processes.everyone(self.n_groups))
        if mesh is not None and self.n_all < mesh.devices.size:
            raise OptionError(f"{mesh.devices.size} devices for {self.n_all} groups; name fewer devices.")
        bits = COARSE if sum(count * obs for count, obs, _ in shapes) <= SMALL else FINE

        def up(n: int) -> int:
            return next_size(n, bits) if grid else n

        def most(count: int, n: int | None = None) -> int:
            """Places for `count` groups, not more than n: as many for each device."""
            full = up(-(-count // wide))
            return wide * (full if n is None else min(full, -(-n // wide)))

        self._widths = [
            (up(obs), {name: up(k) for name, k in tables.items()}) if rows else (obs, tables)
            for _, obs, tables in shapes
        ]
        self.same_rows = not rows or self._widths == [(obs, tables) for _, obs, tables in shapes]
        counts = [count for count, _, _ in shapes]
        total = sum(count * obs for count, obs, _ in shapes)
        # Larger matrices go to LAPACK, whose batches wait for threads of their own: one program at a time.
        alone = chunk is not None or mesh is not None or problem.density.n_effects > UNROLLED
        threads = 1 if alone else min(cores(), total // (thread_rows or THREAD_ROWS))
        each = up(-(-max(counts, default=1) // threads)) if threads > 1 else chunk
        self.pieces = split_in_pieces(problem, counts, most, wide, each)
        self.size = sum(len(piece.source) for piece in self.pieces)
        self.n_rows = self.processes.count * max(
            sum(len(where) * self._widths[k][0] for k, where, _ in piece.parts) for piece in self.pieces
        )
        if threads > 1:  # they are computed at a time
            self.n_rows *= len(self.pieces)
        self._position = np.empty(self.n_groups, int)
        places = np.concatenate([piece.source for piece in self.pieces])
        real = np.flatnonzero(np.concatenate([piece.real for piece in self.pieces]))
        self._position[places[real]] = real
        self.chunked, self._chunk, self._grid = chunk is not None, chunk, grid
        self._thread_rows = thread_rows
        self._ran: set[Any] = set()  # what has been compiled
        self._held = None if self.chunked else [self._load(number) for number in range(len(self.pieces))]

    def again(self, problem: Problem) -> PlacedProblem:
        """Other groups of the same model, placed in the same way."""
        return PlacedProblem(
            problem, self.mesh, self._chunk, grid=self._grid, rows=self.rows, thread_rows=self._thread_rows
        )

    # --- to the device and back ---

    def put(self, tree: Any) -> Any:
        """Numpy leaves with a leading places axis on the devices; what is there already stays."""
        if self.mesh is None:
            return on_device(tree)
        sharding = NamedSharding(self.mesh, P(AXIS))
        return jax.tree.map(
            lambda leaf: (
                jax.make_array_from_process_local_data(sharding, leaf) if isinstance(leaf, np.ndarray) else leaf
            ),
            tree,
        )

    def spread(self, values: np.ndarray) -> list[Any]:
        """Values (groups, ...) as one array for each piece, stand-ins with those of their source."""
        out = [np.asarray(values)[piece.source] for piece in self.pieces]
        return out if self.chunked else [self.put(part) for part in out]

    def own(self, pieces: Sequence[Any]) -> np.ndarray:
        """One array per piece (places, ...) as a numpy array (groups, ...) of this process's groups, in their order."""
        return np.concatenate([_local(part) for part in pieces])[self._position]

    def by_bucket(self, pieces: Sequence[Sequence[Any]]) -> list[Any]:
        """What `run` gave for each bucket of each piece (`Problem.map_buckets`) as one numpy pytree (groups, ...) per
        bucket, stand-ins left out."""
        found: list[list[Any]] = [[] for _ in self._buckets]
        for piece, outputs in zip(self.pieces, pieces, strict=True):
            for (k, _, count), output in zip(piece.parts, outputs, strict=True):
                found[k].append(jax.tree.map(lambda leaf, count=count: _local(leaf)[:count], output))
        return [jax.tree.map(lambda *parts: np.concatenate(parts), *outputs) for outputs in found]

    def _load(self, number: int) -> tuple[tuple[Group, ...], Any]:
        """Buckets and weights of a piece on the devices."""
        piece = self.pieces[number]
        buckets = tuple(padded(self._buckets[k], where, *self._widths[k]) for k, where, _ in piece.parts)
        weights = np.where(piece.real, self._weights[piece.source], 0.0)
        return self.put((buckets, weights))

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
        """`fn(problem, shared, per_group) -> (sums, groups)` over all groups, through one compiled program.

        **Arguments:** `fn`, a module's function (a fresh lambda is compiled afresh), that sees a Problem with a part of
        the groups; `shared`, a pytree that every part sees whole; `per_group`, one pytree per piece (from `spread` or
        an earlier `run`); `once`: it will hardly be called again with these shapes; `passes`, of a
          program that is called many hundred times: how often it goes through the rows each time.
        **Returns:** `sums`, added up over all parts, and `groups`, one pytree (places, ...) per piece; see `own`.
        """
        rows = self.n_rows * (passes or 1)
        program = compiled(_program(fn, self.mesh, False), rows, once=once, often=passes is not None)
        given: Sequence[Any] = [None] * len(self.pieces) if per_group is None else per_group
        if self._held is not None:
            calls = [
                functools.partial(program, self.density, *held, shared, own)
                for held, own in zip(self._held, given, strict=True)
            ]
            kind = (program, jax.tree.structure(shared))
            new = kind not in self._ran
            with uncollected() if new else contextlib.nullcontext():
                results = at_a_time(calls, ahead=new)
            self._ran.add(kind)
            sums = [sums for sums, _ in results]
            total = sums[0] if len(sums) == 1 else functools.reduce(_added, sums)
            return total, [groups for _, groups in results]
        # The device works on one chunk while the host reads the results of the one before.
        total, out, running = None, [], None
        for number in [*range(len(self.pieces)), None]:
            result = None
            if number is not None:
                result = program(self.density, *self._load(number), shared, self.put(given[number]))
            if running is not None:
                sums, groups = jax.tree.map(np.asarray, running[0]), jax.tree.map(_local, running[1])
                total = sums if total is None else _added(total, sums)
                out.append(groups)
            running = result
        return total, out

    @property
    def in_one(self) -> bool:
        """Whether the groups are in one piece, so that a program can go through them again and again by itself."""
        return self._held is not None and len(self.pieces) == 1

    @property
    def whole(self) -> tuple[tuple[Group, ...], Any]:
        """Buckets and weights (places, ...) of groups in one piece (`in_one`)."""
        assert self._held is not None
        return self._held[0]

    def loop(self, fn: Callable[..., tuple[Any, Any]], shared: Any, per_group: Any, passes: int) -> tuple[Any, Any]:
        """`fn(problem, shared, per_group, total) -> (whole, groups)` over the groups, in one piece (`in_one`), through
        one compiled program that may need sums over all groups many times: `total(sums)` adds up those of all devices.

        **Arguments:** as of `run`, `per_group` one pytree; `passes`, how often an iteration goes through the rows.
        **Returns:** `whole`, the same on all devices, and `groups`, a pytree (places, ...).
        """
        program = compiled(_program(fn, self.mesh, True), self.n_rows * passes, often=True)
        assert self._held is not None
        with uncollected() if (program, "loop") not in self._ran else contextlib.nullcontext():
            result = program(self.density, *self._held[0], shared, per_group)
        self._ran.add((program, "loop"))
        return result


def _added(a: Any, b: Any) -> Any:
    """Sums of two parts, on the host."""
    return jax.tree.map(lambda one, other: np.add(np.asarray(one), np.asarray(other)), a, b)


@functools.cache
def _program(fn: Callable, mesh: Mesh | None, inside: bool) -> Callable:
    """`fn` on the parts of a Problem; on a mesh each device computes its own groups, and sums are added up once, at the
    end, or by `fn` itself where it wants them `inside`."""

    def total(sums):
        return sums if mesh is None else jax.lax.psum(sums, AXIS)

    def whole(density, buckets, weights, shared, per_group):
        problem = Problem(density, buckets, jnp.arange(weights.shape[0]), weights)
        return fn(problem, shared, per_group, total) if inside else fn(problem, shared, per_group)

    if mesh is None:
        return whole

    def dealt_out(*args):
        arrays, static = eqx.partition(args, eqx.is_array)

        def part(*arrays):
            sums, groups = whole(*eqx.combine(arrays, static))
            return sums if inside else total(sums), groups

        # An explicit map: a search ends on each device when its own groups are done, and nothing but sums travels.
        specs = (P(), P(AXIS), P(AXIS), P(), P(AXIS))
        return jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=(P(), P(AXIS)), check_vma=False)(*arrays)

    return dealt_out


def _local(array: Any) -> np.ndarray:
    """The part of an array that is this process's, as numpy."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
