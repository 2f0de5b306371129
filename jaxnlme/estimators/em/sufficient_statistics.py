"""Sufficient statistics of the complete-data likelihood of a mixed model, and Q, the expected complete log-likelihood,
as their function.

With b_i ~ N(0, psi), the individual effects are xi_i = C_i beta + b_i, xi_i ~ N(C_i beta, psi), where C_i holds the
coefficients that shift the mean of the random effects ("centred" coefficients, see `model/centring.py`). With residual
variance s^2 s_0(f)^2, the complete log-likelihood of the centred coefficients, psi and s is, up to a constant,

    Q = -w log|L| - tr(psi^-1 R) / 2 - sum_l (n_l log s_l + S_l / (2 s_l^2)),
    R = sum_i w_i (xi_i - C_i beta)(xi_i - C_i beta)',    psi = L L',

for strata l of the residual scale. It is linear in the statistics

1. w = sum_i w_i, the sum of the groups' weights (`weight`);
2. sum_i w_i xi_i xi_i' (`second`);
3. sum_i w_i c_i xi_i' (`cross`) and sum_i w_i c_i c_i' (`gram`), c_i the covariate values that make up C_i;
4. n_l = sum_i w_i n_il, the number of observations of a stratum (`counts`);
5. S_l, the weighted sum of squares of the residuals over s_0 (`squares`).

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
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.linalg import cholesky, cholesky_inverse, cholesky_solve, half_logdet, small_product
from jaxnlme.typing import Matrix, Scalar, Vector


class SufficientStatistics(eqx.Module):
    """Sufficient statistics of the complete data: `weight` (); `second` (random, random), of xi xi'; `cross` (centred,
    random), of c xi'; `gram` (centred, centred), of c c'; `counts` and `squares` (strata,), numbers of observations and
    sums of squared residuals over s_0."""

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
    in_stratum = (group.strata[:, None] == np.arange(layout.strata)[None, :]) & observed[:, None]
    squares = jnp.sum(jnp.where(in_stratum, square[:, None], 0.0), axis=0)
    return jnp.sum(in_stratum, axis=0).astype(square.dtype), squares * level**2


def effect_statistics(coefficients: Vector, xi: Vector, counts: Vector, squares: Vector) -> SufficientStatistics:
    """Statistics of one group's `xi` (random,), without its weight; `coefficients` (centred,), c of the group; `counts`
    and `squares` (strata,), of its residuals."""
    return SufficientStatistics(
        jnp.ones((), xi.dtype),
        xi[:, None] * xi[None, :],
        coefficients[:, None] * xi[None, :],
        coefficients[:, None] * coefficients[None, :],
        counts,
        squares,
    )


def second_moment(layout: ParameterLayout, beta: Vector, stats: SufficientStatistics) -> Matrix:
    """R (random, random), the weighted sum of squares of xi - C beta, from the statistics."""
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
        value = value - stats.weight * half_logdet(lower) - 0.5 * jnp.trace(inverse)
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
    3. theta: tr(P D_k P D_l (P R - w / 2)), symmetrised, + tr(G D_kl), G = (w P - P R P) / 2.
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
        from_first = np.einsum("kij,lji->kl", pd, pd @ (p @ r - 0.5 * stats.weight * np.eye(len(p))))
        out[np.ix_(theta, theta)] = 0.5 * (from_first + from_first.T) + from_second
    if layout.strata:
        scales = np.arange(layout.beta + layout.covariance, layout.n)
        out[scales, scales] = 2.0 * stats.squares * np.exp(-2.0 * np.asarray(params.error))
    return out


def _psi_terms(covariance: AbstractCovariance, theta: Vector, weight: Scalar, r: Matrix) -> tuple[Matrix, Any, Matrix]:
    """P (random, random), D (covariance, random, random) and tr(G D_kl) (covariance, covariance) of
    `complete_curvature`, compiled."""
    p = cholesky_inverse(cholesky(covariance.psi(theta)))
    g = 0.5 * (weight * p - p @ r @ p)
    d = jnp.moveaxis(jax.jacfwd(covariance.psi)(theta), -1, 0)
    return p, d, jax.hessian(lambda theta: jnp.sum(g * covariance.psi(theta)))(theta)


class ScoreTerms(eqx.Module):
    """Terms of the complete-data score that are the same for all groups and draws: `psi_inverse` (random, random);
    `half_psi_derivatives` (covariance, random, random), half the derivatives of psi in theta; `half_traces`
    (covariance,), half of tr(psi^-1 dpsi)."""

    psi_inverse: Any
    half_psi_derivatives: Any
    half_traces: Any


def score_terms(layout: ParameterLayout, density: Density, params: Params) -> ScoreTerms:
    """ScoreTerms at `params`; empty where the layout is whitened."""
    q, n = density.n_effects, params.covariance.shape[0]
    if not q or layout.whitened:
        empty = jnp.zeros((0, 0))
        return ScoreTerms(empty, jnp.zeros((n, 0, 0)), jnp.zeros((n,)))
    inverse = cholesky_inverse(cholesky(density.covariance.psi(params.covariance)))
    half_psi_derivatives = 0.5 * jnp.moveaxis(jax.jacfwd(density.covariance.psi)(params.covariance), -1, 0)
    return ScoreTerms(inverse, half_psi_derivatives, jnp.sum(half_psi_derivatives * inverse[None], axis=(1, 2)))


def complete_score(
    layout: ParameterLayout,
    terms: ScoreTerms,
    params: Params,
    coefficients: Vector,
    b: Vector,
    counts: Vector,
    squares: Vector,
) -> Vector:
    """Complete-data score (packed,) of one draw: the gradient of log p(y, b) in the parameters.

    **Arguments:** `terms` at `params`; `coefficients` (centred,), c of the group; `b` (random,), the draw; `counts`,
    `squares` (strata,), statistics of its residuals.
    **Returns:** the score, zero in the entries that are `scored`: those are filled in by `scores.accumulate_scores`.
    """
    if layout.whitened:
        return jnp.zeros((layout.n,), b.dtype)
    psi_inverse_b = small_product(terms.psi_inverse, b)
    beta: list[Any] = [jnp.zeros((), b.dtype)] * layout.beta
    for row, (k, effect, _, _) in enumerate(layout.centring.terms):
        beta[k] = coefficients[row] * psi_inverse_b[effect]
    parts = [jnp.stack(beta)] if beta else []
    if layout.covariance:
        outer = psi_inverse_b[:, None] * psi_inverse_b[None, :]
        parts.append(jnp.sum(terms.half_psi_derivatives * outer[None, :, :], axis=(1, 2)) - terms.half_traces)
    if layout.strata:
        parts.append(squares * jnp.exp(-2.0 * params.error) - counts)
    elif layout.error:
        parts.append(jnp.zeros((layout.error,), b.dtype))
    return jnp.concatenate(parts)


def outcome_log_density(
    layout: ParameterLayout, density: Density, params: Params, z: Vector, group: Group, entries: Vector
) -> Scalar:
    """log p(y | xi) of one group, as a function of the packed parameters that it depends on.

    **Arguments:** `z` (random,), the draw at `params`; `entries`, values of the packed parameters
    `layout.hessian_entries`.
    **Returns:** a scalar, with b held at its value at `params`; in a `whitened` layout, log p(y, xi) with xi of the
    effects `layout.rows` and the other coordinates of z held.
    """
    moved = params.unpack(params.pack().at[np.array(layout.hessian_entries, int)].set(entries))
    if not layout.whitened:
        return log_density_given_effects(density, moved, jax.lax.stop_gradient(density.effects(params, z)), group)
    matrix, offset = coordinates_at(layout, density, params, moved, group)
    z_moved = small_product(matrix, z) + offset
    columns = np.array(layout.columns, int)
    factor = density.covariance.factor(moved.covariance)[np.ix_(np.array(layout.rows, int), columns)]
    log_jacobian = half_logdet(cholesky(small_product(factor, factor.T)))
    value = log_density_given_effects(density, moved, density.effects(moved, z_moved), group)
    return value - log_jacobian - 0.5 * jnp.sum(z_moved[columns] ** 2)


def coordinates_at(
    layout: ParameterLayout, density: Density, params: Params, moved: Params, group: Group
) -> tuple[Matrix, Vector]:
    """The map z -> M z + m from coordinates of the effects at `params` to those at `moved`: of the same xi; in a
    `whitened` layout, of the same xi of the effects `layout.rows` and the same other coordinates of z.

    **Returns:** M (random, random) and m (random,).
    """
    whitened, q = layout.whitened, density.n_effects
    centres = layout.row_centring if whitened else layout.centring
    rows, columns = (np.array(part, int) if whitened else np.arange(q) for part in (layout.rows, layout.columns))
    others = np.setdiff1d(np.arange(q), columns)
    coefficients = centres.coefficients(group)
    mean, moved_mean = (centres.mean(p.beta, coefficients)[rows] for p in (params, moved))
    factor, moved_factor = (density.covariance.factor(p.covariance)[rows] for p in (params, moved))
    square = moved_factor[:, columns]
    inverse = small_product(square.T, cholesky_inverse(cholesky(small_product(square, square.T))))
    matrix = jnp.eye(q, dtype=factor.dtype)
    matrix = matrix.at[np.ix_(columns, columns)].set(small_product(inverse, factor[:, columns]))
    if len(others):
        shift = small_product(inverse, factor[:, others] - moved_factor[:, others])
        matrix = matrix.at[np.ix_(columns, others)].set(shift)
    return matrix, jnp.zeros((q,), matrix.dtype).at[columns].set(small_product(inverse, mean - moved_mean))


def log_density_given_effects(density: Density, params: Params, b: Vector, group: Group) -> Scalar:
    """log p(y | b) of one group, `b` (random,)."""
    phi = density.phi_given(params.beta, b, group)
    f = density.structural(params.free, phi, group.x, group.v)
    return density.error.log_density(f, f, params.error, group)


def weighted_contribution(weight: Scalar, stats: Any) -> Any:
    """A group's contribution to the sums: its values times its weight; zero for weight zero, even where the values are
    not finite."""
    return jax.tree.map(lambda leaf: jnp.where(weight == 0, 0.0, weight * leaf), stats)


def stochastic_approximation(old: Any, new: Any, gain: Scalar) -> Any:
    """old + gain (new - old) for each leaf: one step of the stochastic approximation."""
    return jax.tree.map(lambda a, b: a + gain * (b - a), old, new)
