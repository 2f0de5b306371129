"""Value and score of one group by the adjoint of its mode: what estimators evaluate again and again."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnlme.likelihood.approximations import GroupResult, LikelihoodApproximation, group_result
from jaxnlme.likelihood.integrals import Gaussian
from jaxnlme.likelihood.mode import search_mode
from jaxnlme.likelihood.one_pass import local
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.implicit import barrier, value_gradient_hessian
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
    """The result of `method.evaluate` at `unpack(x)`, and the gradient of its value in x (n,): zero, as the value is,
    where the group has no observed response.

    With l(x, z) the value expanded at z, j(x, z) the log joint and H its negative Hessian at the mode, the score is
    dl/dx + d/dx (w . dj/dz), w = H^-1 dl/dz: the same first derivative as differentiating `evaluate`, with every
    intermediate used once (half the time).

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
    known = local(method, density, unpack(x), group)
    if known is not None and isinstance(method.integral, Gaussian):
        return known.value_and_score(z0)

    def value_at(x, z):
        return method.integrate(density, unpack(x), z, group)

    if not (method.at_mode and density.n_effects):
        z = jnp.zeros(density.n_effects)
        (value, (hessian, monte_carlo)), score = jax.value_and_grad(value_at, has_aux=True)(x, z)
        return group_result(value, z, hessian, monte_carlo, None, group), score

    def log_joint(x, z):
        params = unpack(x)
        return density.log_joint_given(params, z, group, method.scale_prediction(density, params, group))

    params = unpack(x)
    at_zero = method.scale_prediction(density, params, group)
    if known is None:
        z, found = search_mode(method.search, density, params, group, at_zero, z0)
    else:
        z, found = known.mode(z0)
    z = barrier(z)
    (value, (hessian, monte_carlo)), (direct, pull) = jax.value_and_grad(value_at, argnums=(0, 1), has_aux=True)(x, z)
    direct, pull = barrier((direct, pull))
    _, _, joint_hessian = value_gradient_hessian(lambda z: -density.log_joint_given(params, z, group, at_zero), z)
    lower, _ = guarded_cholesky(barrier(joint_hessian), floor=0.0)
    w = barrier(cholesky_solve(lower, pull))
    through_mode = jax.grad(lambda x: jax.jvp(lambda z: log_joint(x, z), (z,), (w,))[1])(x)
    return group_result(value, z, hessian, monte_carlo, found, group), direct + through_mode
