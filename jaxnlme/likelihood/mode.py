"""The conditional mode of the whitened effects, differentiable through the implicit function theorem.

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
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import implicit_minimiser, value_gradient_hessian
from jaxnlme.model.params import Params
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
) -> tuple[Vector, NewtonResult]:
    """The minimum found by Newton's method from `z0` (random,), or the lowest of those found from `z0` (starts,
    random), which is the first unless another is lower by more than rounding.

    **Arguments:** `expand(z)`: value, gradient and Hessian; `solve`: as for `numerics.newton.newton`.
    """

    def from_start(z: Vector) -> tuple[Vector, NewtonResult]:
        return newton(expand, z, jnp.zeros_like(z), search.steps, search.tolerance, solve=solve)

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


def conditional_mode(
    search: ModeSearch, density: Density, params: Params, group: Group, scale_prediction: Any, z0: Vector
) -> tuple[Vector, NewtonResult]:
    """The conditional mode argmax_z log_joint(params, z, group), differentiable.

    **Arguments:** `search`: limits; `scale_prediction` (obs,): the prediction from which the residual scale is
    computed, None: that at z; `z0` (random,): start of the search, with z = 0 as fallback; or (starts, random): the
    best end is taken.
    **Returns:** the mode (random,), with exact derivatives of every order in params, the group's data and the scale
    prediction; and a NewtonResult.
    """

    def objective(z, args):
        params, group, scale_prediction = args
        return -density.log_joint_given(params, z, group, scale_prediction)

    def find(args, start):
        # The numbers of `search` are arguments: a tracer in the closure would leak under grad(jit(...)).
        params, group, scale_prediction = args
        search, z0 = start
        return search_mode(search, density, params, group, scale_prediction, z0)

    return implicit_minimiser(objective, find)((params, group, scale_prediction), (search, z0))


def search_mode(
    search: ModeSearch, density: Density, params: Params, group: Group, scale_prediction: Any, z0: Vector
) -> tuple[Vector, NewtonResult]:
    """`conditional_mode` without derivatives; arguments and results are the same."""

    def expand(z):
        return value_gradient_hessian(lambda z: -density.log_joint_given(params, z, group, scale_prediction), z)

    return newton_from_starts(search, expand, z0)
