"""Rate constants of decay of a linear system, those nearly equal, and sums over doses at each.

A sum over doses g(z) = sum_j D_j exp(-z (t - t_j)) is all that is needed of the doses (`responses.py`): with its
derivatives at rate constants that are apart, and on a circle around those that are close to each other.

**Source:** Kassam and Trefethen (2005), SIAM Journal on Scientific Computing 26, 1214-1233 (sums over a circle where
eigenvalues meet).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.numerics.arrays import unfused
from jaxnlme.pkpd.settings import CIRCLE
from jaxnlme.pkpd.solution import gaps_between, superposed
from jaxnlme.pkpd.timeline import Actions, happened_at, last_actions_of_rows, segments_of_rows
from jaxnlme.records import Events, Rows

Pair = tuple[Any, Any]  # real and imaginary parts


class Spectrum(eqx.Module):
    """Rate constants of decay, constants for differentiation.

    **Fields:** `poles`: the rate constants, each (); `circled`: for each whether the circle is around it; `close` ():
    whether there is a circle; `nodes`, `weights`: the points of its upper half at which it is used, and their weights,
    each a pair of real and imaginary parts (nodes,); None without any pair that could be close.
    """

    poles: tuple[Any, ...]
    circled: tuple[Any, ...]
    close: Any
    nodes: Any
    weights: Any


def spectrum(poles: Sequence[Any], closest: dict[tuple[int, int], float]) -> Spectrum:
    """The Spectrum of two or three rate constants.

    **Arguments:** `poles`, each (); `closest`: for each pair the difference over its mean below which it is circled.
    """
    poles = tuple(jax.lax.stop_gradient(pole) for pole in poles)
    if not closest:
        return Spectrum(poles, (False,) * len(poles), False, None, None)
    close_pairs = {
        (p, q): jnp.abs(poles[p] - poles[q]) < limit * (poles[p] + poles[q]) / 2 for (p, q), limit in closest.items()
    }
    least, most = (pick(jnp.stack(poles)) for pick in (jnp.min, jnp.max))
    all_close = most - least < CIRCLE.everything * (most + least) / 2
    one_circle = all_close if len(poles) > 2 else jnp.any(jnp.stack([*close_pairs.values()]))
    close = one_circle | jnp.any(jnp.stack([*close_pairs.values()]))
    centre, spread = (most + least) / 2, (most - least) / 2
    distance_to_other_pole = jnp.full_like(most, jnp.inf)
    for (p, q), here in close_pairs.items() if len(poles) > 2 else ():
        here = here & ~one_circle
        centre_of_pair = (poles[p] + poles[q]) / 2
        other = next(pole for k, pole in enumerate(poles) if k not in (p, q))
        centre = jnp.where(here, centre_of_pair, centre)
        spread = jnp.where(here, jnp.abs(poles[p] - poles[q]) / 2, spread)
        distance_to_other_pole = jnp.where(here, jnp.abs(other - centre_of_pair), distance_to_other_pole)
    circled = tuple(
        one_circle | jnp.any(jnp.stack([here for pair, here in close_pairs.items() if k in pair]))
        for k in range(len(poles))
    )
    # exp(-z t) over its largest value over t is as another rate constant at zero.
    nearest = jnp.minimum(distance_to_other_pole, centre)
    radius = jnp.sqrt(jnp.clip(spread, nearest / 16, nearest) * nearest)
    angles = (np.arange(CIRCLE.nodes // 2) + 0.5) * 2 * np.pi / CIRCLE.nodes
    cosine, sine = (jnp.asarray(f(angles), centre.dtype) for f in (np.cos, np.sin))
    nodes = unfused(centre + radius * cosine), unfused(radius * sine)
    weights = unfused(-2 / CIRCLE.nodes * radius * cosine), unfused(-2 / CIRCLE.nodes * radius * sine)
    return Spectrum(poles, circled, close, nodes, weights)


class DoseTimes(eqx.Module):
    """Times of rows and actions, and which actions have happened at which row.

    **Fields:** `rows` (obs,); `actions` (actions,); `happened` (obs, actions) where all actions are summed at each row,
    else (obs,); `last` (obs,): the last action before the row, None where they are summed; `fresh` (actions,): the
    first action of a segment.
    """

    rows: Any
    actions: Any
    happened: Any
    last: Any
    fresh: Any

    @classmethod
    def of(cls, x: Rows, events: Events, done: Actions, lag: Any) -> DoseTimes:
        """The DoseTimes of a group, whose actions are in order (`in_order`) unless they are summed.

        **Arguments:** `lag` (), which the times of `done` contain as a constant: its derivatives are those of a shift
        of all rows, not of each action.
        """
        time, segment = x[events.facts.time] + (jax.lax.stop_gradient(lag) - lag), segments_of_rows(x, events)
        if superposed(time.shape[0], done.time.shape[0]):
            only = segment if events.facts.segments else None
            return cls(time, done.time, happened_at(time, only, done), None, None)
        last, happened = last_actions_of_rows(time, segment, done)
        return cls(time, done.time, happened, last, gaps_between(done.time, done.segment)[0])


class DoseSums(eqx.Module):
    """The sum over doses g.

    **Fields:** `derivatives`: for each order 0, 1, ... and each rate constant the derivative of g there, (obs,);
    `on_circle`: g on the circle, real and imaginary parts (nodes, obs), or what `of_circle` of `dose_sums` makes of
    them.
    """

    derivatives: tuple[tuple[Any, ...], ...]
    on_circle: Any


def dose_sums(
    at: Spectrum, when: DoseTimes, dose: Any, orders: int, of_circle: Callable[[Any], Any], always: bool = False
) -> DoseSums:
    """The DoseSums of the doses `dose` (actions,).

    **Arguments:** `orders`: number of derivatives at the rate constants, with g itself; `of_circle`: a linear function
    of g on the circle; `always`: it is evaluated where it is not needed too; without, not if no group of a batch needs
    it, and the result cannot be transposed.
    """

    def on_circle(nodes: Pair) -> Any:
        out = _at_points(jax.lax.complex(*nodes), when, dose, 1)[0]
        return of_circle((jnp.real(out), jnp.imag(out)))

    derivatives = _at_points(jnp.stack(at.poles), when, dose, orders)
    unstacked = tuple(tuple(of_order[k] for k in range(len(at.poles))) for of_order in derivatives)
    if at.nodes is None:
        return DoseSums(unstacked, None)
    return DoseSums(unstacked, on_circle(at.nodes) if always else _where_close(at, on_circle, at.nodes))


def _where_close(at: Spectrum, fn: Callable[[Pair], Any], points: Pair) -> Any:
    """fn(points); zeros where no group of a batch has a circle, in which case it is not computed."""
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(fn, points))

    # Batched, a loop runs while it has to for any group; a conditional would compute both sides for all. The points
    # change in it, or the compiler would compute fn before the loop.
    def once(state: tuple) -> tuple:
        close, points, _ = state
        return jnp.zeros_like(close), jax.tree.map(lambda part: 2.0 * part, points), fn(points)

    return jax.lax.while_loop(lambda state: state[0], once, (at.close, points, zeros))[2]


def _at_points(points: Any, when: DoseTimes, dose: Any, orders: int) -> list[Any]:
    """g and its derivatives (points, obs) at `points` (points,), real or complex."""
    dose = dose.astype(points.dtype)

    def moved(values: Sequence[Any], decay: Any, time: Any) -> list[Any]:
        """The derivatives after a further `time`."""
        powers = [jnp.ones_like(time)]
        for _ in range(orders - 1):
            powers.append(-time * powers[-1])
        return [
            decay * sum(((math.comb(n, i) * powers[i]) if i else 1.0) * values[n - i] for i in range(n + 1))
            for n in range(orders)
        ]

    if when.last is None:
        since = jnp.where(when.happened, when.rows[:, None] - when.actions[None, :], 0.0).astype(points.dtype)[None]
        amount = jnp.where(when.happened, dose[None, :], jnp.zeros((), dose.dtype))[None]
        term, out = jnp.exp(-points[:, None, None] * since) * amount, []
        for _ in range(orders):
            out.append(jnp.sum(term, axis=-1))
            term = -since * term
        return out
    gap = jnp.concatenate([jnp.zeros(1), when.actions[1:] - when.actions[:-1]])
    gap = jnp.where(when.fresh, 0.0, gap).astype(points.dtype)
    since = jnp.where(when.happened, when.rows - when.actions[when.last], 0.0).astype(points.dtype)
    # One evaluation of exp serves both.
    decay = jnp.exp(-points[None, :] * jnp.concatenate([gap, since])[:, None])
    n = gap.shape[0]
    keep = jnp.where(when.fresh[:, None], jnp.zeros((), decay.dtype), decay[:n])

    def step(state: tuple, action: tuple) -> tuple[tuple, tuple]:
        here, time, add = action
        first, *rest = moved(state, here, time)
        state = (first + add, *rest)
        return state, state

    start = (jnp.zeros(points.shape, points.dtype),) * orders
    states = jax.lax.scan(step, start, (keep, gap, dose))[1]
    after = [jnp.where(when.happened[:, None], state[when.last], jnp.zeros((), state.dtype)) for state in states]
    return [value.T for value in moved(after, decay[n:], since[:, None])]
