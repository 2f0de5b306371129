"""Integrals over the whitened effects, from a point of expansion and the curvature there."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp

from jaxnlme.likelihood.settings import INTEGRATION
from jaxnlme.model.derivatives import value_and_gradient
from jaxnlme.numerics.arrays import number_to_array
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.linalg import backward_solve, cholesky, cholesky_solve, half_logdet
from jaxnlme.numerics.quadrature import normal_grid
from jaxnlme.typing import Matrix, Scalar, Vector


def in_batches(fn: Callable[[Vector], Scalar], points: Any, batch: int | None) -> Vector:
    """The values (count,) of `fn` at `points` (count, random), computed `batch` points at a time (None: all at once),
    which limits the memory for intermediate arrays."""
    if batch is None or batch >= points.shape[0]:
        return jax.vmap(fn)(points)
    return jax.lax.map(fn, points, batch_size=batch)


class MonteCarloError(eqx.Module):
    """Monte Carlo error of an integral: `variance` of its logarithm (zero for deterministic rules), and `ess`, the
    effective number of draws (NaN for deterministic rules)."""

    variance: Any
    ess: Any


class AbstractIntegral(eqx.Module):
    """The log of the integral of exp(log_joint(z)) over z (random,), from a point of expansion and the curvature H
    there."""

    @abc.abstractmethod
    def __call__(
        self, log_joint: Callable[[Vector], Scalar], z: Vector, curvature: Matrix, key: Any, *, at_mode: bool
    ) -> tuple[Scalar, MonteCarloError]:
        """The log-integral, NaN where the curvature is not positive definite, and its Monte Carlo error.

        **Arguments:** `log_joint(z)`: a scalar; `z` (random,): the point of expansion; `curvature` (random, random): H;
        `key`: an integer of the group, for random draws; `at_mode`: true if z is the mode.
        """


class Gaussian(AbstractIntegral):
    """The integral of the quadratic expansion: log_joint + g' H^-1 g / 2 + (q / 2) log 2 pi - log|H| / 2, with q
    effects and g the gradient at z (zero at a mode): Laplace's approximation, and FO's linearised Gaussian at z = 0."""

    def __call__(self, log_joint, z, curvature, key, *, at_mode):
        lower = cholesky(curvature)
        value = z.shape[0] * HALF_LOG_2PI - half_logdet(lower)
        if at_mode:
            return value + log_joint(z), no_monte_carlo_error()
        joint, gradient = value_and_gradient(log_joint)(z)
        return value + joint + 0.5 * jnp.sum(gradient * cholesky_solve(lower, gradient)), no_monte_carlo_error()


class GaussHermite(AbstractIntegral):
    """Adaptive Gauss-Hermite quadrature: nodes at z + C u, C C' = H^-1, u on a tensor grid.

    With `passes` it is repeated so often, each time around the posterior mean and spread by the posterior covariance
    that the nodes before give: for a posterior with a long tail or a second mode, which the curvature at the mode does
    not describe.

    **Arguments:** `nodes`: per effect; `batch`: points computed at a time (None: all); `passes`.
    **Source:** Pinheiro and Bates (1995), J Comput Graph Stat 4, 12-35, section 2.4; for the passes Naylor and Smith
    (1982), Applied Statistics 31, 214-225.
    """

    nodes: int = eqx.field(static=True)
    batch: int | None = eqx.field(static=True, default=None)
    passes: int = eqx.field(static=True, default=0)

    def __call__(self, log_joint, z, curvature, key, *, at_mode):
        q = z.shape[0]
        grid, log_weights = normal_grid(self.nodes, q)
        points, lower = jnp.asarray(grid, z.dtype), cholesky(curvature)
        log_volume = -half_logdet(lower)

        def terms(place: Callable[[Vector], Vector]) -> Vector:
            return in_batches(lambda u: log_joint(place(u)) + 0.5 * jnp.sum(u**2), points, self.batch) + log_weights

        def around_mode(u: Vector) -> Vector:
            return z + backward_solve(lower, u)

        if not self.passes:
            return logsumexp(terms(around_mode)) + q * HALF_LOG_2PI + log_volume, no_monte_carlo_error()
        # Everything is in the coordinates u of the nodes around the mode, in which the curvature is the identity.
        found = terms(around_mode)
        mean, spread = jnp.zeros_like(z), jnp.eye(q, dtype=z.dtype)
        for _ in range(self.passes):
            weights = jnp.exp(found - logsumexp(found))
            shift = weights @ points
            apart = points - shift[None, :]
            covariance = apart.T @ (weights[:, None] * apart) + INTEGRATION.least_variance * jnp.eye(q, dtype=z.dtype)
            factor = cholesky(covariance)
            mean, spread = mean + spread @ shift, spread @ factor
            log_volume = log_volume + half_logdet(factor)
            found = terms(lambda u, mean=mean, spread=spread: around_mode(mean + spread @ u))
        return logsumexp(found) + q * HALF_LOG_2PI + log_volume, no_monte_carlo_error()


class ImportanceIntegral(AbstractIntegral):
    """Importance sampling from a multivariate t centred at z with scale matrix H^-1.

    The random numbers depend only on `seed` and the group's key: the estimate is a smooth function of the parameters,
    and does not depend on the order or batching of groups, or on `batch`.

    **Arguments:** `draws`: per group; `df`: degrees of freedom of the t (0: Gaussian); `seed`; `batch`: draws computed
    at a time (None: all).
    **Source:** Kloek and van Dijk (1978), Econometrica 46, 1-19; Geweke (1989), Econometrica 57, 1317-1339.
    """

    draws: int = eqx.field(static=True)
    df: float = eqx.field(static=True)
    seed: Any = eqx.field(converter=number_to_array)
    batch: int | None = eqx.field(static=True, default=None)

    def __call__(self, log_joint, z, curvature, key, *, at_mode):
        q = z.shape[0]
        lower = cholesky(curvature)
        base, mixing = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), key))
        u = jax.random.normal(base, (self.draws, q), z.dtype)
        if self.df:
            u = u * jnp.sqrt(self.df / chi_squared(mixing, self.df, self.draws, z.dtype))[:, None]
            log_proposal = log_t_density(u, self.df)
        else:
            log_proposal = -q * HALF_LOG_2PI - 0.5 * jnp.sum(u**2, axis=1)
        joint = in_batches(lambda u: log_joint(z + backward_solve(lower, u)), u, self.batch)
        terms = joint - log_proposal - half_logdet(lower)
        terms = jnp.where(jnp.isnan(terms), -jnp.inf, terms)
        log_sum = logsumexp(terms)
        weights = jnp.exp(terms - log_sum)
        ess = 1.0 / jnp.sum(weights**2)
        # Delta method: var(log mean w) = var(w) / (n mean(w)^2) = (1 / ess - 1 / n) n / (n - 1).
        variance = jnp.maximum(1.0 / ess - 1.0 / self.draws, 0.0) * self.draws / (self.draws - 1.0)
        return log_sum - np.log(self.draws), MonteCarloError(variance, ess)


def log_t_density(u: Matrix, df: float, dimension: Any = None) -> Vector:
    """Log-density (draws,) of the multivariate t distribution with `df` degrees of freedom, location 0 and scale I.

    **Arguments:** `u` (draws, random); `df`; `dimension`: the number of entries that are not padding (which is zero),
    None: all.
    """
    q = u.shape[1] if dimension is None else dimension
    constant = gammaln(0.5 * (df + q)) - gammaln(0.5 * df) - 0.5 * q * np.log(df * np.pi)
    return constant - 0.5 * (df + q) * jnp.log1p(jnp.sum(u**2, axis=1) / df)


def chi_squared(key: Any, df: float, draws: int, dtype: Any) -> Vector:
    """Draws (draws,) from the chi-squared distribution with `df` degrees of freedom.

    For small whole `df` a sum of exponential variables, and a squared normal one if it is odd: a batched rejection
    sampler, which ends with the last accepted draw of all groups, took four times as long as drawing the normal
    variables of three effects.

    **Arguments:** `key`: a JAX random key; `df`: positive; `draws`: their number; `dtype`.
    """
    if df != int(df) or df > INTEGRATION.most_summed_df:
        return 2.0 * jax.random.gamma(key, 0.5 * df, (draws,), dtype)
    exponential, normal = jax.random.split(key)
    half = int(df) // 2
    total = -2.0 * jnp.sum(jnp.log1p(-jax.random.uniform(exponential, (draws, half), dtype)), axis=1)
    return total + jax.random.normal(normal, (draws,), dtype) ** 2 if int(df) % 2 else total


def no_monte_carlo_error() -> MonteCarloError:
    """The MonteCarloError of a deterministic rule: variance zero, no effective number of draws (NaN)."""
    return MonteCarloError(jnp.zeros(()), jnp.full((), jnp.nan))
