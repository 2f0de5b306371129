"""The objective of a batch of groups and its gradient in all parameters, and the penalty on the weights.

Marginal likelihood. With l(x, z) the value of the approximation expanded at z, j(x, z) the log joint density and K its
negative Hessian in z, the gradient of group i at its mode z_i is (see `likelihood/score.py`)

    d/dx [ l(x, z_i) + w_i . dj/dz(x, z_i) ],   w_i = K^-1 dl/dz,   z_i and w_i held

so that one reverse pass over the sum of all groups gives it, in thousands of weights as in few.

Complete data. By Fisher's identity the score is the mean of d/dx log p(y | x, z) over draws of z given the data.

**Source:** Almquist, Leander and Jirstrand (2015), J Pharmacokinet Pharmacodyn 42, 191-209, in adjoint form; Louis
(1982), JRSS B 44, 226-233, for Fisher's identity.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.binding.problem import Problem
from jaxnlme.errors import Status
from jaxnlme.estimators.core.objective import weighted_sum
from jaxnlme.estimators.gradient.settings import TRAINING
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.conditional_mode import search_mode
from jaxnlme.likelihood.one_pass import one_pass
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import gradient, linearise, value_and_gradient, value_gradient_hessian
from jaxnlme.model.networks import Networks
from jaxnlme.model.params import Params
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.linalg import cholesky_solve, guarded_cholesky
from jaxnlme.typing import Scalar, Vector


def marginal_gradient(
    problem: Problem, method: LikelihoodApproximation, params: Params, weights: Any, z0: Any
) -> tuple[Scalar, Params, Any, Any]:
    """The weighted log-likelihood of the groups of `problem`, its gradient in `params`, the modes (groups, random), and
    the groups (groups,) bool that are not finite and were left out.

    **Arguments:** `weights` (groups,); `z0` (groups, random): starts of the mode searches.
    """
    density = problem.density
    searches = bool(method.at_mode and density.n_effects)

    def expand(group: Group, z0: Vector) -> tuple[Scalar, Vector, Vector]:
        if not searches:
            zero = jnp.zeros_like(z0)
            return method.integrate(density, params, zero, group)[0], zero, zero
        at_zero = method.scale_prediction(density, params, group)
        expansion = one_pass(method, density, params, group)
        if expansion is None:
            z, _ = search_mode(method.search, density, params, group, at_zero, z0)
        else:
            z, _ = expansion.mode(z0)
        z = barrier(z)
        (value, _), in_z = value_and_gradient(lambda z: method.integrate(density, params, z, group), has_aux=True)(z)
        _, _, hessian = value_gradient_hessian(lambda z: -density.log_joint_given(params, z, group, at_zero), z)
        lower, _ = guarded_cholesky(barrier(hessian), floor=0.0)
        return value, z, cholesky_solve(lower, barrier(in_z))

    values, z, w = problem.map(expand, z0)
    finite = jnp.isfinite(values) & jnp.all(jnp.isfinite(z) & jnp.isfinite(w), axis=1)
    failed = ~finite & (weights != 0)
    used = jnp.where(finite, weights, 0.0)
    z, w = (jnp.where(finite[:, None], part, 0.0) for part in (z, w))
    spared = problem.replace_zero_weight_groups(used)

    def total(params: Params) -> Scalar:
        def term(group: Group, z: Vector, w: Vector) -> Scalar:
            value = method.integrate(density, params, z, group)[0]
            if not searches:
                return value
            at_zero = method.scale_prediction(density, params, group)
            _, push = linearise(lambda z: density.log_joint_given(params, z, group, at_zero), z)
            return value + push(w)

        return weighted_sum(used, spared.map(term, z, w))

    modes = jnp.where(finite[:, None], z, z0)
    return weighted_sum(used, values), gradient(total)(params), modes, failed


def complete_gradient(
    problem: Problem, params: Params, weights: Any, z0: Any, key: Any
) -> tuple[Scalar, Params, Any, Any]:
    """The weighted complete-data log-likelihood log p(y | z) of the groups of `problem` at draws of z given the data,
    its gradient in `params`, the draws (groups, random), and the groups (groups,) bool that are not finite.

    **Arguments:** `z0` (groups, random): states of the chains; `key`: a JAX random key of the step.
    """
    density = problem.density
    scales = jnp.asarray(TRAINING.chain_scales, params.beta.dtype)

    def draw(group: Group, z: Vector) -> tuple[Vector, Scalar]:
        def log_joint(z: Vector) -> Scalar:
            value = density.log_joint(params, z, group)
            return jnp.where(jnp.isfinite(value), value, -jnp.inf)

        def move(state: tuple[Vector, Scalar], key: Any) -> tuple[tuple[Vector, Scalar], None]:
            z, here = state
            of_scale, of_noise, of_choice = jax.random.split(key, 3)
            step = jax.random.choice(of_scale, scales) * jax.random.normal(of_noise, z.shape, z.dtype)
            there = log_joint(z + step)
            accept = jnp.log(jax.random.uniform(of_choice, (), z.dtype)) < there - here
            return (jnp.where(accept, z + step, z), jnp.where(accept, there, here)), None

        keys = jax.random.split(jax.random.fold_in(key, group.key), TRAINING.chain_steps)
        (z, value), _ = jax.lax.scan(move, (z, log_joint(z)), keys)
        return z, value

    z, values = problem.map(draw, z0)
    finite = jnp.isfinite(values)
    used = jnp.where(finite, weights, 0.0)
    spared = problem.replace_zero_weight_groups(used)

    def total(params: Params) -> Scalar:
        return weighted_sum(used, spared.map(lambda group, z: density.log_joint(params, z, group), z))

    return total(params), gradient(total)(params), z, ~finite & (weights != 0)


def log_likelihoods(problem: Problem, method: LikelihoodApproximation, params: Params, z0: Any) -> tuple[Any, Any]:
    """The log-likelihoods (groups,) of the groups of `problem`, and their modes (groups, random)."""
    results = problem.map(lambda group, z: method.evaluate(problem.density, params, group, z), z0)
    found = results.status != Status.mode_not_found
    return results.value, jnp.where(found[:, None] & jnp.isfinite(results.mode), results.mode, z0)


def penalty(regularisation: Any, rest: Any, mask: Any, free: Networks | None) -> Any:
    """The penalty on the weights `free`: half the sum of squares of those that are trained, times a number, or the
    value of a function of the user.

    **Arguments:** `rest`: the modules without their arrays (`modules_of`); `mask`: a tree like `free`, true for weights
    that are trained.
    """
    if free is None:
        return 0.0
    if not callable(regularisation):
        squares = jax.tree.map(lambda leaf, use: jnp.sum(jnp.where(use, leaf, 0.0) ** 2), free, mask)
        return 0.5 * regularisation * sum(jax.tree.leaves(squares))
    return regularisation(modules_of(rest, free))


def modules_of(rest: dict[str, Any], free: Networks) -> Any:
    """The module of a model with its arrays `free`, or Networks of several; `rest`: modules without arrays by place."""
    import equinox as eqx

    modules = {place: eqx.combine(arrays, rest[place]) for place, arrays in free.parts.items()}
    return next(iter(modules.values())) if len(modules) == 1 else Networks(**modules)


def density_penalty_slope(density: Density, regularisation: Any, rest: Any, mask: Any, params: Params) -> Params:
    """The gradient in `params` of the log prior minus the penalty."""
    return gradient(lambda p: density.log_prior(p) - penalty(regularisation, rest, mask, p.free))(params)
