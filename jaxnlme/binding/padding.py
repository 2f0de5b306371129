"""The shapes that groups are padded to, and the arrays of padded groups, on the host."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.data._layout import widened
from jaxnlme.errors import OptionError
from jaxnlme.model.density import Group
from jaxnlme.numerics.devices import Processes
from jaxnlme.records import Record, Rows


@dataclass(frozen=True, eq=False)
class Chunk:
    """What is computed in one call: `parts`, for each bucket in it the positions (n,) of its groups there and how many
    of them are no stand-ins (these come first); `source` (places,): the group, in the order of the data, at each place;
    `real` (places,): false for the stand-ins that fill a piece up (copies of a group, with weight zero)."""

    parts: tuple[tuple[int, np.ndarray, int], ...]
    source: np.ndarray
    real: np.ndarray


def agreed_shapes(processes: Processes, buckets: tuple[Group, ...]) -> list[tuple[int, int, dict[str, int]]]:
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


def split_in_pieces(
    problem: Problem, counts: list[int], most: Callable[..., int], wide: int, chunk: int | None
) -> list[Chunk]:
    """All groups in one piece, or in pieces of at most `chunk` groups of one bucket each. `counts`: groups of each
    bucket, the most that a process has; `most(count, n)`: places for them; `wide`: devices of this process."""
    inverse = np.argsort(np.asarray(problem.order), kind="stable")
    starts = np.cumsum([0, *(bucket.y.shape[0] for bucket in problem.buckets)])
    ours = [inverse[begin:end] for begin, end in itertools.pairwise(starts)]
    # A stand-in is a copy of a group that counts, if there is one: such groups are finite.
    copied = [int(np.argmax(np.asarray(problem.weights)[groups] != 0)) for groups in ours]

    def piece(parts: list[tuple[int, int, int]]) -> Chunk:
        """From (bucket, first, places): device by device, on each one bucket after the other."""
        where = [np.arange(first, first + places) for _, first, places in parts]
        real = [w < len(ours[k]) for w, (k, _, _) in zip(where, parts, strict=True)]
        where = [np.where(r, w, copied[k]) for r, w, (k, _, _) in zip(real, where, parts, strict=True)]
        source = [ours[k][w].reshape(wide, -1) for w, (k, _, _) in zip(where, parts, strict=True)]
        return Chunk(
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


def padded(bucket: Group, where: np.ndarray, obs: int, tables: dict[str, int]) -> Group:
    """The groups at positions `where` of a bucket, padded to `obs` rows: padding repeats the last row, masked."""
    first, count = int(where[0]), len(where)
    stretch = slice(first, first + count) if np.array_equal(where, np.arange(first, first + count)) else where

    def cut(leaf: Any, width: int, mask: bool = False) -> Any:
        return widened(np.asarray(leaf)[stretch], width, mask)

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
