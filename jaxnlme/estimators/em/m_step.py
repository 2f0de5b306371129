"""M-step of the stochastic EM methods: new parameters from the averaged sufficient statistics and scores.

In iteration k, with statistics S_k and complete-data scores g_k of the draws and gain gamma_k (see
`sufficient_statistics` for Q, R, w, n_l and S_l):

1. Average the statistics, s_k = s_{k-1} + gamma_k (S_k - s_{k-1}), and likewise H, minus the second derivatives of the
   outcome's log-density.
2. beta, centred entries: generalised least squares given psi, the maximum of Q.
3. psi = R / w (each row by the weight of its effect), projected to the covariance structure. While annealing, no
   variance falls below alpha times its last value; conditional variances are bounded below.
4. Residual scales: log s_l = log(S_l / n_l) / 2, with the same lower limit while annealing.
5. `statistical` entries (no closed form, or a prior): one guarded Newton step of Q plus the log prior, with R changed
   as in step 3.
6. `scored` entries (Q does not depend on them through the statistics): a stochastic Newton step, gamma_k H^-1 g_k.

**Source:** Delyon, Lavielle and Moulines (1999), Annals of Statistics 27, 94-128, step 1; Kuhn and Lavielle (2005),
Computational Statistics and Data Analysis 49, 1020-1038, steps 2-4; Lavielle (2014), Mixed Effects Models for the
Population Approach, chapter 9, for annealing; Gu and Kong (1998), PNAS 95, 7270-7274, step 6.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.em.parameter_layout import ParameterLayout
from jaxnlme.estimators.em.settings import MAXIMISATION
from jaxnlme.estimators.em.sufficient_statistics import (
    SufficientStatistics,
    expected_log_likelihood,
    second_moment,
    stochastic_approximation,
)
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.model.transforms import Log
from jaxnlme.numerics.linalg import cholesky, cholesky_inverse, cholesky_solve, guarded_cholesky, small_product
from jaxnlme.typing import Matrix, Scalar, Vector


class Schedule(eqx.Module):
    """Settings of one iteration (scalars), or of several (iterations,).

    - `iteration`: its number, from 0, burn-in included.
    - `gain`: step size gamma of the stochastic approximation.
    - `update`: true if the parameters are updated.
    - `annealing`: alpha, the smallest fraction of its last value to which a variance may fall (0: no limit).
    - `search_modes`: true if conditional modes are searched.
    - `search_from_mean`: true if such a search is also made from the mean of the population.
    - `tuning_gain`: step size of the tuning of the kernels' step lengths.
    - `sum_scores`: true if complete-data scores are summed up.
    - `reset_chains`: true if the chains are first set to the mean of their population.
    """

    iteration: Any
    gain: Any
    update: Any
    annealing: Any
    search_modes: Any
    tuning_gain: Any
    sum_scores: Any
    reset_chains: Any
    search_from_mean: Any


class EMState(eqx.Module):
    """State of the stochastic approximation: `packed` (packed,), the parameters; `statistics`, the averaged sufficient
    statistics; `hessian` (entries, entries), the average of minus the second derivatives of the outcome's log-density
    in `layout.hessian_entries`."""

    packed: Any
    statistics: SufficientStatistics
    hessian: Any

    @classmethod
    def initial(cls, layout: ParameterLayout, packed: np.ndarray) -> EMState:
        """State of replicates that start at `packed` (replicates, packed), on the host."""
        q, centred = layout.centring.n_effects, len(layout.centring.terms)
        strata, curved = layout.strata, len(layout.hessian_entries)
        shapes = ((q,), (q, q), (centred, q), (centred, centred), (strata,), (strata,))
        zeros = [np.zeros((len(packed), *shape)) for shape in shapes]
        return cls(packed, SufficientStatistics(*zeros), np.zeros((len(packed), curved, curved)))


class SimulationSums(eqx.Module):
    """Sums over groups of one iteration's simulation: `statistics`; `outcome_score` (scored,), the gradient of the
    outcome's complete-data log-density in the scored entries; `hessian` (entries, entries), minus its second
    derivatives in `layout.hessian_entries`; `score_sums`, in an iteration that sums up scores; `accepted` (updates,),
    acceptance rates; `n_groups`, the number of groups behind these."""

    statistics: SufficientStatistics
    outcome_score: Any
    hessian: Any
    score_sums: Any
    accepted: Any
    n_groups: Any


def maximise(
    layout: ParameterLayout,
    density: Density,
    template: Params,
    em_state: EMState,
    sums: SimulationSums,
    schedule: Schedule,
) -> EMState:
    """State after the M-step of an iteration; unchanged where `schedule.update` is false.

    **Arguments:** `template`: Params to unpack with; `em_state`: before the iteration; `sums`: of its simulation.
    **Returns:** the EMState with averaged statistics and new parameters.
    """
    stats = stochastic_approximation(em_state.statistics, sums.statistics, schedule.gain)
    hessian = stochastic_approximation(em_state.hessian, sums.hessian, schedule.gain)
    params = template.unpack(em_state.packed)
    beta, theta, error = params.beta, params.covariance, params.error
    if layout.closed_beta:
        beta = _least_squares(layout, density, params, stats)
    if layout.closed_psi:
        r = second_moment(layout, beta, stats) / stats.weight[:, None]
        theta = _covariance_from_moment(density, params, r, schedule.annealing)
    if layout.closed_error:
        level = 0.5 * jnp.log(jnp.maximum(stats.squares, jnp.finfo(error.dtype).tiny) / jnp.maximum(stats.counts, 1.0))
        level = jnp.where(stats.counts > 0, level, error)
        error = jnp.maximum(level, error + _half_log(schedule.annealing))
    packed = jnp.concatenate([beta, theta, error])
    if layout.statistical:
        packed = _newton(layout, density, template, packed, stats, schedule.annealing)
    if layout.scored:
        packed = _stochastic_newton(layout, density, template, packed, sums.outcome_score, hessian, schedule)
    # Burn-in leaves the state unchanged; the averages of the statistics begin with the first update.
    new_state = EMState(packed, stats, hessian)
    return jax.tree.map(lambda new, old: jnp.where(schedule.update, new, old), new_state, em_state)


def _half_log(fraction: Scalar) -> Scalar:
    """log(fraction) / 2, minus infinity for zero: the lower limit of the change of a log standard deviation."""
    return jnp.where(fraction > 0, 0.5 * jnp.log(jnp.where(fraction > 0, fraction, 1.0)), -jnp.inf)


def _least_squares(layout: ParameterLayout, density: Density, params: Params, stats: SufficientStatistics) -> Vector:
    """beta (fixed,) with its free centred entries by generalised least squares given psi; a fixed entry keeps its
    value."""
    centred, selectors = layout.centring.centred, layout.centring.selectors
    free = np.array(layout.free)[centred]
    inverse = cholesky_inverse(cholesky(density.covariance.psi(params.covariance)))
    matrix = (selectors @ inverse @ selectors.T) * stats.gram
    right = jnp.sum((selectors @ inverse) * stats.cross, axis=1)
    beta = params.beta[centred]
    right = jnp.where(free, right - matrix @ jnp.where(free, 0.0, beta), beta)
    matrix = jnp.where(free[:, None] & free[None, :], matrix, 0.0)
    diagonal = jnp.where(free, jnp.diagonal(matrix) * (1.0 + MAXIMISATION.relative_ridge), 1.0)
    matrix = matrix - jnp.diag(jnp.diagonal(matrix)) + jnp.diag(diagonal)
    return params.beta.at[centred].set(_solve(matrix, right))


def _solve(matrix: Matrix, right: Vector) -> Vector:
    """Solution of a symmetric positive definite system, scaled to a unit diagonal first."""
    scale = 1.0 / jnp.sqrt(jnp.diagonal(matrix))
    lower = cholesky(matrix * scale[:, None] * scale[None, :])
    return scale * cholesky_solve(lower, scale * right)


def _covariance_from_moment(density: Density, params: Params, r: Matrix, annealing: Scalar) -> Vector:
    """theta from the second moment `r` (random, random), variances bounded below by `annealing` times the last ones,
    with correlations unchanged."""
    return density.covariance.from_moment(_bounded_moment(density, params, r, annealing))


def _bounded_moment(density: Density, params: Params, r: Matrix, annealing: Scalar) -> Matrix:
    """The second moment `r` (random, random) with the lower bounds of `_covariance_from_moment`."""
    old = jnp.diagonal(density.covariance.psi(params.covariance))
    variance = jnp.maximum(jnp.diagonal(r), jnp.finfo(r.dtype).tiny)
    inflation = jnp.sqrt(jnp.maximum(1.0, annealing * old / variance))
    r = r * inflation[:, None] * inflation[None, :]
    return _bound_correlations(r) if density.covariance.correlated_pairs else r


def _bound_correlations(r: Matrix) -> Matrix:
    """`r` (random, random) with the pivots of its correlation matrix at least MAXIMISATION.min_conditional_variance.

    As a conditional variance of psi goes to zero, EM moves beta less and less along it and would stop short of the
    maximum. The bound keeps psi this far from singular.
    """
    sd = jnp.sqrt(jnp.diagonal(r))
    lower = cholesky(r / (sd[:, None] * sd[None, :]) + MAXIMISATION.relative_ridge * jnp.eye(len(r), dtype=r.dtype))
    diagonal = jnp.maximum(jnp.diagonal(lower), MAXIMISATION.min_conditional_variance**0.5)
    lower = jnp.where(jnp.eye(len(r), dtype=bool), diagonal[:, None], lower) * sd[:, None]
    return small_product(lower, lower.T)


def _newton(
    layout: ParameterLayout,
    density: Density,
    template: Params,
    packed: Vector,
    stats: SufficientStatistics,
    annealing: Scalar,
) -> Vector:
    """`packed` after a guarded Newton step of Q plus the log prior in the `statistical` entries, with the lower bounds
    of `_covariance_from_moment` on the second moment of the effects."""
    index = np.array(layout.statistical, int)
    if density.n_effects and not layout.whitened:
        params = template.unpack(packed)
        weight = stats.weight[:, None]
        r = second_moment(layout, params.beta, stats)
        excess = weight * _bounded_moment(density, params, r / weight, annealing) - r
        stats = eqx.tree_at(lambda s: s.second, stats, stats.second + excess)

    def objective(entries):
        moved = packed.at[index].set(entries)
        q = expected_log_likelihood(layout, density, template, moved, stats)
        return -q - density.log_prior(template.unpack(moved))

    entries = packed[index]
    slope, hessian = jax.grad(objective)(entries), jax.hessian(objective)(entries)
    return packed.at[index].add(-_newton_step(slope, hessian, entries))


def _stochastic_newton(
    layout: ParameterLayout,
    density: Density,
    template: Params,
    packed: Vector,
    score: Vector,
    hessian: Matrix,
    schedule: Schedule,
) -> Vector:
    """`packed` after a Newton step of size `schedule.gain` along the complete-data score of this iteration's draws, in
    the `scored` entries.

    **Source:** Gu and Kong (1998), PNAS 95, 7270-7274, with the complete information, which is positive definite where
    the observed one may not be; Lange (1995), Journal of the Royal Statistical Society B 57, 425-437, for its rate.
    """
    index = np.array(layout.scored, int)
    entries = packed[index]
    hessian = hessian[: len(index), : len(index)]
    if density.priors:

        def prior(entries):
            return density.log_prior(template.unpack(packed.at[index].set(entries)))

        score, hessian = score + jax.grad(prior)(entries), hessian - jax.hessian(prior)(entries)
    step = -schedule.gain * _newton_step(-score, hessian, entries)
    # Annealing limits the decrease of residual scales as it does that of variances, and keeps shape parameters and
    # correlations fixed: while the scales are above their estimates, an exponent could take any value.
    gaussian = density.error.has_location_and_scale
    n_scale = density.error.n_scale if gaussian else 0
    scales = [isinstance(p.transform, Log) and k < n_scale for k, p in enumerate(density.error.parameters)]
    shapes = [gaussian and not is_scale for is_scale in scales]
    not_error = [False] * (layout.n - layout.error)
    step = jnp.where(np.array(not_error + scales)[index], jnp.maximum(step, _half_log(schedule.annealing)), step)
    step = jnp.where(np.array(not_error + shapes)[index] & (schedule.annealing > 0), 0.0, step)
    return packed.at[index].add(step)


def _newton_step(slope: Vector, hessian: Matrix, entries: Vector) -> Vector:
    """hessian^-1 slope, the Hessian made positive definite in units of its own diagonal, and the step shortened so that
    no entry moves by more than MAXIMISATION.max_step max(1, |entry|)."""
    diagonal = jnp.abs(jnp.diagonal(hessian))
    scale = 1.0 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    lower, _ = guarded_cholesky(hessian * scale[:, None] * scale[None, :])
    step = scale * cholesky_solve(lower, scale * slope)
    longest = MAXIMISATION.max_step * jnp.maximum(1.0, jnp.abs(entries))
    return step / jnp.maximum(1.0, jnp.max(jnp.abs(step) / longest))
