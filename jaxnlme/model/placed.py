"""A Problem laid out where it is computed: padded to shapes that other data share, on one device, dealt out to several,
or in chunks that go through a device one after the other. The one place that knows about padding."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnlme.data._layout import next_size
from jaxnlme.errors import OptionError
from jaxnlme.model.density import Group
from jaxnlme.model.problem import Problem
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import SMALL, compiled
from jaxnlme.numerics.devices import AXIS, Processes
from jaxnlme.numerics.threads import at_a_time, cores
from jaxnlme.records import Record, Rows

# Significant bits of padded sizes: a quarter more at the worst where compiling costs more than computing, 3% in all
# where it does not.
COARSE, FINE = 3, 7

# Rows that are worth a thread of their own on a CPU: a program runs through its blocks of groups on one core.
THREAD_ROWS = 5_000


@dataclass(frozen=True, eq=False)
class Piece:
    """What is computed in one call: `parts`, for each bucket in it the positions (n,) of its groups there and how many
    of them are no stand-ins (these come first); `source` (places,): the group, in the order of the data, at each place;
    `real` (places,): false for the stand-ins that fill a piece up (copies of a group, with weight zero)."""

    parts: tuple[tuple[int, np.ndarray, int], ...]
    source: np.ndarray
    real: np.ndarray


class Placed:
    """The groups of a Problem where they are computed.

    **Arguments:** `problem` (numpy leaves); `mesh`: devices to deal the groups out to, one axis "groups", of several
    processes where each holds its own groups; `chunk`: how many groups at most are on a device at a time; `grid`: pad
    to a grid of shapes, so that other data of similar size find the compiled programs; `rows`: whether the rows of a
    group may be padded, too.

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
    ):
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, (int, np.integer)) or chunk < 1):
            raise OptionError(f"chunk_groups is a number of groups, at least 1, or None; received {chunk!r}.")
        self.mesh, self.processes, self.rows = mesh, Processes(mesh), rows
        self.n_groups = problem.n_groups
        self._buckets, self._weights = problem.buckets, np.asarray(problem.weights)
        self.density = on_device(problem.density) if mesh is None else problem.density
        wide = 1 if mesh is None else mesh.devices.size // self.processes.count
        shapes = _agreed(self.processes, problem.buckets)
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
        threads = 1 if chunk is not None or mesh is not None else min(cores(), total // THREAD_ROWS)
        each = -(-max(counts, default=1) // threads) if threads > 1 else chunk
        self.pieces = _pieces(problem, counts, most, wide, each)
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
        self._held = None if self.chunked else [self._load(number) for number in range(len(self.pieces))]

    def again(self, problem: Problem) -> Placed:
        """Other groups of the same model, placed in the same way."""
        return Placed(problem, self.mesh, self._chunk, grid=self._grid, rows=self.rows)

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
        buckets = tuple(_taken(self._buckets[k], where, *self._widths[k]) for k, where, _ in piece.parts)
        weights = np.where(piece.real, self._weights[piece.source], 0.0)
        return self.put((buckets, weights))

    # --- computing ---

    def run(
        self, fn: Callable[..., tuple[Any, Any]], shared: Any, per_group: Sequence[Any] | None = None, *, once=False
    ) -> tuple[Any, list[Any]]:
        """`fn(problem, shared, per_group) -> (sums, groups)` over all groups, through one compiled program.

        **Arguments:** `fn`, a module's function (a fresh lambda is compiled afresh), that sees a Problem with a part of
        the groups; `shared`, a pytree that every part sees whole; `per_group`, one pytree per piece (from `spread` or
        an earlier `run`); `once`: it will hardly be called again with these shapes.
        **Returns:** `sums`, added up over all parts, and `groups`, one pytree (places, ...) per piece; see `own`.
        """
        program = compiled(_program(fn, self.mesh), self.n_rows, once=once)
        given: Sequence[Any] = [None] * len(self.pieces) if per_group is None else per_group
        if self._held is not None:
            calls = [
                functools.partial(program, self.density, *held, shared, own)
                for held, own in zip(self._held, given, strict=True)
            ]
            results = at_a_time(calls, key=(program, self.n_rows))
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


def _added(a: Any, b: Any) -> Any:
    """Sums of two parts, on the host."""
    return jax.tree.map(lambda one, other: np.add(np.asarray(one), np.asarray(other)), a, b)


@functools.cache
def _program(fn: Callable, mesh: Mesh | None) -> Callable:
    """`fn` on the parts of a Problem; on a mesh each device computes its own groups, and sums are added up once."""

    def whole(density, buckets, weights, shared, per_group):
        problem = Problem(density, buckets, jnp.arange(weights.shape[0]), weights)
        return fn(problem, shared, per_group)

    if mesh is None:
        return whole

    def dealt_out(*args):
        arrays, static = eqx.partition(args, eqx.is_array)

        def part(*arrays):
            sums, groups = whole(*eqx.combine(arrays, static))
            return jax.lax.psum(sums, AXIS), groups

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


def _agreed(processes: Processes, buckets: tuple[Group, ...]) -> list[tuple[int, int, dict[str, int]]]:
    """For each bucket its groups, rows and the widths of its further tables, the largest of every process."""

    def tables(v: Record) -> dict[str, int]:
        return {n: entry.mask.shape[1] for n, entry in zip(v.names, v.values, strict=True) if _rows(entry)}

    own = [(*bucket.y.shape, tables(bucket.v)) for bucket in buckets]
    found = processes.everyone(own)
    if len({len(one) for one in found}) > 1:
        raise OptionError("the processes hold different numbers of size buckets; bind their data with buckets=1.")
    out = []
    for shapes in zip(*found, strict=True):
        widths = {name: max(shape[2][name] for shape in shapes) for name in shapes[0][2]}
        out.append((max(shape[0] for shape in shapes), max(shape[1] for shape in shapes), widths))
    return out


def _pieces(problem: Problem, counts: list[int], most: Callable[..., int], wide: int, chunk: int | None) -> list[Piece]:
    """All groups in one piece, or in pieces of at most `chunk` groups of one bucket each. `counts`: groups of each
    bucket, the most that a process has; `most(count, n)`: places for them; `wide`: devices of this process."""
    inverse = np.argsort(np.asarray(problem.order), kind="stable")
    starts = np.cumsum([0, *(bucket.y.shape[0] for bucket in problem.buckets)])
    ours = [inverse[begin:end] for begin, end in itertools.pairwise(starts)]
    # A stand-in is a copy of a group that counts, if there is one: such groups are finite.
    copied = [int(np.argmax(np.asarray(problem.weights)[groups] != 0)) for groups in ours]

    def piece(parts: list[tuple[int, int, int]]) -> Piece:
        """From (bucket, first, places): device by device, on each one bucket after the other."""
        where = [np.arange(first, first + places) for _, first, places in parts]
        real = [w < len(ours[k]) for w, (k, _, _) in zip(where, parts, strict=True)]
        where = [np.where(r, w, copied[k]) for r, w, (k, _, _) in zip(real, where, parts, strict=True)]
        source = [ours[k][w].reshape(wide, -1) for w, (k, _, _) in zip(where, parts, strict=True)]
        return Piece(
            tuple((k, w, int(r.sum())) for w, r, (k, _, _) in zip(where, real, parts, strict=True)),
            np.concatenate(source, axis=1).reshape(-1),
            np.concatenate([r.reshape(wide, -1) for r in real], axis=1).reshape(-1),
        )

    if chunk is None:
        return [piece([(k, 0, most(count)) for k, count in enumerate(counts)])]
    out = []
    for k, count in enumerate(counts):
        places = most(count, int(chunk))
        out += [piece([(k, first, places)]) for first in range(0, count, places)]
    return out


def _rows(entry: Any) -> bool:
    return isinstance(entry, Rows)


def _taken(bucket: Group, where: np.ndarray, obs: int, tables: dict[str, int]) -> Group:
    """The groups at positions `where` of a bucket, padded to `obs` rows: padding repeats the last row, masked."""
    first, count = int(where[0]), len(where)
    stretch = slice(first, first + count) if np.array_equal(where, np.arange(first, first + count)) else where

    def cut(leaf: Any, width: int, mask: bool = False) -> Any:
        leaf = np.asarray(leaf)[stretch]
        if leaf.ndim < 2 or leaf.shape[1] >= width:
            return leaf
        more = width - leaf.shape[1]
        end = np.zeros_like(leaf[:, -1:]) if mask else leaf[:, -1:]
        return np.concatenate([leaf, np.repeat(end, more, axis=1)], axis=1)

    def rows(entry: Rows, width: int) -> Rows:
        new = (tuple(cut(c, width) for c in entry.values), cut(entry.mask, width, True))
        entry = eqx.tree_at(lambda e: (e.values, e.mask), entry, new)
        if entry.observed is None:
            return entry
        return eqx.tree_at(lambda e: e.observed, entry, cut(entry.observed, width, True))

    v = tuple(
        rows(entry, tables[name]) if _rows(entry) else cut(entry, 0)
        for name, entry in zip(bucket.v.names, bucket.v.values, strict=True)
    )
    return Group(
        cut(bucket.y, obs),
        rows(bucket.x, obs),
        eqx.tree_at(lambda e: e.values, bucket.v, v),
        tuple(cut(c, obs) for c in bucket.covariates),
        None if bucket.strata is None else cut(bucket.strata, obs),
        cut(bucket.key, 0),
    )
