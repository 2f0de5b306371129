"""Amounts of linear compartments at the rows of a group.

For parameters that are constant in the group the state is carried from action to action; then all rows are reached from
the state after their last action. For parameters that vary it is carried through actions and rows together. The cost
grows with actions plus rows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.numerics.arrays import unfused
from jaxnlme.numerics.written_out import Entries
from jaxnlme.pkpd.linear import LinearSystem, apply
from jaxnlme.pkpd.settings import SOLUTION
from jaxnlme.pkpd.timeline import Actions, happened_at, last_actions_of_rows, segments_of_rows
from jaxnlme.records import Events, Rows


def impulses(system: LinearSystem, done: Actions, into: dict[int, Any], steady: Sequence[Any] | None) -> list[Any]:
    """Additions (actions,) by each action to each state of the system; None where none adds anything.

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


def superposed(obs: int, number: int) -> bool:
    """True where a sum over `number` actions at each of `obs` rows costs less than to carry the state along."""
    return number * obs <= SOLUTION.superposed * (number + obs)


def sum_over_actions(
    system: LinearSystem, x: Rows, events: Events, done: Actions, added: Sequence[Any], outputs: Sequence[int]
) -> list[Any]:
    """`amounts_at_rows` as the sum of what each action contributes, for few actions in any order."""
    time = x[events.facts.time]
    segment = segments_of_rows(x, events) if events.facts.segments else None
    counts = happened_at(time, segment, done)
    since = jnp.where(counts, time[:, None] - done.time[None, :], 0.0)
    after = [None if value is None else jnp.where(counts, value[None, :], 0.0) for value in added]
    return [jnp.sum(amount, axis=1) for amount in apply(system.transition(since), after, outputs)]


def amounts_at_rows(
    system: LinearSystem, x: Rows, events: Events, done: Actions, added: Sequence[Any], outputs: Sequence[int]
) -> list[Any]:
    """Amounts (obs,) of the states `outputs` (positions) at the rows of the group.

    **Arguments:** `done`, `added`: the actions and what they add, by state (actions,) or None.
    """
    time, segment = x[events.facts.time], segments_of_rows(x, events)
    last, happened = last_actions_of_rows(time, segment, done)
    since = jnp.where(happened, time - done.time[last], 0.0)
    fresh, gaps = gaps_between(done.time, done.segment)
    # One evaluation of the transition serves both.
    entries = system.transition(jnp.concatenate([gaps, since]))
    n = gaps.shape[0]
    states = carried(fresh, {entry_at: entry[:n] for entry_at, entry in entries.items()}, added, system.size)
    after = [jnp.where(happened, value[last], 0.0) for value in states]
    return apply({entry_at: unfused(entry[n:]) for entry_at, entry in entries.items()}, after, outputs)


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
    fresh, gaps = gaps_between(times[order], segments[order])
    states = carried(fresh, at_points.transition(gaps), columns, system.size)
    back = jnp.argsort(order)[n_actions:]
    return [states[i][back] for i in outputs]


def gaps_between(time: Any, segment: Any) -> tuple[Any, Any]:
    """Flags (actions,) of the first action of each segment, and times since the action before (zero for the first)."""
    fresh = jnp.concatenate([jnp.ones(1, bool), segment[1:] != segment[:-1]])
    gap = jnp.concatenate([jnp.zeros(1), time[1:] - time[:-1]])
    return fresh, jnp.where(fresh, 0.0, gap)


def carried(fresh: Any, entries: Entries, added: Sequence[Any], n: int) -> list[Any]:
    """The states (actions,) right after each action, n of them.

    **Arguments:** `fresh` (actions,): where the state before is empty; `entries` (actions,): the transition from the
    action before; `added`: what each action adds to each state, (actions,) or None.
    """
    shape = fresh.shape
    keep = 1.0 - fresh
    moving = {entry_at: unfused(keep * entry) for entry_at, entry in entries.items()}
    columns = tuple(jnp.zeros(shape) if value is None else jnp.broadcast_to(value, shape) for value in added)
    dtype = jnp.result_type(*columns, *moving.values())
    values = tuple(value.astype(dtype) for value in moving.values())
    return list(_recurrence(tuple(moving), values, tuple(column.astype(dtype) for column in columns)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _recurrence(order: tuple[tuple[int, int], ...], values: tuple, added: tuple) -> tuple:
    """x_k = P_k x_{k-1} + g_k from x = 0. **Arguments:** `order`: entries of P; `values`: theirs; `added`: g."""

    def step(state: tuple, action: tuple) -> tuple[tuple, tuple]:
        here, add = action
        moved = apply(dict(zip(order, here, strict=True)), state, range(len(state)))
        state = tuple(m + a for m, a in zip(moved, add, strict=True))
        return state, state

    start = tuple(jnp.zeros((), column.dtype) for column in added)
    return jax.lax.scan(step, start, (values, added))[1]


@_recurrence.defjvp
def _recurrence_rule(order: tuple, primals: tuple, tangents: tuple) -> tuple:
    """The change of the states follows the same recurrence, driven by P'_k x_{k-1} + g'_k."""
    values, added = primals
    values_dot, added_dot = tangents
    states = _recurrence(order, values, added)
    before = [_before(x) for x in states]
    driven = apply(dict(zip(order, values_dot, strict=True)), before, range(len(states)))
    return states, _recurrence(order, values, tuple(d + a for d, a in zip(driven, added_dot, strict=True)))


def _before(values: Any) -> Any:
    """The entries (actions,) of the action before, zero at the first one."""
    return jnp.concatenate([jnp.zeros(1, values.dtype), values[:-1]])
