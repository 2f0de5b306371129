"""A safeguarded Newton search with the exact Hessian, written for one small problem and batched with vmap."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.numerics.linalg import cholesky_solve, guarded_cholesky
from jaxnlme.typing import Matrix, Scalar, Vector

SUFFICIENT = 1e-4
LONGEST_STEP = 5.0


class NewtonResult(eqx.Module):
    """Where a search ended: `converged`; `finite`, the value at the last accepted point, false where even the fallback
    start had none; `positive`, true where the Hessian there needed no repair; `evaluations`; `hessian` (n, n) there,
    where it was asked for."""

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
    """Minimises a function over z (n,) from `z0`, or from `fallback` where it is not finite at `z0`.

    Newton steps with a guarded factor of the Hessian, at most `LONGEST_STEP` long, backtracked by quadratic
    interpolation until the value falls sufficiently. Ends when the next step is shorter than `tolerance`, and takes
    it: quadratic convergence leaves an error of the order of tolerance squared. Every pass of the loop is one shared
    evaluation of value, gradient and Hessian, so a search that starts at the answer costs one.

    **Arguments:** `expand(z)`: value, gradient (n,) and Hessian (n, n) at z, in units of order one (whitened effects);
    `max_steps` bounds the evaluations, `tolerance` > 0.
    **Returns:** z (n,) and a NewtonResult, `with_hessian` with the Hessian (n, n) at the last accepted point.
    **Source:** Nocedal and Wright (2006), Numerical Optimization, algorithm 3.2 with section 3.4's modified factor.
    """
    dtype = z0.dtype
    slack = 8.0 * jnp.finfo(dtype).eps

    def pass_(state: _State) -> _State:
        at = state.z + state.step * state.direction
        value, gradient, hessian = expand(at)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(hessian))
        bound = state.value + SUFFICIENT * state.step * state.slope + slack * jnp.maximum(1.0, jnp.abs(value))
        first = jnp.isinf(state.value)
        accept = finite & (first | (value <= bound))

        lower, repaired = guarded_cholesky(jnp.where(finite, hessian, jnp.eye(z0.shape[0], dtype=dtype)))
        direction = -cholesky_solve(lower, jnp.where(finite, gradient, 0.0))
        length = jnp.sqrt(jnp.sum(direction**2))
        direction = direction * jnp.minimum(1.0, LONGEST_STEP / jnp.maximum(length, LONGEST_STEP))
        arrived = accept & (length <= tolerance) & ~repaired

        # Rejected: the minimum of the parabola through both values and the slope, kept inside [0.1, 0.5] of the step.
        # At the very first point there is nothing to interpolate: go to the fallback (step 0), then give up.
        gain = jnp.where(finite, value - state.value - state.step * state.slope, jnp.inf)
        shrink = jnp.clip(-state.slope * state.step / (2.0 * jnp.where(gain > 0, gain, jnp.inf)), 0.1, 0.5)
        shorter = jnp.where(first, 0.0, state.step * shrink)
        hopeless = ~accept & jnp.where(first, state.step == 0.0, shorter < 1e-9)

        def keep(new, old):
            return jnp.where(accept, new, old)

        return _State(
            z=keep(at, state.z) + jnp.where(arrived, direction, 0.0),
            value=keep(value, state.value),
            direction=keep(direction, state.direction),
            slope=keep(jnp.sum(direction * gradient), state.slope),
            step=keep(jnp.ones((), dtype), shorter),
            positive=keep(~repaired, state.positive),
            done=arrived | hopeless,
            # A step that can no longer be told from rounding ends the search as well as a short one does.
            converged=arrived | (hopeless & ~first & state.positive & (-state.slope < jnp.sqrt(slack))),
            count=state.count + 1,
            hessian=keep(hessian, state.hessian) if with_hessian else None,
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
