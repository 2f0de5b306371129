"""The conditional mode of the whitened effects, differentiable through the implicit function theorem."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import implicit_minimiser, value_gradient_hessian
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import number_to_array
from jaxnlme.numerics.newton import NewtonResult, newton
from jaxnlme.typing import Vector


class ModeSearch(eqx.Module):
    """Limits of the search of a mode; both are traced, so that changing them compiles nothing.

    **Arguments:** `steps`: the most evaluations for a group; `tolerance`: the search ends after a Newton step shorter
    than this, in whitened units.
    """

    steps: Any = eqx.field(default=100, converter=number_to_array)
    tolerance: Any = eqx.field(default=1e-6, converter=number_to_array)


def conditional_mode(
    search: ModeSearch, density: Density, params: Params, group: Group, scale_prediction: Any, z0: Vector
) -> tuple[Vector, NewtonResult]:
    """The conditional mode argmax_z log_joint(params, z, group), differentiable.

    **Arguments:** `search`: limits; `scale_prediction` (obs,): the prediction from which the residual scale is
    computed, None: that at z; `z0` (random,): start of the search, with z = 0 as fallback.
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

    return newton(expand, z0, jnp.zeros_like(z0), search.steps, search.tolerance)
