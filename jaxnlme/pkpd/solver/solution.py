"""States at the rows of a group: from item to item, with steady states where records begin with one.

With parameters that are constant in a group, the whole solution is one function of them, whose partial derivatives are
carried along (`differentiable` of `partials.py`). With parameters that vary in it, each interval and each steady
state is such a function of its own parameters and of the state at its start, and JAX joins them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.pkpd.phi_names import values_by_name
from jaxnlme.pkpd.solver.advance import Progress
from jaxnlme.pkpd.solver.equations import Equations
from jaxnlme.pkpd.solver.interval import Held, whole
from jaxnlme.pkpd.solver.items import DoseRules, layout, quantities, record_rows
from jaxnlme.pkpd.solver.partials import Expansion, Partials, differentiable
from jaxnlme.pkpd.solver.pieces import Pieces
from jaxnlme.pkpd.solver.runge_kutta import StatePartials, States
from jaxnlme.pkpd.solver.steady_state import SteadyDose
from jaxnlme.records import Record


def solve_group(equations: Equations, rules: DoseRules, phi: Record, x: Any, v: Any) -> States:
    """Each state (obs,) at the rows of a group, not finite where the solver failed."""
    arrays = equations.arrays()
    functions = equations.with_arrays(jax.tree.map(lambda _: None, arrays))
    if any(jnp.ndim(value) for value in phi):
        return solve(functions, rules, Expansion((), (), 0), lambda: (phi, x, v, arrays), True)[0]
    leaves, tree = jax.tree.flatten((phi, x, v, arrays))

    def evaluate(expansion: Expansion) -> Partials:
        def read(*point: Any) -> tuple[Any, ...]:
            return tree.unflatten(expansion.at(*point))

        return solve(functions, rules, expansion, read, False)

    return differentiable(evaluate, leaves)


def _columns(x: Any, v: Any, row: Any) -> Record:
    """The columns of x and v at a row, by name."""
    own = [(name, value[row]) for name, value in zip(x.names, x.values, strict=True)]
    shared = [(name, value) for name, value in zip(v.names, v.values, strict=True) if not isinstance(value, Record)]
    names, values = zip(*own, *((name, value) for name, value in shared if name not in x.names), strict=True)
    return Record(names, values, "column of the data")


def _steady_states(
    pieces: Pieces,
    parts: dict[str, Partials],
    data: tuple[Any, Any, tuple[int, ...], bool],
    held_at: Callable[..., Callable[..., Held]],
    starts: Callable[..., StatePartials],
    at_records: Any,
    size: States,
) -> StatePartials:
    """By state what the steady state of each record (k,) adds to the state before any dose.

    **Arguments:** `data`: v.events, its SteadyState, the positions of the compartments that receive doses, and True if
    a dose may be an infusion.
    """
    expansion = pieces.expansion
    events, steady, positions, infused = data
    names = ("since", "amount", "infusion", "duration")

    def one(_: None, xs: dict[str, Any]) -> tuple[None, StatePartials]:
        since, amount, infusion, duration = (expansion.function(xs[name]) for name in names)
        into = {k: xs["number"] == k + 1 for k in positions}

        def dose(*point: Any) -> SteadyDose:
            values = (since(*point), amount(*point), infusion(*point), duration(*point))
            return SteadyDose(*values, xs["time"], xs["interval"], xs["begins"], xs["constant"], into)

        y = starts(xs["row"])
        held = held_at(xs["row"], -jnp.inf, xs["segment"])
        found = pieces.steady(held, dose, y, size, infused, events.facts.constant_infusion)
        # The time since the last dose is NaN for a lag longer than the interval; the solver takes no such length.
        lost = xs["begins"] & jnp.isnan(xs["since"][0])
        return None, jax.tree.map(lambda a, b: jnp.where(lost, jnp.nan, a - b), found, y)

    xs = {name: _first(parts[name]) for name in names} | {
        "time": events.time,
        "interval": steady.interval,
        "begins": steady.begins & events.mask,
        "constant": steady.constant,
        "number": jnp.where(events.compartment == 0, 1, events.compartment),
        "row": at_records,
        "segment": events.segment,
    }
    return jax.lax.scan(one, None, xs)[1]


def solve(
    equations: Equations, rules: DoseRules, expansion: Expansion, read: Callable[..., tuple[Any, ...]], varying: bool
) -> tuple[States, ...]:
    """The partials of the states at the rows.

    **Arguments:** `read`: phi, x, v and the arrays of the functions, of the point of the expansion; `varying`: phi
    varies within the group.
    """
    pieces = Pieces(equations, expansion, varying)
    _, x, v, _ = read(*expansion.point)
    events = v.events
    at_records = record_rows(x, events)
    positions = tuple(number - 1 for number in rules.dosed)

    def everything(*point: Any) -> Any:
        phi, x, v, _ = read(*point)
        values = values_by_name(phi)

        def of_dose(kind: str, number: int) -> Any:
            value = rules.parameters.value(kind, number, values)
            return value if value is None or jnp.ndim(value) == 0 else value[at_records]

        return quantities(x, v.events, of_dose, rules)

    parts = expansion.expand_sparse(lambda *p: everything(*p)[0])
    done, steady = everything(*expansion.point)[1]
    items = layout(x, events, done)
    like = parts["time"][0][0]

    def held_at(row: Any, start: Any, segment: Any) -> Callable[..., Held]:
        """Values on the interval that ends at an item, with the parameters of `row`."""
        arrived = (jax.lax.stop_gradient(parts["arrival"][0]) <= start) & (events.segment == segment) & events.mask
        number = jnp.where(events.compartment == 0, 1, events.compartment)
        into = {k: arrived & (number == k + 1) for k, _ in equations.inputs}
        amount, arrival = expansion.function(parts["amount"]), expansion.function(parts["arrival"])

        def held(*point: Any) -> Held:
            phi, x, v, arrays = read(*point)
            here = Record(phi.names, tuple(p[row] if jnp.ndim(p) else p for p in phi), phi.entry_kind)
            doses = (arrival(*point), amount(*point)) if into else (None, None)
            return Held(here, _columns(x, v, row), *doses, into, arrays)

        return held

    def starts(row: Any) -> StatePartials:
        held = held_at(row, like, 0)

        def fn(*point: Any) -> States:
            here = held(*point)
            return equations.with_arrays(here.arrays).starts(here.phi, like)

        return expansion.dense(expansion.expand(fn))

    entries, infused = {k for k, _ in equations.inputs}, rules.infused(events)
    doses = jnp.where(events.mask, events.amount, 0.0)
    dose = jnp.max(jnp.abs(doses), initial=0.0)
    first_states = starts(items.first_row[0])
    size = tuple(
        jax.lax.stop_gradient(jnp.where(value != 0, jnp.abs(value), jnp.where(dose > 0, dose, 1.0)))
        for value in first_states[0]
    )
    sizes = equations.sizes(size)
    added = None
    if steady is not None:
        added = _steady_states(pieces, parts, (events, steady, positions, infused), held_at, starts, at_records, sizes)

    def in_order(name: str) -> Partials:
        return tuple(part[..., items.order] for part in parts[name])

    time = in_order("time")
    before = tuple(jnp.concatenate([part[..., :1], part[..., :-1]], axis=-1) for part in time)
    still = items.fresh | ~items.needed
    length = tuple(jnp.where(still, 0.0, a - b) for a, b in zip(time, before, strict=True))
    rate = in_order("rate")
    steady_flag = (
        jnp.zeros(len(items.order))
        if steady is None
        else jnp.concatenate([done.steady, jnp.zeros(len(items.order) - len(done.steady))])[items.order]
    )
    no_rate = tuple(jnp.zeros_like(part[..., 0]) for part in rate)
    inputs_rate = dict.fromkeys(positions, no_rate) if infused else {}

    def item(carry: tuple[Any, ...], xs: dict[str, Any]) -> tuple[Any, StatePartials]:
        y, rates, progress = carry
        held = held_at(xs["row"], xs["before"][0], xs["segment"])
        moving = xs["needed"] & ~xs["fresh"]
        y, progress = pieces.interval(held, xs["before"], xs["length"], rates, y, sizes, progress, moving)
        begin = starts(xs["first_row"]) if varying else first_states
        y = jax.tree.map(lambda a, b: jnp.where(xs["fresh"], a, b), begin, y)
        rates = jax.tree.map(lambda r: jnp.where(xs["fresh"], 0.0, r), rates)
        out = [list(part) for part in y]
        for k in positions:
            here = xs["compartment"] == k + 1
            if k not in entries:
                for part, bolus in zip(out, xs["bolus"], strict=False):
                    part[k] = part[k] + jnp.where(here, bolus, 0.0)
            if infused:
                rates[k] = tuple(
                    r + jnp.where(here, change, 0.0) for r, change in zip(rates[k], xs["rate"], strict=True)
                )
        if added is not None:
            for part, extra in zip(out, added, strict=True):
                for k, values in enumerate(extra):
                    part[k] = part[k] + jnp.where(xs["steady"] > 0, values[xs["source"]], 0.0)
        y = tuple(map(tuple, out))
        seen = y
        if any(entry.gives_fraction for _, entry in equations.inputs):
            now = held_at(xs["row"], xs["time"][0], xs["segment"])
            t_, y_ = expansion.function(xs["time"]), expansion.function(y)
            seen = expansion.dense(expansion.expand(lambda *p: whole(equations, t_(*p), y_(*p), now(*p))))
        return (y, rates, progress), seen

    xs = {
        "time": _first(time),
        "before": _first(before),
        "length": _first(length),
        "bolus": _first(in_order("bolus")),
        "rate": _first(rate),
        "steady": steady_flag,
        "row": items.row,
        "first_row": items.first_row,
        "segment": items.segment,
        "fresh": items.fresh,
        "needed": items.needed,
        "compartment": items.compartment,
        "source": items.source,
    }
    zero, one = jnp.zeros_like(like), jnp.ones_like(like)
    progress = Progress(one * jnp.maximum(jnp.max(length[0]), 0.0), zero, one, zero)
    (_, _, progress), seen = jax.lax.scan(item, (first_states, inputs_rate, progress), xs)
    rows = jax.tree.map(lambda leaf: jnp.moveaxis(leaf[items.at_row], 0, -1), seen)
    return jax.tree.map(lambda leaf: jnp.where(progress.ok > 0, leaf, jnp.nan), rows)


def _first(partials: Partials) -> Partials:
    """The last axis of arrays, that of the items, as the first one, for a loop over it."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), partials)
