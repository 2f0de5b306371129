"""Importance sampling of one group's effects: weighted draws from a mixture, one part of which learns from the draws.

With draws z_j from a mixture q and w_j = p(y, z_j) / q(z_j), conditional means are ratios, sum w_j h_j / sum w_j, which
are off by a term of order 1 / draws. It is the same for every group and every iteration, so that averaging does not
take it away; the weights that are handed on, s_j (1 + s_j - sum s_k^2) with s_j = w_j / sum w_k, take away its leading
part (Tin's estimator of a ratio), and add up to one as before.

**Source:** Geweke (1989), Econometrica 57, 1317-1339, for the weights; Hesterberg (1995), Technometrics 37, 185-194,
and Owen and Zhou (2000), Journal of the American Statistical Association 95, 135-143, for mixtures with the population
as one part, under which weights are bounded where the likelihood is; Tin (1965), Journal of the American Statistical
Association 60, 294-307, for the ratio.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp

from jaxnlme.likelihood.integrals import chi_squared
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.linalg import cholesky, forward_solve, half_logdet
from jaxnlme.sampling.samplers import AbstractSampler, Chains, Draws, Frame
from jaxnlme.typing import Matrix, Scalar, Vector

# Degrees of freedom of the proposals.
DF = 4.0
# Shares of the draws around the conditional mode, and from the population; the others follow the draws before them.
AT_MODE, POPULATION = 3 / 8, 1 / 8
# An old shape counts as much as so many effective draws, per dimension and one; a single draw tells of none.
INERTIA, ENOUGH = 10.0, 2.0
# A draw whose log-density is higher by so much than that at the mode belongs to a better one.
BETTER = 2.0
# Weight of the last iteration in the effective share of draws that is remembered.
FORGET = 0.1


class Shape(eqx.Module):
    """What the draws told of a group's conditional distribution: `centre` (random,) of xi; `factor` (random, random),
    C with C C' its covariance, and `inverse` of C; `known`, whether they told anything yet; `effective`, the share of
    draws that count: 1 / sum s^2, by draws, averaged over the last iterations."""

    centre: Any
    factor: Any
    inverse: Any
    known: Any
    effective: Any


class Part(eqx.Module):
    """A t distribution of z: `centre` (random,), `factor` (random, random) of its scale matrix and the `inverse`."""

    centre: Any
    factor: Any
    inverse: Any

    def whitened(self, z: Matrix) -> Matrix:
        """The rows of z (draws, random) in the part's own unit."""
        return (z - self.centre[None, :]) @ self.inverse.T

    def log_density(self, u: Matrix) -> Vector:
        """At whitened points (draws, random)."""
        q = u.shape[1]
        constant = gammaln(0.5 * (DF + q)) - gammaln(0.5 * DF) - 0.5 * q * np.log(DF * np.pi)
        steep = half_logdet(cholesky(self.inverse.T @ self.inverse))
        return constant + steep - 0.5 * (DF + q) * jnp.log1p(jnp.sum(u**2, axis=1) / DF)


class ImportanceSampler(AbstractSampler):
    """`draws` of each group and iteration, of `effects` random effects: t-distributed around the conditional mode with
    Laplace's covariance, t-distributed around the mean of earlier draws with their covariance, and from the population.
    """

    draws: int = eqx.field(static=True)
    effects: int = eqx.field(static=True)

    @property
    def labels(self):
        return ("effective draws",)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Draws of each part of the mixture: mode, earlier draws, population."""
        first, last = (max(1, round(share * self.draws)) for share in (AT_MODE, POPULATION))
        return first, self.draws - first - last, last

    def memory(self):
        q = self.effects
        return Shape(np.zeros(q), np.eye(q), np.eye(q), np.zeros((), bool), np.zeros(()))

    def draw(self, log_density, frame, chains, mean, empty, key, gain):
        normal, mixing, resampling = jax.random.split(key, 3)
        shape = _current(chains)
        parts = (_part(frame, chains, mean), _part(frame, shape, mean))
        u = jax.random.normal(normal, (self.draws, self.effects), mean.dtype)
        first, second, _ = self.counts
        stretch = jnp.sqrt(DF / chi_squared(mixing, DF, first + second, mean.dtype))
        u = u.at[: first + second].multiply(stretch[:, None])
        z = jnp.concatenate(
            [
                parts[0].centre[None, :] + u[:first] @ parts[0].factor.T,
                parts[1].centre[None, :] + u[first : first + second] @ parts[1].factor.T,
                u[first + second :],
            ]
        )
        # The mode itself is a further row, for comparison.
        value, kept = jax.vmap(log_density)(jnp.concatenate([z, parts[0].centre[None, :]]))
        at_mode, value, kept = value[-1], value[:-1], jax.tree.map(lambda leaf: leaf[:-1], kept)
        own = parts[1].whitened(z)
        terms = value - self._log_mixture(parts, z, own)
        shares, effective = weights(terms)
        seen = Shape(shape.centre, shape.factor, shape.inverse, chains.memory.known, chains.memory.effective)
        # Samples for those who want draws without weights; where none has a finite density, the old ones stay.
        alive = jnp.isfinite(effective)
        which = resampled(shares, chains.xi.shape[0], jax.random.uniform(resampling, (), mean.dtype))
        xi = jnp.where(alive, z[which] @ frame.factor.T + mean[None, :], chains.xi)
        memory = _remembered(seen, own, shares, effective / self.draws, effective, gain)
        # Where the search for the mode got stuck, the next one begins elsewhere.
        value = jnp.where(jnp.isfinite(terms), value, -jnp.inf)
        best = jnp.argmax(value)
        better = (gain > 0) & ~(value[best] <= at_mode + BETTER) & alive
        centre = jnp.where(better, frame.factor @ z[best] + mean, chains.centre)
        moved = eqx.tree_at(lambda c: (c.xi, c.centre, c.alive, c.memory), chains, (xi, centre, alive, memory))
        return moved, Draws(z, kept, shares, memory.effective[None])

    def _log_mixture(self, parts: tuple[Part, Part], z: Matrix, own: Matrix) -> Vector:
        """Log-density (draws,) of the mixture at z (draws, random)."""
        population = -self.effects * HALF_LOG_2PI - 0.5 * jnp.sum(z**2, axis=1)
        each = jnp.stack([parts[0].log_density(parts[0].whitened(z)), parts[1].log_density(own), population])
        return logsumexp(each + np.log(np.array(self.counts) / self.draws)[:, None], axis=0)


def weights(terms: Vector) -> tuple[Vector, Scalar]:
    """Weights (draws,) that add up to one, from log w (draws,) up to a constant, and the effective number of draws;
    both NaN where no w is above zero."""
    terms = jnp.where(jnp.isnan(terms), -jnp.inf, terms)
    shares = jnp.exp(terms - logsumexp(terms))
    square = jnp.sum(shares**2)
    return shares * (1.0 + shares - square), 1.0 / square


def resampled(shares: Vector, count: int, uniform: Scalar) -> Any:
    """Indices (count,) of draws, as often as their `shares` say: systematic resampling."""
    total = jnp.cumsum(shares)
    points = (jnp.arange(count) + uniform) / count * total[-1]
    return jnp.clip(jnp.searchsorted(total, points, side="right"), 0, shares.shape[0] - 1)


def _current(chains: Chains) -> Shape:
    """What the draws told, or the mode's shape before they told anything."""
    shape = chains.memory
    mode = Shape(chains.centre, chains.factor, chains.inverse, shape.known, shape.effective)
    return jax.tree.map(lambda a, b: jnp.where(shape.known, a, b), shape, mode)


def _part(frame: Frame, shape: Any, mean: Vector) -> Part:
    """The Part of a centre and factor of xi (of Chains: the mode's)."""
    return Part(frame.inverse @ (shape.centre - mean), frame.inverse @ shape.factor, shape.inverse @ frame.factor)


def _remembered(shape: Shape, own: Matrix, shares: Vector, share: Scalar, effective: Scalar, gain: Scalar) -> Shape:
    """The Shape after an iteration whose draws, in the unit of `shape`, were `own` (draws, random)."""
    dimensions = own.shape[1] + 1
    share = jnp.nan_to_num(share)
    smooth = jnp.where(shape.known, shape.effective + FORGET * (share - shape.effective), share)
    told = (effective >= ENOUGH) & (gain > 0)
    trust = jnp.where(told, effective / (effective + INERTIA * dimensions), 0.0)
    shares = jnp.where(told, shares, 0.0)
    centre = shares @ own
    eye = jnp.eye(own.shape[1], dtype=own.dtype)
    outer = centre[:, None] * centre[None, :]
    spread = (own * shares[:, None]).T @ own - outer
    # The covariance of old and new draws together: positive definite whatever the new ones are.
    lower = cholesky((1.0 - trust) * eye + trust * spread + trust * (1.0 - trust) * outer)
    return Shape(
        shape.centre + trust * (shape.factor @ centre),
        shape.factor @ lower,
        jax.vmap(lambda column: forward_solve(lower, column), in_axes=1, out_axes=1)(shape.inverse),
        shape.known | told,
        smooth,
    )
