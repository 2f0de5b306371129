"""Population values from fits of single groups: the two-stage estimate, and the starting values of a mixed fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.errors import FitError
from jaxnlme.estimators.two_stage.settings import POPULATION
from jaxnlme.model.params import Params
from jaxnlme.typing import Matrix, Vector

if TYPE_CHECKING:
    from jaxnlme.estimators.two_stage.group_fits import GroupFits


@dataclasses.dataclass(frozen=True)
class Population:
    """Two-stage estimate of the population.

    **Fields:** `beta` (fixed,); `between` (params, params), the covariance of the group parameters between groups;
    `sampling_variance` (params,), the median over groups of the variance of their estimates; `outlying`, labels of the
    groups excluded as outliers; `n_groups`, the number of groups used; `residual_sd`, the residual SD pooled over
    groups (a factor of it where the residual model has several parameters), NaN without Gaussian moments.
    """

    beta: Vector
    between: Matrix
    sampling_variance: Vector
    outlying: tuple[str, ...]
    n_groups: int
    residual_sd: float


def one_process(values: np.ndarray) -> np.ndarray:
    """Gather function of a single process: the array itself."""
    return values


def estimate_population(fits: GroupFits, gather: Callable[[np.ndarray], np.ndarray] = one_process) -> Population:
    """The two-stage estimate of the population from fits of single groups.

    **Arguments:** `gather`: concatenates the arrays (groups, ...) of all processes.
    **Raises:** FitError where fewer than two groups were fitted.
    """
    use = fits.contributing
    if len(gather(np.ones(int(use.sum())))) < 2:
        raise FitError(f"starting values need two fitted groups at least. {' '.join(fits.sentences)}", fits)
    residual_sd = fits.pooled_over(gather)
    sampling = fits.covariances_at(residual_sd / fits.reference_sd if fits.gaussian else None)
    group_params, sampling, designs = (gather(part[use]) for part in (fits.group_params, sampling, fits.fixed_designs))
    labels = gather(np.array([str(label) for label in fits.binding.data.labels[use]]))
    free = ~fits.binding.fixed[: designs.shape[2]] & (designs != 0).any(axis=(0, 1))
    beta, between, outlying = two_stage(group_params, sampling, designs, np.asarray(fits.params.beta, float), free)
    variance = np.median(np.einsum("ikk->ik", sampling), axis=0)
    return Population(beta, between, variance, tuple(labels[outlying].tolist()), int((~outlying).sum()), residual_sd)


def population_params(fits: GroupFits, population: Population) -> Params:
    """Params of the mixed model at a two-stage estimate; fixed entries stay at their start."""
    density, fixed = fits.binding.density, fits.binding.fixed
    first, last = len(density.beta_names), len(fixed) - len(density.error_names)
    theta = np.asarray(fits.params.covariance, float)
    if density.n_effects and not fixed[first:last].all():
        theta = density.covariance.from_matrix(_psi(fits, population))
    error = np.array(fits.params.error, float)
    if fits.single_scale and not fixed[last] and population.residual_sd > 0:
        error[0] = np.log(population.residual_sd)
    return Params(population.beta, theta, error, fits.params.free)


def _psi(fits: GroupFits, population: Population) -> np.ndarray:
    """Psi (random, random) from the covariance between groups, moved off the boundary of its space."""
    back = np.linalg.pinv(fits.random_designs.mean(axis=0))
    psi = back @ population.between @ back.T
    least = POPULATION.least_sd_ratio * np.sqrt(np.diag(back @ np.diag(population.sampling_variance) @ back.T))
    sd = np.sqrt(np.maximum(np.diag(psi), 0.0))
    correlation = POPULATION.max_correlation * psi / np.where(np.outer(sd, sd) > 0, np.outer(sd, sd), 1.0)
    np.fill_diagonal(correlation, 1.0)
    sd = np.maximum(np.maximum(sd, least), POPULATION.least_sd)
    return correlation * np.outer(sd, sd)


# ---- the global two-stage estimate, from fits of single groups and their sampling covariances


def two_stage(
    group_params: np.ndarray, sampling: np.ndarray, designs: np.ndarray, beta: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Global two-stage estimate by EM of  group_params_i ~ N(A_i beta, between + sampling_i).

    Groups with imprecise estimates have little weight, and the covariance between groups is positive semidefinite;
    neither holds for the covariance of the estimates minus their mean sampling covariance. Two passes: with the weights
    of a multivariate t, then without weights and without the outlying groups.

    **Arguments:** `group_params` (groups, params); `sampling` (groups, params, params), covariances of these estimates;
    `designs` A (groups, params, fixed); `beta` (fixed,) and `free` (fixed,) bool: the other entries keep their values.
    **Returns:** beta (fixed,); the covariance between groups (params, params); outlying (groups,) bool.
    **Source:** Davidian and Giltinan (1995), Nonlinear Models for Repeated Measurement Data, section 5.3.2; the
    weights: Lange, Little and Taylor (1989), Journal of the American Statistical Association 84, 881-896.
    """
    from scipy.stats import chi2

    m, p = group_params.shape
    target = group_params - designs @ np.where(free, 0.0, beta)
    x = designs[:, :, free]
    middle = np.median(target, axis=0)
    mad = POPULATION.sd_per_mad * np.median(np.abs(target - middle), axis=0)
    within = np.median(np.einsum("ikk->ik", sampling), axis=0)
    unit = np.sqrt(mad**2 + within)
    unit = np.where(unit > 0, unit, np.maximum(np.abs(middle), 1.0))
    # Each parameter in units of its spread over groups, so that matrices are well scaled.
    y, x, v = target / unit, x / unit[:, None], sampling / np.outer(unit, unit)
    first = np.linalg.lstsq(x.reshape(m * p, -1), np.tile(middle / unit, m), rcond=None)[0]
    used = np.unique(np.linspace(0, m - 1, min(m, POPULATION.max_groups)).astype(int))
    psi = np.diag(np.maximum((mad / unit) ** 2, POPULATION.min_start_variance))
    coefficients, psi = _em_steps(y[used], x[used], v[used], first, psi, POPULATION.robust_steps, POPULATION.t_df)
    distance = _mahalanobis(y - x @ coefficients, psi + v)[0]
    scale = np.median(distance) / chi2.ppf(0.5, p)
    outlying = distance > max(scale, POPULATION.min_outlier_scale) * chi2.ppf(POPULATION.outlier_quantile, p)
    if m - outlying.sum() < max(p + 1, POPULATION.min_kept_fraction * m):
        outlying = np.zeros(m, bool)
    used = used[~outlying[used]]
    psi = max(scale, POPULATION.min_robust_scale) * psi
    coefficients, psi = _em_steps(y[used], x[used], v[used], coefficients, psi, POPULATION.plain_steps, None)
    out = np.array(beta, float)
    out[free] = coefficients
    return out, psi * np.outer(unit, unit), outlying


def _em_steps(
    y: np.ndarray, x: np.ndarray, v: np.ndarray, beta: np.ndarray, psi: np.ndarray, steps: int, t_df: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """At most `steps` EM steps for beta and psi of y_i ~ N(x_i beta, psi + v_i); `t_df`: degrees of freedom of a
    multivariate t distribution, None for the normal distribution."""
    p = y.shape[1]
    for _ in range(steps):
        distance, inverse = _mahalanobis(y - x @ beta, psi + v)
        weight = np.ones(len(y)) if t_df is None else (t_df + p) / (t_df + distance)
        weighted = np.einsum("ikf,ikl->ifl", x, inverse) * weight[:, None, None]
        normal, right = np.einsum("ifl,ilg->fg", weighted, x), np.einsum("ifl,il->f", weighted, y)
        beta = np.linalg.lstsq(normal, right, rcond=POPULATION.rank_tolerance)[0]
        residual = y - x @ beta
        gain = psi @ inverse
        b = np.einsum("ikl,il->ik", gain, residual)
        new = np.mean(weight[:, None, None] * b[:, :, None] * b[:, None, :] + psi - gain @ psi, axis=0)
        new = 0.5 * (new + new.T)
        converged = np.max(np.abs(new - psi)) < POPULATION.max_change
        psi = new
        if converged:
            break
    return beta, psi


def _mahalanobis(residual: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared Mahalanobis distances e' S^-1 e (groups,), and S^-1 (groups, params, params)."""
    inverse = np.linalg.inv(covariance)
    return np.einsum("ik,ikl,il->i", residual, inverse, residual), inverse
