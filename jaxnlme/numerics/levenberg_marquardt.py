"""The Levenberg-Marquardt method for one small minimisation problem; batch it with vmap."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.numerics.linalg import cholesky, cholesky_solve
from jaxnlme.numerics.settings import MINIMISER
from jaxnlme.typing import Matrix, PyTree, Scalar, Vector


class LevenbergMarquardtResult(eqx.Module):
    """Result of a search: `x` (n,), the best point, with `value`, `gradient` (n,), `curvature` (n, n) and `extra`
    there; `decrement`: the predicted decrease of the value in an undamped step; `converged`; `finite`: false if the
    function was not finite at the start; `steps`: evaluations."""

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
    best: LevenbergMarquardtResult
    predicted_gain: jax.Array
    damping: jax.Array
    increase: jax.Array
    done: jax.Array


def levenberg_marquardt(
    expand: Callable[[Vector], tuple[Scalar, Vector, Matrix, PyTree]], x0: Vector, max_steps: int, tolerance: float
) -> LevenbergMarquardtResult:
    """Minimise a function over x (n,) from `x0`; steps solve (C + damping diag C) step = -gradient.

    The damping decreases after steps that gain as much as predicted and increases after steps that raise the value.
    The method is invariant to the units of x; a singular curvature slows the search down without stopping it. Each pass
    of the loop is one evaluation.

    **Arguments:** `expand(x)`: value, gradient (n,), a curvature (n, n) that should be positive semidefinite near the
    minimum (Gauss-Newton, Fisher's information or the Hessian), and a pytree to return for the best point; `x0` (n,);
    `max_steps`: the largest number of evaluations; `tolerance`, in units of the value: the search ends after the step
    at which half of g' C^-1 g is below it.
    **Returns:** a LevenbergMarquardtResult.
    **Source:** Marquardt (1963), Journal of the Society for Industrial and Applied Mathematics 11, 431-441; damping:
    Madsen, Nielsen and Tingleff (2004), Methods for Non-Linear Least Squares Problems, section 3.2; the ending:
    Bates and Watts (1981), Technometrics 23, 179-183 (for a sum of squares it is their relative offset).
    """
    start = _start(expand, x0)
    end = jax.lax.while_loop(
        lambda s: ~s.done & (s.best.steps < max_steps), lambda s: _pass(expand, tolerance, s), start
    )
    return end.best


def _start(expand: Callable[[Vector], tuple[Scalar, Vector, Matrix, PyTree]], x0: Vector) -> _State:
    """The state before the first evaluation, at `x0` (n,)."""
    extra = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(expand, x0)[3])
    n = x0.shape[0]
    false = jnp.zeros((), bool)
    inf = jnp.full((), jnp.inf, x0.dtype)
    blank = LevenbergMarquardtResult(
        x0, inf, jnp.zeros_like(x0), jnp.eye(n, dtype=x0.dtype), extra, inf, false, false, jnp.zeros((), int)
    )
    damping, increase = (
        jnp.full((), MINIMISER.first_damping, x0.dtype),
        jnp.full((), MINIMISER.damping_increase, x0.dtype),
    )
    return _State(x0, blank, inf, damping, increase, false)


def _pass(expand: Callable[[Vector], tuple[Scalar, Vector, Matrix, PyTree]], tolerance: float, state: _State) -> _State:
    """The state after one evaluation: the best point, the damping, and the next trial."""
    best, at = state.best, state.trial
    dtype = at.dtype
    slack = MINIMISER.rounding * jnp.finfo(dtype).eps
    value, gradient, curvature, extra = expand(at)
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(curvature))
    accept = finite & (value <= best.value + slack * jnp.maximum(1.0, jnp.abs(value)))
    new = LevenbergMarquardtResult(
        at, value, gradient, curvature, extra, best.decrement, best.converged, finite, best.steps
    )
    best = jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, best)

    damping, increase = _next_damping(state, value, accept)
    scale = jnp.sqrt(jnp.abs(jnp.diagonal(best.curvature)))
    scale = jnp.where(scale > 0, scale, 1.0)
    unit, slope = best.curvature / (scale[:, None] * scale[None, :]), best.gradient / scale
    eye = jnp.eye(at.shape[0], dtype=dtype)
    step = -cholesky_solve(cholesky(unit + damping * eye), slope) / scale
    undamped = cholesky_solve(cholesky(unit + MINIMISER.ridge * eye), slope)
    decrement = 0.5 * jnp.sum(slope * undamped)
    decrement = jnp.where(jnp.isfinite(decrement), decrement, jnp.inf)
    arrived = accept & (decrement < tolerance)
    stuck = ~accept & ((damping > MINIMISER.largest_damping) | ~best.finite)
    converged = arrived | (stuck & best.finite & (decrement < MINIMISER.converged_decrement))
    x = jnp.where(arrived, best.x - undamped / scale, best.x)
    best = eqx.tree_at(
        lambda b: (b.x, b.decrement, b.converged, b.steps), best, (x, decrement, converged, best.steps + 1)
    )
    predicted_gain = -jnp.sum(step * (best.gradient + 0.5 * best.curvature @ step))
    return _State(best.x + step, best, predicted_gain, damping, increase, arrived | stuck)


def _next_damping(state: _State, value: Scalar, accept: Scalar) -> tuple[Scalar, Scalar]:
    """The damping after an evaluation, and the factor for the next rejection. The smaller the ratio of actual to
    predicted gain of an accepted step, the less the damping decreases."""
    has_predecessor = jnp.isfinite(state.best.value)
    gain_ratio = jnp.where(
        has_predecessor, (state.best.value - value) / state.predicted_gain, MINIMISER.first_gain_ratio
    )
    decrease = jnp.clip(1.0 - (2.0 * gain_ratio - 1.0) ** 3, MINIMISER.damping_decrease, 1.0)
    damping = jnp.clip(state.damping * jnp.where(accept, decrease, state.increase), MINIMISER.least_damping, None)
    return damping, jnp.where(accept, MINIMISER.damping_increase, 2.0 * state.increase)
