"""Observed information of the model linearised at given effects: standard errors "by linearisation"."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.core.objective import weighted_sum
from jaxnlme.likelihood.lindstrom_bates import model_of_tangent, tangent_from_draws
from jaxnlme.likelihood.requirements import require_linearisable
from jaxnlme.model.derivatives import linearise
from jaxnlme.model.params import Params


def partial_information(problem: Problem, params: Params, centre: Any) -> tuple[Any, Any]:
    """Sum over the groups of `problem` of the information (packed, packed) of the linearised model, and each group's
    score (groups, packed), for `PlacedProblem.run`; `centre` (groups, random), whitened effects."""
    density, x = problem.density, params.pack()

    def per_group(group, z):
        linear_model = tangent_from_draws(density, params, group, z)

        def score(packed):
            return model_of_tangent(density, linear_model, params.unpack(packed), group, False).score

        slope, jvp = linearise(score, x)
        hessian = jax.vmap(jvp)(jnp.eye(x.shape[0], dtype=x.dtype))
        has_response = jnp.any(group.x.observed)
        return jnp.where(has_response, slope, 0.0), jnp.where(has_response, hessian, 0.0)

    scores, hessians = problem.map(per_group, centre)
    return -weighted_sum(problem.weights, hessians), scores


def linearised_information(
    binding: Binding,
    placed: PlacedProblem,
    params: Params,
    centre: np.ndarray,
    active: np.ndarray | None = None,
    *,
    block_diagonal: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Observed information by linearisation: minus the Hessian, in all packed parameters (beta, covariance, error), of
    the log-likelihood of the linear mixed model that approximates the model at `params` and the effects `centre`.

    Held fixed in the derivatives: the prediction f and its Jacobian J at (beta, b = L centre), beta and b there, and
    the prediction at which the residual scale is evaluated. Varied: beta along J; psi; the error parameters in the
    scale, and in the response's transformation where it has a shape. For a linear model with a scale that does not vary
    with the prediction, this is the exact observed information, whatever the centre.

    **Arguments:** `centre` (groups, random), conditional means or modes of z at `params`; `active`, indices of packed
    entries (None: all that are not fixed); `block_diagonal`: set the information between beta and the other parameters
    to zero, its expectation (as LME and R's saemix do); False keeps the observed values.
    **Returns:** the matrix (active, active), log priors included, weighted by the groups' weights; and the weighted
    scores (groups, active) of the linearised model's log-likelihood, without priors, zero where a weight is: the
    arguments of `results.inference.information`. Designs and individual-parameter functions of every kind are
    linearised. The matrix is not modified: it may be indefinite away from a maximum.
    **Raises:** ModelError where the outcome has no Gaussian moments.
    **Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038; Lindstrom and Bates
    (1990), Biometrics 46, 673-687, for the linear mixed model.
    """
    density = binding.density
    require_linearisable("information by linearisation", density)
    active = np.flatnonzero(~binding.fixed) if active is None else np.asarray(active)
    matrix, pieces = placed.run(partial_information, params, placed.scatter(np.asarray(centre)), once=True)
    matrix = np.array(matrix)
    if density.priors:
        matrix -= np.asarray(jax.hessian(lambda packed: density.log_prior(params.unpack(packed)))(params.pack()))
    matrix = matrix[np.ix_(active, active)]
    if block_diagonal:
        in_beta = active < len(density.beta_names)
        matrix[np.ix_(in_beta, ~in_beta)] = 0.0
        matrix[np.ix_(~in_beta, in_beta)] = 0.0
    weights = np.asarray(binding.data.weights)[:, None]
    scores = np.where(weights == 0, 0.0, weights * placed.collect(pieces)[:, active])
    return 0.5 * (matrix + matrix.T), scores
