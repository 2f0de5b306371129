"""Standard deviations and correlations of a full psi as coordinates, so that one of them can be held fixed."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.covariance.structures import AbstractCovariance, Blocks, LogCholesky
from jaxnlme.numerics.arrays import xp

# Fisher's z of a correlation of one, as a start: r = 1 - 3e-8.
LARGEST_Z = 9.0


class PairFirst(AbstractCovariance):
    """A full psi whose first standard deviation, second standard deviation and their correlation are coordinates.

    theta is that of LogCholesky but for the second row of L, which is sd2 (r, sqrt(1 - r^2)) with log sd2 in the place
    of log L_22 and atanh(r) in the place of L_21. The first entry is log sd1 as it stands.
    """

    size: int = eqx.field(static=True)

    @property
    def _plain(self) -> LogCholesky:
        return LogCholesky(self.size)

    @property
    def n_unconstrained(self) -> int:
        return self._plain.n_unconstrained

    def factor(self, theta):
        n = self.size
        if n < 2:
            return self._plain.factor(theta)
        z = theta[n]
        # log sqrt(1 - tanh(z)^2) = -log cosh(z) = log 2 - |z| - log(1 + exp(-2 |z|)), without overflow.
        size = xp(theta).abs(z)
        log_diagonal = theta[1] + np.log(2.0) - size - xp(theta).log1p(xp(theta).exp(-2.0 * size))
        below = xp(theta).exp(theta[1]) * xp(theta).tanh(z)
        entries = [theta[k] for k in range(self.n_unconstrained)]
        entries[1], entries[n] = log_diagonal, below
        return self._plain.factor(xp(theta).stack(entries))

    def from_matrix(self, psi):
        theta, n = np.array(self._plain.from_matrix(psi), float), self.size
        if n < 2:
            return theta
        diagonal, below = np.exp(theta[1]), theta[n]
        sd = np.hypot(diagonal, below)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.arcsinh(below / diagonal) if sd > 0 else 0.0
            theta[1], theta[n] = np.log(sd), np.clip(z, -LARGEST_Z, LARGEST_Z)
        return theta

    @property
    def log_scales(self):
        # The first two rows vanish with their standard deviations; atanh(r) is then without effect for either.
        plain = self._plain.log_scales
        if self.size < 2:
            return plain
        index, effects, others = plain[1]
        return (plain[0], (index, effects, (self.size, *others)), *plain[2:])

    @property
    def related(self):
        return self._plain.related


class Ordered(AbstractCovariance):
    """`inner` on reordered effects: b = `places` b_inner, so psi = places psi_inner places'.

    **Arguments:** `places` (random, random), a permutation matrix (an array: lanes may have one each); `pairs`, what
    `related` is to give.
    """

    size: int = eqx.field(static=True)
    inner: AbstractCovariance
    pairs: tuple[tuple[int, int], ...] = eqx.field(static=True)
    places: Any

    @property
    def n_unconstrained(self) -> int:
        return self.inner.n_unconstrained

    def factor(self, theta):
        return self.places @ self.inner.factor(theta)

    def apply(self, theta, z):
        return jnp.sum(self.places * self.inner.apply(theta, z)[None, :], axis=1)

    def from_matrix(self, psi):
        places = np.asarray(self.places)
        return self.inner.from_matrix(places.T @ np.asarray(psi, float) @ places)

    @property
    def log_scales(self):
        return self.inner.log_scales

    @property
    def related(self):
        return self.pairs


def reorderable(family: AbstractCovariance) -> AbstractCovariance | None:
    """The family with PairFirst in the place of every full block; None where it has no full block."""
    if isinstance(family, LogCholesky):
        return PairFirst(family.size)
    if isinstance(family, Blocks) and any(isinstance(part, LogCholesky) for _, part in family.parts):
        parts = tuple((e, PairFirst(p.size) if isinstance(p, LogCholesky) else p) for e, p in family.parts)
        return Blocks(family.size, parts)
    return None


def leading(size: int, block: tuple[int, ...], first: tuple[int, ...]) -> np.ndarray:
    """`places` (random, random) that puts the effects `first` before the others of their `block`."""
    order = [*first, *(k for k in block if k not in first)]
    places = np.eye(size)
    places[:, list(block)] = 0.0
    places[order, list(block)] = 1.0
    return places
