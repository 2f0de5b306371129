"""Value and score of one group by the adjoint form of implicit differentiation, for estimators."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.conditional_mode import search_mode
from jaxnlme.likelihood.group_result import GroupResult, group_result
from jaxnlme.likelihood.integrals import Gaussian
from jaxnlme.likelihood.nested import nested_value_and_score
from jaxnlme.likelihood.one_pass import one_pass
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import directional_slope, value_and_gradient, value_gradient_hessian
from jaxnlme.model.params import Params
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.linalg import cholesky_solve, guarded_cholesky
from jaxnlme.typing import Vector


def value_and_score(
    method: LikelihoodApproximation,
    density: Density,
    unpack: Callable[[Vector], Params],
    x: Vector,
    group: Group,
    z0: Vector,
) -> tuple[GroupResult, Vector]:
    """The result of `method.evaluate` at `unpack(x)`, and its score, the gradient of the value in x.

    With l(x, z) the value expanded at z, j(x, z) the log joint density and H its negative Hessian at the mode, the
    score is dl/dx + d/dx (w . dj/dz), w = H^-1 dl/dz: the same as differentiating `evaluate`, in half the time.

    **Arguments:** `unpack(x)`: Params; `x` (n,); `z0` (random,): start of the search of the mode, whitened.
    **Returns:** a GroupResult, and the score (n,), zero for a group without an observed response.
    **Source:** the adjoint form of the implicit function theorem; Almquist, Leander and Jirstrand (2015),
    J Pharmacokinet Pharmacodyn 42, 191-209, section "Gradients".
    """
    result, score = _value_and_score(method, density, unpack, x, group, z0)
    return result, jnp.where(jnp.any(group.x.observed), score, 0.0)


def _value_and_score(
    method: LikelihoodApproximation,
    density: Density,
    unpack: Callable[[Vector], Params],
    x: Vector,
    group: Group,
    z0: Vector,
) -> tuple[GroupResult, Vector]:
    nested = nested_value_and_score(method, density, unpack, x, group, z0)
    if nested is not None:
        return nested
    expansion = one_pass(method, density, unpack(x), group)
    if expansion is not None and isinstance(method.integral, Gaussian):
        return expansion.value_and_score(z0)

    def value_at(x, z):
        return method.integrate(density, unpack(x), z, group)

    if not (method.at_mode and density.n_effects):
        z = jnp.zeros(density.n_effects)
        (value, (hessian, monte_carlo)), score = value_and_gradient(value_at, has_aux=True)(x, z)
        return group_result(value, z, hessian, monte_carlo, None, group), score

    def log_joint(x, z):
        params = unpack(x)
        return density.log_joint_given(params, z, group, method.scale_prediction(density, params, group))

    params = unpack(x)
    at_zero = method.scale_prediction(density, params, group)
    if expansion is None:
        z, search = search_mode(method.search, density, params, group, at_zero, z0)
    else:
        z, search = expansion.mode(z0)
    z = barrier(z)
    (value, (hessian, monte_carlo)), (in_x, in_z) = value_and_gradient(value_at, argnums=(0, 1), has_aux=True)(x, z)
    in_x, in_z = barrier((in_x, in_z))
    _, _, joint_hessian = value_gradient_hessian(lambda z: -density.log_joint_given(params, z, group, at_zero), z)
    lower, _ = guarded_cholesky(barrier(joint_hessian), floor=0.0)
    w = barrier(cholesky_solve(lower, in_z))
    through_mode = directional_slope(log_joint, x, z, w)
    return group_result(value, z, hessian, monte_carlo, search, group), in_x + through_mode
