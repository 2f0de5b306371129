"""Control variates for means over a conditional distribution: functions of the draws whose mean is known to be zero.

With g the gradient of the log joint density in z, integration by parts gives E[g_j] = 0 and E[z_j g_k + z_k g_j] = -2
[j = k] for every density that is continuous and falls off in the tails. Where the density is nearly Gaussian, these
functions span nearly all functions linear and quadratic in z, so that regressing a function of the draws on them
removes nearly all of the Monte Carlo error of its mean.

Of a group with nested levels and many effects there would be too many functions of the second degree
(`NestedControlVariates`). With Laplace's approximation N(m, V) of the conditional distribution, w = z - m and h = V g,
so that h is nearly -w: sums over the units of a level of w_j h_k + w_k h_j + 2 V_jk, and (V^-1 w)'h plus the number of
effects, remove what the complete-data scores of psi and of the residual scale have of the second degree.

**Source:** Mira, Solgi and Imparato (2013), Statistics and Computing 23, 653-662, polynomials of first and second
degree.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.levels import Levels
from jaxnlme.numerics.linalg import small_product
from jaxnlme.sampling.settings import TUNING
from jaxnlme.typing import Matrix, Vector


def n_control_variates(effects: int, levels: Levels | None = None) -> int:
    """Number of control variates of a model with `effects` random effects in a group, with nested `levels` or
    without."""
    if effects <= TUNING.most_effects_second_degree:
        return effects + effects * (effects + 1) // 2
    return effects if levels is None else len(_linear_sums(levels)) + len(_pairs(levels)) + 1


def enough_draws(draws: int, effects: int, levels: Levels | None = None) -> bool:
    """True if `draws` are enough to fit the coefficients of the control variates of `effects` random effects."""
    return draws > TUNING.draws_per_control_variate * n_control_variates(effects, levels)


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


class NestedControlVariates(eqx.Module):
    """Control variates of a group with nested levels and more than `TUNING.most_effects_second_degree` effects: h_j,
    or, of more than `TUNING.most_effects_first_degree` effects, their sums over units; sums over units for each pair of
    distinct effects of one level; and the last one of the module's docstring.

    **Fields:** `levels`; `entries` (random,): effects that the data inform, to which the rest refers, zero
    for others; `centre` m (random,), `factor` C (random, random) with V = C C', and its `inverse`.
    """

    levels: Levels
    entries: Any
    centre: Any
    factor: Any
    inverse: Any

    def __call__(self, z: Vector, slope: Vector) -> Vector:
        """The functions at one draw; arguments as for `control_variates`."""
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
        w, g = jnp.where(self.entries, z - self.centre, 0.0), small_product(self.factor.T, slope)
        h = small_product(self.factor, g)
        first, second = self.levels.table(w), self.levels.table(h)
        products = jnp.sum(first[:, :, None] * second[:, None, :], axis=0) + self._covariance_sums()
        pairs = [(products[j, k] + products[k, j])[None] for j, k in _pairs(self.levels)]
        last = jnp.sum(small_product(self.inverse, w) * g) + jnp.sum(self.entries)
        return jnp.concatenate([_linear_sums(self.levels) @ h, *pairs, last[None]])

    def velocity(self, coefficients: Matrix) -> tuple[Any, Any]:
        """m_k (parameters, random) and S_k (parameters, random, random) as of `velocity_of`."""
        covariance, linear = self.factor @ self.factor.T, _linear_sums(self.levels)
        n, effect, unit = len(linear), self.levels.effect_of_entry, self.levels.unit_of_entry
        same_unit = unit[:, None] == unit[None, :]
        along = -coefficients[:, -1][:, None, None] * jnp.diag(self.entries.astype(covariance.dtype))[None]
        for position, (j, k) in enumerate(_pairs(self.levels)):
            pair = same_unit & (effect == j)[:, None] & (effect == k)[None, :]
            change = covariance @ (pair.astype(float) + pair.T.astype(float))
            along = along - coefficients[:, n + position][:, None, None] * change[None]
        return -coefficients[:, :n] @ linear @ covariance - along @ self.centre, along

    def _covariance_sums(self) -> Matrix:
        """V (effects, effects), summed over the units of each level."""
        covariance, unit = self.factor @ self.factor.T, self.levels.unit_of_entry
        same_unit = jnp.where(unit[:, None] == unit[None, :], covariance, 0.0)
        own = self.levels.entries_of_effect.astype(float)
        return own @ same_unit @ own.T


def _linear_sums(levels: Levels) -> np.ndarray:
    """Coefficients (functions, random) of the first-degree functions in the h_j."""
    if levels.size <= TUNING.most_effects_first_degree:
        return np.eye(levels.size)
    return levels.entries_of_effect.astype(float)


def _pairs(levels: Levels) -> list[tuple[int, int]]:
    """The pairs j <= k of distinct effects of one level."""
    return [pair for level in levels.levels for pair in combinations_with_replacement(sorted(level.effects), 2)]


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
    scale = np.sqrt(np.maximum(np.diagonal(covariance, axis1=-2, axis2=-1), np.finfo(float).tiny))
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
