"""Integrals over the whitened effects, given where to expand and the curvature there."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp

from jaxnlme.numerics.arrays import as_number
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.linalg import backward_solve, cholesky, cholesky_solve, half_logdet
from jaxnlme.numerics.quadrature import normal_grid
from jaxnlme.typing import Matrix, Scalar, Vector

# Degrees of freedom up to which a chi-squared draw is made as a sum.
MOST_TERMS = 20


def in_batches(fn: Callable[[Vector], Scalar], points: Any, batch: int | None) -> Vector:
    """fn at each of `points` (count, random), `batch` at a time (None: all at once): what the rows of a group make of
    every point need not be in memory together."""
    if batch is None or batch >= points.shape[0]:
        return jax.vmap(fn)(points)
    return jax.lax.map(fn, points, batch_size=batch)


class MonteCarlo(eqx.Module):
    """How sure an integral is: `variance` of its logarithm (Monte Carlo, zero for deterministic rules) and `ess`, the
    effective number of draws (NaN for deterministic rules)."""

    variance: Any
    ess: Any


class AbstractIntegral(eqx.Module):
    """log of the integral of exp(log_joint(z)) over z, from a point, the curvature H there and the joint itself."""

    @abc.abstractmethod
    def __call__(
        self, log_joint: Callable[[Vector], Scalar], z: Vector, curvature: Matrix, key: Any, *, at_mode: bool
    ) -> tuple[Scalar, MonteCarlo]:
        """**Arguments:** `log_joint(z)`; `z` (random,); `curvature` (random, random), NaN output where it is not
        positive definite; `key`, the group's integer for random draws; `at_mode`, whether z is the mode.
        **Returns:** the log-integral, and how sure it is."""


class Gaussian(AbstractIntegral):
    """The integral of the quadratic expansion: log_joint + g' H^-1 g / 2 + (q / 2) log 2 pi - log|H| / 2, g the
    gradient at z (absent at a mode): Laplace's approximation, and FO's linearised Gaussian at z = 0."""

    def __call__(self, log_joint, z, curvature, key, *, at_mode):
        lower = cholesky(curvature)
        value = z.shape[0] * HALF_LOG_2PI - half_logdet(lower)
        if at_mode:
            return value + log_joint(z), exact_integral()
        joint, gradient = jax.value_and_grad(log_joint)(z)
        return value + joint + 0.5 * jnp.sum(gradient * cholesky_solve(lower, gradient)), exact_integral()


class GaussHermite(AbstractIntegral):
    """Adaptive Gauss-Hermite quadrature: nodes at z + C u, C C' = H^-1, on the tensor grid of `nodes` per effect,
    `batch` of them at a time (None: all at once).

    **Source:** Pinheiro and Bates (1995), J Comput Graph Stat 4, 12-35, section 2.4.
    """

    nodes: int = eqx.field(static=True)
    batch: int | None = eqx.field(static=True, default=None)

    def __call__(self, log_joint, z, curvature, key, *, at_mode):
        points, log_weights = normal_grid(self.nodes, z.shape[0])
        lower = cholesky(curvature)

        def term(u):
            return log_joint(z + backward_solve(lower, u)) + 0.5 * jnp.sum(u**2)

        terms = in_batches(term, jnp.asarray(points, z.dtype), self.batch) + log_weights
        return logsumexp(terms) + z.shape[0] * HALF_LOG_2PI - half_logdet(lower), exact_integral()


class ImportanceIntegral(AbstractIntegral):
    """Importance sampling with `draws` from a multivariate t (Gaussian where `df` is 0) centred at z with scale H^-1.

    The draws come from (seed, the group's key) alone: the estimate is a smooth function of the parameters, and does
    not depend on the order of groups, on how they are batched, or on how many draws are computed at a time (`batch`,
    None for all).

    **Source:** Kloek and van Dijk (1978), Econometrica 46, 1-19; Geweke (1989), Econometrica 57, 1317-1339.
    """

    draws: int = eqx.field(static=True)
    df: float = eqx.field(static=True)
    seed: Any = eqx.field(converter=as_number)
    batch: int | None = eqx.field(static=True, default=None)

    def __call__(self, log_joint, z, curvature, key, *, at_mode):
        q = z.shape[0]
        lower = cholesky(curvature)
        base, mixing = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), key))
        u = jax.random.normal(base, (self.draws, q), z.dtype)
        if self.df:
            u = u * jnp.sqrt(self.df / chi_squared(mixing, self.df, self.draws, z.dtype))[:, None]
            tail = jnp.log1p(jnp.sum(u**2, axis=1) / self.df)
            constant = gammaln(0.5 * (self.df + q)) - gammaln(0.5 * self.df) - 0.5 * q * np.log(self.df * np.pi)
            log_proposal = constant - 0.5 * (self.df + q) * tail
        else:
            log_proposal = -q * HALF_LOG_2PI - 0.5 * jnp.sum(u**2, axis=1)
        joint = in_batches(lambda u: log_joint(z + backward_solve(lower, u)), u, self.batch)
        terms = joint - log_proposal - half_logdet(lower)
        terms = jnp.where(jnp.isnan(terms), -jnp.inf, terms)
        log_sum = logsumexp(terms)
        share = jnp.exp(terms - log_sum)
        ess = 1.0 / jnp.sum(share**2)
        # Delta method: var(log mean w) = var(w) / (n mean(w)^2) = (1 / ess - 1 / n) n / (n - 1).
        variance = jnp.maximum(1.0 / ess - 1.0 / self.draws, 0.0) * self.draws / (self.draws - 1.0)
        return log_sum - np.log(self.draws), MonteCarlo(variance, ess)


def chi_squared(key: Any, df: float, draws: int, dtype: Any) -> Vector:
    """Draws (draws,) from the chi-squared distribution with `df` degrees of freedom.

    For small whole `df` a sum of exponentials, and a squared normal where it is odd: a rejection sampler, which goes on
    until the last draw of the last group is accepted, took four times as long as all the normals of three effects.
    """
    if df != int(df) or df > MOST_TERMS:
        return 2.0 * jax.random.gamma(key, 0.5 * df, (draws,), dtype)
    pairs, one = jax.random.split(key)
    half = int(df) // 2
    total = -2.0 * jnp.sum(jnp.log1p(-jax.random.uniform(pairs, (draws, half), dtype)), axis=1)
    return total + jax.random.normal(one, (draws,), dtype) ** 2 if int(df) % 2 else total


def exact_integral() -> MonteCarlo:
    """How sure a deterministic rule is."""
    return MonteCarlo(jnp.zeros(()), jnp.full((), jnp.nan))
