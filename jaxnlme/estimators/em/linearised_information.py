"""The information of the model linearised at given effects: standard errors "by linearisation"."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.core.objective import weighted_sum
from jaxnlme.likelihood.approximations import require_gaussian_moments
from jaxnlme.likelihood.lindstrom_bates import tangent_at
from jaxnlme.likelihood.linear_mixed_model import mixed
from jaxnlme.model.params import Params


def share_information(problem: Problem, params: Params, centre: Any) -> tuple[Any, Any]:
    """What the groups of `problem` add to the information (dense, dense) of the linearised model, and each group's
    score (groups, dense), for `PlacedProblem.run`; `centre` (groups, random)."""
    density, x = problem.density, params.pack()

    def one(group, z):
        held = tangent_at(density, params, group, z)

        def score(packed):
            return mixed(density, held, params.unpack(packed), group, False).score

        slope, push = jax.linearize(score, x)
        bend = jax.vmap(push)(jnp.eye(x.shape[0], dtype=x.dtype))
        seen = jnp.any(group.x.observed)
        return jnp.where(seen, slope, 0.0), jnp.where(seen, bend, 0.0)

    scores, bends = problem.map(one, centre)
    return -weighted_sum(problem.weights, bends), scores


def linearised_information(
    binding: Binding,
    placed: PlacedProblem,
    params: Params,
    centre: np.ndarray,
    active: np.ndarray | None = None,
    *,
    apart: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The observed information by linearisation: minus the Hessian, in all packed parameters (beta, covariance, error),
    of the log-likelihood of the linear mixed model that the model becomes at `params` and the effects `centre`.

    Held while parameters move: the prediction f and its Jacobian J at (beta, b = L centre), beta and b there, and the
    prediction that the residual scale is taken at. Moved: beta along J; psi; the error parameters in the scale, and in
    the response's transformation where it has a shape. For a linear model with a scale that does not vary with the
    prediction, this is the exact observed information, whatever the centre.

    **Arguments:** `centre` (groups, random), whitened conditional means or modes of z at `params`; `active`, indices of
    packed entries (None: all that are not fixed); `apart`: beta apart from the other parameters, to which it is
    orthogonal in expectation (as LME and R's saemix have it); False keeps what this sample says of both.
    **Returns:** the matrix (active, active), log priors included, weighted by the groups' weights; and the weighted
    scores (groups, active) of the linearised model's log-likelihood, priors left out, zero where a weight is: what
    `results.inference.information` takes. Designs and individual-parameter functions of every kind are linearised.
    Neither is repaired: the matrix may be indefinite away from a maximum.
    **Errors:** ModelError where the outcome has no Gaussian face.
    **Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038;
    Lindstrom and Bates (1990), Biometrics 46, 673-687, for the linear mixed model.
    """
    density = binding.density
    require_gaussian_moments("information by linearisation", density)
    active = np.flatnonzero(~binding.fixed) if active is None else np.asarray(active)
    matrix, pieces = placed.run(share_information, params, placed.spread(np.asarray(centre)), once=True)
    matrix = np.array(matrix)
    if density.priors:
        matrix -= np.asarray(jax.hessian(lambda packed: density.log_prior(params.unpack(packed)))(params.pack()))
    matrix = matrix[np.ix_(active, active)]
    if apart:
        fixed = active < len(density.beta_names)
        matrix[np.ix_(fixed, ~fixed)] = 0.0
        matrix[np.ix_(~fixed, fixed)] = 0.0
    weights = np.asarray(binding.data.weights)[:, None]
    scores = np.where(weights == 0, 0.0, weights * placed.own(pieces)[:, active])
    return 0.5 * (matrix + matrix.T), scores
