"""A likelihood approximation as an objective: its value and exact gradient at a packed vector, the one program that
every fit compiles."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxnlme.binding.problem import Problem
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.group_result import GroupResult
from jaxnlme.likelihood.score import value_and_score
from jaxnlme.model import derivatives
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.typing import Vector


class ObjectiveSums(eqx.Module):
    """Sums over groups that make up an objective.

    **Fields:** `value`: minus (weighted sum of log-likelihoods plus log prior); `gradient` (n,) of `value`;
    `log_likelihood`: the weighted sum without the prior; `outer` (dense, dense): weighted sum of outer products of the
    groups' scores, scores that are not finite left out; `counted`: number of groups whose weight is not zero. For a
    linearised model also `information` (fixed, fixed), X' V^-1 X, and, for RELME, its derivatives `slopes`
    (dense - fixed, fixed, fixed) in covariance and error parameters.
    """

    value: Any
    gradient: Any
    log_likelihood: Any
    outer: Any
    counted: Any
    information: Any = None
    slopes: Any = None


class GroupValues(eqx.Module):
    """Values of an objective for each group.

    **Fields:** `scores` (groups, dense): gradient of each group's log-likelihood in the dense vector; `values`: the
    log-likelihoods; `modes` (groups, random); `status`; `evaluations` of the mode search; `curvature` (groups, random,
    random); `variance`: Monte Carlo variance of each value; `ess`: effective number of draws behind it (both NaN
    without draws); `joint`: log joint density at each mode (NaN where none was searched).
    """

    scores: Any = None
    values: Any = None
    modes: Any = None
    status: Any = None
    evaluations: Any = None
    curvature: Any = None
    variance: Any = None
    ess: Any = None
    joint: Any = None


class Evaluation(eqx.Module):
    """An objective evaluated at `x`: its ObjectiveSums and GroupValues, readable by their names (`result.value`)."""

    sums: ObjectiveSums
    groups: GroupValues

    def __getattr__(self, name: str) -> Any:
        if name in ObjectiveSums.__dataclass_fields__:
            return getattr(self.sums, name)
        if name in GroupValues.__dataclass_fields__:
            return getattr(self.groups, name)
        raise AttributeError(name)


def flatten(params: Params) -> Vector:
    """The vector (n,) that estimators vary: the dense blocks of `params`, then the raveled free block."""
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
    """The objective at `x` (n,), mode searches starting from `modes` (groups, random).

    Each group's score is the gradient of its own value, so a group that is not finite affects its own row only.

    **Arguments:** `template`: Params with the shapes of the packed vector.
    """
    sums, groups = partial_sums(problem, (method, template, x), modes)
    return Evaluation(with_prior(problem.density, template, x, sums), groups)


def with_prior(density: Density, template: Params, x: Vector, sums: ObjectiveSums) -> ObjectiveSums:
    """The sums of all groups with the log prior at `x` (n,) added."""
    prior, slope = jax.value_and_grad(lambda x: density.log_prior(unflatten(template, x)))(x)
    return dataclasses.replace(sums, value=sums.value - prior, gradient=sums.gradient - slope)


def partial_sums(
    problem: Problem, point: tuple[LikelihoodApproximation, Params, Vector], modes: Any
) -> tuple[ObjectiveSums, GroupValues]:
    """The terms of the groups of `problem` in an objective, priors left out; sums over parts of the data add up.

    **Arguments:** `point`: the likelihood approximation, the template of Params, and x (n,); `modes` (groups, random):
    starts of the mode searches.
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
        spared = problem.replace_zero_weight_groups(weights)

        def total(tail):
            params = unpack(head, tail)
            results_at_tail = spared.map(lambda group, z0: method.evaluate(density, params, group, z0), results.mode)
            return weighted_sum(weights, results_at_tail.value)

        # One gradient of the sum: the scores of thousands of weights are not kept by group.
        gradient = jnp.concatenate([gradient, derivatives.gradient(total)(tail)])
    return sums_and_group_values(weights, results, scores, gradient)


def sums_and_group_values(
    weights: Any, results: GroupResult, scores: Any, gradient: Any
) -> tuple[ObjectiveSums, GroupValues]:
    """ObjectiveSums and GroupValues of `results` and `scores` (groups, dense).

    **Arguments:** `weights` (groups,); `gradient` (n,): the weighted sum of scores.
    """
    log_likelihood = weighted_sum(weights, results.value)
    finite = jnp.where(jnp.isfinite(scores), scores, 0.0)
    outer = finite.T @ (weights[:, None] * finite)
    return ObjectiveSums(-log_likelihood, -gradient, log_likelihood, outer, jnp.sum(weights != 0)), group_values(
        results, scores
    )


def group_values(results: GroupResult, scores: Any = None) -> GroupValues:
    """The GroupValues of `results` and of `scores` (groups, dense), if there are any."""
    return GroupValues(
        scores=scores,
        values=results.value,
        modes=results.mode,
        status=results.status,
        evaluations=results.evaluations,
        curvature=results.curvature,
        variance=results.monte_carlo.variance,
        ess=results.monte_carlo.ess,
        joint=results.joint,
    )


def weighted_sum(weights: Any, values: Any) -> Any:
    """The sum over groups of weights (groups,) * values (groups, ...); groups of weight zero are left out, even if
    their value is not finite."""
    weights = weights.reshape((-1,) + (1,) * (values.ndim - 1))
    return jnp.sum(jnp.where(weights == 0, 0.0, weights * values), axis=0)
