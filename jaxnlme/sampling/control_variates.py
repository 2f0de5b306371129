"""Control variates for means over a conditional distribution: functions of the draws whose mean is known to be zero.

With g the gradient of the log joint density in z, integration by parts gives E[g_j] = 0 and E[z_j g_k + z_k g_j] = -2
[j = k] for every density that is continuous and falls off in the tails. Where the density is nearly Gaussian, these
functions span nearly all functions linear and quadratic in z, so that regressing a function of the draws on them
removes nearly all of the Monte Carlo error of its mean.

**Source:** Mira, Solgi and Imparato (2013), Statistics and Computing 23, 653-662, polynomials of first and second
degree.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.sampling.settings import TUNING
from jaxnlme.typing import Matrix, Vector


def n_control_variates(effects: int) -> int:
    """Number of control variates of a model with `effects` random effects."""
    return effects + (effects * (effects + 1) // 2 if effects <= TUNING.most_effects_second_degree else 0)


def enough_draws(draws: int, effects: int) -> bool:
    """True if `draws` are enough to fit the coefficients of the control variates of `effects` random effects."""
    return draws > TUNING.draws_per_control_variate * n_control_variates(effects)


def control_variates(z: Vector, slope: Vector) -> Vector:
    """Control variates (functions,) at one draw.

    **Arguments:** `z` (random,), the draw; `slope` (random,), the gradient of the log joint density there; entries that
    are not finite count as zero.
    **Returns:** the first-degree functions g_j, followed by the second-degree functions z_j g_k + z_k g_j + 2 [j = k]
    for j <= k where there are at most `TUNING.most_effects_second_degree` effects.
    """
    q = z.shape[0]
    slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
    if q > TUNING.most_effects_second_degree:
        return slope
    upper = np.triu_indices(q)
    mixed = z[:, None] * slope[None, :]
    pairs = (mixed + mixed.T + 2.0 * np.eye(q))[upper]
    return jnp.concatenate([slope, pairs])


def velocity_of(coefficients: Matrix, effects: int) -> tuple[Matrix, Any]:
    """The velocities V_k(z) = m_k + S_k z along which scores less their control variates are scores of transported
    draws: s_k - A_k c(z) = s_k + g(z)' V_k(z) + div V_k.

    **Arguments:** `coefficients` (parameters, functions), A; `effects`, the number of random effects.
    **Returns:** m (parameters, random), and the symmetric S (parameters, random, random), zero where there are no
    functions of the second degree.
    """
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
