"""A BFGS minimiser whose caller evaluates the objective, so that one compiled objective serves every caller.

optimistix's BFGS evaluates its function inside the step. Here the objective has state (the modes of all groups, warm
started from the last accepted point), takes seconds to compile, and is evaluated outside the minimiser as well, for the
information matrix and the convergence checks. So the step is split: `trial` returns the point to evaluate, `update`
takes value and gradient there. Both are pure: a host loop runs them in numpy, where nothing is compiled, a
`lax.while_loop` under `vmap` in JAX.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.numerics.arrays import xp
from jaxnlme.numerics.settings import MINIMISER
from jaxnlme.typing import Matrix, Scalar, Vector


class BFGSState(eqx.Module):
    """State of a minimisation over x (n,); all entries are arrays, so that states batch under vmap.

    `x`, `value`, `gradient`: at the best point; `inverse` (n, n): the inverse Hessian approximation; `direction` (n,),
    `slope`, `step`: the current line search; `decrement`: half of g' H^-1 g, the predicted distance to the minimum in
    units of the objective; `evaluations`; `iterations`: accepted steps; `stalled`: no step decreases the value.
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
    """Quasi-Newton minimisation with an Armijo line search and a bound on the change of each variable in one step.

    **Arguments:** `free` (n,) bool: the variables that are not held fixed; `max_change` (n,) positive: the largest
    change of each variable in one step.
    **Source:** Nocedal and Wright (2006), Numerical Optimization, algorithms 3.1 and 6.1.
    """

    free: jax.Array
    max_change: jax.Array

    def init(self, x: Vector, value: Scalar, gradient: Vector, inverse: Matrix) -> BFGSState:
        """The state at a first evaluated point.

        **Arguments:** `x` (n,), `value` () and `gradient` (n,) there; `inverse` (n, n): an approximation of the inverse
        Hessian.
        """
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

    def update(self, state: BFGSState, value: Scalar, gradient: Vector) -> tuple[BFGSState, jax.Array]:
        """The state after the evaluation at `trial(state)`, and a bool scalar, true if that point was accepted.

        **Arguments:** `value` () and `gradient` (n,) at that point. If one of them is not finite, the point is rejected
        and the step shortened.
        """
        xnp = xp(state.x)
        gradient = xnp.where(self.free, gradient, 0.0)
        finite = xnp.isfinite(value) & xnp.all(xnp.isfinite(gradient))
        slack = MINIMISER.bfgs_rounding * jnp.finfo(state.x.dtype).eps * xnp.maximum(1.0, xnp.abs(state.value))
        decrease = MINIMISER.sufficient_decrease * state.step * state.slope
        accept = finite & (value <= state.value + decrease + slack)

        s = xnp.where(self.free, state.step * state.direction, 0.0)
        inverse = self._updated_inverse(state.inverse, s, xnp.where(accept, gradient - state.gradient, 0.0))
        direction, slope, decrement = self._direction(gradient, inverse)
        # Steps along negative curvature can make the approximation so large that rounding makes it indefinite: it is
        # then replaced by a diagonal matrix with the units of the variables.
        units = xnp.where(self.free, self.max_change, 0.0)
        largest = xnp.max(xnp.abs(gradient) * units, initial=0.0)
        restart = accept & (largest > 0.0) & ~((slope < 0.0) & (decrement < MINIMISER.implausible_decrement))
        inverse = xnp.where(restart, xnp.diag(units**2 / xnp.where(largest > 0.0, largest, 1.0)), inverse)
        direction, slope, decrement = self._direction(gradient, inverse)

        gain = xnp.where(finite, value - state.value - state.step * state.slope, xnp.inf)
        shrink = -state.slope * state.step / (2.0 * xnp.where(gain > 0, gain, xnp.inf))
        shrink = xnp.clip(shrink, MINIMISER.least_shrink, MINIMISER.largest_shrink)
        shorter = state.step * xnp.where(finite, shrink, MINIMISER.shrink_to_finite)

        def if_accepted(new, old):
            return xnp.where(accept, new, old)

        return BFGSState(
            x=xnp.where(accept, self.trial(state), state.x),
            value=if_accepted(value, state.value),
            gradient=if_accepted(gradient, state.gradient),
            inverse=if_accepted(inverse, state.inverse),
            direction=if_accepted(direction, state.direction),
            slope=if_accepted(slope, state.slope),
            step=if_accepted(xnp.ones(()), shorter),
            decrement=if_accepted(decrement, state.decrement),
            evaluations=state.evaluations + 1,
            iterations=state.iterations + accept,
            stalled=~accept & (shorter < MINIMISER.shortest_bfgs_step),
        ), accept

    def with_inverse(self, state: BFGSState, inverse: Matrix) -> BFGSState:
        """`state` with another inverse Hessian approximation `inverse` (n, n) and the search direction it implies."""
        xnp = xp(state.x)
        inverse = xnp.where(self.free[:, None] & self.free[None, :], inverse, 0.0)
        direction, slope, decrement = self._direction(state.gradient, inverse)
        return dataclasses.replace(state, inverse=inverse, direction=direction, slope=slope, decrement=decrement)

    def _direction(self, gradient: Vector, inverse: Matrix) -> tuple[Vector, Scalar, Scalar]:
        xnp = xp(gradient)
        direction = -(inverse @ gradient)
        slope = xnp.sum(direction * gradient)
        decrement = -0.5 * slope
        shrink = 1.0 / xnp.maximum(1.0, xnp.max(xnp.abs(direction) / self.max_change, initial=0.0))
        return direction * shrink, slope * shrink, decrement

    def _updated_inverse(self, inverse: Matrix, s: Vector, y: Vector) -> Matrix:
        """The BFGS update (n, n) from the step `s` and the change `y` of the gradient, both (n,)."""
        xnp = xp(s)
        sy = xnp.sum(s * y)
        hy = inverse @ y
        yhy = xnp.sum(y * hy)
        # Both lengths in the units of the variables: their product does not depend on these.
        length = xnp.sqrt(xnp.sum((s / self.max_change) ** 2) * xnp.sum((y * self.max_change) ** 2))
        curved = sy > MINIMISER.least_curvature * length
        rho = 1.0 / xnp.where(curved, sy, 1.0)
        new = inverse + (1.0 + yhy * rho) * rho * xnp.outer(s, s) - rho * (xnp.outer(hy, s) + xnp.outer(s, hy))
        # Where the gradient shows no positive curvature along s the update is not defined: double the next step
        # instead.
        moved = xnp.any(y != 0.0)
        return xnp.where(curved, new, xnp.where(moved, 2.0 * inverse, inverse))
