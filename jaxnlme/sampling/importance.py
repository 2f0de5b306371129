"""Importance sampling of one group's random effects: weighted draws from a mixture, one component of which is fitted to
earlier draws.

With draws z_j from a mixture q and w_j = p(y, z_j) / q(z_j), conditional means are ratios, sum w_j h_j / sum w_j, with
a bias of order 1 / draws. The bias is the same for every group and every iteration, so that averaging does not remove
it. The weights returned here, s_j (1 + s_j - sum s_k^2) with s_j = w_j / sum w_k, remove its leading term (Tin's
estimator of a ratio), and still add up to one.

**Source:** Geweke (1989), Econometrica 57, 1317-1339, for the weights; Hesterberg (1995), Technometrics 37, 185-194,
and Owen and Zhou (2000), Journal of the American Statistical Association 95, 135-143, for mixtures with the population
as one component, under which weights are bounded where the likelihood is; Tin (1965), Journal of the American
Statistical Association 60, 294-307, for the ratio.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from jaxnlme.likelihood.integrals import chi_squared, log_t_density
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.linalg import cholesky, forward_solve, half_logdet
from jaxnlme.sampling.samplers import AbstractSampler, Chains, Draws, Whitening
from jaxnlme.sampling.settings import PROPOSAL
from jaxnlme.typing import Matrix, Scalar, Vector


class LearnedProposal(eqx.Module):
    """Mean and covariance of a group's conditional distribution, estimated from earlier draws: `centre` (random,) of
    xi; `factor` (random, random), C with C C' the covariance, and `inverse` of C; `fitted`, true once draws have been
    used; `effective_fraction`, the effective number of draws, 1 / sum s^2, divided by the number of draws and
    exponentially smoothed over iterations."""

    centre: Any
    factor: Any
    inverse: Any
    fitted: Any
    effective_fraction: Any


class TComponent(eqx.Module):
    """Component of the mixture, a t distribution of z: `centre` (random,), `factor` (random, random) of its scale
    matrix, and `inverse` of the factor."""

    centre: Any
    factor: Any
    inverse: Any

    def whitened(self, z: Matrix) -> Matrix:
        """Rows of `z` (draws, random), standardised by the component's centre and factor."""
        return (z - self.centre[None, :]) @ self.inverse.T

    def log_density(self, u: Matrix, dimension: Any) -> Vector:
        """Log-density (draws,) of z at standardised points `u` (draws, random), zero in the entries beyond the
        `dimension`."""
        log_jacobian = half_logdet(cholesky(self.inverse.T @ self.inverse))
        return log_t_density(u, PROPOSAL.degrees_of_freedom, dimension) + log_jacobian


class ImportanceSampler(AbstractSampler):
    """Importance sampler with `draws` draws of each group and iteration, of `effects` random effects.

    The proposal is a mixture: t distributions around the conditional mode with Laplace's covariance and around the mean
    of earlier draws with their covariance, and the population distribution.
    """

    draws: int = eqx.field(static=True)
    effects: int = eqx.field(static=True)

    @property
    def labels(self):
        return ("effective draws",)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of draws from each component of the mixture: conditional mode, earlier draws, population."""
        fractions = (PROPOSAL.fraction_at_mode, PROPOSAL.fraction_population)
        first, last = (max(1, round(fraction * self.draws)) for fraction in fractions)
        return first, self.draws - first - last, last

    def initial_state(self):
        q = self.effects
        return LearnedProposal(np.zeros(q), np.eye(q), np.eye(q), np.zeros((), bool), np.zeros(()))

    def draw(self, log_density, whitening, chains, mean, empty, key, gain, tree=None):
        # Effects of units that the data say nothing of are drawn from the population, and have no part in the weights.
        entries = None if tree is None else tree.entries
        normal, mixing, resampling = jax.random.split(key, 3)
        proposal = _current_proposal(chains)
        components = (_component(whitening, chains, mean, entries), _component(whitening, proposal, mean, entries))
        u = jax.random.normal(normal, (self.draws, self.effects), mean.dtype)
        first, second, _ = self.counts
        df = PROPOSAL.degrees_of_freedom
        t_scale = jnp.sqrt(df / chi_squared(mixing, df, first + second, mean.dtype))
        t_scale = t_scale[:, None] if entries is None else jnp.where(entries[None, :], t_scale[:, None], 1.0)
        u = u.at[: first + second].multiply(t_scale)
        z = jnp.concatenate(
            [
                components[0].centre[None, :] + u[:first] @ components[0].factor.T,
                components[1].centre[None, :] + u[first : first + second] @ components[1].factor.T,
                u[first + second :],
            ]
        )
        # The mode itself is evaluated in an additional row, for comparison with the draws.
        value, aux = jax.vmap(log_density)(jnp.concatenate([z, components[0].centre[None, :]]))
        at_mode, value, aux = value[-1], value[:-1], jax.tree.map(lambda leaf: leaf[:-1], aux)
        u_fitted = _zero_beside(entries, components[1].whitened(z))
        log_ratios = value - self._log_mixture(components, z, u_fitted, entries)
        weights, effective = normalised_weights(log_ratios)
        old = chains.sampler_state
        used = LearnedProposal(proposal.centre, proposal.factor, proposal.inverse, old.fitted, old.effective_fraction)
        # Unweighted samples by resampling; if no draw has a finite density, the earlier ones are kept.
        any_finite = jnp.isfinite(effective)
        chosen = systematic_resample(weights, chains.xi.shape[0], jax.random.uniform(resampling, (), mean.dtype))
        factor, _ = whitening.dense()
        xi = jnp.where(any_finite, z[chosen] @ factor.T + mean[None, :], chains.xi)
        state = _updated_proposal(used, u_fitted, weights, effective / self.draws, effective, gain, entries)
        # If a draw is near a higher mode, the next search for the mode starts from it.
        value = jnp.where(jnp.isfinite(log_ratios), value, -jnp.inf)
        best = jnp.argmax(value)
        better = (gain > 0) & ~(value[best] <= at_mode + PROPOSAL.better_mode_margin) & any_finite
        centre = jnp.where(better, factor @ _zero_beside(entries, z[best]) + mean, chains.centre)
        moved = eqx.tree_at(
            lambda c: (c.xi, c.centre, c.any_finite, c.sampler_state), chains, (xi, centre, any_finite, state)
        )
        return moved, Draws(z, aux, weights, state.effective_fraction[None])

    def _log_mixture(self, components: tuple[TComponent, ...], z: Matrix, u_fitted: Matrix, entries: Any) -> Vector:
        """Log-density (draws,) of the mixture at `z` (draws, random), given its rows `u_fitted` standardised by the
        second component; `entries` (random,) that it is a density of, None: all."""
        dimension = self.effects if entries is None else jnp.sum(entries)
        population = -dimension * HALF_LOG_2PI - 0.5 * jnp.sum(_zero_beside(entries, z) ** 2, axis=1)
        at_mode = components[0].log_density(_zero_beside(entries, components[0].whitened(z)), dimension)
        log_densities = jnp.stack([at_mode, components[1].log_density(u_fitted, dimension), population])
        return logsumexp(log_densities + np.log(np.array(self.counts) / self.draws)[:, None], axis=0)


def _zero_beside(entries: Any, values: Any) -> Any:
    """`values` (..., random), zero outside of the `entries` (random,); None: all."""
    return values if entries is None else jnp.where(entries, values, 0.0)


def normalised_weights(log_ratios: Vector) -> tuple[Vector, Scalar]:
    """Weights with reduced bias, and the effective number of draws.

    **Arguments:** `log_ratios` (draws,), log w up to a constant; NaN counts as w = 0.
    **Returns:** weights (draws,) that add up to one, and the effective number of draws 1 / sum s^2; both NaN if no w is
    above zero.
    **Source:** Tin (1965), as in the module's docstring; Kong, Liu and Wong (1994), Journal of the American Statistical
    Association 89, 278-288, for the effective number of draws.
    """
    log_ratios = jnp.where(jnp.isnan(log_ratios), -jnp.inf, log_ratios)
    s = jnp.exp(log_ratios - logsumexp(log_ratios))
    sum_of_squares = jnp.sum(s**2)
    return s * (1.0 + s - sum_of_squares), 1.0 / sum_of_squares


def systematic_resample(weights: Vector, count: int, uniform: Scalar) -> Any:
    """Indices (count,) of draws by systematic resampling.

    **Arguments:** `weights` (draws,); `count`, the number of samples; `uniform`, a random number in [0, 1).
    **Returns:** indices, each as often as its weight times `count`, rounded down or up.
    **Source:** Carpenter, Clifford and Fearnhead (1999), IEE Proceedings F 146, 2-7.
    """
    total = jnp.cumsum(weights)
    points = (jnp.arange(count) + uniform) / count * total[-1]
    return jnp.clip(jnp.searchsorted(total, points, side="right"), 0, weights.shape[0] - 1)


def _current_proposal(chains: Chains) -> LearnedProposal:
    """Proposal fitted to earlier draws, or the Laplace approximation before there are any."""
    learned = chains.sampler_state
    laplace = LearnedProposal(chains.centre, chains.factor, chains.inverse, learned.fitted, learned.effective_fraction)
    return jax.tree.map(lambda a, b: jnp.where(learned.fitted, a, b), learned, laplace)


def _component(whitening: Whitening, approximation: Chains | LearnedProposal, mean: Vector, entries: Any) -> TComponent:
    """Mixture component with the centre and factor of an `approximation` of the conditional distribution of xi,
    transformed to z; standard normal outside of the `entries` (random,), None: all."""
    factor, inverse = whitening.dense()
    centre = inverse @ (approximation.centre - mean)
    to_z, from_z = inverse @ approximation.factor, approximation.inverse @ factor
    if entries is None:
        return TComponent(centre, to_z, from_z)
    # The approximation may be from earlier parameters, at which these effects had another scale.
    both, eye = entries[:, None] & entries[None, :], np.eye(entries.shape[0])
    return TComponent(jnp.where(entries, centre, 0.0), jnp.where(both, to_z, eye), jnp.where(both, from_z, eye))


def _updated_proposal(
    proposal: LearnedProposal,
    u: Matrix,
    weights: Vector,
    fraction: Scalar,
    effective: Scalar,
    gain: Scalar,
    entries: Any,
) -> LearnedProposal:
    """Proposal after an iteration with draws `u` (draws, random), in units of `proposal`, with `weights` (draws,) and
    an `effective` number of draws that is `fraction` of their number; `entries` (random,) that were drawn, None:
    all."""
    dimensions = (u.shape[1] if entries is None else jnp.sum(entries)) + 1
    fraction = jnp.nan_to_num(fraction)
    old_fraction = proposal.effective_fraction
    smoothed = jnp.where(proposal.fitted, old_fraction + PROPOSAL.smoothing * (fraction - old_fraction), fraction)
    refit = (effective >= PROPOSAL.least_effective_draws) & (gain > 0)
    new_weight = jnp.where(refit, effective / (effective + PROPOSAL.prior_draws_per_dimension * dimensions), 0.0)
    weights = jnp.where(refit, weights, 0.0)
    centre = weights @ u
    eye = jnp.eye(u.shape[1], dtype=u.dtype)
    outer = centre[:, None] * centre[None, :]
    covariance = (u * weights[:, None]).T @ u - outer
    if entries is not None:
        covariance = covariance + jnp.diag(jnp.where(entries, 0.0, 1.0))
    # Covariance of old and new draws together: positive definite whatever the new ones are.
    lower = cholesky((1.0 - new_weight) * eye + new_weight * covariance + new_weight * (1.0 - new_weight) * outer)
    return LearnedProposal(
        proposal.centre + new_weight * (proposal.factor @ centre),
        proposal.factor @ lower,
        jax.vmap(lambda column: forward_solve(lower, column), in_axes=1, out_axes=1)(proposal.inverse),
        proposal.fitted | refit,
        smoothed,
    )
