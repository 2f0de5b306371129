"""The adaptive solution of an ODE from one time to the next, for states that carry their partial derivatives."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

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
    `ok`: 1.0 as long as no step failed, else 0.0.
    """

    step: Any
    steps: Any
    ok: Any


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
    for them.

    **Arguments:** `field`: dy/ds; `length` (): of the interval; `y`: states at its start; `size`: of each state, for
    the absolute tolerance; `moving`: false where there is nothing to solve.
    """
    dtype = y[0][0].dtype
    one, eps = jnp.ones((), dtype), jnp.finfo(dtype).eps
    span = jnp.where(length > 0, length, 1.0)
    ratio = jnp.where(length > 0, progress.step / span, 1.0)
    power = 1.0 / control.tableau.order

    def unfinished(state: tuple[Any, ...]) -> Any:
        s, _, _, _, steps, ok = state
        return (s < 1) & (ok > 0) & (steps < control.max_steps)

    def one_step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        s, proposed, y, first, steps, _ = state
        number = jnp.maximum(jnp.ceil((1 - s) / proposed * (1 - 8 * eps)), 1.0)  # equal steps to the end
        h = (1 - s) / number
        new, error, last = step(control.tableau, field, s, h, y, first)
        total, finite = jnp.zeros((), dtype), jnp.ones((), bool)
        for e, before, after, unit in zip(error, y[0], new[0], size, strict=True):
            scale = control.atol * unit + control.rtol * jnp.maximum(jnp.abs(before), jnp.abs(after))
            total = total + (e / jnp.where(scale > 0, scale, 1.0)) ** 2
            finite = finite & jnp.isfinite(after)
        ratio = jnp.sqrt(total / len(error))
        finite = finite & jnp.isfinite(ratio)
        accepted = finite & (ratio <= 1)
        change = SOLVER.safety * jnp.maximum(jnp.where(finite, ratio, jnp.inf), 1e-30) ** -power
        longer = h * jnp.clip(change, SOLVER.least_factor, SOLVER.largest_factor)
        kept = jnp.where(number == 1, jnp.maximum(longer, proposed), longer)  # the last step may have been a short one
        proposed = jnp.where(accepted, kept, jnp.minimum(longer, SOLVER.safety * h))
        s = jnp.where(accepted, jnp.where(number == 1, one, s + h), s)
        y, first = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), (new, last), (y, first))
        return s, proposed, y, first, steps + 1, (proposed > SOLVER.shortest_step).astype(dtype)

    begin = jnp.where(moving & (progress.ok > 0), 0.0, 1.0).astype(dtype)
    first = field(jnp.zeros((), dtype), y)
    state = (begin, jnp.minimum(ratio, 1e6), y, first, progress.steps, progress.ok)
    s, proposed, y, _, steps, ok = jax.lax.while_loop(unfinished, one_step, state)
    after = Progress(jnp.where(moving & (length > 0), proposed * span, progress.step), steps, ok * (s == 1))
    return y, after
