"""Control variates for means over a conditional distribution: functions of the draws whose mean is known to be zero.

With g the gradient of the log joint in z, integration by parts gives E[g_j] = 0 and E[z_j g_k + z_k g_j] = -2 [j = k]
for every density that is continuous and falls off in the tails. Where the density is nearly Gaussian these functions
span nearly all that is linear and quadratic in z, and what they explain of a function of the draws is no Monte Carlo
error any more.

**Source:** Mira, Solgi and Imparato (2013), Statistics and Computing 23, 653-662, polynomials of first and second
degree.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxnlme.typing import Vector

# More effects than this have the functions of first degree alone: those of second degree grow with their square.
MOST = 6
# Added to the variances of the functions, as a share, where coefficients are fitted.
RIDGE = 1e-8


def n_control_variates(effects: int) -> int:
    """How many functions there are."""
    return effects + (effects * (effects + 1) // 2 if effects <= MOST else 0)


def enough(draws: int, effects: int) -> bool:
    """Whether so many draws tell how much of each function to take off a score."""
    return draws > 3 * n_control_variates(effects)


def control_variates(z: Vector, slope: Vector) -> Vector:
    """The functions at one draw z (random,), with the gradient `slope` (random,) of the log joint there; zero where
    that is not finite."""
    q = z.shape[0]
    slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
    if q > MOST:
        return slope
    upper = np.triu_indices(q)
    mixed = z[:, None] * slope[None, :]
    pairs = (mixed + mixed.T + 2.0 * np.eye(q))[upper]
    return jnp.concatenate([slope, pairs])


def coefficients(crossed: np.ndarray, scores: np.ndarray, means: np.ndarray, squares: np.ndarray, draws: int):
    """How much of each function to take off each score, by least squares over draws, on the host.

    **Arguments:** means over draws of score times function `crossed` (..., packed, functions), of the `scores` (...,
    packed), the functions `means` (..., functions) and their products `squares` (..., functions, functions); `draws`,
    how many these are.
    **Returns:** coefficients (..., packed, functions), zero where there is no telling.
    """
    k = means.shape[-1]
    covariance = squares - means[..., :, None] * means[..., None, :]
    crossed = crossed - scores[..., :, None] * means[..., None, :]
    scale = np.sqrt(np.maximum(np.diagonal(covariance, axis1=-2, axis2=-1), 1e-300))
    unit = covariance / (scale[..., :, None] * scale[..., None, :]) + (RIDGE + 1.0 / draws**2) * np.eye(k)
    fine = np.isfinite(unit).all(axis=(-2, -1), keepdims=True) & np.isfinite(crossed).all(axis=(-2, -1), keepdims=True)
    unit = np.where(fine, unit, np.eye(k))
    right = np.where(fine, crossed, 0.0) / scale[..., None, :]
    solved = np.linalg.solve(unit, np.swapaxes(right, -1, -2))
    found = np.swapaxes(solved, -1, -2) / scale[..., None, :]
    return np.where(np.isfinite(found), found, 0.0)
