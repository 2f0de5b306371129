"""The right-hand side on an interval between two events, with the inputs that enter during it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.pkpd.solver.equations import Equations
from jaxnlme.pkpd.solver.partials import Expansion, Partials
from jaxnlme.pkpd.solver.runge_kutta import Field, States


class Held(eqx.Module):
    """Values on an interval: parameters, columns of the data, and doses (k,) that enter by an input function, with
    those that have `arrived`, by state; `arrays` of the functions."""

    phi: Any
    columns: Any
    arrival: Any
    amount: Any
    arrived: Any
    arrays: Any


def interval_field(
    equations: Equations,
    expansion: Expansion,
    held: Callable[..., Held],
    start: Partials,
    length: Partials,
    rates: dict[int, Partials],
) -> Field:
    """The right-hand side dy/ds = length dy/dt on an interval 0 <= s <= 1.

    **Arguments:** `held`: of the point of the expansion; `start`, `length`: of the interval, in time; `rates`: constant
    input rates by state.
    """
    start_, length_ = expansion.function(start), expansion.function(length)
    rates_ = {k: expansion.function(rate) for k, rate in rates.items()}

    def fn(s: Any, y: States, *point: Any) -> States:
        span, here = length_(*point), held(*point)
        t = start_(*point) + s * span
        own = equations.with_arrays(here.arrays)
        slopes = list(own.derivatives(t, whole(equations, t, y, here), here.phi, here.columns))
        for k, rate in rates_.items():
            slopes[k] = slopes[k] + rate(*point)
        for k, entry in equations.inputs:
            rate = entry.rate(_since(t, here, k), entry.read(here.phi, equations.title))
            if rate is not None:
                slopes[k] = slopes[k] + jnp.sum(jnp.where(here.arrived[k], here.amount * rate, 0.0))
        return tuple(span * slope for slope in slopes)

    return Field(expansion, fn)


def whole(equations: Equations, t: Any, y: States, here: Held) -> States:
    """The states at time `t` from those that are solved for, which lack what has entered by functions given as the
    fraction that has entered."""
    out = list(y)
    for k, entry in equations.inputs:
        entered = entry.entered(_since(t, here, k), entry.read(here.phi, equations.title))
        if entered is not None:
            out[k] = out[k] + jnp.sum(jnp.where(here.arrived[k], here.amount * entered, 0.0))
    return tuple(out)


def _since(t: Any, here: Held, state: int) -> Any:
    """The time (k,) since each dose that enters a state; zero for others."""
    return jnp.where(here.arrived[state], t - here.arrival, 0.0)
