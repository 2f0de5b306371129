"""Covariances of the random effects: psi from an unconstrained vector, always through a factor that may be singular.

The diagonal of every factor is the exponential of an entry of theta, so theta = -inf is a standard deviation of exactly
zero, and every derivative stays finite there. The matrix logarithm alone has no such entries; its psi is never
singular.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.base import AbstractCovariance as AbstractCovariance
from jaxnlme.model.covariance.base import log_sd, positive
from jaxnlme.model.covariance.blocks import Blocks as Blocks
from jaxnlme.model.transforms import sigmoid
from jaxnlme.numerics.arrays import xp
from jaxnlme.numerics.linalg import cholesky, expm, semidefinite_cholesky


class Diagonal(AbstractCovariance):
    """psi = diag(exp(2 theta)): theta (random,) holds log standard deviations."""

    size: int = eqx.field(static=True)

    @property
    def n_unconstrained(self) -> int:
        return self.size

    def factor(self, theta):
        return xp(theta).diag(xp(theta).exp(theta))

    def apply(self, theta, z):
        return jnp.exp(theta) * z

    def from_matrix(self, psi):
        return log_sd(np.diag(positive(psi)))

    @property
    def has_closed_form(self):
        return True

    def from_moment(self, moment):
        return 0.5 * jnp.log(jnp.diagonal(moment))

    @property
    def log_scales(self):
        return tuple((k, (k,), ()) for k in range(self.size))

    @property
    def related(self):
        return ()


class LogCholesky(AbstractCovariance):
    """A full psi: theta holds the logs of L's diagonal, then its strictly lower triangle by rows.

    **Source:** Pinheiro and Bates (1996), Statistics and Computing 6, 289-296, the log-Cholesky parametrisation.
    """

    size: int = eqx.field(static=True)

    @property
    def n_unconstrained(self) -> int:
        return self.size * (self.size + 1) // 2

    def factor(self, theta):
        n, stack = self.size, xp(theta).stack
        scale, zero = xp(theta).exp(theta[:n]), xp(theta).zeros_like(theta[0])
        below = {place: theta[n + k] for k, place in enumerate((i, j) for i in range(n) for j in range(i))}
        return stack([stack([scale[i] if i == j else below.get((i, j), zero) for j in range(n)]) for i in range(n)])

    def from_matrix(self, psi):
        lower = semidefinite_cholesky(psi)
        return np.concatenate([log_sd(np.diag(lower) ** 2), lower[np.tril_indices(self.size, -1)]])

    @property
    def has_closed_form(self):
        return True

    def from_moment(self, moment):
        lower = cholesky(moment)
        return jnp.concatenate([jnp.log(jnp.diagonal(lower)), lower[np.tril_indices(self.size, -1)]])

    @property
    def log_scales(self):
        rows, columns = np.tril_indices(self.size, -1)
        below = [tuple(int(self.size + i) for i in np.flatnonzero(columns == k)) for k in range(self.size)]
        return tuple((k, (k,), below[k]) for k in range(self.size))

    @property
    def related(self):
        return tuple((j, k) for k in range(self.size) for j in range(k))


# The least eigenvalue of a psi that `LogMatrix.from_matrix` takes as it is, as a share of the largest.
LEAST_SHARE = 1e-12


class LogMatrix(AbstractCovariance):
    """A full psi = exp(S): theta holds the upper triangle of the symmetric S = log psi, by rows. Its factor is
    exp(S / 2), symmetric. Every theta is a positive definite psi; a singular one has none (`from_matrix` gives one
    close by).

    **Source:** Pinheiro and Bates (1996), Statistics and Computing 6, 289-296, the matrix logarithm; through a series
    rather than eigenvectors, whose derivatives are not finite where eigenvalues agree.
    """

    size: int = eqx.field(static=True)

    @property
    def n_unconstrained(self) -> int:
        return self.size * (self.size + 1) // 2

    def factor(self, theta):
        upper = np.triu_indices(self.size)
        place = np.zeros((self.size, self.size), int)
        place[upper] = place[upper[::-1]] = np.arange(self.n_unconstrained)
        half = 0.5 * theta[place]
        if xp(theta) is not np:
            return expm(half)
        import scipy.linalg

        return scipy.linalg.expm(half)

    def apply(self, theta, z):
        return self.factor(theta) @ z

    def from_matrix(self, psi):
        values, vectors = np.linalg.eigh(positive(psi))
        least = max(LEAST_SHARE * float(values[-1]), np.finfo(float).tiny)
        log = (vectors * np.log(np.maximum(values, least))) @ vectors.T
        return log[np.triu_indices(self.size)]

    @property
    def has_closed_form(self):
        return True

    def from_moment(self, moment):
        values, vectors = jnp.linalg.eigh(moment)
        log = (vectors * jnp.log(values)[None, :]) @ vectors.T
        return log[np.triu_indices(self.size)]

    @property
    def log_scales(self):
        return ()

    @property
    def related(self):
        return tuple((j, k) for k in range(self.size) for j in range(k))


class MultipleOfIdentity(AbstractCovariance):
    """psi = exp(2 theta) I: one standard deviation for all effects."""

    size: int = eqx.field(static=True)

    @property
    def n_unconstrained(self) -> int:
        return 1

    def factor(self, theta):
        return xp(theta).exp(theta[0]) * np.eye(self.size)

    def apply(self, theta, z):
        return jnp.exp(theta[0]) * z

    def from_matrix(self, psi):
        return log_sd(np.mean(np.diag(positive(psi)), keepdims=True))

    @property
    def has_closed_form(self):
        return True

    def from_moment(self, moment):
        return 0.5 * jnp.log(jnp.mean(jnp.diagonal(moment), keepdims=True))

    @property
    def log_scales(self):
        return ((0, tuple(range(self.size)), ()),)

    @property
    def related(self):
        return ()


class CompoundSymmetry(AbstractCovariance):
    """psi = s^2 ((1 - r) I + r 1 1'): theta = (log s, logit of r on the interval (-1 / (random - 1), 1))."""

    size: int = eqx.field(static=True)

    def __check_init__(self):
        if self.size < 2:
            raise OptionError("compound symmetry needs at least two random effects; use 'diagonal' for one.")

    @property
    def n_unconstrained(self) -> int:
        return 2

    def _correlation(self, theta):
        low = -1.0 / (self.size - 1)
        return low + (1.0 - low) * sigmoid(theta[1])

    def factor(self, theta):
        r = self._correlation(theta)
        correlation = (1.0 - r) * np.eye(self.size) + r
        factor = np.linalg.cholesky(correlation) if xp(theta) is np else cholesky(correlation)
        return xp(theta).exp(theta[0]) * factor

    def from_matrix(self, psi):
        variance = np.mean(np.diag(positive(psi)))
        below = np.tril_indices(self.size, -1)
        r = float(np.mean(psi[below]) / variance) if variance > 0 else 0.0
        low = -1.0 / (self.size - 1)
        share = np.clip((r - low) / (1.0 - low), 1e-6, 1.0 - 1e-6)
        return np.array([log_sd(np.array([variance]))[0], np.log(share / (1.0 - share))])

    @property
    def has_closed_form(self):
        return True

    def from_moment(self, moment):
        # The group average over permutations is the estimate of every family that they leave as it is.
        variance = jnp.mean(jnp.diagonal(moment))
        low = -1.0 / (self.size - 1)
        share = (jnp.mean(moment[np.tril_indices(self.size, -1)]) / variance - low) / (1.0 - low)
        share = jnp.clip(share, 1e-6, 1.0 - 1e-6)
        return jnp.stack([0.5 * jnp.log(variance), jnp.log(share / (1.0 - share))])

    @property
    def log_scales(self):
        return ((0, tuple(range(self.size)), (1,)),)

    @property
    def related(self):
        return tuple((j, k) for k in range(self.size) for j in range(k))
