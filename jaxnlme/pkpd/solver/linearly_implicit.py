"""One step of a Rosenbrock method with any matrix (a W-method), for intervals on which an equation is stiff.

A stage is the solution of a linear system with the matrix I - gamma h J, where J is the Jacobian of the values at the
start of the step. The order does not depend on J, so that J is a constant for the partial derivatives: those of a step
solve the same systems, and their steps are as stable as that of the values, since J is the Jacobian of their own
equations in themselves.

**Source:** Rang and Angermann (2005), BIT Numerical Mathematics 45, 761-787, method ROS34PW2: four stages, third order,
L-stable, with an embedded formula of second order.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.pkpd.solver.runge_kutta import Field, StatePartials, combination, plus

ORDER = 3
GAMMA = 0.435866521508459
A = np.array(
    [
        [0.0, 0.0, 0.0, 0.0],
        [0.87173304301691801, 0.0, 0.0, 0.0],
        [0.84457060015369423, -0.11299064236484185, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
    ]
)
COUPLING = np.array(
    [
        [0.0, 0.0, 0.0, 0.0],
        [-0.87173304301691801, 0.0, 0.0, 0.0],
        [-0.90338057013044082, 0.054180672388095326, 0.0, 0.0],
        [0.24212380706095346, -1.2232505839045147, 0.54526025533510214, 0.0],
    ]
)
B = np.array([0.24212380706095346, -1.2232505839045147, 1.5452602553351020, 0.43586652150845900])
ERROR = B - np.array([0.37810903145819369, -0.096042292212423178, 0.5, 0.21793326075422950])


def linearly_implicit_step(field: Field, s: Any, h: Any, y: StatePartials, first: StatePartials) -> tuple[Any, ...]:
    """One step from `s` to `s + h`; arguments and results as for `runge_kutta.step`."""
    matrix = field.jacobian(s, y[0])
    inverse = jnp.linalg.inv(jnp.eye(len(y[0]), dtype=matrix.dtype) - GAMMA * h * matrix)
    ks: list[StatePartials] = []
    for i in range(len(B)):
        at = s + float(A[i].sum()) * h
        slope = field(at, plus(y, h, combination(A[i, :i], ks))) if i else first
        if i:
            slope = plus(slope, h, _product(matrix, combination(COUPLING[i, :i], ks)))
        ks.append(_product(inverse, slope))
    new = plus(y, h, combination(B, ks))
    error = tuple(h * e for e in combination(ERROR, [k[0] for k in ks]))
    return new, error, field(s + h, new)


def spectral_radius(matrix: Any) -> Any:
    """An upper estimate of the largest absolute eigenvalue of a `matrix` (n, n): the norm of its power 64, by six
    squarings, whose root the units of the states change little."""
    log_size = jnp.zeros((), matrix.dtype)
    for _ in range(6):
        size = jnp.max(jnp.sum(jnp.abs(matrix), axis=-1))
        matrix = matrix / jnp.where(size > 0, size, 1.0)
        matrix, log_size = matrix @ matrix, 2.0 * (log_size + jnp.log(size))
    return jnp.exp((log_size + jnp.log(jnp.max(jnp.sum(jnp.abs(matrix), axis=-1)))) / 64.0)


def _product(matrix: Any, partials: StatePartials) -> StatePartials:
    """`matrix` (n, n) times the states of each order."""
    n = len(partials[0])

    def times(states: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(sum(matrix[i, k] * states[k] for k in range(n)) for i in range(n))

    return tuple(times(states) for states in partials)
