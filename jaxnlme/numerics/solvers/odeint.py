"""`jax.experimental.ode.odeint` as a program for forward mode, whose derivatives cost little more than values.

The method of odeint, step by step: the pair of formulas by Dormand and Prince, its rule for the size of a step and its
interpolation. Three things differ. Steps are chosen without derivatives (the rule for the size of a step has none where
the error is zero). A solver that stops before the time asked for gives NaN, and equal times give equal states. And the
sums over the stages of a step are carried from stage to stage: with tangents, for a batch of groups, each is one
operation on arrays without an axis for the stages, and a stage is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnlme.numerics.settings import SOLVERS
from jaxnlme.typing import Vector

_TIMES = np.array([1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0])
# Row i: the weights of the stages 0, ..., i in the state at which stage i + 1 is computed.
_STAGES = np.array(
    [
        [1 / 5, 0, 0, 0, 0, 0],
        [3 / 40, 9 / 40, 0, 0, 0, 0],
        [44 / 45, -56 / 15, 32 / 9, 0, 0, 0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
    ]
)
_ERROR = np.array(
    [
        35 / 384 - 1951 / 21600,
        0,
        500 / 1113 - 22642 / 50085,
        125 / 192 - 451 / 720,
        -2187 / 6784 - -12231 / 42400,
        11 / 84 - 649 / 6300,
        -1 / 60,
    ]
)
_MIDDLE = 0.5 * np.array(
    [
        6025192743 / 30085553152,
        0,
        51252292925 / 65400821598,
        -2691868925 / 45128329728,
        187940372067 / 1594534317056,
        -1776094331 / 19743644256,
        11237099 / 235043384,
    ]
)


def odeint_arguments(equation: Any, inputs: Sequence[Any]) -> tuple[Any, ...] | None:
    """The arguments of `odeint` from the equation of a traced call of JAX's, with the values `inputs`; None
    where its right-hand side cannot be called again: it reads values of the trace that are no arguments."""
    for _, entries in getattr(equation.params["bwd"], "transforms", ()):
        for static in entries:
            if isinstance(static, tuple) and len(static) == 5 and callable(getattr(static[0], "val", None)):
                func, *options = (value.val for value in static)
                y0, ts, *args = inputs[equation.params["num_consts"] :]
                like = [jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in (y0, ts[0], *args)]
                if any(isinstance(value, Tracer) for value in jax.make_jaxpr(func)(*like).consts):
                    return None
                return func, *options, y0, ts, *args
    return None


def odeint(
    func: Callable[..., Vector], rtol: Any, atol: Any, mxstep: Any, hmax: Any, y0: Vector, ts: Vector, *args: Any
) -> Any:
    """The states (times, states) at the times `ts`, as `odeint` computes them; differentiable in forward mode.

    **Arguments:** `func(y, t, *args)` (states,): dy/dt; `rtol`, `atol`: tolerances of a step; `mxstep`: most steps from
    one time to the next, and at most `SOLVERS.most_steps`; `hmax`: longest step; `y0` (states,): the state at `ts[0]`.
    **Source:** Dormand and Prince (1980), Journal of Computational and Applied Mathematics 6, 19-26; Shampine (1986),
    Mathematics of Computation 46, 135-150, for the interpolation; the source of `jax.experimental.ode`.
    """
    most = jnp.minimum(mxstep, SOLVERS.most_steps)

    def field(y: Vector, t: Any) -> Vector:
        return func(y, t, *args)

    # In one array: state and derivative at the end of the last step, both at its begin, and the state in its middle.
    def one_step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        count, t, dt, begin, values = state
        y, f = values[0], values[1]
        end, f_end, error, middle = _step(field, y, f, t, dt)
        ratio = jax.lax.stop_gradient(_error_ratio(error, rtol, atol, y, end))
        accepted = ratio <= 1.0
        longer = jnp.clip(_step_size(dt, ratio), 0.0, hmax)
        values = jnp.where(accepted, jnp.stack([end, f_end, y, f, middle]), values)
        return count + 1, jnp.where(accepted, t + dt, t), longer, jnp.where(accepted, t, begin), values

    def to_time(carry: tuple[Any, ...], target: Any) -> tuple[tuple[Any, ...], Vector]:
        def unfinished(state: tuple[Any, ...]) -> Any:
            count, t, dt, *_ = state
            return (t < target) & (count < most) & (dt > 0)

        zero = jnp.zeros_like(carry[0])  # batched like the times under vmap, so that JAX traces the loop's batch once
        _, t, dt, begin, values = jax.lax.while_loop(unfinished, one_step, (zero, *carry))
        values = jnp.where(t >= target, values, jnp.nan)  # the loops to later times end at once
        return (t, dt, begin, values), _between(target, t, begin, values)

    f0, t0 = field(y0, ts[0]), ts[0]
    dt = jnp.clip(_first_step(field, t0, y0, rtol, atol, f0), 0.0, hmax)
    start = (t0, jax.lax.stop_gradient(dt), t0, jnp.stack([y0, f0, y0, f0, y0]))
    _, ys = jax.lax.scan(to_time, start, ts[1:])
    return jnp.concatenate([y0[None], ys])


def _step(field: Callable[..., Vector], y: Vector, f: Vector, t: Any, dt: Any) -> tuple[Vector, ...]:
    """State and derivative at the end of a step, the estimate of the error (without derivatives), and the state in the
    middle of the step."""

    def total(weights: Any, stages: Any) -> Vector:
        return sum((weights[k] * stages[k] for k in range(1, weights.shape[0])), weights[0] * stages[0])

    def stage(carry: tuple[Any, ...], constants: tuple[Any, ...]) -> tuple[tuple[Any, ...], None]:
        stages, _, _ = carry
        number, time, weights = constants
        at = y + dt * total(weights, stages)
        k = field(at, t + dt * time)
        return (jax.lax.dynamic_update_index_in_dim(stages, k, number + 1, 0), at, k), None

    n = len(_STAGES)
    start = (jnp.zeros((n + 1, *f.shape), f.dtype).at[0].set(f), y, f)
    constants = (jnp.arange(n), jnp.asarray(_TIMES, y.dtype), jnp.asarray(_STAGES, y.dtype))
    (stages, end, f_end), _ = jax.lax.scan(stage, start, constants)
    error, middle = total(_ERROR, jax.lax.stop_gradient(stages)), total(_MIDDLE, stages)
    return end, f_end, jax.lax.stop_gradient(dt) * error, y + dt * middle


def _between(target: Any, t: Any, begin: Any, values: Any) -> Vector:
    """The state at a time within the last step, by the polynomial of order 4 through its begin, middle and end."""
    y, f, y0, f0, middle = values
    dt = t - begin
    s = jnp.where(dt == 0, 0.0, (target - begin) / jnp.where(dt == 0, 1.0, dt))
    a = -2 * dt * f0 + 2 * dt * f - 8 * y0 - 8 * y + 16 * middle
    b = 5 * dt * f0 - 3 * dt * f + 18 * y0 + 14 * y - 32 * middle
    c = -4 * dt * f0 + dt * f - 11 * y0 - 5 * y + 16 * middle
    return (((a * s + b) * s + c) * s + dt * f0) * s + y0


def _error_ratio(error: Vector, rtol: Any, atol: Any, y: Vector, end: Vector) -> Any:
    """The root mean square over states of the error in units of its tolerance."""
    tolerance = atol + rtol * jnp.maximum(jnp.abs(y), jnp.abs(end))
    return jnp.sqrt(jnp.mean((error / tolerance) ** 2))


def _step_size(dt: Any, ratio: Any) -> Any:
    """The size of the step after one of size `dt`."""
    shortest = jnp.where(ratio < 1, 1.0, 0.2)
    factor = jnp.minimum(10.0, jnp.maximum(0.9 * ratio**-0.2, shortest))
    return jnp.where(ratio == 0, 10.0 * dt, dt * factor)


def _first_step(field: Callable[..., Vector], t0: Any, y0: Vector, rtol: Any, atol: Any, f0: Vector) -> Any:
    """The size of the first step.

    **Source:** Hairer, Norsett and Wanner (1993), Solving Ordinary Differential Equations I, section II.4.
    """
    y0, f0 = jax.lax.stop_gradient((y0, f0))
    scale = atol + jnp.abs(y0) * rtol
    d0, d1 = jnp.linalg.norm(y0 / scale), jnp.linalg.norm(f0 / scale)
    h0 = jnp.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    f1 = field(y0 + h0 * f0, t0 + h0)
    d2 = jnp.linalg.norm((f1 - f0) / scale) / h0
    steep = (0.01 / jnp.maximum(d1, d2)) ** 0.2
    h1 = jnp.where((d1 <= 1e-15) & (d2 <= 1e-15), jnp.maximum(1e-6, h0 * 1e-3), steep)
    return jnp.minimum(100.0 * h0, h1)
