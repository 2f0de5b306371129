"""Where the maximum lies, and how surely, from draws at fixed parameters.

At parameters theta the mean complete score over the conditional distribution is the score of the likelihood (Fisher's
identity), and Louis' identity gives the observed information,

    I = E[-d2 log p(y, b)] - sum_i w_i var(score_i | y_i),

so draws at one point give a Newton step towards the maximum, theta + I^-1 score, its Monte Carlo covariance
I^-1 V I^-1, V that of the mean score by batch means, and standard errors.

**Source:** Louis (1982), Journal of the Royal Statistical Society B 44, 226-233; Gu and Kong (1998), PNAS 95,
7270-7274; Flegal, Haran and Jones (2008), Statistical Science 23, 250-260, for batch means.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from jaxnlme.estimators.em.sufficient_statistics import ParameterLayout, Statistics, expected
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.devices import Processes
from jaxnlme.results.inference import singular_directions

# Batches of a settling run: so few that a batch outlasts the chains' memory, so many that their spread is known.
BATCHES = 20
# A mean that should be zero and is more than this many of its errors away is not zero.
BIASED = 6.0


@dataclasses.dataclass(frozen=True)
class ScoreAndInformation:
    """What settling iterations at one point told, of one replicate; `active` packed entries throughout.

    `packed` (packed,), the point; `score` (active,), the mean complete score there; `information` (active, active), the
    observed one; `observed_fraction` (active,), the share of what complete data would say of each entry that is observed; `outer`
    (batches, active, active), what stretches of iterations put in the place of the squares of the scores; `batches`
    (batches, active), mean scores of stretches of iterations; `iterations` behind both, and `n_iterations`, behind everything
    else; `group_scores` (groups, active) of this process's groups, weighted; `psi_slopes` and `factor_slopes`
    (batches, random, random), slopes along psi and along a factor of it, of a `whitened` layout, and `twice_differentiable`, whether
    second derivatives of the model can be trusted there."""

    packed: np.ndarray
    active: np.ndarray
    score: np.ndarray
    information: np.ndarray
    observed_fraction: np.ndarray
    outer: np.ndarray
    batches: np.ndarray
    iterations: int
    n_iterations: int
    group_scores: np.ndarray
    psi_slopes: np.ndarray
    factor_slopes: np.ndarray
    twice_differentiable: bool

    @functools.cached_property
    def positive_definite(self) -> bool:
        """Whether the observed information is positive definite beyond rounding."""
        return not singular_directions(self.information, [str(k) for k in self.active])

    @functools.cached_property
    def covariance(self) -> np.ndarray:
        """Of the estimates (active, active); NaN where the information is singular."""
        if not self.positive_definite:
            return np.full_like(self.information, np.nan)
        return np.linalg.inv(self.information)

    @property
    def se(self) -> np.ndarray:
        return np.sqrt(np.diag(self.covariance))

    @property
    def score_mc_covariance(self) -> np.ndarray:
        """The Monte Carlo covariance of `score` (active, active)."""
        apart = self.batches - self.batches.mean(axis=0)
        return apart.T @ apart / max(len(apart) - 1, 1) / len(apart)

    @property
    def se_mc_error(self) -> float:
        """The largest Monte Carlo error of a standard error, as a share of it, by batch means of Louis' squares."""
        if not self.positive_definite:
            return float("inf")
        covariance = self.covariance
        moved = 0.5 * np.einsum("ij,bjk,ki->bi", covariance, self.outer, covariance) / np.diag(covariance)
        return float(np.max(mean_and_error(moved)[1], initial=0.0))

    @property
    def step(self) -> np.ndarray:
        """Newton's, from `packed` to the maximum (active,); NaN where the information is singular."""
        return self.covariance @ self.score

    @property
    def monte_carlo_se(self) -> np.ndarray:
        """Of the estimates (active,)."""
        covariance = self.covariance
        return np.sqrt(np.maximum(np.diag(covariance @ self.score_mc_covariance @ covariance), 0.0))

    @property
    def mc_error_ratio(self) -> float:
        """The largest Monte Carlo error of an estimate, in standard errors."""
        return float(np.max(self.monte_carlo_se / self.se, initial=0.0)) if self.positive_definite else float("inf")

    @property
    def distance(self) -> float:
        """How far the maximum is: the largest entry of the step, in standard errors."""
        return float(np.max(np.abs(self.step) / self.se, initial=0.0)) if self.positive_definite else float("inf")

    @property
    def geweke_z(self) -> np.ndarray:
        """The difference between the mean scores of the two halves of the batches, in its own standard errors
        (active,): far from zero where the chains had not arrived.

        **Source:** Geweke (1992), Bayesian Statistics 4, 169-193."""
        half = len(self.batches) // 2
        one, other = self.batches[:half], self.batches[half:]
        spread = np.sqrt(one.var(axis=0, ddof=1) / len(one) + other.var(axis=0, ddof=1) / len(other))
        with np.errstate(all="ignore"):
            return np.where(spread > 0, (one.mean(axis=0) - other.mean(axis=0)) / spread, 0.0)

    @property
    def estimates(self) -> np.ndarray:
        """What each batch takes the maximum for (batches, active)."""
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
    since: int | None,
    processes: Processes,
) -> ScoreAndInformation:
    """What the settling iterations of one replicate told.

    **Arguments:** `packed` (packed,), where they ran; `sums`: their Simulated (iterations, ...); `groups`: each group's
    means, a `listening.ObjectiveSums` (groups, ...); `control_coefficients` (groups, packed, functions), coefficients of the control
    variates, in use from the iteration `since` on (None: not at all); `weights` (groups,). `groups`, `control_coefficients` and
    `weights` are of this process's groups; all else is of those of all `processes`, which every one of them must call
    at once.
    """
    active = np.flatnonzero(layout.free)
    heard = sums.score_sums
    n = len(heard.score)
    group_scores, scores = groups.score, heard.score
    if since is not None and _centred(heard.score[since:] - heard.variance_reduced[since:]):
        scores = heard.variance_reduced[since:]
        group_scores = group_scores - (control_coefficients @ groups.functions[..., None])[..., 0]
    stats = jax.tree.map(lambda leaf: leaf.mean(axis=0), sums.statistics)
    curvature, prior = (np.asarray(part) for part in _curvature(density, template, layout, packed, stats))
    complete = curvature.copy()
    if layout.scored:
        where, g = np.array(layout.curved, int), len(layout.scored)
        outcome = sums.hessian.mean(axis=0)
        outcome[g:, g:] = 0.0  # in Q
        complete[np.ix_(where, where)] += outcome
    counted = np.where(weights == 0, 0.0, group_scores.T)
    missing = heard.outer.mean(axis=0) - processes.total((counted * weights) @ counted.T)
    score = scores + prior
    at = np.ix_(active, active)
    return ScoreAndInformation(
        packed,
        active,
        score.mean(axis=0)[active],
        (complete - missing)[at],
        np.diag(complete - missing)[active] / np.diag(complete)[active],
        batch_means(heard.outer)[:, *at],
        batch_means(score)[:, active],
        len(score),
        n,
        (counted * weights).T[:, active],
        batch_means(heard.psi_slope),
        batch_means(heard.factor_slope),
        _centred(heard.curvature_check),
    )


def batch_means(rows: np.ndarray) -> np.ndarray:
    """Means (batches, ...) of stretches of the iterations of `rows` (iterations, ...)."""
    return np.stack([part.mean(axis=0) for part in np.array_split(rows, min(BATCHES, len(rows)))])


def mean_and_error(batches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (...) of batch means (batches, ...), and its Monte Carlo error."""
    return batches.mean(axis=0), batches.std(axis=0, ddof=1) / np.sqrt(len(batches))


def _centred(taken: np.ndarray) -> bool:
    """Whether what control variates took off the scores (iterations, packed) is zero in the mean, as it must be for
    them to hold: not where the model jumps as the effects move."""
    if not np.isfinite(taken).all():
        return False
    mean, error = mean_and_error(batch_means(taken))
    return bool((np.abs(mean) <= BIASED * np.maximum(error, 1e-300)).all())


def _curvature(
    density: Density, template: Params, layout: ParameterLayout, packed: np.ndarray, stats: Statistics
) -> tuple[np.ndarray, np.ndarray]:
    """Minus the second derivatives (packed, packed) of Q and the log prior at `packed`, and the slope of the latter."""
    arguments = on_device((density, template, packed, stats))
    return compiled(_second, 0)(layout, *arguments)


def _second(layout: ParameterLayout, density: Density, template: Params, packed: Any, stats: Statistics) -> Any:
    def prior(packed):
        return density.log_prior(template.unpack(packed))

    def value(packed):
        return expected(layout, density, template, packed, stats) + prior(packed)

    return -jax.hessian(value)(packed), jax.grad(prior)(packed)
