"""Amounts of linear compartments at the rows of a group.

For parameters that are constant in the group the state is carried from action to action; then all rows are reached from
the state after their last action. For parameters that vary it is carried through actions and rows together. The cost
grows with actions plus rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.numerics.written_out import Entries
from jaxnlme.pkpd.linear import LinearSystem, apply
from jaxnlme.pkpd.timeline import Actions, last_action, segments_of_rows
from jaxnlme.records import Events, Rows


def impulses(system: LinearSystem, done: Actions, into: dict[int, Any], steady: Sequence[Any] | None) -> list[Any]:
    """What each action adds (actions,) to each state of the system; None where none adds anything.

    **Arguments:** `into`: by compartment (position) 1 where it is that of the source, () or (k,); `steady`: by state
    the amounts (k,) of steady states.
    """
    out: list[Any] = [None] * system.size
    for compartment, share in into.items():
        of_action = share if jnp.ndim(share) == 0 else share[done.source]
        out[system.state(compartment)] = of_action * done.bolus
        if compartment in system.infused:
            out[system.input(compartment)] = of_action * done.rate
    if steady is not None:
        for i, amounts in enumerate(steady):
            add = jnp.where(done.steady > 0, amounts[done.source], 0.0)
            out[i] = add if out[i] is None else out[i] + add
    return out


def amounts_at_rows(
    system: LinearSystem, x: Rows, events: Events, done: Actions, added: Sequence[Any], outputs: Sequence[int]
) -> list[Any]:
    """Amounts (obs,) of the states `outputs` (positions) at the rows of the group.

    **Arguments:** `done`, `added`: the actions and what they add, by state (actions,) or None.
    """
    time = x[events.facts.time]
    segment = segments_of_rows(x, events)
    count = last_action(time, segment, done)
    if done.time.shape[0] == 1:
        happened = (count > 0) & (done.segment[0] == segment)
        since = jnp.where(happened, time - done.time[0], 0.0)
        entries = system.transition(since)
        after = [None if value is None else jnp.where(happened, value[0], 0.0) for value in added]
        return apply(entries, after, outputs)
    states = states_after(system, done.time, done.segment, added)
    at = jnp.maximum(count - 1, 0)
    happened = (count > 0) & (done.segment[at] == segment)
    since = jnp.where(happened, time - done.time[at], 0.0)
    after = [None if value is None else jnp.where(happened, value[at], 0.0) for value in states]
    return apply(system.transition(since), after, outputs)


def amounts_by_steps(
    system: LinearSystem, x: Rows, events: Events, done: Actions, added: Sequence[Any], outputs: Sequence[int]
) -> list[Any]:
    """`amounts_at_rows` for rate constants (obs,) that vary in the group.

    Those of a row hold on the interval before it ("nocb"), or after it ("locf"): `events.facts.carry`. An action
    between two rows takes them from the row after (before) it.
    """
    time = x[events.facts.time]
    n_rows, n_actions = time.shape[0], done.time.shape[0]
    segment = segments_of_rows(x, events)
    rows = jnp.arange(n_rows)
    # An action precedes the rows that its record precedes.
    position = jnp.concatenate([done.rows_before - 0.5, rows.astype(time.dtype)])
    times = jnp.concatenate([done.time, time])
    segments = jnp.concatenate([done.segment, segment])
    order = jnp.lexsort((position, jax.lax.stop_gradient(times), segments))
    row = jnp.concatenate([jnp.full(n_actions, -1), rows])[order]
    if events.facts.carry == "nocb":
        source = jax.lax.cummin(jnp.where(row < 0, n_rows - 1, row), reverse=True)
    else:
        last = jax.lax.cummax(row)
        source = jnp.maximum(jnp.concatenate([jnp.zeros(1, last.dtype), last[:-1]]), 0)
    zero = jnp.zeros(n_rows)
    columns = [None if value is None else jnp.concatenate([value, zero])[order] for value in added]
    at_points = system.with_rates(lambda rate: rate[source])
    states = states_after(at_points, times[order], segments[order], columns)
    back = jnp.argsort(order)[n_actions:]
    return [states[i][back] for i in outputs]


def states_after(system: LinearSystem, time: Any, segment: Any, added: Sequence[Any]) -> list[Any]:
    """The states (actions,) right after each action.

    **Arguments:** `system`, with rate constants () or (actions,), which hold on the interval that ends at an action;
    `time`, `segment` (actions,); `added`: what each adds to each state, (actions,) or None.
    """
    n = system.size
    fresh = jnp.concatenate([jnp.ones(1, bool), segment[1:] != segment[:-1]])
    gap = jnp.concatenate([jnp.zeros(1), time[1:] - time[:-1]])
    entries = system.transition(jnp.where(fresh, 0.0, gap))
    shape = time.shape
    columns = [jnp.zeros(shape) if value is None else jnp.broadcast_to(value, shape) for value in added]
    dtype = jnp.result_type(*columns, *entries.values())
    order = list(entries)

    def step(state: tuple, action: tuple) -> tuple[tuple, tuple]:
        fresh, values, add = action
        here: Entries = dict(zip(order, values, strict=True))
        moved = apply(here, state, range(n))
        state = tuple(jnp.where(fresh, 0.0, m) + a for m, a in zip(moved, add, strict=True))
        return state, state

    start = tuple(jnp.zeros((), dtype) for _ in range(n))
    actions = (fresh, tuple(jnp.broadcast_to(entries[at], shape).astype(dtype) for at in order), tuple(columns))
    return list(jax.lax.scan(step, start, actions)[1])
