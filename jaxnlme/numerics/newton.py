"""Safeguarded Newton minimisation with the exact Hessian, of one small problem; batch it with vmap."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.numerics.linalg import cholesky_solve, guarded_cholesky
from jaxnlme.typing import Matrix, Scalar, Vector

# Armijo condition: the fraction of the decrease predicted by the slope that a step must achieve.
SUFFICIENT_DECREASE = 1e-4
# Largest length of a Newton step, in the units of z (whitened effects: prior standard deviations).
LONGEST_STEP = 5.0
# Step, as a fraction of the Newton step, below which the line search is given up.
SHORTEST_STEP = 1e-9


class NewtonResult(eqx.Module):
    """Outcome of a search: `converged`; `finite`: false if the value was finite neither at the start nor at the
    fallback; `positive`: true if the Hessian at the last accepted point is positive definite; `evaluations`; `hessian`
    (n, n) at that point, None unless requested."""

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
    hessian: jax.Array | None = None


def newton(
    expand: Callable[[Vector], tuple[Scalar, Vector, Matrix]],
    z0: Vector,
    fallback: Vector,
    max_steps: int,
    tolerance: float,
    with_hessian: bool = False,
) -> tuple[Vector, NewtonResult]:
    """Minimise a function over z (n,) from `z0`, or from `fallback` where it is not finite at `z0`.

    Newton steps with a modified Cholesky factor of the Hessian, at most `LONGEST_STEP` long, shortened by quadratic
    interpolation until the value decreases sufficiently. The search ends after the step that is shorter than
    `tolerance`: with quadratic convergence the error is then of the order of the squared tolerance. Each pass of the
    loop evaluates value, gradient and Hessian once, so a search that starts at the minimum takes one evaluation.

    **Arguments:** `expand(z)`: value, gradient (n,) and Hessian (n, n) at z, in units of order one (whitened effects);
    `z0`, `fallback` (n,); `max_steps`: the largest number of evaluations; `tolerance` > 0: a step length, in units of
    z; `with_hessian`: return the Hessian at the last accepted point.
    **Returns:** z (n,) and a NewtonResult.
    **Source:** Nocedal and Wright (2006), Numerical Optimization, algorithm 3.2 with section 3.4's modified factor.
    """
    dtype = z0.dtype
    slack = 8.0 * jnp.finfo(dtype).eps

    def pass_(state: _State) -> _State:
        at = state.z + state.step * state.direction
        value, gradient, hessian = expand(at)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(hessian))
        bound = state.value + SUFFICIENT_DECREASE * state.step * state.slope + slack * jnp.maximum(1.0, jnp.abs(value))
        first = jnp.isinf(state.value)
        accept = finite & (first | (value <= bound))

        lower, repaired = guarded_cholesky(jnp.where(finite, hessian, jnp.eye(z0.shape[0], dtype=dtype)))
        direction = -cholesky_solve(lower, jnp.where(finite, gradient, 0.0))
        length = jnp.sqrt(jnp.sum(direction**2))
        direction = direction * jnp.minimum(1.0, LONGEST_STEP / jnp.maximum(length, LONGEST_STEP))
        arrived = accept & (length <= tolerance) & ~repaired

        # Rejected: the minimum of the parabola through both values and the slope, within [0.1, 0.5] of the step.
        # The first point has no predecessor to interpolate with: go to the fallback (step 0), then give up.
        gain = jnp.where(finite, value - state.value - state.step * state.slope, jnp.inf)
        shrink = jnp.clip(-state.slope * state.step / (2.0 * jnp.where(gain > 0, gain, jnp.inf)), 0.1, 0.5)
        shorter = jnp.where(first, 0.0, state.step * shrink)
        stuck = ~accept & jnp.where(first, state.step == 0.0, shorter < SHORTEST_STEP)

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
            hessian=if_accepted(hessian, state.hessian) if with_hessian else None,
        )

    start = _State(
        z=fallback,
        value=jnp.full((), jnp.inf, dtype),
        direction=jnp.where(jnp.isfinite(z0), z0 - fallback, 0.0),
        slope=jnp.zeros((), dtype),
        step=jnp.ones((), dtype),
        positive=jnp.ones((), bool),
        done=jnp.zeros((), bool),
        converged=jnp.zeros((), bool),
        count=jnp.zeros((), int),
        hessian=jnp.eye(z0.shape[0], dtype=dtype) if with_hessian else None,
    )
    end = jax.lax.while_loop(lambda s: ~s.done & (s.count < max_steps), pass_, start)
    return end.z, NewtonResult(end.converged, jnp.isfinite(end.value), end.positive, end.count, end.hessian)
