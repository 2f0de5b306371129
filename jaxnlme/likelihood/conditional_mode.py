"""The conditional mode of the whitened effects, differentiable through the implicit function theorem."""

from __future__ import annotations

from typing import Any

from jaxnlme.likelihood.mode import ModeSearch, newton_from_starts
from jaxnlme.likelihood.nested import NestedGroup, is_nested
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import implicit_minimiser, value_gradient_hessian
from jaxnlme.model.params import Params
from jaxnlme.numerics.newton import NewtonResult
from jaxnlme.typing import Vector


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
    if is_nested(density, 2):
        return NestedGroup(None, density, params, group).mode(search, scale_prediction, z0)

    def expand(z):
        return value_gradient_hessian(lambda z: -density.log_joint_given(params, z, group, scale_prediction), z)

    return newton_from_starts(search, expand, z0)
