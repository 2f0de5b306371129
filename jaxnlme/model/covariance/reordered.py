"""Covariances with a standard deviation or correlation as an entry of theta, so that a profile can hold it fixed."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.covariance.structures import AbstractCovariance, Blocks, LogCholesky
from jaxnlme.model.settings import MODEL
from jaxnlme.numerics.arrays import xp


class PairFirst(AbstractCovariance):
    """A full psi in which the first two standard deviations and their correlation r are entries of theta.

    theta is that of LogCholesky except for the second row of L, which is sd2 (r, sqrt(1 - r^2)): theta has log sd2 in
    place of log L_22 and atanh(r) in place of L_21. The first entry, log L_11, is log sd1 in LogCholesky already.

    **Arguments:** `size`: the number of random effects.
    """

    size: int = eqx.field(static=True)

    @property
    def _log_cholesky(self) -> LogCholesky:
        return LogCholesky(self.size)

    @property
    def n_unconstrained(self) -> int:
        return self._log_cholesky.n_unconstrained

    def factor(self, theta):
        n = self.size
        if n < 2:
            return self._log_cholesky.factor(theta)
        z = theta[n]
        # log sqrt(1 - tanh(z)^2) = -log cosh(z) = log 2 - |z| - log(1 + exp(-2 |z|)), without overflow.
        size = xp(theta).abs(z)
        log_diagonal = theta[1] + np.log(2.0) - size - xp(theta).log1p(xp(theta).exp(-2.0 * size))
        below = xp(theta).exp(theta[1]) * xp(theta).tanh(z)
        entries = [theta[k] for k in range(self.n_unconstrained)]
        entries[1], entries[n] = log_diagonal, below
        return self._log_cholesky.factor(xp(theta).stack(entries))

    def from_matrix(self, psi):
        theta, n = np.array(self._log_cholesky.from_matrix(psi), float), self.size
        if n < 2:
            return theta
        diagonal, below = np.exp(theta[1]), theta[n]
        sd = np.hypot(diagonal, below)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.arcsinh(below / diagonal) if sd > 0 else 0.0
            theta[1], theta[n] = np.log(sd), np.clip(z, -MODEL.largest_z, MODEL.largest_z)
        return theta

    @property
    def log_scales(self):
        # The first two rows vanish with their standard deviations; psi then does not depend on atanh(r).
        scales = self._log_cholesky.log_scales
        if self.size < 2:
            return scales
        index, effects, others = scales[1]
        return (scales[0], (index, effects, (self.size, *others)), *scales[2:])

    @property
    def correlated_pairs(self):
        return self._log_cholesky.correlated_pairs


class Permuted(AbstractCovariance):
    """The covariance `inner` on reordered effects: b = P b_inner, so psi = P psi_inner P', P a permutation matrix.

    **Arguments:** `size`: the number of random effects; `inner`: the covariance family of b_inner; `pairs`: the
    `correlated_pairs` of psi; `permutation` (random, random): P (an array, so that batched problems may have one each).
    """

    size: int = eqx.field(static=True)
    inner: AbstractCovariance
    pairs: tuple[tuple[int, int], ...] = eqx.field(static=True)
    permutation: Any

    @property
    def n_unconstrained(self) -> int:
        return self.inner.n_unconstrained

    def factor(self, theta):
        return self.permutation @ self.inner.factor(theta)

    def apply(self, theta, z):
        return jnp.sum(self.permutation * self.inner.apply(theta, z)[None, :], axis=1)

    def from_matrix(self, psi):
        permutation = np.asarray(self.permutation)
        return self.inner.from_matrix(permutation.T @ np.asarray(psi, float) @ permutation)

    @property
    def log_scales(self):
        return self.inner.log_scales

    @property
    def correlated_pairs(self):
        return self.pairs


def with_pair_first(family: AbstractCovariance) -> AbstractCovariance | None:
    """The covariance `family` with PairFirst for every full block; None if it has no full block."""
    if isinstance(family, LogCholesky):
        return PairFirst(family.size)
    if isinstance(family, Blocks) and any(isinstance(part, LogCholesky) for _, part in family.parts):
        parts = tuple((e, PairFirst(p.size) if isinstance(p, LogCholesky) else p) for e, p in family.parts)
        return Blocks(family.size, parts)
    return None


def permutation_to_front(size: int, block: tuple[int, ...], first: tuple[int, ...]) -> np.ndarray:
    """Permutation matrix (random, random) for `Permuted` that puts some effects before the others of their block.

    **Arguments:** `size`: the number of random effects; `block`: the effects of the block; `first`: those to put first.
    """
    order = [*first, *(k for k in block if k not in first)]
    permutation = np.eye(size)
    permutation[:, list(block)] = 0.0
    permutation[order, list(block)] = 1.0
    return permutation
