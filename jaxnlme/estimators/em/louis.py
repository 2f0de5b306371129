"""Score, observed information and their Monte Carlo errors, from draws at fixed parameters.

Let s_ij be the complete-data score of draw j of group i at parameters theta, and V the Monte Carlo covariance of the
mean score.

1. Score of the likelihood (Fisher's identity): S = sum_i w_i E[s_i | y_i], the mean over the draws, less control
   variates.
2. Observed information (Louis' identity): I = E[-d2 log p(y, b)] - sum_i w_i var(s_i | y_i), with the variance from
   sum_i w_i E[s_i s_i' | y_i] and the mean scores of the groups.
3. V by batch means and by autocovariances of the iterations' scores.
4. Newton step towards the maximum: I^-1 S, with Monte Carlo covariance I^-1 V I^-1. Standard errors: the square roots
   of the diagonal of I^-1.
5. Monte Carlo error of the standard errors: batch means of sum_i w_i E[s_i s_i' | y_i].

**Source:** Louis (1982), Journal of the Royal Statistical Society B 44, 226-233; Gu and Kong (1998), PNAS 95,
7270-7274; Flegal, Haran and Jones (2008), Statistical Science 23, 250-260, for batch means; Geyer (1992), Statistical
Science 7, 473-483, for autocovariances.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from jaxnlme.estimators.em.parameter_layout import ParameterLayout
from jaxnlme.estimators.em.settings import CRITERIA, SAMPLING
from jaxnlme.estimators.em.sufficient_statistics import SufficientStatistics, complete_curvature
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.devices import Processes
from jaxnlme.results.inference import singular_directions


@dataclasses.dataclass(frozen=True)
class ScoreAndInformation:
    """Score, observed information (Louis) and their Monte Carlo errors from draws at fixed parameters, for one
    replicate.

    - `packed` (packed,): the parameters; `active` (active,): indices of the free ones, to which the rest refers.
    - `score` (active,): the mean complete-data score; `information` (active, active): the observed information.
    - `complete` (active, active): the complete-data information.
    - `information_batches` (batches, active, active): batch means that vary as the information does.
    - `scores` (iterations, active): the score of each iteration, in order.
    - `n_iterations`: number of iterations behind everything else.
    - `group_scores` (groups, active): weighted mean scores of this process's groups.
    - `psi_slopes` and `factor_slopes` (batches, effects, effects): batch means of the derivatives of the log-likelihood
      along psi and along a factor of it, in a `whitened` layout.
    - `twice_differentiable`: true if second derivatives of the model are valid there (a Monte Carlo check).
    - `transported`: true if the information is that of transported draws (`rounds/transport.py`).
    """

    packed: np.ndarray
    active: np.ndarray
    score: np.ndarray
    information: np.ndarray
    complete: np.ndarray
    information_batches: np.ndarray
    scores: np.ndarray
    n_iterations: int
    group_scores: np.ndarray
    psi_slopes: np.ndarray
    factor_slopes: np.ndarray
    twice_differentiable: bool
    transported: bool = False

    @property
    def observed_fraction(self) -> np.ndarray:
        """Diagonal of the observed information divided by that of the complete-data information (active,)."""
        return np.diag(self.information) / np.diag(self.complete)

    @functools.cached_property
    def complete_scale(self) -> np.ndarray:
        """Square roots of the diagonal of the complete-data information (active,), in size and above zero."""
        return np.sqrt(np.maximum(np.abs(np.diag(self.complete)), np.finfo(float).tiny))

    @functools.cached_property
    def least_observed_fraction(self) -> float:
        """The least fraction of the complete-data information that is observed along any direction, whatever the
        coordinates; minus infinity if an information is not finite or the complete-data information not positive
        definite."""
        unit = np.outer(self.complete_scale, self.complete_scale)
        if not (np.isfinite(self.complete).all() and np.isfinite(self.information).all()):
            return -float("inf")
        try:
            root = np.linalg.inv(np.linalg.cholesky(self.complete / unit))
        except np.linalg.LinAlgError:
            return -float("inf")
        return float(np.linalg.eigvalsh(root @ (self.information / unit) @ root.T).min(initial=1.0))

    @functools.cached_property
    def positive_definite(self) -> bool:
        """True if the observed information is positive definite beyond rounding."""
        return not singular_directions(self.information, [str(k) for k in self.active])

    @functools.cached_property
    def negative_beyond_error(self) -> bool:
        """True if the information is negative along a direction, beyond its Monte Carlo error by batch means."""
        if not (np.isfinite(self.information).all() and np.isfinite(self.information_batches).all()):
            return False
        scale = self.complete_scale
        values, vectors = np.linalg.eigh(self.information / np.outer(scale, scale))
        along = vectors[:, 0] / scale
        error = mean_and_error(np.einsum("i,bij,j->b", along, self.information_batches, along))[1]
        return bool(values[0] < -CRITERIA.significant_mc_errors * error)

    @functools.cached_property
    def covariance(self) -> np.ndarray:
        """Inverse information (active, active), the covariance of the estimates; NaN if the information is singular."""
        if not self.positive_definite:
            return np.full_like(self.information, np.nan)
        return np.linalg.inv(self.information)

    @property
    def se(self) -> np.ndarray:
        """Standard errors (active,)."""
        return np.sqrt(np.diag(self.covariance))

    @functools.cached_property
    def batches(self) -> np.ndarray:
        """Batch means of the score (batches, active)."""
        return batch_means(self.scores)

    @property
    def se_mc_error(self) -> float:
        """Largest Monte Carlo error of a standard error, relative to it, by batch means of the information;
        infinite if it is singular."""
        if not self.positive_definite:
            return float("inf")
        covariance = self.covariance
        # d log se = diag(I^-1 dI I^-1) / (2 diag(I^-1)), up to sign.
        changes = (
            0.5 * np.einsum("ij,bjk,ki->bi", covariance, self.information_batches, covariance) / np.diag(covariance)
        )
        return float(np.max(mean_and_error(changes)[1], initial=0.0))

    @property
    def step(self) -> np.ndarray:
        """Newton step (active,) from `packed` to the maximum; NaN if the information is singular."""
        return self.covariance @ self.score

    @functools.cached_property
    def monte_carlo_se(self) -> np.ndarray:
        """Monte Carlo errors (active,) of the estimates, the end of the Newton step: the larger one by batch means and
        by autocovariances, because the chains' memory may be longer than a batch."""
        steps = self.scores @ self.covariance
        by_batches = mean_and_error(self.batches @ self.covariance)[1]
        return np.maximum(by_batches, np.sqrt(variance_of_mean(steps)))

    @property
    def mc_error_ratio(self) -> float:
        """Largest Monte Carlo error of an estimate, relative to its standard error; infinite if the information is
        singular."""
        return float(np.max(self.monte_carlo_se / self.se, initial=0.0)) if self.positive_definite else float("inf")

    @property
    def distance(self) -> float:
        """Distance to the maximum: the largest entry of the Newton step, in standard errors; infinite if the
        information is singular."""
        return float(np.max(np.abs(self.step) / self.se, initial=0.0)) if self.positive_definite else float("inf")

    @property
    def geweke_z(self) -> np.ndarray:
        """Difference between the mean scores of the first and second half of the batches, divided by its standard error
        (active,): far from zero if the chains are not stationary.

        **Source:** Geweke (1992), Bayesian Statistics 4, 169-193.
        """
        half = len(self.batches) // 2
        first, second = self.batches[:half], self.batches[half:]
        error = np.sqrt(first.var(axis=0, ddof=1) / len(first) + second.var(axis=0, ddof=1) / len(second))
        with np.errstate(all="ignore"):
            return np.where(error > 0, (first.mean(axis=0) - second.mean(axis=0)) / error, 0.0)

    @property
    def estimates(self) -> np.ndarray:
        """Maximum estimated from each batch: the end of its Newton step (batches, active)."""
        return self.packed[self.active] + self.batches @ self.covariance


def louis_estimate(
    density: Density,
    template: Params,
    layout: ParameterLayout,
    packed: np.ndarray,
    sums: Any,
    groups: Any,
    control_coefficients: np.ndarray,
    weights: np.ndarray,
    first_controlled: int | None,
    processes: Processes,
) -> ScoreAndInformation:
    """Score, observed information and their Monte Carlo errors for one replicate, from iterations at fixed parameters.

    **Arguments:** `packed` (packed,), the parameters; `sums`, the SimulationSums of the iterations (iterations, ...);
    `groups`, each group's means, a GroupScoreSums (groups, ...); `control_coefficients` (groups, packed, functions),
    coefficients of the control variates, fixed from the iteration `first_controlled` on (None: not in use); `weights`
    (groups,). `groups`, `control_coefficients` and `weights` are of this process's groups; the rest is of all groups of
    all `processes`, each of which must call this function at the same time.
    **Returns:** the ScoreAndInformation.
    """
    active = np.flatnonzero(layout.free)
    score_sums = sums.score_sums
    n = len(score_sums.score)
    group_scores, scores = groups.score, score_sums.score
    controlled = None if first_controlled is None else score_sums.variance_reduced[first_controlled:]
    if controlled is not None and mean_is_zero(score_sums.score[first_controlled:] - controlled):
        scores = controlled
        group_scores = group_scores - (control_coefficients @ groups.control_variates[..., None])[..., 0]
    stats = jax.tree.map(lambda leaf: leaf.mean(axis=0), sums.statistics)
    curvature, prior = _curvature(density, template, layout, packed, stats)
    complete = curvature.copy()
    if layout.scored:
        index, g = np.array(layout.hessian_entries, int), len(layout.scored)
        outcome = sums.hessian.mean(axis=0)
        outcome[g:, g:] = 0.0  # residual scales with a closed form: already in Q
        complete[np.ix_(index, index)] += outcome
    finite_scores = np.where(weights == 0, 0.0, group_scores.T)
    missing = score_sums.outer.mean(axis=0) - processes.total((finite_scores * weights) @ finite_scores.T)
    score = scores + prior
    block = np.ix_(active, active)
    return ScoreAndInformation(
        packed,
        active,
        score.mean(axis=0)[active],
        (complete - missing)[block],
        complete[block],
        batch_means(score_sums.outer)[:, *block],
        score[:, active],
        n,
        (finite_scores * weights).T[:, active],
        batch_means(score_sums.psi_slope),
        batch_means(score_sums.factor_slope),
        mean_is_zero(score_sums.curvature_check),
    )


def batch_means(rows: np.ndarray) -> np.ndarray:
    """Means (batches, ...) of consecutive blocks of the iterations of `rows` (iterations, ...), `SAMPLING.batches` at
    most."""
    return np.stack([part.mean(axis=0) for part in np.array_split(rows, min(SAMPLING.batches, len(rows)))])


def mean_and_error(batches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (...) of batch means (batches, ...), and its Monte Carlo error."""
    return batches.mean(axis=0), batches.std(axis=0, ddof=1) / np.sqrt(len(batches))


def variance_of_mean(rows: np.ndarray) -> np.ndarray:
    """Variance (...) of the mean of the `rows` (iterations, ...) of stationary chains, from their autocovariances up to
    the first pair of lags whose sum is not positive, these sums made decreasing; NaN stays NaN.

    **Source:** Geyer (1992), Statistical Science 7, 473-483, the initial monotone sequence.
    """
    n = len(rows)
    deviations = rows - rows.mean(axis=0)
    spectrum = np.abs(np.fft.rfft(deviations, 2 * n, axis=0)) ** 2
    covariances = np.fft.irfft(spectrum, axis=0)[: n - n % 2] / n
    pairs = covariances[0::2] + covariances[1::2]
    positive = np.logical_and.accumulate(pairs > 0, axis=0)
    sums = np.where(positive, np.minimum.accumulate(pairs, axis=0), 0.0).sum(axis=0)
    return np.maximum(2.0 * sums - covariances[0], 0.0) / n


def mean_is_zero(differences: np.ndarray) -> bool:
    """True if the mean of `differences` (iterations, ...) is zero within its Monte Carlo error. The control variates in
    the scores must have mean zero; they do not if the model is discontinuous in the effects."""
    if not np.isfinite(differences).all():
        return False
    mean, error = mean_and_error(batch_means(differences))
    return bool((np.abs(mean) <= CRITERIA.max_mean_in_errors * np.maximum(error, np.finfo(float).tiny)).all())


def _curvature(
    density: Density, template: Params, layout: ParameterLayout, packed: np.ndarray, stats: SufficientStatistics
) -> tuple[np.ndarray, np.ndarray]:
    """Minus the second derivatives (packed, packed) of Q and the log prior at `packed`, and the gradient of the log
    prior."""
    curvature = complete_curvature(layout, density, template, packed, stats)
    if not density.priors:
        return curvature, np.zeros(len(packed))
    prior_hessian, slope = compiled(_prior_derivatives, 0)(*on_device((density, template, packed)))
    return curvature - np.asarray(prior_hessian), np.asarray(slope)


def _prior_derivatives(density: Density, template: Params, packed: Any) -> Any:
    """Second derivatives (packed, packed) and gradient (packed,) of the log prior."""

    def prior(packed):
        return density.log_prior(template.unpack(packed))

    return jax.hessian(prior)(packed), jax.grad(prior)(packed)
