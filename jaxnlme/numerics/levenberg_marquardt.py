"""Newton's method damped as Levenberg and Marquardt do, written for one small problem and batched with vmap."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.numerics.linalg import cholesky, cholesky_solve
from jaxnlme.typing import Matrix, PyTree, Scalar, Vector

# Damping in units where the curvature's diagonal is one: at first, its least and largest.
FIRST, LEAST, LARGEST = 1e-3, 1e-12, 1e10
# The factors of damping after the best of steps and after the first of refused ones, doubled with each more.
LESS, MORE = 0.1, 4.0
# Added to that diagonal where the undamped step is asked for, which a singular curvature does not have.
RIDGE = 1e-14
# A search that rounding ends this close to a minimum (units of the value) has arrived.
CLOSE = 1e-8


class Damped(eqx.Module):
    """Where a search ended: `x` (n,), `value`, `gradient` (n,), `curvature` (n, n) and `extra` there; `decrement`, what
    an undamped step is predicted to gain; `converged`; `finite`, false where the start was not; `steps` taken."""

    x: jax.Array
    value: jax.Array
    gradient: jax.Array
    curvature: jax.Array
    extra: PyTree
    decrement: jax.Array
    converged: jax.Array
    finite: jax.Array
    steps: jax.Array


class _State(eqx.Module):
    trial: jax.Array
    best: Damped
    promised: jax.Array
    damping: jax.Array
    more: jax.Array
    done: jax.Array


def damped_newton(
    expand: Callable[[Vector], tuple[Scalar, Vector, Matrix, PyTree]], x0: Vector, max_steps: int, tolerance: float
) -> Damped:
    """Minimises a function over x (n,) from `x0`; steps solve (C + damping diag C) step = -gradient.

    Damping falls after steps that gain what they promised and grows after those that raise the value, so units do not
    matter, and a singular curvature slows the search without ending it. Every pass of the loop is one evaluation.

    **Arguments:** `expand(x)`: value, gradient (n,), a curvature (n, n) that should be positive semidefinite near the
    minimum (Gauss-Newton, Fisher's information or the Hessian), and a pytree to be kept with the best point;
    `max_steps` bounds the evaluations; `tolerance`: the search ends where half of g' C^-1 g is below it,
    and takes that last step.
    **Source:** Marquardt (1963), Journal of the Society for Industrial and Applied Mathematics 11, 431-441; damping:
    Madsen, Nielsen and Tingleff (2004), Methods for Non-Linear Least Squares Problems, section 3.2; the ending:
    Bates and Watts (1981), Technometrics 23, 179-183 (for a sum of squares it is their relative offset).
    """
    slack = 8.0 * jnp.finfo(x0.dtype).eps

    def pass_(state: _State) -> _State:
        best, at = state.best, state.trial
        value, gradient, curvature, extra = expand(at)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(curvature))
        accept = finite & (value <= best.value + slack * jnp.maximum(1.0, jnp.abs(value)))
        new = Damped(at, value, gradient, curvature, extra, best.decrement, best.converged, finite, best.steps)
        best = jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, best)

        # The less of the promised gain a step kept, the less the damping falls.
        kept = jnp.where(jnp.isfinite(state.best.value), (state.best.value - value) / state.promised, 0.5)
        less = jnp.clip(1.0 - (2.0 * kept - 1.0) ** 3, LESS, 1.0)
        damping = jnp.clip(state.damping * jnp.where(accept, less, state.more), LEAST, None)
        more = jnp.where(accept, MORE, 2.0 * state.more)
        scale = jnp.sqrt(jnp.abs(jnp.diagonal(best.curvature)))
        scale = jnp.where(scale > 0, scale, 1.0)
        unit, slope = best.curvature / (scale[:, None] * scale[None, :]), best.gradient / scale
        eye = jnp.eye(x0.shape[0], dtype=x0.dtype)
        step = -cholesky_solve(cholesky(unit + damping * eye), slope) / scale
        undamped = cholesky_solve(cholesky(unit + RIDGE * eye), slope)
        decrement = 0.5 * jnp.sum(slope * undamped)
        decrement = jnp.where(jnp.isfinite(decrement), decrement, jnp.inf)
        arrived = accept & (decrement < tolerance)
        hopeless = ~accept & ((damping > LARGEST) | ~best.finite)
        converged = arrived | (hopeless & best.finite & (decrement < CLOSE))
        x = jnp.where(arrived, best.x - undamped / scale, best.x)
        best = eqx.tree_at(
            lambda b: (b.x, b.decrement, b.converged, b.steps), best, (x, decrement, converged, best.steps + 1)
        )
        promised = -jnp.sum(step * (best.gradient + 0.5 * best.curvature @ step))
        return _State(best.x + step, best, promised, damping, more, arrived | hopeless)

    extra = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(expand, x0)[3])
    n = x0.shape[0]
    none = jnp.zeros((), bool)
    inf = jnp.full((), jnp.inf, x0.dtype)
    blank = Damped(x0, inf, jnp.zeros_like(x0), jnp.eye(n, dtype=x0.dtype), extra, inf, none, none, jnp.zeros((), int))
    start = _State(x0, blank, inf, jnp.full((), FIRST, x0.dtype), jnp.full((), MORE, x0.dtype), none)
    return jax.lax.while_loop(lambda s: ~s.done & (s.best.steps < max_steps), pass_, start).best
