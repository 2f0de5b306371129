"""Control variates for means over a conditional distribution: functions of the draws whose mean is known to be zero.

With g the gradient of the log joint density in z, integration by parts gives E[g_j] = 0 and E[z_j g_k + z_k g_j] = -2
[j = k] for every density that is continuous and falls off in the tails. Where the density is nearly Gaussian, these
functions span nearly all functions linear and quadratic in z, so that regressing a function of the draws on them
removes nearly all of the Monte Carlo error of its mean.

With nested levels z stands for coordinates u, z = m + C u, in which Laplace's approximation of the conditional
distribution is standard normal (`nested_metropolis.py`): effects of different units are nearly independent there, and
sums over units of the functions of the second degree span most of what the full number of them would.

**Source:** Mira, Solgi and Imparato (2013), Statistics and Computing 23, 653-662, polynomials of first and second
degree.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.model.levels import Levels
from jaxnlme.sampling.settings import TUNING
from jaxnlme.typing import Matrix, Vector


def n_control_variates(effects: int, levels: Levels | None = None) -> int:
    """Number of control variates of a model with `effects` random effects in a group, with nested `levels` or
    without."""
    if effects <= TUNING.most_effects_second_degree:
        return effects + effects * (effects + 1) // 2
    return effects if levels is None else len(_linear_sums(levels)) + len(_pair_sums(levels))


def enough_draws(draws: int, effects: int, levels: Levels | None = None) -> bool:
    """True if `draws` are enough to fit the coefficients of the control variates of `effects` random effects."""
    return draws > TUNING.draws_per_control_variate * n_control_variates(effects, levels)


def control_variates(z: Vector, slope: Vector, levels: Levels | None = None) -> Vector:
    """Control variates (functions,) at one draw.

    **Arguments:** `z` (random,), the draw; `slope` (random,), the gradient of the log joint density there; entries that
    are not finite count as zero; `levels`: the layout of effects of nested levels, None without.
    **Returns:** the first-degree functions g_j, followed by the second-degree functions z_j g_k + z_k g_j + 2 [j = k]
    for j <= k where there are at most `TUNING.most_effects_second_degree` effects; with nested levels, of more effects
    their sums over units (`_linear_sums`, `_pair_sums`).
    """
    q = z.shape[0]
    slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
    if q > TUNING.most_effects_second_degree and levels is None:
        return slope
    mixed = z[:, None] * slope[None, :]
    if q > TUNING.most_effects_second_degree and levels is not None:
        functions = (mixed + mixed.T + 2.0 * np.eye(q)).reshape(-1)
        return jnp.concatenate([_linear_sums(levels) @ slope, _pair_sums(levels).reshape(-1, q * q) @ functions])
    upper = np.triu_indices(q)
    pairs = (mixed + mixed.T + 2.0 * np.eye(q))[upper]
    return jnp.concatenate([slope, pairs])


def _linear_sums(levels: Levels) -> np.ndarray:
    """Coefficients (functions, random) of the first-degree functions in the g_j: each of them, or, of more than
    `TUNING.most_effects_first_degree`, their sums over the units of a level."""
    if levels.size <= TUNING.most_effects_first_degree:
        return np.eye(levels.size)
    return (levels.owners[None, :] == np.arange(len(levels.level_of_effect))[:, None]).astype(float)


def _pair_sums(levels: Levels) -> np.ndarray:
    """Coefficients (functions, random, random) of the second-degree functions: for each pair of distinct effects of one
    level the sum over its units; for each pair of an effect of the groups and one of a nested level the same. None of
    more than `TUNING.most_effects_second_degree` distinct effects."""
    q, size, owners, rows = len(levels.level_of_effect), levels.size, levels.owners, levels.rows
    out = []
    if q <= TUNING.most_effects_second_degree:
        outermost = levels.levels[0].effects if levels.levels[0].depth == 0 else ()
        for j in range(q):
            for k in range(j, q):
                if levels.level_of_effect[j] == levels.level_of_effect[k]:
                    chosen = rows[:, None] == rows[None, :]
                elif j in outermost:
                    chosen = np.ones((size, size), bool)
                else:
                    continue
                out.append(np.where(chosen & (owners == j)[:, None] & (owners == k)[None, :], 1.0, 0.0))
    return np.stack(out) if out else np.zeros((0, size, size))


def velocity_of(coefficients: Matrix, effects: int, levels: Levels | None = None) -> tuple[Matrix, Any]:
    """The velocities V_k(z) = m_k + S_k z along which scores less their control variates are scores of transported
    draws: s_k - A_k c(z) = s_k + g(z)' V_k(z) + div V_k.

    **Arguments:** `coefficients` (parameters, functions), A; `effects`, the number of random effects; `levels`: as for
    `control_variates`.
    **Returns:** m (parameters, random), and the symmetric S (parameters, random, random), zero where there are no
    functions of the second degree.
    """
    if levels is not None and effects > TUNING.most_effects_second_degree:
        first, pairs = _linear_sums(levels), _pair_sums(levels)
        shift = -coefficients[:, : len(first)] @ first
        return shift, -jnp.tensordot(coefficients[:, len(first) :], pairs + np.swapaxes(pairs, 1, 2), axes=1)
    shift = -coefficients[:, :effects]
    linear = jnp.zeros((len(coefficients), effects, effects), coefficients.dtype)
    if coefficients.shape[1] > effects:
        rows, columns = np.triu_indices(effects)
        linear = linear.at[:, rows, columns].set(-coefficients[:, effects:])
        linear = linear + jnp.swapaxes(linear, 1, 2)
    return shift, linear


def fit_coefficients(
    crossed: np.ndarray, scores: np.ndarray, means: np.ndarray, products: np.ndarray, draws: int
) -> np.ndarray:
    """Least-squares coefficients of the scores on the control variates, on the host.

    **Arguments:** means over draws: `crossed` (..., packed, functions), products of scores and control variates;
    `scores` (..., packed); `means` (..., functions), the control variates; `products` (..., functions, functions),
    their products with each other; `draws`, the number of draws behind these means.
    **Returns:** coefficients (..., packed, functions); zero where they are not finite.
    """
    k = means.shape[-1]
    covariance = products - means[..., :, None] * means[..., None, :]
    crossed = crossed - scores[..., :, None] * means[..., None, :]
    scale = np.sqrt(np.maximum(np.diagonal(covariance, axis1=-2, axis2=-1), 1e-300))
    ridge = TUNING.relative_ridge + 1.0 / draws**2
    unit = covariance / (scale[..., :, None] * scale[..., None, :]) + ridge * np.eye(k)
    finite = np.isfinite(unit).all(axis=(-2, -1), keepdims=True) & np.isfinite(crossed).all(
        axis=(-2, -1), keepdims=True
    )
    unit = np.where(finite, unit, np.eye(k))
    right = np.where(finite, crossed, 0.0) / scale[..., None, :]
    solved = np.linalg.solve(unit, np.swapaxes(right, -1, -2))
    fitted = np.swapaxes(solved, -1, -2) / scale[..., None, :]
    return np.where(np.isfinite(fitted), fitted, 0.0)
