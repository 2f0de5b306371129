"""The complete-data log-density of one group as a function of the parameters: its score at a draw of the random
effects, and the map of the draw's coordinates from one point of the parameters to another.

**Source:** Louis (1982), Journal of the Royal Statistical Society B 44, 226-233.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.em.parameter_layout import ParameterLayout
from jaxnlme.estimators.em.sufficient_statistics import informative_and_counts
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.linalg import cholesky, cholesky_inverse, half_logdet, small_product
from jaxnlme.typing import Matrix, Scalar, Vector


class ScoreTerms(eqx.Module):
    """Terms of the complete-data score that are the same for all groups and draws: `psi_inverse` (effects, effects);
    `half_psi_derivatives` (covariance, effects, effects), half the derivatives of psi in theta; `half_traces`
    (covariance,), half of tr(psi^-1 dpsi), with nested levels (covariance, effects), its terms by distinct effect."""

    psi_inverse: Any
    half_psi_derivatives: Any
    half_traces: Any


def score_terms(layout: ParameterLayout, density: Density, params: Params) -> ScoreTerms:
    """ScoreTerms at `params`; empty where the layout is whitened."""
    n = params.covariance.shape[0]
    if not density.n_effects or layout.whitened:
        empty = jnp.zeros((0, 0))
        return ScoreTerms(empty, jnp.zeros((n, 0, 0)), jnp.zeros((n,)))
    inverse = cholesky_inverse(cholesky(density.covariance.psi(params.covariance)))
    half_psi_derivatives = 0.5 * jnp.moveaxis(jax.jacfwd(density.covariance.psi)(params.covariance), -1, 0)
    axes = (1, 2) if layout.levels is None else 2
    return ScoreTerms(inverse, half_psi_derivatives, jnp.sum(half_psi_derivatives * inverse[None], axis=axes))


def complete_score(
    layout: ParameterLayout,
    terms: ScoreTerms,
    params: Params,
    group: Group,
    coefficients: Any,
    b: Vector,
    counts: Vector,
    squares: Vector,
) -> Vector:
    """Complete-data score (packed,) of one draw: the gradient of log p(y, b) in the parameters.

    **Arguments:** `terms` at `params`; `coefficients`, c of the group as `Centring` has them; `b` (random,), the draw;
    `counts`, `squares` (strata,), statistics of its residuals.
    **Returns:** the score, zero in the entries that are `scored`: those are filled in by `scores.accumulate_scores`.
    """
    if layout.whitened:
        return jnp.zeros((layout.n,), b.dtype)
    beta: list[Any] = [jnp.zeros((), b.dtype)] * layout.beta
    if layout.levels is None:
        psi_inverse_b = small_product(terms.psi_inverse, b)
        outer, half_traces = psi_inverse_b[:, None] * psi_inverse_b[None, :], terms.half_traces
        for row, (k, effect, _, _) in enumerate(layout.centring.terms):
            beta[k] = coefficients[row] * psi_inverse_b[effect]
    else:
        informative, units = informative_and_counts(layout.levels, group)
        of_units = jnp.where(informative[:, None], layout.levels.table(b), 0.0)
        of_units = small_product(of_units, terms.psi_inverse)
        outer, half_traces = of_units.T @ of_units, terms.half_traces @ units
        for row, (k, effect, _, _) in enumerate(layout.centring.terms):
            beta[k] = jnp.sum(coefficients[:, row] * of_units[:, effect])
    parts = [jnp.stack(beta)] if beta else []
    if layout.covariance:
        parts.append(jnp.sum(terms.half_psi_derivatives * outer[None, :, :], axis=(1, 2)) - half_traces)
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
    columns = np.array(layout.columns, int)
    factor = density.covariance.factor(moved.covariance)[np.ix_(np.array(layout.rows, int), columns)]
    lower = cholesky(small_product(factor, factor.T))
    if layout.levels is None:
        z_moved = small_product(matrix, z) + offset
        log_jacobian, squares = half_logdet(lower), jnp.sum(z_moved[columns] ** 2)
    else:
        informative, units = informative_and_counts(layout.levels, group)
        z_moved = jnp.where(informative[layout.levels.unit_of_entry], density.map_effects(matrix, z) + offset, z)
        log_jacobian = jnp.sum(units[np.array(layout.rows, int)] * jnp.log(jnp.diagonal(lower)))
        squares = jnp.sum(z_moved**2)
    value = log_density_given_effects(density, moved, density.effects(moved, z_moved), group)
    return value - log_jacobian - 0.5 * squares


def coordinates_at(
    layout: ParameterLayout, density: Density, params: Params, moved: Params, group: Group
) -> tuple[Matrix, Vector]:
    """The map z -> M z + m from coordinates of the effects at `params` to those at `moved`: of the same xi; in a
    `whitened` layout, of the same xi of the effects `layout.rows` and the same other coordinates of z.

    **Returns:** M (effects, effects), of the distinct effects, and m (random,).
    """
    whitened, q = layout.whitened, density.covariance.size
    centres = layout.row_centring if whitened else layout.centring
    rows, columns = (np.array(part, int) if whitened else np.arange(q) for part in (layout.rows, layout.columns))
    others = np.setdiff1d(np.arange(q), columns)
    coefficients = centres.coefficients(group)
    factor, moved_factor = (density.covariance.factor(p.covariance)[rows] for p in (params, moved))
    square = moved_factor[:, columns]
    inverse = small_product(square.T, cholesky_inverse(cholesky(small_product(square, square.T))))
    matrix = jnp.eye(q, dtype=factor.dtype)
    matrix = matrix.at[np.ix_(columns, columns)].set(small_product(inverse, factor[:, columns]))
    if len(others):
        shift = small_product(inverse, factor[:, others] - moved_factor[:, others])
        matrix = matrix.at[np.ix_(columns, others)].set(shift)
    mean, moved_mean = (centres.mean(p.beta, coefficients) for p in (params, moved))
    if layout.levels is None:
        offset = small_product(inverse, mean[rows] - moved_mean[rows])
        return matrix, jnp.zeros((q,), matrix.dtype).at[columns].set(offset)
    difference = layout.levels.table(mean - moved_mean)[:, rows]
    offset = (
        jnp.zeros((layout.levels.n_units, q), matrix.dtype).at[:, columns].set(small_product(difference, inverse.T))
    )
    return matrix, layout.levels.vector(offset)


def log_density_given_effects(density: Density, params: Params, b: Vector, group: Group) -> Scalar:
    """log p(y | b) of one group, `b` (random,)."""
    phi = density.phi_given(params.beta, b, group, params.free)
    f = density.structural(params.free, phi, group.x, group.v)
    return density.error.log_density(f, f, params.error, group)
