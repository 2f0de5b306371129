"""Padding of groups on the host: the shapes, the division into chunks, and the padded arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxnlme.binding.continued_columns import continued
from jaxnlme.binding.problem import Problem
from jaxnlme.data._layout import pad_rows
from jaxnlme.data.events.facts import ZERO_IN_PADDING
from jaxnlme.errors import OptionError
from jaxnlme.model.density import Group
from jaxnlme.model.levels import Units
from jaxnlme.model.residual_error.correlation_base import SeriesLayout
from jaxnlme.model.residual_error.endpoint_parts import EndpointRows
from jaxnlme.numerics.devices import Processes
from jaxnlme.records import Events, Record, Rows


@dataclass(frozen=True, eq=False)
class Chunk:
    """Groups computed in one call of a program, one slot each. Filler slots, which complete the shape, hold a copy of a
    group with weight zero.

    **Fields:** `parts`: for each bucket in the chunk its number, the positions (n,) in the bucket of the groups in the
    slots, and the number of slots that are no fillers (these come first); `source` (slots,): the group in each slot, by
    its position in the data; `real` (slots,): false for fillers.
    """

    parts: tuple[tuple[int, np.ndarray, int], ...]
    source: np.ndarray
    real: np.ndarray


def agreed_shapes(processes: Processes, buckets: tuple[Group, ...]) -> list[tuple[int, int, dict[str, int]]]:
    """Shapes of the buckets that all processes use: the largest number of groups, of rows, and of rows of each further
    table in any process.

    **Arguments:** `processes`; `buckets`: those of this process.
    **Raises:** OptionError where processes have different numbers of buckets.
    """

    def tables(v: Record) -> dict[str, int]:
        return {n: entry.mask.shape[1] for n, entry in zip(v.names, v.values, strict=True) if _is_table(entry)}

    local_shapes = [(*bucket.y.shape, tables(bucket.v)) for bucket in buckets]
    all_shapes = processes.gather(local_shapes)
    if len({len(shapes) for shapes in all_shapes}) > 1:
        raise OptionError("the processes hold different numbers of size buckets; bind their data with buckets=1.")
    out = []
    for shapes in zip(*all_shapes, strict=True):
        widths = {name: max(shape[2][name] for shape in shapes) for name in shapes[0][2]}
        out.append((max(shape[0] for shape in shapes), max(shape[1] for shape in shapes), widths))
    return out


def split_into_chunks(
    problem: Problem, counts: list[int], slots_for: Callable[..., int], n_devices: int, chunk: int | None
) -> list[Chunk]:
    """All groups in one chunk, or in chunks of groups of one bucket each.

    **Arguments:** `problem`; `counts`: number of groups of each bucket, the largest in any process; `slots_for(count,
    at_most)`: number of slots for `count` groups; `n_devices`: of this process; `chunk`: the largest number of groups
    in a chunk, None for one chunk.
    """
    inverse = np.argsort(np.asarray(problem.order), kind="stable")
    starts = np.cumsum([0, *(bucket.y.shape[0] for bucket in problem.buckets)])
    bucket_groups = [inverse[begin:end] for begin, end in itertools.pairwise(starts)]
    # A filler is a copy of a group with a positive weight, if there is one: their likelihoods are finite.
    filler = [int(np.argmax(np.asarray(problem.weights)[groups] != 0)) for groups in bucket_groups]

    def make_chunk(parts: list[tuple[int, int, int]]) -> Chunk:
        """The chunk of parts (bucket, first position, slots): device after device, on each bucket after bucket."""
        positions = [np.arange(first, first + slots) for _, first, slots in parts]
        real = [at < len(bucket_groups[k]) for at, (k, _, _) in zip(positions, parts, strict=True)]
        positions = [np.where(r, at, filler[k]) for r, at, (k, _, _) in zip(real, positions, parts, strict=True)]
        source = [bucket_groups[k][at].reshape(n_devices, -1) for at, (k, _, _) in zip(positions, parts, strict=True)]
        return Chunk(
            tuple((k, at, int(r.sum())) for at, r, (k, _, _) in zip(positions, real, parts, strict=True)),
            np.concatenate(source, axis=1).reshape(-1),
            np.concatenate([r.reshape(n_devices, -1) for r in real], axis=1).reshape(-1),
        )

    if chunk is None:
        return [make_chunk([(k, 0, slots_for(count)) for k, count in enumerate(counts)])]
    out = []
    for k, count in enumerate(counts):
        slots = slots_for(count, int(chunk))
        out += [make_chunk([(k, first, slots)]) for first in range(0, count, slots)]
    return out


def _is_table(entry: Any) -> bool:
    return isinstance(entry, Rows)


def pad_groups(
    bucket: Group, positions: np.ndarray, obs: int, tables: dict[str, int], directions: tuple[int, ...]
) -> Group:
    """Groups of a bucket padded to `obs` rows: padding repeats the last row, but for columns of x that rise or fall in
    every group, and the masks are false there; `v.events` has no doses there.

    **Arguments:** `bucket`: stacked groups; `positions` (n,) of the groups in it; `obs`: rows of the result; `tables`:
    rows of each further table, by name; `directions`: of the columns of x (`continued_columns.py`).
    """
    first, count = int(positions[0]), len(positions)
    consecutive = np.array_equal(positions, np.arange(first, first + count))
    chosen = slice(first, first + count) if consecutive else positions

    def cut(leaf: Any, width: int, mask: bool = False) -> Any:
        return pad_rows(np.asarray(leaf)[chosen], width, mask)

    def rows(entry: Rows, width: int) -> Rows:
        zero = ZERO_IN_PADDING if isinstance(entry, Events) else ()
        values = tuple(cut(c, width, name in zero) for name, c in zip(entry.names, entry.values, strict=True))
        new = (values, cut(entry.mask, width, True))
        entry = eqx.tree_at(lambda e: (e.values, e.mask), entry, new)
        if entry.units is not None:
            units = tuple(cut(index, width) for index in entry.units.values)
            entry = eqx.tree_at(lambda e: e.units.values, entry, units)
        if entry.endpoints is not None:
            entry = eqx.tree_at(lambda e: e.endpoints, entry, cut(entry.endpoints, width))
        if entry.observed is None:
            return entry
        return eqx.tree_at(lambda e: e.observed, entry, cut(entry.observed, width, True))

    v = tuple(
        rows(entry, tables[name]) if _is_table(entry) else cut(entry, 0)
        for name, entry in zip(bucket.v.names, bucket.v.values, strict=True)
    )
    return Group(
        cut(bucket.y, obs),
        continued(rows(bucket.x, obs), directions),
        eqx.tree_at(lambda e: e.values, bucket.v, v),
        tuple(cut(c, obs) for c in bucket.covariates),
        None if bucket.strata is None else cut(bucket.strata, obs),
        cut(bucket.key, 0),
        tuple(
            Units(cut(level.index, obs), cut(level.first_row, 0), cut(level.parent, 0), cut(level.present, 0))
            for level in bucket.units
        ),
        None if bucket.layout is None else _pad_layout(bucket.layout, cut, obs),
        tuple(cut(c, obs) for c in bucket.codes),
        tuple(
            EndpointRows(
                None if member.strata is None else cut(member.strata, obs),
                None if member.layout is None else _pad_layout(member.layout, cut, obs),
                tuple(cut(c, obs) for c in member.codes),
                cut(member.fill, 0),
            )
            for member in bucket.members
        ),
        jax.tree.map(lambda leaf: cut(leaf, obs), bucket.limits),
    )


def _pad_layout(layout: SeriesLayout, cut: Callable[..., Any], obs: int) -> SeriesLayout:
    """The layout with padded rows, which belong to no series."""
    code, row_code = (cut(codes + 1, obs, True) - 1 for codes in (layout.code, layout.row_code))
    time, offset, lag = cut(layout.time, obs), cut(layout.offset, obs, True), cut(layout.lag, obs)
    return SeriesLayout(time, code, row_code, offset, lag, layout.offsets, layout.lags, layout.extent)
