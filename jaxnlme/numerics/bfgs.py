"""A BFGS minimiser that asks for evaluations and is told them, so that one compiled objective serves every caller.

optimistix's BFGS evaluates its function inside the step; here the objective carries state of its own (the modes of
all groups, warm-started from the last accepted point), costs seconds to compile, and is wanted alone again for the
information matrix and the checks at the end. So the step is split: `trial` says where to evaluate, `tell` digests
the answer. Both are pure: a host loop drives them in numpy, with nothing to compile, a `lax.while_loop` under `vmap` in
JAX.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.numerics.arrays import xp
from jaxnlme.typing import Matrix, Scalar, Vector

SUFFICIENT = 1e-4
# A predicted gain that no log-likelihood offers: the metric has become useless.
HOPELESS = 1e12


class BFGSState(eqx.Module):
    """Where a minimisation stands; all entries are arrays, so states batch under vmap.

    `x`, `value`, `gradient` at the best point; `inverse` the inverse Hessian approximation; `direction`, `slope`,
    `step` the search now under way; `decrement` half of g' H^-1 g, the predicted distance to the minimum in units of
    the objective; `evaluations`, `iterations` (accepted), `stalled` (no step decreases the value).
    """

    x: jax.Array
    value: jax.Array
    gradient: jax.Array
    inverse: jax.Array
    direction: jax.Array
    slope: jax.Array
    step: jax.Array
    decrement: jax.Array
    evaluations: jax.Array
    iterations: jax.Array
    stalled: jax.Array


class BFGS(eqx.Module):
    """Quasi-Newton minimisation with an Armijo search and a bound on the change of each variable in one step.

    **Arguments:** `free` (n,) bool, variables that may move; `longest` (n,) positive, the largest change of each
    variable in one step.
    **Source:** Nocedal and Wright (2006), Numerical Optimization, algorithms 3.1 and 6.1.
    """

    free: jax.Array
    longest: jax.Array

    def init(self, x: Vector, value: Scalar, gradient: Vector, inverse: Matrix) -> BFGSState:
        """The state at a first evaluated point; `inverse` (n, n) is an approximation of the inverse Hessian."""
        xnp = xp(x)
        both = self.free[:, None] & self.free[None, :]
        inverse = xnp.where(both, inverse, 0.0)
        gradient = xnp.where(self.free, gradient, 0.0)
        direction, slope, decrement = self._direction(gradient, inverse)
        zero = xnp.zeros((), int)
        return BFGSState(
            x, value, gradient, inverse, direction, slope, xnp.ones(()), decrement, zero + 1, zero, xnp.zeros((), bool)
        )

    def trial(self, state: BFGSState) -> Vector:
        """The point (n,) to evaluate next."""
        xnp = xp(state.x)
        return xnp.where(self.free, state.x + state.step * state.direction, state.x)

    def tell(self, state: BFGSState, value: Scalar, gradient: Vector) -> tuple[BFGSState, jax.Array]:
        """The state after the evaluation at `trial(state)`, and whether that point was accepted (bool scalar).

        A value or gradient that is not finite is a rejection, and the step is shortened.
        """
        xnp = xp(state.x)
        gradient = xnp.where(self.free, gradient, 0.0)
        finite = xnp.isfinite(value) & xnp.all(xnp.isfinite(gradient))
        slack = 16.0 * jnp.finfo(state.x.dtype).eps * xnp.maximum(1.0, xnp.abs(state.value))
        accept = finite & (value <= state.value + SUFFICIENT * state.step * state.slope + slack)

        s = xnp.where(self.free, state.step * state.direction, 0.0)
        inverse = self._update(state.inverse, s, xnp.where(accept, gradient - state.gradient, 0.0))
        direction, slope, decrement = self._direction(gradient, inverse)
        # Steps along negative curvature can swell the metric until rounding costs its definiteness: begin afresh, each
        # variable in its own unit.
        reach = xnp.where(self.free, self.longest, 0.0)
        largest = xnp.max(xnp.abs(gradient) * reach, initial=0.0)
        lost = accept & (largest > 0.0) & ~((slope < 0.0) & (decrement < HOPELESS))
        inverse = xnp.where(lost, xnp.diag(reach**2 / xnp.where(largest > 0.0, largest, 1.0)), inverse)
        direction, slope, decrement = self._direction(gradient, inverse)

        gain = xnp.where(finite, value - state.value - state.step * state.slope, xnp.inf)
        shrink = xnp.clip(-state.slope * state.step / (2.0 * xnp.where(gain > 0, gain, xnp.inf)), 0.1, 0.5)
        shorter = state.step * xnp.where(finite, shrink, 0.25)

        def keep(new, old):
            return xnp.where(accept, new, old)

        return BFGSState(
            x=xnp.where(accept, self.trial(state), state.x),
            value=keep(value, state.value),
            gradient=keep(gradient, state.gradient),
            inverse=keep(inverse, state.inverse),
            direction=keep(direction, state.direction),
            slope=keep(slope, state.slope),
            step=keep(xnp.ones(()), shorter),
            decrement=keep(decrement, state.decrement),
            evaluations=state.evaluations + 1,
            iterations=state.iterations + accept,
            stalled=~accept & (shorter < 1e-10),
        ), accept

    def renew(self, state: BFGSState, inverse: Matrix) -> BFGSState:
        """The state with another inverse Hessian approximation (n, n), and the search direction that follows."""
        xnp = xp(state.x)
        inverse = xnp.where(self.free[:, None] & self.free[None, :], inverse, 0.0)
        direction, slope, decrement = self._direction(state.gradient, inverse)
        return dataclasses.replace(state, inverse=inverse, direction=direction, slope=slope, decrement=decrement)

    def _direction(self, gradient: Vector, inverse: Matrix) -> tuple[Vector, Scalar, Scalar]:
        xnp = xp(gradient)
        direction = -(inverse @ gradient)
        slope = xnp.sum(direction * gradient)
        decrement = -0.5 * slope
        shrink = 1.0 / xnp.maximum(1.0, xnp.max(xnp.abs(direction) / self.longest, initial=0.0))
        return direction * shrink, slope * shrink, decrement

    def _update(self, inverse: Matrix, s: Vector, y: Vector) -> Matrix:
        xnp = xp(s)
        sy = xnp.sum(s * y)
        hy = inverse @ y
        yhy = xnp.sum(y * hy)
        curved = sy > 1e-8 * xnp.sqrt(xnp.sum(s * s) * xnp.sum(y * y))
        rho = 1.0 / xnp.where(curved, sy, 1.0)
        new = inverse + (1.0 + yhy * rho) * rho * xnp.outer(s, s) - rho * (xnp.outer(hy, s) + xnp.outer(s, hy))
        # Without curvature along s the metric knows too little of it: look twice as far next time.
        moved = xnp.any(y != 0.0)
        return xnp.where(curved, new, xnp.where(moved, 2.0 * inverse, inverse))
