"""The adaptive solution of an ODE from one time to the next, for states that carry their partial derivatives."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.pkpd.solver.linearly_implicit import ORDER, linearly_implicit_step, spectral_radius
from jaxnlme.pkpd.solver.runge_kutta import Field, StatePartials, States, Tableau, step
from jaxnlme.pkpd.solver.settings import SOLVER


@dataclasses.dataclass(frozen=True, eq=False)
class Tolerances:
    """Step-size control: the error of a step is at most `atol` times the size of a state plus `rtol` times its value,
    in the root mean square over states; at most `max_steps` steps from the first record of a group to its last."""

    tableau: Tableau
    rtol: float
    atol: float
    max_steps: int


class Progress(eqx.Module):
    """State of the solution of a group.

    **Fields:** `step`: length of the step to be tried next, in units of time; `steps`: number of steps tried so far;
    `ok`: 1.0 as long as no step failed, else 0.0; `stiff`: 1.0 where the last steps were limited by stability.
    """

    step: Any
    steps: Any
    ok: Any
    stiff: Any


def advance(
    control: Tolerances,
    field: Field,
    length: Any,
    y: StatePartials,
    size: States,
    progress: Progress,
    moving: Any = True,
) -> tuple[StatePartials, Progress]:
    """The states after an interval, from those at its start.

    The interval is 0 <= s <= 1, its `length` in time a factor of the right-hand side: the derivatives in the times of
    events are those of that factor. The steps depend on the values, not on the partial derivatives, and are constants
    for them. Where stability limits the steps of an explicit method, those of a linearly implicit one go on.

    **Arguments:** `field`: dy/ds; `length` (): of the interval; `y`: states at its start; `size`: of each state, for
    the absolute tolerance; `moving`: false where there is nothing to solve.
    """
    dtype = y[0][0].dtype
    span = jnp.where(length > 0, length, 1.0)
    ratio = jnp.where(length > 0, progress.step / span, 1.0)
    begin = jnp.where(moving & (progress.ok > 0), 0.0, 1.0).astype(dtype)
    first = field(jnp.zeros((), dtype), y)
    state = _State(begin, jnp.minimum(ratio, 1e6), y, first, progress.steps, progress.ok, progress.stiff)

    def unfinished(state: _State) -> Any:
        return (state.s < 1) & (state.ok > 0) & (state.steps < control.max_steps)

    def explicit(state: _State) -> _State:
        return _after_step(control, size, state, control.tableau.order, functools.partial(step, control.tableau, field))

    def implicit(state: _State) -> _State:
        return _after_step(control, size, state, ORDER, functools.partial(linearly_implicit_step, field))

    def examine(now: tuple[_State, Any]) -> tuple[_State, Any]:
        """The state with `stiff` where the next step is longer than stability allows; the body of a loop, which a batch
        leaves out where no group waits."""
        state, waiting = now
        fastest = spectral_radius(field.jacobian(state.s, state.y[0]))
        stiff = (state.proposed * fastest > SOLVER.stability_limit).astype(dtype)
        return dataclasses.replace(state, stiff=stiff), waiting & False

    def burst(state: _State) -> _State:
        """Steps of the explicit method, and of the other where those were limited by stability."""
        last = state.steps + SOLVER.steps_of_a_burst
        limit = jnp.where(state.stiff > 0, 0.0, last)
        state = jax.lax.while_loop(lambda now: unfinished(now) & (now.steps < limit), explicit, state)
        state, _ = jax.lax.while_loop(lambda now: now[1], examine, (state, unfinished(state)))
        limit = jnp.where(state.stiff > 0, state.steps + SOLVER.steps_of_a_burst, 0.0)
        return jax.lax.while_loop(lambda now: unfinished(now) & (now.steps < limit), implicit, state)

    if control.tableau.implicit:
        state = jax.lax.while_loop(unfinished, explicit, state)
    else:
        state = jax.lax.while_loop(unfinished, burst, state)
    done = (state.s == 1) & (state.ok > 0)
    proposed = jnp.where(moving & (length > 0), state.proposed * span, progress.step)
    return state.y, Progress(proposed, state.steps, state.ok * done, state.stiff)


class _State(eqx.Module):
    """The solution within an interval 0 <= s <= 1.

    **Fields:** `s`; `proposed`: length of the next step; `y`; `first`: the right-hand side there; `steps`: number tried
    so far; `ok`: 1.0 as long as no step failed; `stiff`: 1.0 where the last steps were those of the linearly implicit
    method.
    """

    s: Any
    proposed: Any
    y: StatePartials
    first: StatePartials
    steps: Any
    ok: Any
    stiff: Any


def _after_step(
    control: Tolerances, size: States, state: _State, order: int, step: Callable[..., tuple[Any, ...]]
) -> _State:
    """The state after one step has been tried, by a method of an `order`."""
    s, proposed, y, first = state.s, state.proposed, state.y, state.first
    one, eps = jnp.ones((), s.dtype), jnp.finfo(s.dtype).eps
    number = jnp.maximum(jnp.ceil((1 - s) / proposed * (1 - 8 * eps)), 1.0)  # equal steps to the end
    h = (1 - s) / number
    new, error, last = step(s, h, y, first)
    total, finite = jnp.zeros((), s.dtype), jnp.ones((), bool)
    for e, before, after, unit in zip(error, y[0], new[0], size, strict=True):
        scale = control.atol * unit + control.rtol * jnp.maximum(jnp.abs(before), jnp.abs(after))
        total = total + (e / jnp.where(scale > 0, scale, 1.0)) ** 2
        finite = finite & jnp.isfinite(after)
    ratio = jnp.sqrt(total / len(error))
    finite = finite & jnp.isfinite(ratio)
    accepted = finite & (ratio <= 1)
    change = SOLVER.safety * jnp.maximum(jnp.where(finite, ratio, jnp.inf), 1e-30) ** (-1.0 / order)
    longer = h * jnp.clip(change, SOLVER.least_factor, SOLVER.largest_factor)
    kept = jnp.where(number == 1, jnp.maximum(longer, proposed), longer)  # the last step may have been a short one
    proposed = jnp.where(accepted, kept, jnp.minimum(longer, SOLVER.safety * h))
    s = jnp.where(accepted, jnp.where(number == 1, one, s + h), s)
    y, first = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), (new, last), (y, first))
    ok = (proposed > SOLVER.shortest_step).astype(s.dtype)
    return _State(s, proposed, y, first, state.steps + 1, ok, state.stiff)
