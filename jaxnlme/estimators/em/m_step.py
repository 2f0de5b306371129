"""The M-step of SAEM: parameters from statistics by closed forms, by Newton steps, by stochastic Newton steps."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.em.sufficient_statistics import ParameterLayout, Statistics, blended, expected, moment
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.model.transforms import Log
from jaxnlme.numerics.linalg import cholesky, cholesky_inverse, cholesky_solve, guarded_cholesky, times
from jaxnlme.typing import Matrix, Scalar, Vector

# The most that a Newton step moves an entry: this much, or this share of its size where that is larger.
LONGEST = 0.5
# Added to the diagonals of moments and normal equations, as a share: keeps factors of singular ones finite.
RIDGE = 1e-12
# The least share of an effect's variance that is its own (correlations of two effects up to 0.9975).
LEAST = 5e-3


class Schedule(eqx.Module):
    """What one iteration does (scalars): `iteration`, counted from 0, burn-in included; `gain` of the stochastic
    approximation; `update`, whether parameters move; `annealing`, the least share of its last value that a variance
    may fall to (0: no limit); `refresh`, whether modes are searched; `tune`, the gain of the kernels' scales; `sum_scores`,
    whether complete scores are summed up; `begin`, whether chains are first put at the mean of their population."""

    iteration: Any
    gain: Any
    update: Any
    annealing: Any
    refresh: Any
    tune: Any
    sum_scores: Any
    begin: Any


class EMState(eqx.Module):
    """Where a run stands: `packed` (packed,) parameters; `statistics`, their approximation; `hessian` (bent, bent),
    that of minus the complete second derivatives of the outcome."""

    packed: Any
    statistics: Statistics
    hessian: Any

    @classmethod
    def blank(cls, layout: ParameterLayout, packed: np.ndarray) -> EMState:
        """Of replicates that start at `packed` (replicates, packed), on the host."""
        q, carried, strata, curved = (
            layout.centring.effects,
            len(layout.centring.terms),
            layout.strata,
            len(layout.curved),
        )
        shapes = ((), (q, q), (carried, q), (carried, carried), (strata,), (strata,))
        nothing = [np.zeros((len(packed), *shape)) for shape in shapes]
        return cls(packed, Statistics(*nothing), np.zeros((len(packed), curved, curved)))


class Simulated(eqx.Module):
    """What one iteration of simulation adds up over groups: `statistics`; `slope` (scored,) and `hessian` (bent,
    bent) of the outcome's complete log-density (the Hessian of minus it); `score_sums` in a settling iteration; `accepted`
    (updates,) summed over `groups`."""

    statistics: Statistics
    slope: Any
    hessian: Any
    score_sums: Any
    accepted: Any
    groups: Any


def maximise(
    layout: ParameterLayout, density: Density, template: Params, em_state: EMState, fresh: Simulated, schedule: Schedule
) -> EMState:
    """The run after an iteration's sums: statistics averaged, parameters moved where `schedule.update`."""
    stats = blended(em_state.statistics, fresh.statistics, schedule.gain)
    hessian = blended(em_state.hessian, fresh.hessian, schedule.gain)
    params = template.unpack(em_state.packed)
    beta, theta, error = params.beta, params.covariance, params.error
    if layout.closed_beta:
        beta = _least_squares(layout, density, params, stats)
    if layout.closed_psi:
        theta = _from_moment(layout, density, params, moment(layout, beta, stats) / stats.weight, schedule.annealing)
    if layout.closed_error:
        level = 0.5 * jnp.log(jnp.maximum(stats.squares, jnp.finfo(error.dtype).tiny) / jnp.maximum(stats.counts, 1.0))
        level = jnp.where(stats.counts > 0, level, error)
        error = jnp.maximum(level, error + _half_log(schedule.annealing))
    packed = jnp.concatenate([beta, theta, error])
    if layout.statistical:
        packed = _newton(layout, density, template, packed, stats)
    if layout.scored:
        packed = _stochastic_newton(layout, density, template, packed, fresh.slope, hessian, schedule)
    keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(schedule.update, a, b), new, old)  # noqa: E731
    # Burn-in leaves everything where it is; the statistics begin with the first update.
    return EMState(keep(packed, em_state.packed), keep(stats, em_state.statistics), keep(hessian, em_state.hessian))


def _half_log(share: Scalar) -> Scalar:
    return jnp.where(share > 0, 0.5 * jnp.log(jnp.where(share > 0, share, 1.0)), -jnp.inf)


def _least_squares(layout: ParameterLayout, density: Density, params: Params, stats: Statistics) -> Vector:
    """beta (fixed,) with its free carried entries by generalised least squares given psi."""
    carried, carriers = layout.centring.carried, layout.centring.carriers
    free = np.array(layout.free)[carried]
    inverse = cholesky_inverse(cholesky(density.covariance.psi(params.covariance)))
    matrix = (carriers @ inverse @ carriers.T) * stats.gram
    right = jnp.sum((carriers @ inverse) * stats.cross, axis=1)
    held = params.beta[carried]
    right = jnp.where(free, right - matrix @ jnp.where(free, 0.0, held), held)
    matrix = jnp.where(free[:, None] & free[None, :], matrix, 0.0)
    diagonal = jnp.where(free, jnp.diagonal(matrix) * (1.0 + RIDGE), 1.0)
    matrix = matrix - jnp.diag(jnp.diagonal(matrix)) + jnp.diag(diagonal)
    return params.beta.at[carried].set(_solve(matrix, right))


def _solve(matrix: Matrix, right: Vector) -> Vector:
    """Solves a symmetric positive definite system, scaled to a unit diagonal first."""
    scale = 1.0 / jnp.sqrt(jnp.diagonal(matrix))
    lower = cholesky(matrix * scale[:, None] * scale[None, :])
    return scale * cholesky_solve(lower, scale * right)


def _from_moment(layout: ParameterLayout, density: Density, params: Params, r: Matrix, annealing: Scalar) -> Vector:
    """theta of the second moment r, its variances held above `annealing` times the last ones, correlations kept."""
    old = jnp.diagonal(density.covariance.psi(params.covariance))
    variance = jnp.maximum(jnp.diagonal(r), jnp.finfo(r.dtype).tiny)
    stretch = jnp.sqrt(jnp.maximum(1.0, annealing * old / variance))
    r = r * stretch[:, None] * stretch[None, :]
    return density.covariance.from_moment(_apart(r) if density.covariance.related else r)


def _apart(r: Matrix) -> Matrix:
    """r (random, random) with no effect a function of those before it: pivots of its correlations no less than LEAST.

    As a conditional variance of psi vanishes, EM moves beta less and less along it, and would stop short of the
    maximum: so near to a singular psi it may come, and no nearer."""
    sd = jnp.sqrt(jnp.diagonal(r))
    lower = cholesky(r / (sd[:, None] * sd[None, :]) + RIDGE * jnp.eye(len(r), dtype=r.dtype))
    diagonal = jnp.maximum(jnp.diagonal(lower), LEAST**0.5)
    lower = jnp.where(jnp.eye(len(r), dtype=bool), diagonal[:, None], lower) * sd[:, None]
    return times(lower, lower.T)


def _newton(layout: ParameterLayout, density: Density, template: Params, packed: Vector, stats: Statistics) -> Vector:
    """A guarded Newton step of Q plus the log prior in the `statistical` entries."""
    where = np.array(layout.statistical, int)

    def objective(entries):
        there = packed.at[where].set(entries)
        return -expected(layout, density, template, there, stats) - density.log_prior(template.unpack(there))

    entries = packed[where]
    slope, hessian = jax.grad(objective)(entries), jax.hessian(objective)(entries)
    return packed.at[where].add(-_step(slope, hessian, entries))


def _stochastic_newton(
    layout: ParameterLayout,
    density: Density,
    template: Params,
    packed: Vector,
    slope: Vector,
    hessian: Matrix,
    schedule: Schedule,
) -> Vector:
    """A Newton step of size `gain` along the complete score of this iteration's draws in the `scored` entries.

    **Source:** Gu and Kong (1998), PNAS 95, 7270-7274, with the complete information, which is positive definite where
    the observed one may not be; Lange (1995), Journal of the Royal Statistical Society B 57, 425-437, for its rate.
    """
    where = np.array(layout.scored, int)
    entries = packed[where]
    hessian = hessian[: len(where), : len(where)]
    if density.priors:

        def prior(entries):
            return density.log_prior(template.unpack(packed.at[where].set(entries)))

        slope, hessian = slope + jax.grad(prior)(entries), hessian - jax.hessian(prior)(entries)
    step = -schedule.gain * _step(-slope, hessian, entries)
    # Annealing holds residual scales up as it does variances, and shapes where they are: beside scales that are held
    # up, an exponent could run anywhere.
    gaussian = density.error.has_gaussian_moments
    scales = [isinstance(p.transform, Log) and gaussian for p in density.error.parameters]
    shapes = [not isinstance(p.transform, Log) and gaussian for p in density.error.parameters]
    others = [False] * (layout.n - layout.error)
    step = jnp.where(np.array(others + scales)[where], jnp.maximum(step, _half_log(schedule.annealing)), step)
    step = jnp.where(np.array(others + shapes)[where] & (schedule.annealing > 0), 0.0, step)
    return packed.at[where].add(step)


def _step(slope: Vector, hessian: Matrix, at: Vector) -> Vector:
    """hessian^-1 slope, the Hessian guarded in units of its own diagonal, no entry longer than allowed."""
    diagonal = jnp.abs(jnp.diagonal(hessian))
    scale = 1.0 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    lower, _ = guarded_cholesky(hessian * scale[:, None] * scale[None, :])
    step = scale * cholesky_solve(lower, scale * slope)
    longest = LONGEST * jnp.maximum(1.0, jnp.abs(at))
    return step / jnp.maximum(1.0, jnp.max(jnp.abs(step) / longest))
