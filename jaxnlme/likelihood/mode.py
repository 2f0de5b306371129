"""The conditional mode of the whitened effects, differentiable through the implicit function theorem."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import as_number
from jaxnlme.numerics.implicit import implicit_minimiser, value_gradient_hessian
from jaxnlme.numerics.newton import NewtonResult, newton
from jaxnlme.typing import Vector


class ModeSearch(eqx.Module):
    """How modes are searched: `steps`, the most evaluations a group may use; `tolerance`, the length of a Newton step
    (in whitened units) below which it is the last one. Both are traced: changing them recompiles nothing."""

    steps: Any = eqx.field(default=100, converter=as_number)
    tolerance: Any = eqx.field(default=1e-6, converter=as_number)


def conditional_mode(
    search: ModeSearch, density: Density, params: Params, group: Group, scale_prediction: Any, z0: Vector
) -> tuple[Vector, NewtonResult]:
    """argmax_z log_joint(params, z, group), with the residual scale at `scale_prediction` where that is given.

    **Arguments:** `z0` (random,), where the search starts; z = 0 is the fallback.
    **Returns:** the mode (random,), with exact derivatives of every order in params, the group's data and the scale
    prediction; and how the search went.
    """

    def objective(z, args):
        params, group, scale_prediction = args
        return -density.log_joint_given(params, z, group, scale_prediction)

    def find(args, start):
        # The search's numbers come as arguments: a tracer closed over here would not survive grad(jit(...)).
        params, group, scale_prediction = args
        search, z0 = start
        return search_mode(search, density, params, group, scale_prediction, z0)

    return implicit_minimiser(objective, find)((params, group, scale_prediction), (search, z0))


def search_mode(
    search: ModeSearch, density: Density, params: Params, group: Group, scale_prediction: Any, z0: Vector
) -> tuple[Vector, NewtonResult]:
    """`conditional_mode` without derivatives."""

    def expand(z):
        return value_gradient_hessian(lambda z: -density.log_joint_given(params, z, group, scale_prediction), z)

    return newton(expand, z0, jnp.zeros_like(z0), search.steps, search.tolerance)
