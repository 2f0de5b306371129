"""log p(y) of one group as a function with derivatives of every order, the first of which is the score of `score.py`.

The search of the mode is never differentiated, and second derivatives are those of the score: a gradient costs as
little to compile as the score that fits use, a Hessian one derivative more.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.conditional_mode import conditional_mode
from jaxnlme.likelihood.integrals import Gaussian
from jaxnlme.likelihood.one_pass import OnePassGroup, one_pass
from jaxnlme.likelihood.score import value_and_score
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import along, gradient, linearise, value_and_gradient, value_gradient_hessian
from jaxnlme.model.params import Params
from jaxnlme.numerics.implicit import barrier, implicit_minimiser, partition_perturbed, symmetric_solve
from jaxnlme.numerics.newton import NewtonResult
from jaxnlme.typing import PyTree, Scalar, Vector

Arguments = tuple[LikelihoodApproximation, Density, Params, Group]


@eqx.filter_custom_jvp
def group_value(args: Arguments, z0: Any) -> Scalar:
    """log p(y | params) of one group, NaN where it is not finite; differentiable in all arrays of `args`.

    **Arguments:** `args`: the approximation, the density, Params, and the group; `z0`: start of the search of the mode,
    whitened, as for `LikelihoodApproximation.evaluate`; without derivatives.
    """
    method, density, params, group = args
    return method.evaluate(density, params, group, z0).value


@group_value.def_jvp
def _group_value_rule(primals, tangents):
    args, z0 = primals
    _, density_dot, params_dot, group_dot = tangents[0]
    observed = jnp.any(args[3].x.observed)
    value, score = group_value_and_score(args, z0)
    slopes, start = [], 0
    for block in ("beta", "covariance", "error"):
        stop = start + getattr(args[2], block).shape[0]
        if getattr(params_dot, block) is not None:
            slopes.append(jnp.sum(score[start:stop] * getattr(params_dot, block)))
        start = stop
    rest_dot = (density_dot, params_dot.free, group_dot)
    if _any_perturbed(rest_dot):
        slopes.append(jnp.where(observed, _slope_in_rest(args, rest_dot, z0), 0.0))
    return value, sum(slopes[1:], slopes[0]) if slopes else jnp.zeros_like(value)


@eqx.filter_custom_jvp
def group_value_and_score(args: Arguments, z0: Any) -> tuple[Scalar, Vector]:
    """`group_value` and its gradient (packed,) in beta, covariance and error parameters; differentiable in all arrays
    of `args`."""
    method, density, params, group = args
    result, score = value_and_score(method, density, params.unpack, params.pack(), group, z0)
    return jax.lax.stop_gradient((result.value, score))


@group_value_and_score.def_jvp
def _group_value_and_score_rule(primals, tangents):
    args, z0 = primals
    dot = tangents[0]
    moving, still = partition_perturbed(args, dot)
    origin = one_pass(*args) if isinstance(args[0].integral, Gaussian) else None
    if origin is None:

        def differentiated(moving):
            method, density, params, group = eqx.combine(moving, still)
            x = params.pack()
            return value_and_gradient(lambda x: method.evaluate(density, params.unpack(x), group, z0).value)(x)

        return along(differentiated, moving, dot)
    z, search = _mode_of_one_pass(args, z0)

    def explicit(moving, z):
        args = eqx.combine(moving, still)
        result, score, derivatives = _one_pass(args).value_and_score_at(z, search)
        return (result.value, jnp.where(jnp.any(args[3].x.observed), score, 0.0)), derivatives

    out, push, (derivatives, hessian) = linearise(explicit, moving, z, has_aux=True)
    if _any_perturbed((dot[1], dot[3], dot[2].free)):
        _, slope_dot = along(lambda moving: _one_pass(eqx.combine(moving, still)).slope(z), moving, dot)
    else:
        _, slope_dot = along(
            lambda moving: _one_pass(eqx.combine(moving, still)).slope_near(derivatives, origin, z), moving, dot
        )
    return out, push(dot, symmetric_solve(barrier(hessian), slope_dot))


def _one_pass(args: Arguments) -> OnePassGroup:
    """The group of `args`, which is known to be computed in one pass."""
    expansion = one_pass(*args)
    assert expansion is not None
    return expansion


def _mode_of_one_pass(args: Arguments, z0: Any) -> tuple[Vector, NewtonResult]:
    """The conditional mode and the NewtonResult of a group that is computed in one pass, differentiable in `args`."""
    return implicit_minimiser(
        lambda z, args: -_one_pass(args).slope(z),
        lambda z, args: _one_pass(args).expand(z)[2],
        lambda args, z0: _one_pass(args).mode(z0),
    )(args, z0)


def _slope_in_rest(args: Arguments, rest_dot: PyTree, z0: Any) -> Scalar:
    """The slope of the value along `rest_dot`, tangents of the density, the free block and the group.

    With V(q, z) the value expanded at z, j the log joint density and K its negative Hessian at the mode, the slope is
    that of V + w . dj/dz in q at fixed z and w = K^-1 dV/dz.
    """
    method, density, params, group = args
    rest = (density, params.free, group)
    moving, still = partition_perturbed(rest, rest_dot)

    def parts(moving):
        density, free, group = eqx.combine(moving, still)
        at = eqx.tree_at(lambda p: p.free, params, free, is_leaf=lambda leaf: leaf is None)
        return density, at, group

    def value_at(moving, z):
        density, params, group = parts(moving)
        return method.integrate(density, params, z, group)[0]

    if not (method.at_mode and density.n_effects):
        z = jnp.zeros(density.n_effects)
        return along(lambda moving: value_at(moving, z), moving, rest_dot)[1]

    def log_joint(moving, z):
        density, params, group = parts(moving)
        return density.log_joint_given(params, z, group, method.scale_prediction(density, params, group))

    z, _ = conditional_mode(method.search, density, params, group, method.scale_prediction(density, params, group), z0)
    z = barrier(z)
    in_z = barrier(gradient(lambda z: value_at(moving, z))(z))
    hessian = value_gradient_hessian(lambda z: -log_joint(moving, z), z)[2]
    w = barrier(symmetric_solve(barrier(hessian), in_z))

    def adjoint(moving):
        return value_at(moving, z) + along(lambda z: log_joint(moving, z), z, w)[1]

    return along(adjoint, moving, rest_dot)[1]


def _any_perturbed(tangents: PyTree) -> bool:
    """True if one of `tangents`, None for a leaf that is not perturbed, is an array."""
    return bool(jax.tree.leaves(tangents))
