"""The timeline of one group: every change of amounts and input rates, in the order in which they happen.

It knows nothing of compartments: closed forms and solvers of differential equations use the same one.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.pkpd.checks import refuse_known
from jaxnlme.pkpd.doses import Doses
from jaxnlme.records import Events, Rows


class Actions(eqx.Module):
    """Changes (actions,) of the state.

    **Fields:** `time`; `segment`: a change of it empties all compartments and stops all infusions; `rows_before`: rows
    of the group that precede the record; `source`: the row of v.events it belongs to; `bolus`: amount that enters;
    `rate`: change of the input rate; `steady`: one where the amounts of the steady state of the source are added, None
    where no record has a steady state; `sorted`: whether they are known to be in order (`in_order`). Amounts and rates
    go to the compartment of the source.
    """

    time: Any
    segment: Any
    rows_before: Any
    source: Any
    bolus: Any
    rate: Any
    steady: Any
    sorted: bool = eqx.field(static=True)


class SteadyState(eqx.Module):
    """Steady states (k,) that records begin with, at the time of the record.

    **Fields:** `begins` (k,): whether the record has one; `constant` (k,): it is that of an infusion without end;
    `interval`: between doses, positive; `since`: time since the last arrival, in (0, interval]; `running`: number of
    infusions that are not over; `waiting`: number of earlier doses that arrive after the record.
    """

    begins: Any
    constant: Any
    interval: Any
    since: Any
    running: Any
    waiting: Any


def steady_states(events: Events, doses: Doses, pending: int = 0) -> SteadyState:
    """The steady states of `v.events`: doses arrive at TIME + LAG - k II for ever, k = 1, 2, ..., with a lag longer
    than II some of them after the record.

    **Arguments:** `pending`: most doses of a record that do so; NaN for more of them.
    **Raises:** ModelError for more of them, where lags are known numbers.
    """
    begins = events.steady_state > 0
    constant = begins & (events.interval <= 0)
    interval = jnp.where(events.interval > 0, events.interval, 1.0)
    lag = jnp.zeros_like(interval) if doses.lag is None else doses.lag
    periods = jnp.maximum(jnp.ceil(jax.lax.stop_gradient(lag) / interval), 1.0)
    waiting = jnp.where(begins & ~constant, periods - 1.0, 0.0)
    refuse_known(
        waiting > pending,
        lambda k: (
            f"the dose at steady state (SS) at time {float(events.time[k]):g} has a lag of {float(lag[k]):g}, longer "
            f"than its interval II {float(interval[k]):g}, so that {int(waiting[k])} of the doses before it arrive "
            f"after it: give the model pending={int(waiting[k])}, or correct the lag."
        ),
    )
    since = jnp.where(waiting > pending, jnp.nan, periods * interval - lag)
    running = jnp.ceil(jax.lax.stop_gradient(doses.duration - since) / interval)
    running = jnp.where(begins & ~constant, jnp.maximum(running, 0.0), 0.0)
    return SteadyState(begins, constant, interval, since, running, waiting)


def actions(
    events: Events,
    doses: Doses,
    steady: SteadyState | None,
    *,
    overlap: int,
    pending: int = 0,
    goes_on: bool = False,
) -> Actions:
    """The Actions of a group.

    **Arguments:** `steady`: None where no record has a steady state; `overlap`: most infusions of a steady state that
    are running when its record comes; more of them give NaN; `pending`: as for `steady_states`; `goes_on`: an infusion
    at constant rate in steady state continues after its record (else it ends there, as in NONMEM).
    **Raises:** ModelError for more infusions than `overlap`, where durations are known numbers.
    """
    k = events.time.shape[0]
    zero = jnp.zeros_like(doses.bolus)
    arrival = events.time if doses.lag is None else events.time + doses.lag
    ones = jnp.ones_like(zero)
    begins = None if steady is None else jnp.where(steady.begins, ones, zero)
    rate = doses.rate
    if steady is not None:  # an infusion without end has a duration of zero
        rate = jnp.where(steady.constant, rate if goes_on else zero, rate)
    # (time, bolus, rate, steady) of each kind of action
    kinds = []
    if begins is None or doses.lag is None:
        kinds.append((arrival, doses.bolus, rate, begins))
    else:
        kinds += [(arrival, doses.bolus, rate, zero), (events.time, zero, zero, begins)]
    if doses.infused:
        ends = rate if steady is None else jnp.where(steady.constant, zero, rate)
        kinds.append((arrival + doses.duration, zero, -ends, None if begins is None else zero))
    if steady is not None and doses.lag is not None:
        for p in range(pending):
            late = steady.waiting > p
            begin = jnp.where(late, arrival - (p + 1) * steady.interval, events.time)
            entering, change = jnp.where(late, doses.bolus, 0.0), jnp.where(late, doses.rate, 0.0)
            kinds.append((begin, entering, change, zero))
            if doses.infused:
                kinds.append((jnp.where(late, begin + doses.duration, events.time), zero, -change, zero))
    if steady is not None and doses.infused:
        running = steady.running
        refuse_known(
            running > overlap,
            lambda k: (
                f"infusions of {int(running[k])} of the doses before it are running when the dose at steady state (SS) "
                f"at time {float(events.time[k]):g} is given (duration {float(doses.duration[k]):g}, II "
                f"{float(steady.interval[k]):g}), more than the records say: give the model "
                f"overlap={int(running[k]) + 1}, or correct the duration."
            ),
        )
        for p in range(overlap):
            open_ = steady.running > p
            end = events.time - steady.since - p * steady.interval + doses.duration
            more = jnp.where(steady.running > overlap, jnp.nan, 0.0) if p == 0 else 0.0
            kinds.append((jnp.where(open_, end, events.time), zero, jnp.where(open_, -rate, 0.0) + more, zero))
        if not overlap:
            kinds[0] = (*kinds[0][:2], kinds[0][2] + jnp.where(steady.running > 0, jnp.nan, 0.0), kinds[0][3])
    n = len(kinds)
    if n == 1:
        time, bolus, change, starts = kinds[0]
        return Actions(
            time, events.segment, events.rows_before, jnp.arange(k), bolus, change, starts, doses.lag is None
        )
    columns = [None if part[0] is None else jnp.concatenate(part) for part in zip(*kinds, strict=True)]
    time, bolus, change, starts = columns
    segment, before, source = (jnp.tile(c, n) for c in (events.segment, events.rows_before, jnp.arange(k)))
    return Actions(time, segment, before, source, bolus, change, starts, False)


def in_order(done: Actions) -> Actions:
    """The actions sorted by segment, then time, then order of records."""
    if done.sorted:
        return done
    order = jnp.lexsort((done.rows_before, jax.lax.stop_gradient(done.time), done.segment))
    return jax.tree.map(lambda column: column[order], done)


def segments_of_rows(x: Rows, events: Events) -> Any:
    """The segment (obs,) of each row of the group."""
    at = jnp.arange(x.mask.shape[0])
    if not events.facts.segments:
        return jnp.zeros(at.shape, events.segment.dtype)
    begun = events.mask[None, :] & (events.rows_before[None, :] <= at[:, None])
    return jnp.max(jnp.where(begun, events.segment[None, :], 0.0), axis=1)


def last_actions_of_rows(time: Any, segment: Any, done: Actions) -> tuple[Any, Any]:
    """The last action (obs,) that has happened at each row; True (obs,) if it is of the row's own segment:
    elsewhere compartments are empty.

    Actions of earlier segments have happened, and of the row's own those up to its time, if at the same time their
    record precedes the row.

    **Arguments:** `time`, `segment` (obs,) of the rows in their order; `done`, in order (`in_order`).
    **Returns:** positions of actions, zero where none has happened, and flags.
    """
    earlier = done.segment[None, :] < segment[:, None]
    count = jnp.sum(earlier | happened_at(time, segment, done), axis=1)
    last = jnp.maximum(count - 1, 0)
    return last, (count > 0) & (done.segment[last] == segment)


def happened_at(time: Any, segment: Any, done: Actions) -> Any:
    """True (obs, actions) where an action of the row's own segment has happened at the row.

    **Arguments:** `time`, `segment` (obs,) of the rows in their order, `segment` None where there is only one; `done`.
    """
    at = jnp.arange(time.shape[0])
    before = (done.time[None, :] <= time[:, None]) & (done.rows_before[None, :] <= at[:, None])
    return before if segment is None else before & (done.segment[None, :] == segment[:, None])
