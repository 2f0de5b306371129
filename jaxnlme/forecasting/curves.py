"""Curves: predictions of many subjects at any times, on either side of each dose.

The rows of the data are replaced by the times asked for; what else a model reads of a row (occasion, endpoint, a
covariate that changes in time) is that of the row of the data that holds at the time. One compiled program serves all
calls of similar size.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding, bind
from jaxnlme.data._layout import next_size, pad_rows
from jaxnlme.errors import OptionError
from jaxnlme.forecasting.settings import CURVES
from jaxnlme.model.density import Density, Group
from jaxnlme.model.levels import Units
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.records import Events, Record, Rows

# Sides of a time at which there is a dose.
BEFORE, AFTER = 0, 1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Curves:
    """The curves of subjects.

    **Fields:** `binding`: the model bound to their data, in one bucket; `template`: Params with the free block;
    `time_name`; `packed` (draws, packed): population parameters; `effects` (subjects, random), whitened; `group`,
    `draw` (subjects,): the group of the data and the parameters of each subject; `scale` (doses,) or
    (groups, doses): factors of the amounts, None for 1.
    """

    binding: Binding
    template: Params
    time_name: str
    packed: np.ndarray
    effects: np.ndarray
    group: np.ndarray
    draw: np.ndarray
    scale: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Number of subjects."""
        return len(self.group)

    def scaled(self, scale: Any) -> Curves:
        """The same subjects with amounts (and rates of infusions) times `scale`, a number or (doses,) factors."""
        _, mask = self.binding.data.tables["events"]
        return dataclasses.replace(self, scale=np.broadcast_to(np.asarray(scale, float), mask.shape))

    # --- events ---

    @functools.cached_property
    def _events(self) -> tuple[dict[str, np.ndarray], np.ndarray] | None:
        """The table of doses (groups, doses) and its mask, None without event records.

        **Raises:** OptionError where time begins anew.
        """
        data = self.binding.data
        if data.events is None:
            return None
        table, mask = data.tables["events"]
        backwards = (np.diff(table["time"], axis=1) < 0) & mask[:, 1:]
        records = np.diff(data.x[self.time_name], axis=1) < 0
        for group in np.flatnonzero(backwards.any(axis=1) | (records & data.rows[:, 1:]).any(axis=1)):
            if ((table["reset"][group] > 0) & mask[group]).any():
                raise OptionError(
                    f"group {data.labels[group]!r} has a reset after which time begins anew, so that a time does not "
                    "say which part of the curve is meant; give each part a group of its own."
                )
        return table, mask

    @functools.cached_property
    def breaks(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The times at which doses and infusions begin and infusions end, as far as the data give them: a list of the
        different ones, and for each group of the data its position there."""
        n = self.binding.data.n_groups
        if self._events is None:
            return np.zeros(n, int), [np.zeros(0)]
        table, mask = self._events
        with np.errstate(divide="ignore", invalid="ignore"):
            stop = table["time"] + np.where(table["rate"] > 0, table["amount"] / table["rate"], 0.0)
        # The duration of an infusion is a quotient: those of subjects with other amounts differ in the last digits.
        scale = float(np.abs(stop[mask]).max(initial=0.0)) or 1.0
        digits = 12 - math.ceil(math.log10(scale))
        columns = np.hstack([np.where(mask, table["time"], np.inf), np.where(mask, np.round(stop, digits), np.inf)])
        _, first, which = np.unique(columns, axis=0, return_index=True, return_inverse=True)
        both = (np.concatenate([table["time"][k][mask[k]], stop[k][mask[k]]]) for k in first)
        return which.ravel(), [np.unique(times) for times in both]

    # --- evaluation ---

    def __call__(self, subject: np.ndarray, times: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Predictions (curves, points).

        **Arguments:** `subject` (curves,); `times` (curves, points), not falling along a curve; `side` (curves,
        points): BEFORE or AFTER a dose at that time.
        """
        asked = times.shape[1]
        points = next_size(asked, CURVES.bits)
        times, side = (np.concatenate([a, np.repeat(a[:, -1:], points - asked, axis=1)], axis=1) for a in (times, side))
        most = max(CURVES.cells_per_call // points, CURVES.sizes[0])
        sizes = [size for size in CURVES.sizes if size <= most]
        out = np.empty((len(times), asked))
        start = 0
        with x64():
            density, template = on_device((self.binding.density, self.template))
            program = compiled(_predictions, sizes[-1] * points, once=True)
            while start < len(subject):
                count = min(len(subject) - start, sizes[-1])
                larger = next(size for size in sizes if size >= count)
                # A larger program that would be mostly padding is not used: the next smaller one runs several times.
                size = max((s for s in sizes if s <= count and 4 * count < larger), default=larger)
                count = min(count, size)
                at = start + np.minimum(np.arange(size), count - 1)
                group, place = self._groups(subject[at], times[at], side[at])
                arguments = (self.packed[self.draw[subject[at]]], self.effects[subject[at]], group)
                values = np.asarray(program(density, template, *arguments))[:count]
                values = values if place is None else np.take_along_axis(values, place[:count], 1)
                out[start : start + count] = values[:, :asked]
                start += count
        return out

    def _groups(self, subject: np.ndarray, times: np.ndarray, side: np.ndarray) -> tuple[Group, np.ndarray | None]:
        """The stacked groups of curves, and the columns of the rows asked for (None: all)."""
        group = self.group[subject]
        bucket = self.binding.problem.buckets[0]
        events, place = None, None
        if self._events is not None:
            at = bucket.v["events"]
            width = next_size(np.shape(at.mask)[1], CURVES.bits)
            columns = zip(at.names, at.values, strict=True)
            values = {name: pad_rows(np.asarray(column)[group], width) for name, column in columns}
            if self.scale is not None:
                scale = pad_rows(self.scale[group], width)
                values["amount"] = values["amount"] * scale
                values["rate"] = np.where(values["rate"] > 0, values["rate"] * scale, values["rate"])
            starts = values["steady_state"] == 1  # rows at its time are after it
            if at.facts.rows_are_records:
                points = times.shape[1]
                rank = np.concatenate([2.0 * side, np.where(starts, -1.0, 1.0)], axis=1)
                times = np.concatenate([times, values["time"]], axis=1)
                order = np.lexsort((rank, times), axis=1)
                where = np.argsort(order, axis=1)
                times, place = np.take_along_axis(times, order, 1), where[:, :points]
                values["rows_before"] = values["row"] = where[:, points:].astype(float)
            else:
                earlier = times[:, None, :] < values["time"][:, :, None]
                same = (times[:, None, :] == values["time"][:, :, None]) & (side[:, None, :] == BEFORE)
                values["rows_before"] = (earlier | (same & ~starts[:, :, None])).sum(axis=2).astype(float)
            # Padded doses have no amount.
            for name in ("amount", "rate", "steady_state", "interval", "reset"):
                values[name][:, np.shape(at.mask)[1] :] = 0.0
            events = Events(
                at.names, tuple(values[name] for name in at.names), at.entry_kind,
                pad_rows(np.asarray(at.mask)[group], width, mask=True),
                units=None if at.units is None else jax.tree.map(
                    lambda leaf: pad_rows(np.asarray(leaf)[group], width), at.units
                ),
                facts=at.facts,
            )  # fmt: skip
        return self._rows(bucket, group, times, events), place

    def _rows(self, bucket: Group, group: np.ndarray, times: np.ndarray, events: Events | None) -> Group:
        """Groups with rows at `times` (curves, rows), whose other columns are those of the rows that hold then."""
        source = self._source(group, times)

        def by_row(leaf: Any) -> np.ndarray:
            return np.take_along_axis(np.asarray(leaf)[group], source, 1)

        x = bucket.x
        k = x.names.index(self.time_name)
        values = tuple(times if j == k else by_row(column) for j, column in enumerate(x.values))
        units = tuple(_units(unit, by_row(unit.index), group) for unit in bucket.units)
        of_units = None if x.units is None else Record(x.units.names, tuple(u.index for u in units), "nested level")
        cells = np.ones(times.shape, bool)
        endpoints = None if x.endpoints is None else by_row(x.endpoints)
        rows = Rows(x.names, values, x.entry_kind, cells, ~cells, of_units, endpoints, text_columns=x.text_columns)
        v = bucket.v
        of_v = [jax.tree.map(lambda leaf: np.asarray(leaf)[group], value) for value in v.values]
        of_v = [events if name == "events" else value for name, value in zip(v.names, of_v, strict=True)]
        record = Record(v.names, tuple(of_v), v.entry_kind, text_columns=v.text_columns)
        covariates = tuple(by_row(c) if np.ndim(c) > 1 else np.asarray(c)[group] for c in bucket.covariates)
        return Group(np.ones(times.shape), rows, record, covariates, None, np.asarray(bucket.key)[group], units)

    def _source(self, group: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The row of the data whose columns hold at each time: the next one (nocb), or the last one."""
        data = self.binding.data
        facts = None if data.events is None else data.events.facts
        nocb = facts is not None and facts.carry == "nocb"
        source = np.zeros(times.shape, int)
        at, sizes = data.x[self.time_name], data.sizes
        for each in np.unique(group) if self._rows_differ else ():
            rows = at[each][: sizes[each]]
            found = np.searchsorted(rows, times[group == each], "left" if nocb else "right") - (not nocb)
            source[group == each] = np.clip(found, 0, sizes[each] - 1)
        return source

    @functools.cached_property
    def _rows_differ(self) -> bool:
        """True if a column other than time differs between the rows of a group."""
        bucket = self.binding.problem.buckets[0]
        x = bucket.x
        columns = [value for name, value in zip(x.names, x.values, strict=True) if name != self.time_name]
        columns += [c for c in bucket.covariates if np.ndim(c) > 1] + [unit.index for unit in bucket.units]
        columns += [] if x.endpoints is None else [x.endpoints]
        return any((np.asarray(c) != np.asarray(c)[:, :1]).any() for c in columns)


def _units(unit: Units, index: np.ndarray, group: np.ndarray) -> Units:
    """The units of a nested level for new rows whose units are `index` (curves, rows)."""
    number = np.arange(np.asarray(unit.first_row).shape[1])
    first = (index[:, None, :] == number[None, :, None]).argmax(axis=2)
    return Units(index, first, np.asarray(unit.parent)[group], np.asarray(unit.present)[group])


def _predictions(density: Density, template: Params, packed: jax.Array, effects: jax.Array, groups: Group) -> Any:
    """Predictions (curves, rows) of stacked groups, each with its own parameters and effects."""

    def one(row: jax.Array, z: jax.Array, group: Group) -> jax.Array:
        return jnp.asarray(density.predict(template.unpack(row), z, group))

    return jax.vmap(one)(packed, effects, groups)


def in_one_bucket(binding: Binding) -> Binding:
    """The binding with all groups padded to one number of rows."""
    if len(binding.problem.buckets) == 1:
        return binding
    return bind(binding.model, binding.data, like=binding, buckets=1)
