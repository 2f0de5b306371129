"""What settling iterations sum up at fixed parameters: complete scores, their squares and their control variates."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.em.sufficient_statistics import ParameterLayout, Scores, given_effects, score, weighted
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.linalg import times
from jaxnlme.sampling.control_variates import control_variates as stein
from jaxnlme.sampling.samplers import Draws, Frame


class ScoreSums(eqx.Module):
    """What one iteration adds up over groups: `score` (packed,), the complete score; `variance_reduced` (packed,), the same less
    its control variates; `outer` (packed, packed), the sum of squares of the draws' scores; of a `whitened` layout
    `psi_slope` (random, random), the slope of the log-likelihood along psi, and `factor_slope` (random, random), that along every
    entry of a factor of psi (boundary.py); `curvature_check` (random,), whose mean is zero where the model has second
    derivatives."""

    score: Any
    variance_reduced: Any
    outer: Any
    psi_slope: Any
    factor_slope: Any
    curvature_check: Any

    @classmethod
    def zeros(cls, layout: ParameterLayout, shape: tuple[int, ...], dtype: Any) -> ScoreSums:
        """Nothing, with leading axes `shape`."""
        n, q = layout.n, layout.centring.effects if layout.whitened else 0
        return cls(*(jnp.zeros((*shape, *rest), dtype) for rest in ((n,), (n,), (n, n), (q, q), (q, q), (q,))))


class GroupScoreSums(eqx.Module):
    """What iterations sum up for a group, means over its draws: `score` (replicates, packed), the complete score;
    `first` (replicates, random) and `second` (replicates, random, random) of b and b b' (of a `whitened` layout, z and
    z z'); of the control variates `functions` (replicates, functions), their products `squares` (replicates, functions,
    functions) and those with the scores `crossed` (replicates, packed, functions)."""

    score: Any
    first: Any
    second: Any
    functions: Any
    squares: Any
    crossed: Any


class ScoredDraws(eqx.Module):
    """What a settling iteration needs of the draws of a group: the `draws`, and complete `slopes` (draws, scored) of
    the outcome in the entries that are scored there."""

    draws: Draws
    slopes: Any


def accumulate_scores(
    layout: ParameterLayout,
    density: Density,
    group: Group,
    weight: Any,
    params: Params,
    frame: Frame,
    tool: Scores,
    drawn: ScoredDraws,
    control_coefficients: Any,
    sums: GroupScoreSums,
) -> tuple[ScoreSums, GroupScoreSums]:
    """One group's share of an iteration, in one replicate, and its sums so far.

    **Arguments:** `control_coefficients` (packed, functions), how much of each control variate is taken off the scores.
    """
    draws = drawn.draws
    z, (counts, squares) = draws.z, draws.kept
    coefficients = layout.centring.coefficients(group)
    b = times(z, frame.factor.T)
    scores = jax.vmap(lambda b, n, s: score(layout, tool, params, coefficients, b, n, s))(b, counts, squares)
    if layout.scored:
        scores = scores.at[:, np.array(layout.scored, int)].set(drawn.slopes)
    functions = jax.vmap(stein)(z, jax.vmap(jax.grad(lambda z: density.log_joint(params, z, group)))(z))
    average, outer = draws.mean(scores), draws.mean(scores[:, :, None] * scores[:, None, :])
    mean_functions = draws.mean(functions)
    sums_here = GroupScoreSums(
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
            jax.vmap(lambda z: _along_psi(density, params, z, group))(z)
        )
    score_sums = ScoreSums(
        average, average - control_coefficients @ mean_functions, outer, psi_slope, factor_slope, curvature_check
    )
    return weighted(counted(group, weight), score_sums), jax.tree.map(jnp.add, sums, sums_here)


def _along_psi(density: Density, params: Params, z: Any, group: Group) -> tuple[Any, Any, Any]:
    """(H + g g') / 2 and g z' (random, random) of one draw of z, and the second derivatives of the joint density along
    each z over that density (random,), which integrate to zero unless the model has kinks."""

    def value(b):
        return given_effects(density, params, b, group)

    b, lower = density.effects(params, z), density.covariance.factor(params.covariance)
    slope, bend = jax.grad(value)(b), jax.hessian(value)(b)
    curvature_check = jnp.sum(lower * times(bend, lower), axis=0) - 1.0 + (times(lower.T, slope) - z) ** 2
    return 0.5 * (bend + slope[:, None] * slope[None, :]), slope[:, None] * z[None, :], curvature_check


def counted(group: Group, weight: Any) -> Any:
    """The weight of a group: none without a response, whose draws would only add noise."""
    return jnp.where(jnp.any(group.x.observed), weight, 0.0)
