"""Log-likelihoods around given conditional means, over all groups: what a sampling estimator computes at its end."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.estimators.objective import Groups, groups_of, weighted_sum
from jaxnlme.likelihood.centred import AbstractCentred
from jaxnlme.model.params import Params
from jaxnlme.model.placed import Placed
from jaxnlme.model.problem import Problem


class CentredSums(eqx.Module):
    """`log_likelihood`, the sum of weighted log-likelihoods; `variance` of it, Monte Carlo (zero for deterministic
    rules)."""

    log_likelihood: Any
    variance: Any


def share_centred(
    problem: Problem, point: tuple[AbstractCentred, Params], at: tuple[Any, Any]
) -> tuple[CentredSums, Groups]:
    """What the groups of `problem` add to the log-likelihood; see `objective.share`. Draws of different groups are
    independent, so variances add up with the squares of the weights.

    **Arguments:** `point`: the method and Params; `at`: centre (groups, random) and spread (groups, random, random).
    """
    method, params = point
    density, weights = problem.density, problem.weights
    found = problem.map(lambda group, *at: method.evaluate(density, params, group, *at), *at)
    variance = weighted_sum(weights**2, found.monte_carlo.variance)
    return CentredSums(weighted_sum(weights, found.value), variance), groups_of(found)


def centred_log_likelihood(
    placed: Placed, method: AbstractCentred, params: Params, centre: np.ndarray, spread: np.ndarray
) -> tuple[CentredSums, Groups]:
    """`share_centred` over all groups, on the host.

    **Arguments:** `centre` (groups, random), `spread` (groups, random, random), in the order of the data.
    **Returns:** numpy: the sums over every process's groups, and Groups of this process's (groups, ...), `scores` None.
    **Errors:** ModelError or OptionError where the model does not suit the method; OptionError for other shapes.
    """
    method.check(placed.density)
    m, q = placed.n_groups, placed.density.n_effects
    if np.shape(centre) != (m, q) or np.shape(spread) != (m, q, q):
        raise OptionError(
            f"centre and spread must have shapes ({m}, {q}) and ({m}, {q}, {q}); "
            f"received {np.shape(centre)} and {np.shape(spread)}."
        )
    at = list(zip(placed.spread(centre), placed.spread(spread), strict=True))
    sums, pieces = placed.run(share_centred, (method, params), at)
    groups = jax.tree.map(lambda *parts: placed.own(parts), *pieces)
    return jax.tree.map(np.asarray, sums), groups
