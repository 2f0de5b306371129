"""Safeguarded Newton minimisation with the exact Hessian, of one small problem; batch it with vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.numerics.linalg import cholesky_solve, guarded_cholesky
from jaxnlme.numerics.settings import MINIMISER
from jaxnlme.typing import Matrix, Scalar, Vector


class NewtonResult(eqx.Module):
    """Outcome of a search: `value` at the last accepted point; `converged`; `finite`: false if the value was finite
    neither at the start nor at the fallback; `positive`: true if the Hessian at that point is positive definite;
    `evaluations`; `hessian` (n, n) at that point, None unless requested."""

    value: jax.Array
    converged: jax.Array
    finite: jax.Array
    positive: jax.Array
    evaluations: jax.Array
    hessian: jax.Array | None = None


class _State(eqx.Module):
    z: jax.Array
    value: jax.Array
    direction: jax.Array
    slope: jax.Array
    step: jax.Array
    positive: jax.Array
    done: jax.Array
    converged: jax.Array
    count: jax.Array
    longest: jax.Array
    hessian: jax.Array | None = None
    gradient: jax.Array | None = None
    correction: jax.Array | None = None


def newton(
    expand: Callable[[Vector], tuple[Scalar, Vector, Any]],
    z0: Vector,
    fallback: Vector,
    max_steps: int,
    tolerance: float,
    with_hessian: bool = False,
    solve: Callable[[Any, Vector], tuple[Vector, Scalar]] | None = None,
    approximate: bool = False,
) -> tuple[Vector, NewtonResult]:
    """Minimise a function over z (n,) from `z0`, or from `fallback` where it is not finite at `z0`.

    Newton steps with a modified Cholesky factor of the Hessian, of bounded length (the bound grows from each step that
    it shortens to the next), shortened by quadratic interpolation
    until the value decreases sufficiently. The search ends after the step that is shorter than `tolerance`: with
    quadratic convergence the error is then of the order of the squared tolerance. Each pass of the loop evaluates
    value, gradient and Hessian once, so a search that starts at the minimum takes one evaluation.

    **Arguments:** `expand(z)`: value, gradient (n,) and Hessian (n, n) at z, in units of order one (whitened effects);
    `z0`, `fallback` (n,); `max_steps`: the largest number of evaluations; `tolerance` > 0: a step length, in units of
    z; `with_hessian`: return the Hessian at the last accepted point; `solve(hessian, right)`: for a Hessian in another
    form than a matrix, the solution (n,) with a modified factor, and whether it had to be modified (the factor of a
    matrix of zeros must be finite); None: by `guarded_cholesky`; `approximate`: `expand` leaves a part of the Hessian
    out, of which secants make an estimate.
    **Returns:** z (n,) and a NewtonResult.
    **Source:** Nocedal and Wright (2006), Numerical Optimization, algorithm 3.2 with section 3.4's modified factor;
    Dennis, Gay and Welsch (1981), ACM Transactions on Mathematical Software 7, 348-368, for the secants.
    """
    start = _start(z0, fallback, with_hessian, approximate)
    end = jax.lax.while_loop(
        lambda s: ~s.done & (s.count < max_steps), lambda s: _pass(expand, tolerance, with_hessian, solve, s), start
    )
    return end.z, NewtonResult(end.value, end.converged, jnp.isfinite(end.value), end.positive, end.count, end.hessian)


def _start(z0: Vector, fallback: Vector, with_hessian: bool, approximate: bool) -> _State:
    """The state before the first evaluation, which is a step from `fallback` to `z0`."""
    n = z0.shape[0]
    finite = jnp.isfinite(z0)
    # Constants computed from z0 are batched from the beginning under vmap, so that JAX traces the loop's batch once.
    never = jnp.any(finite & ~finite)
    zero = jnp.where(never, z0[0], 0.0) if n else jnp.zeros((), z0.dtype)
    return _State(
        z=fallback + zero,
        value=zero + jnp.inf,
        direction=jnp.where(finite, z0 - fallback, 0.0),
        slope=zero,
        step=zero + 1.0,
        positive=~never,
        done=never,
        converged=never,
        count=never.astype(int),
        longest=zero + MINIMISER.longest_newton_step,
        hessian=zero + jnp.eye(n, dtype=z0.dtype) if with_hessian else None,
        gradient=zero + jnp.zeros(n, z0.dtype) if approximate else None,
        correction=zero + jnp.zeros((n, n), z0.dtype) if approximate else None,
    )


def _pass(
    expand: Callable[[Vector], tuple[Scalar, Vector, Any]],
    tolerance: float,
    with_hessian: bool,
    solve: Callable[[Any, Vector], tuple[Vector, Scalar]] | None,
    state: _State,
) -> _State:
    """The state after one evaluation: a Newton step from a point that is accepted, a shorter step after another."""
    dtype = state.z.dtype
    slack = MINIMISER.rounding * jnp.finfo(dtype).eps
    at = state.z + state.step * state.direction
    value, gradient, hessian = expand(at)
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(hessian))
    decrease = MINIMISER.sufficient_decrease * state.step * state.slope
    bound = state.value + decrease + slack * jnp.maximum(1.0, jnp.abs(value))
    first = jnp.isinf(state.value)
    accept = finite & (first | (value <= bound))

    gradient = jnp.where(finite, gradient, 0.0)
    correction = None
    if state.correction is not None:
        correction = _corrected(state, at, gradient, hessian, accept & ~first)
        hessian = hessian + correction
    newton_step, repaired = _solve(finite, hessian, -gradient) if solve is None else solve(hessian, -gradient)
    length = jnp.sqrt(jnp.sum(newton_step**2))
    direction = newton_step * jnp.minimum(1.0, state.longest / jnp.maximum(length, state.longest))
    arrived = accept & (length <= tolerance) & ~repaired
    if correction is not None:  # the error after the step: it shrinks as the steps do, not with their square
        before = jnp.sqrt(jnp.sum(state.direction**2))
        ratio = jnp.where(first | (before <= length), 1.0, length / jnp.where(before > 0, before, 1.0))
        error = length * jnp.maximum(ratio, MINIMISER.approximate_error)
        arrived = accept & (error <= MINIMISER.approximate_error * tolerance) & ~repaired
    shorter = _shorter_step(state, value, finite, first)
    stuck = ~accept & jnp.where(first, state.step == 0.0, shorter < MINIMISER.shortest_newton_step)

    def if_accepted(new, old):
        return jnp.where(accept, new, old)

    return _State(
        z=if_accepted(at, state.z) + jnp.where(arrived, direction, 0.0),
        value=if_accepted(value, state.value),
        direction=if_accepted(direction, state.direction),
        slope=if_accepted(jnp.sum(direction * gradient), state.slope),
        step=if_accepted(jnp.ones((), dtype), shorter),
        positive=if_accepted(~repaired, state.positive),
        done=arrived | stuck,
        # A predicted decrease of the order of rounding counts as convergence, like a short step.
        converged=arrived | (stuck & ~first & state.positive & (-state.slope < jnp.sqrt(slack))),
        count=state.count + 1,
        longest=jnp.where(accept & (length > state.longest), MINIMISER.newton_step_growth, 1.0) * state.longest,
        hessian=if_accepted(hessian, state.hessian) if with_hessian else None,
        gradient=None if correction is None else if_accepted(gradient, state.gradient),
        correction=None if correction is None else if_accepted(correction, state.correction),
    )


def _corrected(state: _State, at: Vector, gradient: Vector, hessian: Matrix, known: Scalar) -> Matrix:
    """The estimate (n, n) of the part that `hessian` leaves out, updated by the step to `at` where both ends of it are
    `known`: the sum of both takes the step to the change of the gradient.

    With s the step, y the change of the gradient, and r = y - (hessian + C) s,
    C + (r y' + y r') / y's - r's y y' / (y's)^2.
    """
    assert state.correction is not None and state.gradient is not None
    s, y = at - state.z, gradient - state.gradient
    r = y - (hessian + state.correction) @ s
    slope = jnp.sum(y * s)
    # A gradient that does not grow along the step comes from rounding, or from where the function is not convex.
    usable = known & (slope > MINIMISER.secant_slope * jnp.sqrt(jnp.sum(y**2) * jnp.sum(s**2)))
    y = jnp.where(usable, y / jnp.where(usable, slope, 1.0), 0.0)
    mixed = r[:, None] * y[None, :]
    update = mixed + mixed.T - jnp.sum(r * s) * y[:, None] * y[None, :]
    return state.correction + jnp.where(usable, update, 0.0)


def _solve(finite: Scalar, hessian: Matrix, right: Vector) -> tuple[Vector, Scalar]:
    """The solution (n,) with a modified Cholesky factor of the Hessian, and whether it had to be modified; that of the
    identity where the Hessian is not `finite`."""
    lower, repaired = guarded_cholesky(jnp.where(finite, hessian, jnp.eye(right.shape[0], dtype=right.dtype)))
    return cholesky_solve(lower, right), repaired


def _shorter_step(state: _State, value: Scalar, finite: Scalar, first: Scalar) -> Scalar:
    """The step after a rejected one, as a fraction of the Newton step.

    The minimum of the parabola through both values and the slope, within bounds. The `first` point has no predecessor
    to interpolate with: from there to the fallback (step 0), after which the search is given up.
    """
    gain = jnp.where(finite, value - state.value - state.step * state.slope, jnp.inf)
    shrink = -state.slope * state.step / (2.0 * jnp.where(gain > 0, gain, jnp.inf))
    shrink = jnp.clip(shrink, MINIMISER.least_shrink, MINIMISER.largest_shrink)
    return jnp.where(first, 0.0, state.step * shrink)
