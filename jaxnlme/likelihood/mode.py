"""Searches of the conditional mode of the whitened effects.

A group may have several modes. Its mode is that of the highest joint density among those found from the starts of
`mode_starts`; searches that start near a known mode (`z0` of one point) find the mode they lead to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.likelihood.settings import MODES
from jaxnlme.numerics.arrays import number_to_array, xp
from jaxnlme.numerics.newton import NewtonResult, newton
from jaxnlme.typing import Matrix, Scalar, Vector


class ModeSearch(eqx.Module):
    """Limits of the search of a mode; both are traced, so that changing them compiles nothing.

    **Arguments:** `steps`: the most evaluations for a group; `tolerance`: the search ends after a Newton step shorter
    than this, in whitened units.
    """

    steps: Any = eqx.field(default=100, converter=number_to_array)
    tolerance: Any = eqx.field(default=1e-6, converter=number_to_array)


def mode_starts(n_effects: int) -> np.ndarray:
    """Starts (starts, random) of the searches of a group's mode: zero, and points on either side of it along each of
    the first effects, in whitened units; nine at most."""
    axes = np.eye(n_effects)[: MODES.most_axes]
    distances = MODES.distances_of_few if n_effects <= MODES.few_effects else MODES.distances
    steps = [sign * distance * axes for distance in distances for sign in (1.0, -1.0)]
    return np.concatenate([np.zeros((1, n_effects)), *steps])


def newton_from_starts(
    search: ModeSearch,
    expand: Callable[[Vector], tuple[Scalar, Vector, Any]],
    z0: Vector | Matrix,
    solve: Callable[[Any, Vector], tuple[Vector, Scalar]] | None = None,
    approximate: bool = False,
) -> tuple[Vector, NewtonResult]:
    """The minimum found by Newton's method from `z0` (random,), or the lowest of those found from `z0` (starts,
    random), which is the first unless another is lower by more than rounding.

    **Arguments:** `expand(z)`: value, gradient and Hessian; `solve`, `approximate`: as for `numerics.newton.newton`.
    """

    def from_start(z: Vector) -> tuple[Vector, NewtonResult]:
        return newton(
            expand, z, jnp.zeros_like(z), search.steps, search.tolerance, solve=solve, approximate=approximate
        )

    if z0.ndim == 1:
        return from_start(z0)
    ends = jax.vmap(from_start)(z0)
    _, results = ends
    found = results.converged & results.finite
    best = first_or_lowest(jnp.where(found, results.value, jnp.inf))
    return jax.tree.map(lambda leaf: leaf[best], ends)


def first_or_lowest(values: Any) -> Any:
    """Index of the lowest of `values` (starts, ...) along the first axis, infinite where none was found; zero unless
    another is lower than the first by more than rounding."""
    xnp = xp(values)
    found = xnp.isfinite(values[0])
    first = xnp.where(found, values[0], 0.0)
    slack = MODES.gain + MODES.rounding * xnp.abs(first)
    return xnp.where(found & (xnp.min(values, axis=0) >= first - slack), 0, xnp.argmin(values, axis=0))
