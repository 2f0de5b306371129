"""Psi on the boundary of the parameter space: variances of zero and correlations of plus or minus one.

On the boundary the chains hold the whitened effects z, b = L z with psi = L L', because the scores of z stay finite
where those of b do not (`parameter_layout.whitened_layout`). With g_i and H_i the gradient and the Hessian of
log p(y_i | b_i) in b_i, w_i the weight of group i, and expectations over the conditional distribution given y_i:

1. Nearly on the boundary (`nearly_dependent`): the conditional variance L_kk^2 of effect k given the effects before it
   is a small fraction of psi_kk.
2. Projection onto a face (`project_to_face`): psi loses as many directions as scales are set to zero, in each
   unstructured block those with the smallest eigenvalues of its correlation matrix. The entries that then have no
   effect are held fixed.
3. Slope into the interior (`slopes`): differentiating the Gaussian integral over b along psi gives

       d log L / d psi = G,  G = (1/2) sum_i w_i E[H_i + g_i g_i' | y_i].

   At a maximum on the boundary v' G v <= 0 for every direction v along which psi has no variance. The direction with
   the largest v' G v is used in unstructured blocks.
4. Rotation (`rotate`): if a triangular L has a zero on its diagonal before its last column, its entries reach only some
   of the matrices of its rank. The slope along an entry L_ij above the diagonal, sum_i w_i E[g_i z_j | y_i], shows
   whether the log-likelihood increases along the others; if so, psi is rotated that way.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.em.louis import ScoreAndInformation, mean_and_error
from jaxnlme.estimators.em.parameter_layout import ParameterLayout
from jaxnlme.estimators.em.settings import BOUNDARY
from jaxnlme.model.density import Density


@dataclasses.dataclass(frozen=True)
class Slope:
    """Slope of the log-likelihood along a direction of psi into the interior: `mean` and its Monte Carlo `error`."""

    mean: float
    error: float

    @property
    def increases(self) -> bool:
        """True if the slope is significantly positive: the maximum is not on this face of the boundary."""
        return self.mean > BOUNDARY.positive_mc_errors * self.error

    @property
    def is_clear(self) -> bool:
        """True if the sign of the slope is significant."""
        return self.increases or self.mean < -BOUNDARY.negative_mc_errors * self.error


def nearly_dependent(layout: ParameterLayout, density: Density, estimate: ScoreAndInformation) -> set[int]:
    """Packed entries of the scales of effects that are nearly linear functions of the effects before them."""
    limit = (
        BOUNDARY.dependent_fraction
        if estimate.positive_definite or estimate.n_iterations < BOUNDARY.min_iterations_singular
        else BOUNDARY.dependent_fraction_singular
    )
    theta = layout.theta(estimate.packed)
    variances = np.diag(psi_of(density, theta))
    return {
        layout.beta + index
        for index, effects, _ in density.covariance.log_scales
        if _in_unstructured_block(density, effects)
        and np.isfinite(theta[index])
        and np.exp(2.0 * theta[index]) <= limit * variances[effects[0]]
    }


def project_to_face(
    layout: ParameterLayout, density: Density, packed: np.ndarray, scales: set[int]
) -> tuple[np.ndarray, frozenset[int]] | None:
    """Parameters with some scales set to exactly zero: psi projected onto a face of its boundary.

    An unstructured block loses as many directions as scales are zero, those with the smallest eigenvalues of its
    correlation matrix; its last effects are linear functions of the others then, so that the remaining entries reach
    every psi of that rank.

    **Arguments:** `packed` (packed,); `scales`: packed entries of the scales to set to zero, beside those that are.
    **Returns:** the parameters (packed,), and the entries to hold fixed: the zero scales, and those that have no effect
    beside them. None if no scale is zero, or the user fixed one of these scales.
    """
    x = packed.copy()
    x[sorted(scales)] = -np.inf
    theta, psi = layout.theta(x), psi_of(density, layout.theta(packed))
    for block, n_zeros in _singular_blocks(density, theta):
        within = np.ix_(block, block)
        sd, values, vectors = _eigen_decomposition(psi[within])
        values[:n_zeros] = 0.0
        psi[within] = np.outer(sd, sd) * ((vectors * values) @ vectors.T)
    for index, effects, _ in density.covariance.log_scales:
        if theta[index] == -np.inf and not _in_unstructured_block(density, effects):
            psi[np.ix_(effects, effects)] = 0.0
    theta[:] = density.covariance.from_matrix(psi)
    zero = [(index, shapes) for index, _, shapes in density.covariance.log_scales if theta[index] == -np.inf]
    held = {layout.beta + index for index, _ in zero}
    if not held or not all(layout.free[k] for k in held):
        return None
    return x, frozenset(held | {layout.beta + entry for _, shape_entries in zero for entry in shape_entries})


def slopes(layout: ParameterLayout, density: Density, estimate: ScoreAndInformation) -> list[Slope]:
    """Slopes of the log-likelihood from psi of `estimate` into the interior, tr(G D), along the candidates D for the
    steepest direction."""
    out = []
    for direction in inward_directions(density, layout.theta(estimate.packed), estimate.psi_slopes.mean(axis=0)):
        mean, error = mean_and_error(np.einsum("bij,ij->b", estimate.psi_slopes, direction))
        out.append(Slope(float(mean), float(error)))
    return out


def rotate(
    layout: ParameterLayout, density: Density, estimate: ScoreAndInformation, typical_sd: np.ndarray
) -> np.ndarray | None:
    """Parameters with a psi of the same rank, rotated along the entries above the diagonal of its factor L along which
    the log-likelihood significantly changes.

    **Arguments:** `typical_sd` (effects,): standard deviations used for effects that have none.
    **Returns:** parameters (packed,); None if no slope is significant.
    """
    theta = layout.theta(estimate.packed)
    lower = np.array(density.covariance.factor(theta), float)
    sd = np.sqrt(np.sum(lower**2, axis=1))
    sd = np.where(sd > 0, sd, typical_sd)
    mean, error = mean_and_error(estimate.factor_slopes)
    rotated = False
    for block, _ in _singular_blocks(density, theta):
        for position, i in enumerate(block):
            for j in block[position + 1 :]:
                significant = abs(mean[i, j]) > BOUNDARY.positive_mc_errors * error[i, j]
                if lower[i, i] == 0.0 and lower[j, j] != 0.0 and significant:
                    lower[i, j] = BOUNDARY.rotation_fraction * sd[i] * np.sign(mean[i, j])
                    rotated = True
    if not rotated:
        return None
    out = estimate.packed.copy()
    layout.theta(out)[:] = density.covariance.from_matrix(lower @ lower.T)
    return out


def _in_unstructured_block(density: Density, effects: tuple[int, ...]) -> bool:
    """True if the scale of `effects` belongs to one effect of an unstructured block."""
    return len(effects) == 1 and any(effects[0] in pair for pair in density.covariance.correlated_pairs)


def _singular_blocks(density: Density, theta: np.ndarray) -> list[tuple[list[int], int]]:
    """The effects of each unstructured block with scales of zero at `theta`, and the number of these scales."""
    n_zeros: dict[tuple[int, ...], int] = {}
    for index, effects, _ in density.covariance.log_scales:
        if theta[index] == -np.inf and _in_unstructured_block(density, effects):
            block = tuple(sorted(_block_of(density.covariance.correlated_pairs, set(effects))))
            n_zeros[block] = n_zeros.get(block, 0) + 1
    return [(list(block), count) for block, count in n_zeros.items()]


def _eigen_decomposition(psi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard deviations (n,) of psi (n, n), ones where they are zero, and the eigenvalues (ascending) and
    eigenvectors of psi in units of these."""
    sd = np.sqrt(np.diag(psi))
    sd = np.where(sd > 0, sd, 1.0)
    values, vectors = np.linalg.eigh(psi / np.outer(sd, sd))
    return sd, values, vectors


def inward_directions(density: Density, theta: np.ndarray, psi_slope: np.ndarray) -> list[np.ndarray]:
    """Changes D of psi (effects, effects) into the interior, positive semidefinite, of trace one; `psi_slope` is G."""
    covariance, n = density.covariance, density.covariance.size
    psi = psi_of(density, theta)
    out = [_steepest_direction(psi, psi_slope, block) for block, _ in _singular_blocks(density, theta)]
    for index, effects, shape_entries in covariance.log_scales:
        if theta[index] != -np.inf or _in_unstructured_block(density, effects):
            continue
        # A structured block may open with any of its shapes (such as correlations).
        for value in BOUNDARY.shape_values if shape_entries else (0.0,):
            x = np.where(np.isfinite(theta), theta, 0.0)
            x[index], x[list(shape_entries)] = 0.0, value
            within = np.ix_(effects, effects)
            change = np.zeros((n, n))
            change[within] = psi_of(density, x)[within]
            out.append(change / np.trace(change))
    return out


def _block_of(correlated_pairs: Any, effects: set[int]) -> set[int]:
    """All effects connected to `effects` by the `correlated_pairs`."""
    grown = True
    while grown:
        wider = effects | {k for pair in correlated_pairs if effects & set(pair) for k in pair}
        effects, grown = wider, wider != effects
    return effects


def _steepest_direction(psi: np.ndarray, psi_slope: np.ndarray, block: list[int]) -> np.ndarray:
    """v v' / v'v, v the direction of a block without variance with the largest v' G v, G the `psi_slope`."""
    within = np.ix_(block, block)
    sd, values, vectors = _eigen_decomposition(psi[within])
    null_space = vectors[:, values <= BOUNDARY.rank_tolerance] / sd[:, None]
    _, combinations = np.linalg.eigh(null_space.T @ psi_slope[within] @ null_space)
    v = np.zeros(len(psi))
    v[block] = null_space @ combinations[:, -1]
    return np.outer(v, v) / (v @ v)
