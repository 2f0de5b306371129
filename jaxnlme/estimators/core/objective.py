"""The objective of a rung and its exact gradient at a packed vector: the one program that every fit compiles."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxnlme.binding.problem import Problem
from jaxnlme.likelihood.approximations import GroupResult, LikelihoodApproximation
from jaxnlme.likelihood.score import value_and_score
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.typing import Vector


class ObjectiveSums(eqx.Module):
    """What an objective adds up over groups: `value`: minus (sum of weighted log-likelihoods plus log prior);
    `gradient` (n,) of it; `log_likelihood`, the weighted sum alone; `outer` (dense, dense), the weighted sum of outer
    products of the groups' scores, finite ones; `counted`, the number of groups whose weight is not zero. Of a
    linearised model also `information` (fixed, fixed), X' V^-1 X, and, where it is restricted, its derivatives
    `slopes` (dense - fixed, fixed, fixed) in covariance and error parameters."""

    value: Any
    gradient: Any
    log_likelihood: Any
    outer: Any
    counted: Any
    information: Any = None
    slopes: Any = None


class Groups(eqx.Module):
    """What an objective says of each group: `scores` (groups, dense): gradient of each group's log-likelihood in the
    dense vector; `values`, `modes` (groups, random), `status`, `evaluations`, `curvature` (groups, random, random),
    `variance`, the Monte Carlo variance of each value, and `ess`, the effective number of draws behind it (NaN without
    draws)."""

    scores: Any = None
    values: Any = None
    modes: Any = None
    status: Any = None
    evaluations: Any = None
    curvature: Any = None
    variance: Any = None
    ess: Any = None


class Evaluation(eqx.Module):
    """An objective evaluated at `x`: its Sums and its Groups, readable by their names (`result.value`)."""

    sums: ObjectiveSums
    groups: Groups

    def __getattr__(self, name: str) -> Any:
        if name in ObjectiveSums.__dataclass_fields__:
            return getattr(self.sums, name)
        if name in Groups.__dataclass_fields__:
            return getattr(self.groups, name)
        raise AttributeError(name)


def flatten(params: Params) -> Vector:
    """The vector (n,) that estimators move: the dense blocks, then the raveled free block."""
    if params.free is None:
        return params.pack()
    free, _ = ravel_pytree(params.free)
    return jnp.concatenate([params.pack(), free.astype(params.beta.dtype)])


def unflatten(template: Params, x: Vector) -> Params:
    """Params of the shape of `template` from a vector (n,)."""
    dense = template.beta.shape[0] + template.covariance.shape[0] + template.error.shape[0]
    if template.free is None:
        return template.unpack(x)
    _, unravel = ravel_pytree(template.free)
    return template.unpack(x[:dense], unravel(x[dense:]))


def evaluate(problem: Problem, method: LikelihoodApproximation, template: Params, x: Vector, modes: Any) -> Evaluation:
    """The objective at `x` (n,), searches starting from `modes` (groups, random).

    Each group's score is the gradient of its own value, so a group that is not finite spoils its own row only.
    """
    sums, groups = share(problem, (method, template, x), modes)
    return Evaluation(with_prior(problem.density, template, x, sums), groups)


def with_prior(density: Density, template: Params, x: Vector, sums: ObjectiveSums) -> ObjectiveSums:
    """The Sums of all groups with the log prior at `x` (n,) added."""
    prior, slope = jax.value_and_grad(lambda x: density.log_prior(unflatten(template, x)))(x)
    return dataclasses.replace(sums, value=sums.value - prior, gradient=sums.gradient - slope)


def share(
    problem: Problem, point: tuple[LikelihoodApproximation, Params, Vector], modes: Any
) -> tuple[ObjectiveSums, Groups]:
    """What the groups of `problem` add to an objective, priors left out: shares of several parts of the data add up.

    **Arguments:** `point`: the rung, the template of Params and x (n,); `modes` (groups, random), starts of searches.
    """
    method, template, x = point
    density, weights = problem.density, problem.weights
    dense = template.pack().shape[0]
    head, tail = x[:dense], x[dense:]

    def unpack(head, tail=tail):
        return unflatten(template, jnp.concatenate([head, tail]))

    results, scores = problem.map(lambda group, z0: value_and_score(method, density, unpack, head, group, z0), modes)
    gradient = weighted_sum(weights, scores)
    if template.free is not None:
        spared = problem.with_spared(weights)

        def total(tail):
            params = unpack(head, tail)
            again = spared.map(lambda group, z0: method.evaluate(density, params, group, z0), results.mode)
            return weighted_sum(weights, again.value)

        # One gradient of the sum: the scores of thousands of weights are not kept by group.
        gradient = jnp.concatenate([gradient, jax.grad(total)(tail)])
    return added_up(weights, results, scores, gradient)


def added_up(weights: Any, results: GroupResult, scores: Any, gradient: Any) -> tuple[ObjectiveSums, Groups]:
    """Sums and Groups of `results` and `scores` (groups, dense); `gradient` (n,), the weighted sum of scores."""
    log_likelihood = weighted_sum(weights, results.value)
    finite = jnp.where(jnp.isfinite(scores), scores, 0.0)
    outer = finite.T @ (weights[:, None] * finite)
    return ObjectiveSums(-log_likelihood, -gradient, log_likelihood, outer, jnp.sum(weights != 0)), groups_of(
        results, scores
    )


def groups_of(results: GroupResult, scores: Any = None) -> Groups:
    """The Groups of `results` and, where there are any, `scores` (groups, dense)."""
    return Groups(
        scores=scores,
        values=results.value,
        modes=results.mode,
        status=results.status,
        evaluations=results.evaluations,
        curvature=results.curvature,
        variance=results.monte_carlo.variance,
        ess=results.monte_carlo.ess,
    )


def weighted_sum(weights: Any, values: Any) -> Any:
    """The sum over groups of weights (groups,) * values (groups, ...), those of weight zero left out, whatever their
    value."""
    weights = weights.reshape((-1,) + (1,) * (values.ndim - 1))
    return jnp.sum(jnp.where(weights == 0, 0.0, weights * values), axis=0)
