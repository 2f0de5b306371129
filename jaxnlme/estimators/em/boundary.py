"""Psi at the edge of what it can be: variances of zero and correlations of one, as answers of a stochastic run.

There the chains hold the whitened effects z (`statistics.whitened`), whose scores stay finite where those of b do not.
Whether the likelihood falls from the edge inwards is told by its slope along psi,

    d log L / d psi = G,  G = (1/2) sum_i w_i E[H_i + g_i g_i' | y_i],

g_i and H_i the gradient and Hessian of log p(y_i | b_i) in b_i (differentiate the Gaussian integral over b along psi):
at a maximum v' G v <= 0 for every direction v along which psi has no variance. Where a triangular factor L has a zero
before its last column, its entries do not move psi in every direction of its rank; the slope along an entry L_ij above
the diagonal, sum_i w_i E[g_i z_j | y_i], tells whether the likelihood rises there: then psi turns.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.em.louis import ScoreAndInformation, mean_and_error
from jaxnlme.estimators.em.sufficient_statistics import ParameterLayout
from jaxnlme.model.density import Density

# A share of an effect's variance that is its own, below which its correlations with those before it may be at their
# edge: twice what the M-step leaves; and where the information has no inverse (one correlation of 0.97) after so many
# settling iterations.
NARROW, BLIND, ENOUGH = 0.01, 0.06, 160
# Eigenvalues of correlations below this are none; and by how much psi turns, as a share of its standard deviations.
RANK, TURN = 1e-10, 0.3
# Slopes of more than this many of their Monte Carlo errors rise; of less than this many negative ones, fall.
RISES, FALLS = 4.0, 2.0


@dataclasses.dataclass(frozen=True)
class Slope:
    """The slope of the log-likelihood along a direction into the inside, and its Monte Carlo error."""

    mean: float
    error: float

    @property
    def increases(self) -> bool:
        """Whether the maximum is not at the edge, beyond doubt."""
        return self.mean > RISES * self.error

    @property
    def is_clear(self) -> bool:
        """Whether it is clear which of both holds."""
        return self.increases or self.mean < -FALLS * self.error


def nearly_dependent(layout: ParameterLayout, density: Density, one: ScoreAndInformation) -> set[int]:
    """Packed entries of the scales of effects that are all but functions of those before them."""
    limit = NARROW if one.positive_definite or one.n_iterations < ENOUGH else BLIND
    theta = layout.theta(one.packed)
    variances = np.diag(psi_of(density, theta))
    return {
        layout.beta + index
        for index, effects, _ in density.covariance.log_scales
        if _within(density, effects)
        and np.isfinite(theta[index])
        and np.exp(2.0 * theta[index]) <= limit * variances[effects[0]]
    }


def project_to_face(
    layout: ParameterLayout, density: Density, packed: np.ndarray, scales: set[int]
) -> tuple[np.ndarray, frozenset[int]] | None:
    """`packed` (packed,) with some scales exactly zero, and the entries that are then held: those, and what has no
    effect beside them. None where the user fixed one of these.

    An unstructured block loses as many directions as scales, those with the least variance in the unit of its standard
    deviations: the last effects are functions of the others then, which leaves entries for every psi of that rank."""
    x = packed.copy()
    x[sorted(scales)] = -np.inf
    theta, psi = layout.theta(x), psi_of(density, layout.theta(packed))
    for block, zeros in _blocks(density, theta):
        own = np.ix_(block, block)
        sd, values, vectors = _spectrum(psi[own])
        values[:zeros] = 0.0
        psi[own] = np.outer(sd, sd) * ((vectors * values) @ vectors.T)
    for index, effects, _ in density.covariance.log_scales:
        if theta[index] == -np.inf and not _within(density, effects):
            psi[np.ix_(effects, effects)] = 0.0
    theta[:] = density.covariance.from_matrix(psi)
    held: set[int] = set()
    for index, _, others in density.covariance.log_scales:
        if theta[index] == -np.inf:
            held |= {layout.beta + index, *(layout.beta + other for other in others)}
    return (x, frozenset(held)) if held and all(layout.free[k] for k in held) else None


def slopes(layout: ParameterLayout, density: Density, one: ScoreAndInformation) -> list[Slope]:
    """Slopes of the log-likelihood along every direction that could be the steepest, at psi of `one`."""
    out = []
    for direction in _directions(density, layout.theta(one.packed), one.psi_slopes.mean(axis=0)):
        mean, error = mean_and_error(np.einsum("bij,ij->b", one.psi_slopes, direction))
        out.append(Slope(float(mean), float(error)))
    return out


def rotate(layout: ParameterLayout, density: Density, one: ScoreAndInformation, usual: np.ndarray) -> np.ndarray | None:
    """`one.packed` (packed,) with a psi of the same rank, turned towards where the likelihood rises; None where it
    rises nowhere beyond noise: along entries above the diagonal of its factor, which a triangular one does not have.
    **Arguments:** `usual` (random,), standard deviations of effects that have none."""
    theta = layout.theta(one.packed)
    lower = np.array(density.covariance.factor(theta), float)
    sd = np.sqrt(np.sum(lower**2, axis=1))
    sd = np.where(sd > 0, sd, usual)
    mean, error = mean_and_error(one.factor_slopes)
    rotated = False
    for block, _ in _blocks(density, theta):
        for place, i in enumerate(block):
            for j in block[place + 1 :]:
                if lower[i, i] == 0.0 and lower[j, j] != 0.0 and abs(mean[i, j]) > RISES * error[i, j]:
                    lower[i, j] = TURN * sd[i] * np.sign(mean[i, j])
                    rotated = True
    if not rotated:
        return None
    out = one.packed.copy()
    layout.theta(out)[:] = density.covariance.from_matrix(lower @ lower.T)
    return out


def _within(density: Density, effects: tuple[int, ...]) -> bool:
    """Whether a scale is of one effect of an unstructured block."""
    return len(effects) == 1 and any(effects[0] in pair for pair in density.covariance.related)


def _blocks(density: Density, theta: np.ndarray) -> list[tuple[list[int], int]]:
    """The effects of each unstructured block in which scales are zero, and how many are."""
    zeros: dict[tuple[int, ...], int] = {}
    for index, effects, _ in density.covariance.log_scales:
        if theta[index] == -np.inf and _within(density, effects):
            block = tuple(sorted(_together(density.covariance.related, set(effects))))
            zeros[block] = zeros.get(block, 0) + 1
    return [(list(block), count) for block, count in zeros.items()]


def _spectrum(psi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard deviations (n,), ones where they are zero, and eigenvalues and -vectors in their unit."""
    sd = np.sqrt(np.diag(psi))
    sd = np.where(sd > 0, sd, 1.0)
    values, vectors = np.linalg.eigh(psi / np.outer(sd, sd))
    return sd, values, vectors


def _directions(density: Density, theta: np.ndarray, pull: np.ndarray) -> list[np.ndarray]:
    """Changes of psi (random, random), positive semidefinite, of trace one."""
    covariance, n = density.covariance, density.n_effects
    psi = psi_of(density, theta)
    out = [_steepest(psi, pull, block) for block, _ in _blocks(density, theta)]
    for index, effects, others in covariance.log_scales:
        if theta[index] != -np.inf or _within(density, effects):
            continue
        # Members of the family that differ in what the scale takes along.
        for value in (-8.0, 0.0, 8.0) if others else (0.0,):
            x = np.where(np.isfinite(theta), theta, 0.0)
            x[index], x[list(others)] = 0.0, value
            own = np.ix_(effects, effects)
            change = np.zeros((n, n))
            change[own] = psi_of(density, x)[own]
            out.append(change / np.trace(change))
    return out


def _together(related: Any, block: set[int]) -> set[int]:
    """The effects of the blocks that those of `block` are in."""
    grown = True
    while grown:
        wider = block | {k for pair in related if block & set(pair) for k in pair}
        block, grown = wider, wider != block
    return block


def _steepest(psi: np.ndarray, pull: np.ndarray, block: list[int]) -> np.ndarray:
    """v v', v the direction of a block without variance along which the log-likelihood rises most."""
    own = np.ix_(block, block)
    sd, values, vectors = _spectrum(psi[own])
    empty = vectors[:, values <= RANK] / sd[:, None]
    _, mixed = np.linalg.eigh(empty.T @ pull[own] @ empty)
    v = np.zeros(len(psi))
    v[block] = empty @ mixed[:, -1]
    return np.outer(v, v) / (v @ v)
