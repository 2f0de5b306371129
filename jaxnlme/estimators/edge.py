"""Psi at the edge of what it can be: variances of zero and correlations of one, as answers of a stochastic run.

There the chains hold the whitened effects z (`statistics.whitened`), whose scores stay finite where those of b do not.
Whether the likelihood falls from the edge inwards is told by its slope along psi,

    d log L / d psi = G,  G = (1/2) sum_i w_i E[H_i + g_i g_i' | y_i],

g_i and H_i the gradient and Hessian of log p(y_i | b_i) in b_i (differentiate the Gaussian integral over b along psi):
at a maximum v' G v <= 0 for every direction v along which psi has no variance.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.estimators.settling import Settled
from jaxnlme.estimators.statistics import Layout
from jaxnlme.model.density import Density
from jaxnlme.model.psi import psi_of

# A share of an effect's variance that is its own, below which its correlations with those before it may be at their
# edge: twice what the M-step leaves; and where the information there has no inverse (one correlation of 0.97).
NARROW, BLIND = 0.01, 0.06
# Slopes of more than this many of their Monte Carlo errors rise; of less than this many negative ones, fall.
RISES, FALLS = 4.0, 2.0


@dataclasses.dataclass(frozen=True)
class Slope:
    """The slope of the log-likelihood along a direction into the inside, and its Monte Carlo error."""

    mean: float
    error: float

    @property
    def rises(self) -> bool:
        """Whether the maximum is not at the edge, beyond doubt."""
        return self.mean > RISES * self.error

    @property
    def told(self) -> bool:
        """Whether it is clear which of both holds."""
        return self.rises or self.mean < -FALLS * self.error


def narrow(layout: Layout, density: Density, one: Settled) -> set[int]:
    """Packed entries of the scales of effects that are all but functions of those before them."""
    packed, limit = one.packed, NARROW if one.regular else BLIND
    related = {k for pair in density.covariance.related for k in pair}
    theta = packed[layout.beta : layout.beta + layout.covariance]
    variances = np.diag(psi_of(density, theta))
    out = set()
    for index, effects, _ in density.covariance.collapses:
        own = theta[index]
        if len(effects) == 1 and effects[0] in related and np.isfinite(own):
            narrow = np.exp(2.0 * own) <= limit * variances[effects[0]]
            out |= {layout.beta + index} if narrow else set()
    return out


def onto(
    layout: Layout, density: Density, packed: np.ndarray, scales: set[int]
) -> tuple[np.ndarray, frozenset[int]] | None:
    """`packed` (packed,) with some scales exactly zero, and the entries that are then held: those, and what has no
    effect beside them. None where the user fixed one of these."""
    first, last = layout.beta, layout.beta + layout.covariance
    x = packed.copy()
    x[sorted(scales)] = -np.inf
    # What lay below a new zero in its column of the factor goes where it has an effect.
    x[first:last] = density.covariance.from_matrix(psi_of(density, x[first:last]))
    held: set[int] = set()
    for index, _, others in density.covariance.collapses:
        if x[first + index] == -np.inf:
            held |= {first + index, *(first + other for other in others)}
    return (x, frozenset(held)) if held and all(layout.free[k] for k in held) else None


def slopes(layout: Layout, density: Density, one: Settled) -> list[Slope]:
    """Slopes of the log-likelihood along every direction that could be the steepest, at psi of `one`."""
    theta = one.packed[layout.beta : layout.beta + layout.covariance]
    out = []
    for direction in _directions(density, theta, one.pulls.mean(axis=0)):
        told = np.einsum("bij,ij->b", one.pulls, direction)
        out.append(Slope(float(told.mean()), float(told.std(ddof=1) / np.sqrt(len(told)))))
    return out


def _directions(density: Density, theta: np.ndarray, pull: np.ndarray) -> list[np.ndarray]:
    """Changes of psi (random, random), positive semidefinite, of trace one."""
    covariance, n = density.covariance, density.n_effects
    psi = psi_of(density, theta)
    out: list[np.ndarray] = []
    seen: set[frozenset[int]] = set()
    for index, effects, others in covariance.collapses:
        if theta[index] != -np.inf:
            continue
        if len(effects) > 1:
            # Members of the family that differ in what the scale takes along.
            for value in (-8.0, 0.0, 8.0) if others else (0.0,):
                x = np.where(np.isfinite(theta), theta, 0.0)
                x[index], x[list(others)] = 0.0, value
                own = np.ix_(effects, effects)
                change = np.zeros((n, n))
                change[own] = psi_of(density, x)[own]
                out.append(change / np.trace(change))
            continue
        block = frozenset(_together(covariance.related, set(effects)))
        if block in seen:
            continue
        seen.add(block)
        out.append(_steepest(psi, pull, sorted(block)))
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
    sd = np.sqrt(np.diag(psi)[block])
    sd = np.where(sd > 0, sd, 1.0)
    values, vectors = np.linalg.eigh(psi[own] / np.outer(sd, sd))
    empty = vectors[:, values <= 1e-10] / sd[:, None]
    _, mixed = np.linalg.eigh(empty.T @ pull[own] @ empty)
    v = np.zeros(len(psi))
    v[block] = empty @ mixed[:, -1]
    return np.outer(v, v) / (v @ v)
