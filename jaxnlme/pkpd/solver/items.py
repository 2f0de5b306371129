"""Actions and rows of one group in the order in which they happen: the intervals that an ODE is solved over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.pkpd.dose_parameters import DoseParameters
from jaxnlme.pkpd.doses import read_doses
from jaxnlme.pkpd.timeline import Actions, SteadyState, actions, segments_of_rows, steady_states
from jaxnlme.records import Events, Rows


@dataclasses.dataclass(frozen=True, eq=False)
class DoseRules:
    """The way in which the doses of the data enter the states.

    **Fields:** `parameters`: names of those that act on doses; `dosed`: numbers of the compartments that receive doses;
    `overlap`, `goes_on`, `pending`: as for `timeline.actions`; `spread`: compartments whose doses without a rate have
    the modelled duration, as for `read_doses`.
    """

    parameters: DoseParameters
    dosed: tuple[int, ...]
    overlap: int
    goes_on: bool
    spread: tuple[int, ...] = ()
    pending: int = 0

    def infused(self, events: Events) -> bool:
        """True if a dose may be an infusion."""
        return bool(events.facts.infusions or {*self.spread} & {*self.dosed})


class Layout(eqx.Module):
    """The items of a group, its actions and its rows, in the order in which they happen; whole numbers (items,).

    **Fields:** `order`: position in (actions, rows); `segment`; `source`: for an action its row of v.events;
    `compartment`: for an action that of its dose (NONMEM's number); `fresh`: the first item of a segment; `needed`: it
    is a row, or one of its segment follows; `row`: the row whose parameters hold on the interval before the item;
    `first_row`: the first row of the segment; `at_row` (obs,): the item of each row.
    """

    order: Any
    segment: Any
    source: Any
    compartment: Any
    fresh: Any
    needed: Any
    row: Any
    first_row: Any
    at_row: Any


def quantities(
    x: Rows, events: Events, of_dose: Callable[[str, int], Any], rules: DoseRules
) -> tuple[dict[str, Any], tuple[Actions, SteadyState | None]]:
    """Quantities that depend on parameters, by name, and the actions that it was made from, with the time of rows.

    **Arguments:** `of_dose`: as for `read_doses`; `rules` of the doses.
    **Returns:** a dict: `time`, `bolus`, `rate` (actions + rows,) unsorted; `arrival`, `amount` (k,) of the doses; with
    steady states `since`, `infusion`, `duration` (k,). And the Actions, with the SteadyState.
    """
    doses = read_doses(events, of_dose, 1, rules.dosed, rules.spread)
    steady = steady_states(events, doses, rules.pending) if events.facts.steady_state else None
    overlap = max(rules.overlap, 0)
    done = actions(events, doses, steady, overlap=overlap, pending=rules.pending, goes_on=rules.goes_on)
    rate = done.rate
    if steady is not None:
        rate = rate + done.steady * (steady.running * doses.rate)[done.source]
    rows = jnp.zeros_like(x[events.facts.time])
    out = {
        "time": jnp.concatenate([done.time, x[events.facts.time]]),
        "bolus": jnp.concatenate([done.bolus, rows]),
        "rate": jnp.concatenate([rate, rows]),
        "arrival": events.time if doses.lag is None else events.time + doses.lag,
        "amount": doses.bolus,
    }
    if steady is not None:
        duration = jnp.where(steady.constant, 0.0, doses.duration)
        out |= {"since": steady.since, "infusion": doses.rate, "duration": duration}
    return out, (done, steady)


def layout(x: Rows, events: Events, done: Actions) -> Layout:
    """The Layout of a group with the Actions `done`."""
    time_of_rows = jax.lax.stop_gradient(x[events.facts.time])
    n, m = time_of_rows.shape[0], done.time.shape[0]
    at = jnp.arange(n)
    time = jnp.concatenate([jax.lax.stop_gradient(done.time), time_of_rows])
    segment = jnp.concatenate([done.segment, segments_of_rows(x, events)])
    place = jnp.concatenate([done.rows_before - 0.5, at.astype(done.rows_before.dtype)])
    order = jnp.lexsort((place, time, segment))
    segment, is_action = segment[order], order < m
    fresh = jnp.concatenate([jnp.ones(1, bool), segment[1:] != segment[:-1]])
    source = jnp.concatenate([done.source, jnp.zeros(n, done.source.dtype)])[order]
    items = jnp.arange(m + n)
    same, is_row = segment[:, None] == segment[None, :], ~is_action[None, :]
    row_at = jnp.where(is_action, n, order - m)
    later = same & is_row & (items[None, :] >= items[:, None])
    earlier = same & is_row & (items[None, :] < items[:, None])
    next_row = jnp.min(jnp.where(later, row_at[None, :], n), axis=1)
    last_row = jnp.max(jnp.where(earlier, row_at[None, :], -1), axis=1)
    held, other = (next_row, last_row) if events.facts.carry == "nocb" else (last_row, next_row)
    row = jnp.where((held >= 0) & (held < n), held, other)
    first_row = jnp.min(jnp.where(same & is_row, row_at[None, :], n), axis=1)
    position = jnp.zeros(m + n, items.dtype).at[order].set(items)
    number = jnp.where(events.compartment == 0, 1, events.compartment)
    return Layout(
        order,
        segment,
        source,
        jnp.where(is_action, number[source], 0).astype(items.dtype),
        fresh,
        jnp.any(later, axis=1),
        jnp.clip(row, 0, n - 1),
        jnp.clip(first_row, 0, n - 1),
        position[m:],
    )


def record_rows(x: Rows, events: Events) -> Any:
    """The row (k,) whose parameters hold for each dose: its own record's, else the next row."""
    last = x.mask.shape[0] - 1
    return jnp.where(events.row >= 0, events.row, jnp.clip(events.rows_before, 0, last)).astype(int)
