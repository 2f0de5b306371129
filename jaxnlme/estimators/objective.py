"""The objective of a rung and its exact gradient at a packed vector: the one program that every fit compiles."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxnlme.likelihood.named import Rung
from jaxnlme.model.params import Params
from jaxnlme.model.problem import Problem
from jaxnlme.typing import Vector


class Evaluation(eqx.Module):
    """An objective evaluated at `x`.

    `value`: minus (sum of weighted log-likelihoods plus log prior); `gradient` (n,) of it; `log_likelihood`, the
    weighted sum alone; `scores` (groups, dense): gradient of each group's log-likelihood in the dense vector; per group
    `values`, `modes` (groups, random), `status`, `evaluations`, `curvature` (groups, random, random), and `variance`,
    the Monte Carlo variance of each value.
    """

    value: Any
    gradient: Any
    log_likelihood: Any
    scores: Any
    values: Any
    modes: Any
    status: Any
    evaluations: Any
    curvature: Any
    variance: Any


def flatten(params: Params) -> Vector:
    """The vector (n,) that estimators move: the dense blocks, then the raveled free block."""
    free, _ = ravel_pytree(params.free)
    return jnp.concatenate([params.pack(), free.astype(params.beta.dtype)])


def unflatten(template: Params, x: Vector) -> Params:
    """Params of the shape of `template` from a vector (n,)."""
    dense = template.beta.shape[0] + template.covariance.shape[0] + template.error.shape[0]
    if template.free is None:
        return template.unpack(x)
    _, unravel = ravel_pytree(template.free)
    return template.unpack(x[:dense], unravel(x[dense:]))


def evaluate(problem: Problem, method: Rung, template: Params, x: Vector, modes: Any) -> Evaluation:
    """The objective at `x` (n,), searches starting from `modes` (groups, random).

    Each group's score is the gradient of its own value, so a group that is not finite spoils its own row only. With a
    free block the weighted sum is differentiated as well (scores of thousands of weights are not kept).
    """
    density, weights = problem.density, problem.weights
    dense = template.beta.shape[0] + template.covariance.shape[0] + template.error.shape[0]
    head, tail = x[:dense], x[dense:]

    def one(head, tail, group, z0):
        result = method.evaluate(density, unflatten(template, jnp.concatenate([head, tail])), group, z0)
        return result.value, result

    if template.free is None:
        scored = jax.value_and_grad(one, has_aux=True)
        (values, results), scores = problem.map(lambda group, z0: scored(head, tail, group, z0), modes)
        gradient = jnp.sum(_weighted(weights[:, None], scores), axis=0)
    else:

        def total(heads, tail):
            values, results = problem.map(lambda g, z0, head: one(head, tail, g, z0), modes, heads)
            return jnp.sum(_weighted(weights, values)), (values, results)

        heads = jnp.broadcast_to(head, (problem.n_groups, dense))
        (sloped, pull_tail), (values, results) = jax.grad(total, argnums=(0, 1), has_aux=True)(heads, tail)
        scores = sloped / jnp.where(weights == 0, 1.0, weights)[:, None]
        gradient = jnp.concatenate([jnp.sum(sloped, axis=0), pull_tail])
    log_likelihood = jnp.sum(_weighted(weights, values))
    prior, prior_slope = jax.value_and_grad(lambda x: density.log_prior(unflatten(template, x)))(x)
    return Evaluation(
        value=-(log_likelihood + prior),
        gradient=-(gradient + prior_slope),
        log_likelihood=log_likelihood,
        scores=scores,
        values=values,
        modes=results.mode,
        status=results.status,
        evaluations=results.evaluations,
        curvature=results.curvature,
        variance=results.monte_carlo.variance,
    )


def _weighted(weights: Any, values: Any) -> Any:
    """weights * values with groups of weight zero left out, whatever their value."""
    return jnp.where(weights == 0, 0.0, weights * values)
