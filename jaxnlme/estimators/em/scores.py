"""Scores at fixed parameters: sums over iterations of complete-data scores, their squares and their control variates.

For the draws z_ij of group i, with complete-data scores s_ij (packed,) and control variates c_ij (functions,), an
iteration adds

1. sum_i w_i mean_j s_ij, the complete-data score (Fisher's identity), and the same less A_i mean_j c_ij, A_i the
   coefficients of the control variates;
2. sum_i w_i mean_j s_ij s_ij', for Louis' identity;
3. for each group, the means of s_ij, c_ij, c_ij c_ij' and s_ij c_ij', from which A_i is fitted, and of b_ij and b_ij
   b_ij'.

**Source:** Louis (1982), Journal of the Royal Statistical Society B 44, 226-233; see `sampling.control_variates` for
the control variates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.em.complete_data import ScoreTerms, complete_score, log_density_given_effects
from jaxnlme.estimators.em.parameter_layout import ParameterLayout
from jaxnlme.estimators.em.sufficient_statistics import informative_and_counts, weighted_contribution
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import gradient, hessian, linearise
from jaxnlme.model.levels import Levels
from jaxnlme.model.params import Params
from jaxnlme.numerics.linalg import small_product
from jaxnlme.sampling.control_variates import NestedControlVariates, control_variates
from jaxnlme.sampling.samplers import Chains, Draws, Whitening, nested_control_variates


class ScoreSums(eqx.Module):
    """Sums over groups of one iteration's scores.

    - `score` (packed,): the complete-data score; `variance_reduced` (packed,): the same less its control variates.
    - `outer` (packed, packed): the mean over draws of the products of the complete-data scores.
    - In a `whitened` layout: `psi_slope` (effects, effects), the derivative of the log-likelihood along psi, and
      `factor_slope` (effects, effects), that along every entry of a factor of psi (see `boundary`); `curvature_check`
      (effects,), with mean zero where the model is twice differentiable. Effects: the distinct ones.
    """

    score: Any
    variance_reduced: Any
    outer: Any
    psi_slope: Any
    factor_slope: Any
    curvature_check: Any

    @classmethod
    def zeros(cls, layout: ParameterLayout, shape: tuple[int, ...], dtype: Any) -> ScoreSums:
        """Sums of zero, with leading axes `shape`."""
        n, q = layout.n, layout.centring.n_effects if layout.whitened else 0
        return cls(*(jnp.zeros((*shape, *rest), dtype) for rest in ((n,), (n,), (n, n), (q, q), (q, q), (q,))))


class GroupScoreSums(eqx.Module):
    """Sums over iterations for one group, of means over its draws: `score` (replicates, packed), the complete-data
    score; `first_moment` (replicates, random) and `second_moment` (replicates, random, random), of b and b b' (in a
    `whitened` layout, of z and z z'); `control_variates` (replicates, functions); `control_products` (replicates,
    functions, functions), their products; `score_control_products` (replicates, packed, functions), products of scores
    and control variates."""

    score: Any
    first_moment: Any
    second_moment: Any
    control_variates: Any
    control_products: Any
    score_control_products: Any


class ScoredDraws(eqx.Module):
    """Draws of a group with what their scores need: `draws`, and `outcome_scores` (draws, scored), the outcome's
    complete-data scores in the scored entries."""

    draws: Draws
    outcome_scores: Any


def accumulate_scores(
    layout: ParameterLayout,
    density: Density,
    group: Group,
    weight: Any,
    params: Params,
    whitening: Whitening,
    terms: ScoreTerms,
    chains: Chains,
    scored_draws: ScoredDraws,
    control_coefficients: Any,
    sums: GroupScoreSums,
) -> tuple[ScoreSums, GroupScoreSums]:
    """Contribution of one group and iteration to the scores, in one replicate.

    **Arguments:** `weight` of the group; `whitening` and `terms` at `params`; `scored_draws`, of this iteration;
    `control_coefficients` (packed, functions), coefficients of the control variates; `sums` of the group so far.
    **Returns:** the weighted contribution to the sums over groups; the group's sums including this iteration.
    """
    draws = scored_draws.draws
    z, (counts, squares) = draws.z, draws.aux
    coefficients = layout.centring.coefficients(group)
    b = whitening.effects(z)

    def score(b, counts, squares):
        return complete_score(layout, terms, params, group, coefficients, b, counts, squares)

    scores = jax.vmap(score)(b, counts, squares)
    if layout.scored:
        scores = scores.at[:, np.array(layout.scored, int)].set(scored_draws.outcome_scores)
    slopes = jax.vmap(gradient(lambda z: density.log_joint(params, z, group)))(z)
    nested = control_variates_of_units(layout, whitening, params, chains, group)
    functions = jax.vmap(control_variates if nested is None else nested)(z, slopes)
    average, outer = draws.mean(scores), draws.mean(scores[:, :, None] * scores[:, None, :])
    mean_functions = draws.mean(functions)
    iteration_sums = GroupScoreSums(
        average,
        draws.mean(b),
        draws.mean(b[:, :, None] * b[:, None, :]),
        mean_functions,
        draws.mean(functions[:, :, None] * functions[:, None, :]),
        draws.mean(scores[:, :, None] * functions[:, None, :]),
    )
    psi_slope, factor_slope, curvature_check = jnp.zeros((0, 0)), jnp.zeros((0, 0)), jnp.zeros((0,))
    if layout.whitened:
        psi_slope, factor_slope, curvature_check = draws.mean(
            jax.vmap(lambda z: _psi_slopes(density, params, z, group))(z)
        )
    score_sums = ScoreSums(
        average, average - control_coefficients @ mean_functions, outer, psi_slope, factor_slope, curvature_check
    )
    return weighted_contribution(observed_weight(group, weight), score_sums), jax.tree.map(
        jnp.add, sums, iteration_sums
    )


def control_variates_of_units(
    layout: ParameterLayout, whitening: Whitening, params: Params, chains: Chains, group: Group
) -> NestedControlVariates | None:
    """The control variates of a group with nested levels and many effects; None for others."""
    if layout.levels is None:
        return None
    informative, _ = informative_and_counts(layout.levels, group)
    mean = layout.centring.mean(params.beta, layout.centring.coefficients(group))
    return nested_control_variates(whitening, chains, mean, layout.levels, informative[layout.levels.unit_of_entry])


def _psi_slopes(density: Density, params: Params, z: Any, group: Group) -> tuple[Any, Any, Any]:
    """(H + g g') / 2 and g z' (effects, effects) for one draw of z, g and H the derivatives of log p(y | b) in b; and
    the second derivatives of the joint density in each z, divided by that density (effects,), which have mean zero
    unless the model has kinks. With nested levels, sums over the units of each level."""

    def outcome(b):
        return log_density_given_effects(density, params, b, group)

    b, lower = density.effects(params, z), density.covariance.factor(params.covariance)
    if density.levels is not None:
        return _psi_slopes_of_units(density.levels, outcome, b, lower, z, group)
    slope, curvature = gradient(outcome)(b), hessian(outcome)(b)
    curvature_check = (
        jnp.sum(lower * small_product(curvature, lower), axis=0) - 1.0 + (small_product(lower.T, slope) - z) ** 2
    )
    return 0.5 * (curvature + slope[:, None] * slope[None, :]), slope[:, None] * z[None, :], curvature_check


def _psi_slopes_of_units(
    levels: Levels, outcome: Callable[[Any], Any], b: Any, lower: Any, z: Any, group: Group
) -> tuple[Any, Any, Any]:
    """`_psi_slopes` with nested levels; `outcome`, log p(y | b); `lower`, the factor of psi."""
    informative, units = informative_and_counts(levels, group)

    def of_units(vectors):
        return jnp.where(informative[:, None], levels.table(vectors), 0.0)

    slope, push = linearise(gradient(outcome), b)
    if levels.separable:
        # Units of one level do not interact: the derivatives along an effect of all of them at once are those along the
        # effect of each.
        columns = jax.vmap(push)(jnp.asarray(levels.entries_of_effect, z.dtype))
        curvatures = jnp.moveaxis(of_units(columns), 0, 2)  # (units, effects, effects)
        curvatures = jnp.where(levels.has_effect[:, None, :], curvatures, 0.0)
    else:
        matrix = of_units(jax.vmap(push)(jnp.eye(levels.size, dtype=z.dtype)))  # rows by entry
        curvatures = jnp.zeros((levels.n_units, *lower.shape), z.dtype)
        unit = levels.unit_of_entry
        curvatures = curvatures.at[unit, levels.effect_of_entry].set(matrix[np.arange(levels.size), unit])
    g, z = of_units(slope), of_units(z)
    curvature = jnp.sum(curvatures, axis=0)
    in_z = jnp.sum(jnp.where(levels.has_effect, g @ lower - z, 0.0) ** 2, axis=0)
    curvature_check = jnp.sum(lower * small_product(curvature, lower), axis=0) - units + in_z
    return 0.5 * (curvature + g.T @ g), g.T @ z, curvature_check


def observed_weight(group: Group, weight: Any) -> Any:
    """Weight of a group; zero for a group without a response, whose draws would only add noise."""
    return jnp.where(jnp.any(group.x.observed), weight, 0.0)
