"""Log-likelihoods of all groups around given conditional means, for methods that draw the random effects."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.objective import GroupValues, group_values, weighted_sum
from jaxnlme.likelihood.from_draws import AbstractFromDraws
from jaxnlme.model.params import Params


class CentredSums(eqx.Module):
    """Sums over groups: `log_likelihood`, weighted; `variance` of it, Monte Carlo (zero for deterministic rules)."""

    log_likelihood: Any
    variance: Any


def sum_centred(
    problem: Problem, point: tuple[AbstractFromDraws, Params], at: tuple[Any, Any]
) -> tuple[CentredSums, GroupValues]:
    """For `PlacedProblem.run`: log-likelihoods of the groups of `problem`, and their weighted sums. Draws of different
    groups are independent, so variances add up with the squares of the weights.

    **Arguments:** `point`: the method and Params; `at`: centre (groups, random) and spread (groups, random, random).
    **Returns:** CentredSums, and GroupValues (groups, ...).
    """
    method, params = point
    density, weights = problem.density, problem.weights
    results = problem.map(lambda group, *at: method.evaluate(density, params, group, *at), *at)
    variance = weighted_sum(weights**2, results.monte_carlo.variance)
    return CentredSums(weighted_sum(weights, results.value), variance), group_values(results)


def centred_log_likelihood(
    placed: PlacedProblem, method: AbstractFromDraws, params: Params, centre: np.ndarray, spread: np.ndarray
) -> tuple[CentredSums, GroupValues]:
    """`sum_centred` over all groups, on the host.

    **Arguments:** `centre` (groups, random), `spread` (groups, random, random), in the order of the data.
    **Returns:** numpy: the sums over every process's groups, and GroupValues of this process's (groups, ...), `scores`
    None.
    **Raises:** ModelError or OptionError if the model does not suit the method; OptionError for other shapes.
    """
    method.check(placed.density)
    m, q = placed.n_groups, placed.density.n_effects
    if np.shape(centre) != (m, q) or np.shape(spread) != (m, q, q):
        raise OptionError(
            f"centre and spread must have shapes ({m}, {q}) and ({m}, {q}, {q}); "
            f"received {np.shape(centre)} and {np.shape(spread)}."
        )
    sums, chunks = placed.run(sum_centred, (method, params), scattered(placed, centre, spread))
    groups = jax.tree.map(lambda *parts: placed.collect(parts), *chunks)
    return jax.tree.map(np.asarray, sums), groups


def scattered(placed: PlacedProblem, centre: np.ndarray, spread: np.ndarray) -> list[Any]:
    """`centre` (groups, random) and `spread` (groups, random, random) as `PlacedProblem.run` takes them."""
    return list(zip(placed.scatter(centre), placed.scatter(spread), strict=True))
