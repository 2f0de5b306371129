"""Steady states of an ODE: the fixed point of the map over one dosing interval, found by Newton's method.

With P(y) the states one interval after y, a dose included, y = P(y) is solved for the values with the Jacobian M of P,
which comes with the solution over the interval. The partial derivatives of the fixed point obey y = P(y) too: applied
to states with their partials, the iteration y <- y + (I - M)^-1 (P(y) - y) makes those of one order more exact each
time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.pkpd.solver.advance import Progress, advance
from jaxnlme.pkpd.solver.equations import Equations
from jaxnlme.pkpd.solver.interval import Held, interval_field
from jaxnlme.pkpd.solver.partials import Expansion, Partials
from jaxnlme.pkpd.solver.runge_kutta import StatePartials, States
from jaxnlme.pkpd.solver.settings import SOLVER


class SteadyDose(eqx.Module):
    """The dose of a record that begins in steady state.

    **Fields:** `since`: time since the last dose arrived; `dose`: amount that enters at once; `infusion`, `duration`:
    of an infusion; `time` of the record; `interval` between doses; `begins`: the record has a steady state;
    `constant`: that of an infusion without end; `into`: by state, the dose enters it.
    """

    since: Any
    dose: Any
    infusion: Any
    duration: Any
    time: Any
    interval: Any
    begins: Any
    constant: Any
    into: dict[int, Any]


def steady_state(
    equations: Equations,
    expansion: Expansion,
    held: Callable[..., Held],
    dose: Callable[..., SteadyDose],
    y: StatePartials,
    size: States,
    infused: bool,
    constant: bool,
) -> StatePartials:
    """The states of the steady state when the record comes; NaN where none is found.

    **Arguments:** `held`, `dose`: of the point of the expansion; `y`: states from which the search starts; `infused`,
    `constant`: a dose may be an infusion, or one without end.
    """
    at = dose(*expansion.point)
    found = _periodic(equations, expansion, held, dose, y, size, infused)
    if not constant:
        return found
    unending = _constant(equations, expansion, held, dose, y)
    return jax.tree.map(lambda a, b: jnp.where(at.constant, a, b), unending, found)


def _periodic(
    equations: Equations,
    expansion: Expansion,
    held: Callable[..., Held],
    dose: Callable[..., SteadyDose],
    y: StatePartials,
    size: States,
    infused: bool,
) -> StatePartials:
    at = dose(*expansion.point)
    begins = at.begins & ~at.constant
    whole_intervals = jax.lax.stop_gradient(jnp.floor(at.duration / at.interval))

    def phases(*point: Any) -> dict[str, Any]:
        """Two phases from the arrival of a dose, before and after the end of an infusion: for a whole interval, and up
        to the record, where the search is over."""
        here = dose(*point)
        r = here.duration - whole_intervals * here.interval if infused else jnp.zeros_like(here.since)
        arrival = here.time - here.since
        before = r >= here.since
        ends = jnp.stack([jnp.where(before, here.since, r), jnp.where(before, 0.0, here.since - r)])
        running = jnp.stack([whole_intervals + 1.0, whole_intervals]) * here.infusion
        full = {"start": jnp.stack([arrival - here.interval, arrival - here.interval + r])}
        full |= {"length": jnp.stack([r, here.interval - r]), "rate": running, "dose": here.dose}
        last = {"start": jnp.stack([arrival, arrival + r]), "length": ends, "rate": running, "dose": here.dose}
        return {f"{name}{k}": value for k, part in enumerate((full, last)) for name, value in part.items()}

    def flow(expansion: Expansion, held: Callable[..., Held], y: StatePartials, parts: dict[str, Partials], ok: Any):
        """The states after a dose and two phases."""
        added = expansion.dense(parts["dose"])
        y = tuple(
            tuple(v + jnp.where(at.into[k], a, 0.0) if k in at.into else v for k, v in enumerate(part))
            for part, a in zip(y, added, strict=True)
        )

        def phase(carry: tuple[Any, Progress], xs: tuple[Any, ...]) -> tuple[Any, None]:
            y, progress = carry
            start, length, rate = xs
            rates = {k: tuple(jnp.where(into, part, 0.0) for part in rate) for k, into in at.into.items()}
            field = interval_field(equations, expansion, held, start, length, rates if infused else {})
            moving = begins & ((length[0] > 0) | (len(length) > 1))
            return advance(equations.control, field, length[0], y, size, progress, moving), None

        xs = jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf, -1, 0), tuple(parts[name] for name in ("start", "length", "rate"))
        )
        if not infused:
            xs = jax.tree.map(lambda leaf: leaf[1:], xs)
        like = y[0][0]
        calm = jnp.zeros_like(like)
        first = Progress(at.interval.astype(like.dtype), calm, ok, calm)
        (y, progress), _ = jax.lax.scan(phase, (y, first), xs)
        return y, progress.ok

    parts = expansion.expand_sparse(phases)
    values = {name: part[:1] for name, part in parts.items()}
    here = held(*expansion.point)
    start = jnp.stack(y[0])
    n = len(start)
    identity = jnp.eye(n, dtype=start.dtype)

    def improve(state: tuple[Any, ...]) -> tuple[Any, ...]:
        point, _, _, iteration = state
        own = Expansion(tuple(point), tuple(range(n)), 1)
        full = {name[:-1]: value for name, value in values.items() if name.endswith("0")}
        ones = jnp.ones((), start.dtype)
        (after, slopes), ok = flow(own, lambda *_: here, (tuple(point), tuple(identity)), full, ones)
        matrix = identity - jnp.stack(slopes)
        move = jnp.linalg.solve(matrix, jnp.stack(after) - point)
        move = jnp.where(ok > 0, move, jnp.nan)
        return point + move, matrix, _change(move, point, size), iteration + 1

    def unfinished(state: tuple[Any, ...]) -> Any:
        _, _, change, iteration = state
        return begins & (change > 0.1 * equations.control.rtol) & (iteration < SOLVER.steady_iterations)

    first = (start, identity, jnp.where(begins, jnp.inf, 0.0).astype(start.dtype), 0)
    point, matrix, change, _ = jax.lax.while_loop(unfinished, improve, first)
    found = change <= jnp.maximum(SOLVER.steady_tolerance, equations.control.rtol)
    point = jnp.where(found, point, jnp.nan)
    inverse = jnp.linalg.inv(matrix)
    order = expansion.order

    cases = {name: (parts[f"{name}0"], parts[f"{name}1"]) for name in ("start", "length", "rate", "dose")}
    cases = {k: (a, b) if len(a) == len(b) else tuple(map(expansion.dense, (a, b))) for k, (a, b) in cases.items()}

    def refine(y: StatePartials, last: Any) -> tuple[StatePartials, None]:
        chosen = {
            name: tuple(jnp.where(last, b, a) for a, b in zip(*both, strict=True)) for name, both in cases.items()
        }
        after, ok = flow(expansion, held, y, chosen, jnp.ones((), start.dtype))

        def closer(a: States, b: States) -> States:
            new = jnp.stack(a) + jnp.tensordot(inverse, jnp.stack(b) - jnp.stack(a), 1)
            return tuple(jnp.where(ok > 0, jnp.where(last, jnp.stack(b), new), jnp.nan))

        return tuple(map(closer, y, after)), None

    dense = (tuple(point), *y[1:])
    dense, _ = jax.lax.scan(refine, dense, jnp.arange(order + 1) == order)
    return dense


def _change(move: Any, point: Any, size: States) -> Any:
    """The largest relative change; NaN where one is not a number."""
    unit = jnp.abs(point) + jnp.abs(move) + 1e-12 * jnp.stack(size)
    return jnp.max(jnp.abs(move) / jnp.where(unit > 0, unit, 1.0))


def _constant(
    equations: Equations,
    expansion: Expansion,
    held: Callable[..., Held],
    dose: Callable[..., SteadyDose],
    y: StatePartials,
) -> StatePartials:
    """The states at which an infusion without end keeps the right-hand side at zero."""
    at = dose(*expansion.point)
    begins = at.begins & at.constant
    parts = expansion.expand_sparse(lambda *p: {k: jnp.where(v, dose(*p).infusion, 0.0) for k, v in at.into.items()})
    one = (jnp.ones((), y[0][0].dtype),)
    field = interval_field(equations, expansion, held, (at.time,), one, parts)
    zero = jnp.zeros((), y[0][0].dtype)

    def improve(state: tuple[Any, ...]) -> tuple[Any, ...]:
        point, _, iteration = state
        move = -jnp.linalg.solve(field.jacobian(zero, tuple(point)), jnp.stack(field.values(zero, tuple(point))))
        return point + move, _change(move, point, tuple(jnp.ones_like(point))), iteration + 1

    def unfinished(state: tuple[Any, ...]) -> Any:
        return begins & (state[1] > SOLVER.newton_tolerance) & (state[2] < SOLVER.steady_iterations)

    start = jnp.stack(y[0])
    first = (start, jnp.where(begins, jnp.inf, 0.0).astype(start.dtype), 0)
    point, change, _ = jax.lax.while_loop(unfinished, improve, first)
    point = jnp.where(change <= SOLVER.steady_tolerance, point, jnp.nan)
    inverse = jnp.linalg.inv(field.jacobian(zero, tuple(point)))
    y = (tuple(point), *y[1:])
    for _ in range(expansion.order):
        slopes = field(zero, y)
        y = tuple(tuple(jnp.stack(a) - jnp.tensordot(inverse, jnp.stack(b), 1)) for a, b in zip(y, slopes, strict=True))
    return y
