"""Sufficient statistics of the complete-data likelihood of a mixed model, and Q, the expected complete log-likelihood,
as their function.

With b_i ~ N(0, psi), the individual effects are xi_i = C_i beta + b_i, xi_i ~ N(C_i beta, psi), where C_i holds the
coefficients that shift the mean of the random effects ("centred" coefficients, see `model/centring.py`). With residual
variance s^2 s_0(f)^2, the complete log-likelihood of the centred coefficients, psi and s is, up to a constant,

    Q = -w log|L| - tr(psi^-1 R) / 2 - sum_l (n_l log s_l + S_l / (2 s_l^2)),
    R = sum_i w_i (xi_i - C_i beta)(xi_i - C_i beta)',    psi = L L',

for strata l of the residual scale. It is linear in the statistics

1. w = sum_i w_i, the sum of the groups' weights, for each distinct effect (`weight`);
2. sum_i w_i xi_i xi_i' (`second`);
3. sum_i w_i c_i xi_i' (`cross`) and sum_i w_i c_i c_i' (`gram`), c_i the covariate values that make up C_i;
4. n_l = sum_i w_i n_il, the number of observations of a stratum (`counts`);
5. S_l, the weighted sum of squares of the residuals over s_0 (`squares`).

With nested levels xi, c and the sums over i run over the units of each level, every one with the weight of its group;
psi and the statistics are zero between levels, and w is that of the units of the level of each effect. Units that the
data say nothing of have no part in them.

Parameters that these statistics do not determine (coefficients that shift no random effect, residual parameters other
than one scale a stratum) are updated from their complete-data score instead, the gradient of log p(y_i | xi_i).

**Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038, for the statistics of a
mixed model; Delyon, Lavielle and Moulines (1999), Annals of Statistics 27, 94-128, for their stochastic approximation.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.em.parameter_layout import ParameterLayout
from jaxnlme.model.covariance.base import AbstractCovariance
from jaxnlme.model.density import Density, Group
from jaxnlme.model.levels import Levels
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.linalg import cholesky, cholesky_inverse, cholesky_solve
from jaxnlme.typing import Matrix, Scalar, Vector


class SufficientStatistics(eqx.Module):
    """Sufficient statistics of the complete data: `weight` (effects,); `second` (effects, effects), of xi xi'; `cross`
    (centred, effects), of c xi'; `gram` (centred, centred), of c c'; `counts` and `squares` (strata,), numbers of
    observations and sums of squared residuals over s_0. Effects: the distinct ones."""

    weight: Any
    second: Any
    cross: Any
    gram: Any
    counts: Any
    squares: Any


def residual_statistics(
    layout: ParameterLayout, density: Density, params: Params, f: Any, group: Group
) -> tuple[Vector, Vector]:
    """Statistics `counts` and `squares` (strata,) of one group at the predictions `f` (obs,)."""
    if not layout.strata:
        return jnp.zeros((0,)), jnp.zeros((0,))
    residual, scale, _ = density.error.moments(f, f, params.error, group)
    observed = group.x.observed
    square = jnp.where(observed, (residual / scale) ** 2, 0.0)
    level = jnp.exp(params.error)
    if layout.strata == 1:
        return jnp.sum(observed)[None].astype(square.dtype), jnp.sum(square)[None] * level**2
    in_stratum = (density.error.scale_index(group)[:, None] == np.arange(layout.strata)[None, :]) & observed[:, None]
    squares = jnp.sum(jnp.where(in_stratum, square[:, None], 0.0), axis=0)
    return jnp.sum(in_stratum, axis=0).astype(square.dtype), squares * level**2


def residual_statistics_of_units(
    layout: ParameterLayout, density: Density, params: Params, f: Any, group: Group
) -> tuple[Any, Any]:
    """`residual_statistics` of the rows of each unit of the innermost level (units, strata)."""
    levels = layout.levels
    assert levels is not None
    units = levels.innermost.units
    if not layout.strata:
        return jnp.zeros((units, 0)), jnp.zeros((units, 0))
    residual, scale, _ = density.error.moments(f, f, params.error, group)
    in_stratum = group.x.observed[:, None]
    if layout.strata > 1:
        in_stratum = (density.error.scale_index(group)[:, None] == np.arange(layout.strata)[None, :]) & in_stratum
    squares = jnp.where(in_stratum, ((residual / scale) ** 2)[:, None], 0.0)
    index = group.units[levels.innermost.depth - 1].index
    counts = jax.ops.segment_sum(in_stratum.astype(squares.dtype), index, units)
    squares = jax.ops.segment_sum(squares, index, units)
    return counts, squares * (jnp.exp(params.error) ** 2)[None, :]


def effect_statistics(
    layout: ParameterLayout, group: Group, coefficients: Any, xi: Vector, counts: Vector, squares: Vector
) -> SufficientStatistics:
    """Statistics of one group's `xi` (random,), without its weight; `coefficients`, c of the group as `Centring` has
    them; `counts` and `squares` (strata,), of its residuals."""
    if layout.levels is not None:
        informative, units = informative_and_counts(layout.levels, group)
        of_units = jnp.where(informative[:, None], layout.levels.table(xi), 0.0)
        return SufficientStatistics(
            units,
            of_units.T @ of_units,
            coefficients.T @ of_units,
            coefficients.T @ coefficients,
            counts,
            squares,
        )
    return SufficientStatistics(
        jnp.ones(xi.shape, xi.dtype),
        xi[:, None] * xi[None, :],
        coefficients[:, None] * xi[None, :],
        coefficients[:, None] * coefficients[None, :],
        counts,
        squares,
    )


def informative_and_counts(levels: Levels, group: Group) -> tuple[Vector, Vector]:
    """The units (units of all levels,) that the data of a group may inform, and their number for each
    distinct effect (effects,)."""
    informative = levels.informative(group.units, group.x.observed)
    return informative, jnp.sum(jnp.where(informative[:, None] & levels.has_effect, 1.0, 0.0), axis=0)


def second_moment(layout: ParameterLayout, beta: Vector, stats: SufficientStatistics) -> Matrix:
    """R (effects, effects), the weighted sum of squares of xi - C beta, from the statistics."""
    means = layout.centring.mean_matrix(beta)
    mixed = stats.cross.T @ means
    return stats.second - mixed - mixed.T + means.T @ stats.gram @ means


def expected_log_likelihood(
    layout: ParameterLayout, density: Density, template: Params, packed: Vector, stats: SufficientStatistics
) -> Scalar:
    """Q, the complete log-likelihood as a function of the statistics, up to a constant.

    **Arguments:** `template`, Params to unpack with; `packed` (packed,), the parameters; `stats`, the statistics.
    **Returns:** a scalar; the outcome contributes where its residual scales have a closed form.
    """
    params = template.unpack(packed)
    value = jnp.zeros((), packed.dtype)
    if density.n_effects and not layout.whitened:
        lower = cholesky(density.covariance.psi(params.covariance))
        r = second_moment(layout, params.beta, stats)
        inverse = jax.vmap(lambda column: cholesky_solve(lower, column))(r.T)
        value = value - jnp.sum(stats.weight * jnp.log(jnp.diagonal(lower))) - 0.5 * jnp.trace(inverse)
    if layout.strata:
        level = params.error
        value = value - jnp.sum(stats.counts * level + 0.5 * stats.squares * jnp.exp(-2.0 * level))
    return value


def complete_curvature(
    layout: ParameterLayout, density: Density, template: Params, packed: np.ndarray, stats: SufficientStatistics
) -> np.ndarray:
    """Minus the second derivatives (packed, packed) of Q at `packed` (packed,), on the host.

    With P = psi^-1, D_k = dpsi/dtheta_k, X = gram K - cross (K of `Centring.mean_matrix`), and s_a the effect that
    coefficient a shifts:

    1. beta: gram_ab P[s_a, s_b].
    2. beta and theta: -(P D_k P X_a)[s_a].
    3. theta: tr(P D_k P D_l (P R - w / 2)), symmetrised, + tr(G D_kl), G = (w P - P R P) / 2, w = diag(weight).
    4. Residual scales: 2 S_l / s_l^2.
    """
    out = np.zeros((layout.n, layout.n))
    params = template.unpack(packed)
    if density.n_effects and not layout.whitened:
        r = np.asarray(second_moment(layout, np.asarray(params.beta), stats))
        arguments = on_device((density.covariance, np.asarray(params.covariance), np.asarray(stats.weight), r))
        p, d, from_second = (np.asarray(part) for part in compiled(_psi_terms, 0)(*arguments))
        effects = np.array([effect for _, effect, _, _ in layout.centring.terms], int)
        beta, theta = layout.centring.centred, np.arange(layout.beta, layout.beta + layout.covariance)
        x = stats.gram @ layout.centring.mean_matrix(np.asarray(params.beta)) - stats.cross
        out[np.ix_(beta, beta)] = stats.gram * p[np.ix_(effects, effects)]
        mixed = -np.einsum("kaq,aq->ak", (p @ d @ p)[:, effects], x)
        out[np.ix_(beta, theta)], out[np.ix_(theta, beta)] = mixed, mixed.T
        pd = p @ d
        from_first = np.einsum("kij,lji->kl", pd, pd @ (p @ r - 0.5 * np.diag(stats.weight)))
        out[np.ix_(theta, theta)] = 0.5 * (from_first + from_first.T) + from_second
    if layout.strata:
        scales = np.arange(layout.beta + layout.covariance, layout.n)
        out[scales, scales] = 2.0 * stats.squares * np.exp(-2.0 * np.asarray(params.error))
    return out


def _psi_terms(covariance: AbstractCovariance, theta: Vector, weight: Vector, r: Matrix) -> tuple[Matrix, Any, Matrix]:
    """P (effects, effects), D (covariance, effects, effects) and tr(G D_kl) (covariance, covariance) of
    `complete_curvature`, compiled."""
    p = cholesky_inverse(cholesky(covariance.psi(theta)))
    g = 0.5 * (weight[:, None] * p - p @ r @ p)
    d = jnp.moveaxis(jax.jacfwd(covariance.psi)(theta), -1, 0)
    return p, d, jax.hessian(lambda theta: jnp.sum(g * covariance.psi(theta)))(theta)


def weighted_contribution(weight: Scalar, stats: Any) -> Any:
    """A group's contribution to the sums: its values times its weight; zero for weight zero, even where the values are
    not finite."""
    return jax.tree.map(lambda leaf: jnp.where(weight == 0, 0.0, weight * leaf), stats)


def stochastic_approximation(old: Any, new: Any, gain: Scalar) -> Any:
    """old + gain (new - old) for each leaf: one step of the stochastic approximation."""
    return jax.tree.map(lambda a, b: a + gain * (b - a), old, new)
