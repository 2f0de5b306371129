"""Actions and rows of one group in the order in which they happen: the intervals that an ODE is solved over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.pkpd.doses import Doses, read_doses
from jaxnlme.pkpd.timeline import SteadyState, actions, segments_of_rows, steady_states
from jaxnlme.records import Events, Rows


class Layout(eqx.Module):
    """Whole numbers (items,) that describe the items of a group: its actions and its rows.

    **Fields:** `order`: position in (actions, rows); `action`: the item is an action; `source`: its row of v.events;
    `compartment`: of its dose (NONMEM's number); `fresh`: it is the first of a segment; `needed`: a row of the segment
    follows, or it is one; `row`: the row whose parameters hold on the interval before the item; `first_row`: the first
    row of the segment; `before` (items, k): the dose has arrived before the item in its segment; `at_row` (obs,): item
    of each row; `record_row` (k,): the row whose parameters hold for a dose.
    """

    order: Any
    action: Any
    source: Any
    compartment: Any
    fresh: Any
    needed: Any
    row: Any
    first_row: Any
    before: Any
    at_row: Any
    record_row: Any


def quantities(
    x: Rows, events: Events, of_dose: Callable[[str, int], Any], dosed: tuple[int, ...], overlap: int, goes_on: bool
) -> tuple[dict[str, Any], Any]:
    """What depends on parameters, by name, and the actions that it was made from, with the time of rows.

    **Arguments:** `of_dose`: as for `read_doses`; `dosed`: numbers of the compartments that receive doses; `overlap`,
    `goes_on`: as for `timeline.actions`.
    **Returns:** a dict: `time`, `bolus`, `rate` (actions + rows,) unsorted; `arrival`, `amount` (k,) of the doses;
    with steady states `interval`, `since`, `dose`, `infusion`, `duration` (k,). And the Actions.
    """
    doses = read_doses(events, of_dose, 1, dosed)
    steady = steady_states(events, doses) if events.facts.steady_state else None
    done = actions(events, doses, steady, overlap=max(overlap, 0), goes_on=goes_on)
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
        out |= _of_steady_states(doses, steady)
    return out, (done, steady)


def _of_steady_states(doses: Doses, steady: SteadyState) -> dict[str, Any]:
    return {
        "interval": steady.interval,
        "since": steady.since,
        "dose": doses.bolus,
        "infusion": doses.rate,
        "duration": jnp.where(steady.constant, 0.0, doses.duration),
    }


def layout(x: Rows, events: Events, done: Any) -> Layout:
    """The Layout of a group with the Actions `done`."""
    time_of_rows = jax.lax.stop_gradient(x[events.facts.time])
    n, k = time_of_rows.shape[0], events.time.shape[0]
    m = done.time.shape[0]
    at = jnp.arange(n)
    time = jnp.concatenate([jax.lax.stop_gradient(done.time), time_of_rows])
    segment = jnp.concatenate([done.segment, segments_of_rows(x, events)])
    place = jnp.concatenate([done.rows_before - 0.5, at.astype(done.rows_before.dtype)])
    order = jnp.lexsort((place, time, segment))
    segment, is_action = segment[order], order < m
    fresh = jnp.concatenate([jnp.ones(1, bool), segment[1:] != segment[:-1]])
    source = jnp.concatenate([done.source, jnp.zeros(n, done.source.dtype)])[order]
    items = jnp.arange(m + n)
    row_at = jnp.where(is_action, n, order - m)  # of the item, n for actions
    same = segment[:, None] == segment[None, :]
    is_row = ~is_action[None, :]
    later = same & is_row & (items[None, :] >= items[:, None])
    earlier = same & is_row & (items[None, :] < items[:, None])
    next_row = jnp.min(jnp.where(later, row_at[None, :], n), axis=1)
    last_row = jnp.max(jnp.where(earlier, row_at[None, :], -1), axis=1)
    first_row = jnp.min(jnp.where(same & is_row, row_at[None, :], n), axis=1)
    nocb = events.facts.carry == "nocb"
    held, other = (next_row, last_row) if nocb else (last_row, next_row)
    there = (held >= 0) & (held < n)
    row = jnp.clip(jnp.where(there, held, other), 0, n - 1)
    position = jnp.zeros(m + n, items.dtype).at[order].set(items)
    arrives = jnp.full(k, m + n, items.dtype).at[done.source].min(jnp.where(done.steady_only, m + n, position[:m]))
    number = jnp.where(events.compartment == 0, 1, events.compartment)
    before = (arrives[None, :] < items[:, None]) & (events.segment[None, :] == segment[:, None])
    record_row = jnp.where(events.row >= 0, events.row, jnp.minimum(events.rows_before, n - 1)).astype(items.dtype)
    return Layout(
        order,
        is_action,
        source,
        number[source],
        fresh,
        jnp.any(later, axis=1),
        row,
        jnp.clip(first_row, 0, n - 1),
        before,
        position[m:],
        record_row,
    )
