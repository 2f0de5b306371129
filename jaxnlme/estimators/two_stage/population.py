"""From fits of single groups to starting values of a mixed fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.errors import FitError
from jaxnlme.model.params import Params
from jaxnlme.typing import Matrix, Vector

if TYPE_CHECKING:
    from jaxnlme.estimators.two_stage.group_fits import GroupFits

# A starting SD is so many standard errors of a group's estimate at least, and a correlation at most so large: a fit
# should not start at a boundary.
LEAST_SD, MOST_CORRELATION = 0.3, 0.95


@dataclasses.dataclass(frozen=True)
class Population:
    """`beta` (fixed,); `spread` (own, own), the covariance between groups; `sampling` (own,), the median sampling
    variance of a group; `outlying`, labels of the groups set aside; `count` of those used; `sd`, the residual SD
    pooled over groups (a factor where the residual model has several parameters), NaN without a Gaussian face."""

    beta: Vector
    spread: Matrix
    sampling: Vector
    outlying: tuple[str, ...]
    count: int
    sd: float


def own_arrays(values: np.ndarray) -> np.ndarray:
    """The arrays of the one process there is."""
    return values


def second_stage(fits: GroupFits, gather: Callable[[np.ndarray], np.ndarray] = own_arrays) -> Population:
    """The two-stage estimate of the population; `gather` puts the arrays of every process together.

    **Errors:** FitError where fewer than two groups were fitted.
    """
    use = fits.counted
    if len(gather(np.ones(int(use.sum())))) < 2:
        raise FitError(f"starting values need two fitted groups at least. {' '.join(fits.sentences)}", fits)
    sd = fits.pooled_over(gather)
    sampling = fits.covariances_at(sd / fits.scale_level if fits.gaussian else None)
    own, sampling, designs = (gather(part[use]) for part in (fits.own, sampling, fits.designs))
    labels = gather(np.array([str(label) for label in fits.binding.data.labels[use]]))
    free = ~fits.binding.fixed[: designs.shape[2]] & (designs != 0).any(axis=(0, 1))
    beta, spread, outlying = two_stage(own, sampling, designs, np.asarray(fits.params.beta, float), free)
    middle = np.median(np.einsum("ikk->ik", sampling), axis=0)
    return Population(beta, spread, middle, tuple(labels[outlying].tolist()), int((~outlying).sum()), sd)


def start_params(fits: GroupFits, stage: Population) -> Params:
    """Params of the mixed model at a two-stage estimate; fixed entries stay as they are."""
    density, fixed = fits.binding.density, fits.binding.fixed
    first, last = len(density.beta_names), len(fixed) - len(density.error_names)
    theta = np.asarray(fits.params.covariance, float)
    if density.n_effects and not fixed[first:last].all():
        theta = density.covariance.from_matrix(_psi(fits, stage))
    error = np.array(fits.params.error, float)
    if fits.single_scale and not fixed[last] and stage.sd > 0:
        error[0] = np.log(stage.sd)
    return Params(stage.beta, theta, error, fits.params.free)


def _psi(fits: GroupFits, stage: Population) -> np.ndarray:
    """Psi (random, random) from the spread of the groups, away from its boundaries."""
    back = np.linalg.pinv(fits.effects.mean(axis=0))
    psi = back @ stage.spread @ back.T
    least = LEAST_SD * np.sqrt(np.diag(back @ np.diag(stage.sampling) @ back.T))
    sd = np.sqrt(np.maximum(np.diag(psi), 0.0))
    correlation = MOST_CORRELATION * psi / np.where(np.outer(sd, sd) > 0, np.outer(sd, sd), 1.0)
    np.fill_diagonal(correlation, 1.0)
    sd = np.maximum(np.maximum(sd, least), 1e-8)
    return correlation * np.outer(sd, sd)


# ---- the global two-stage estimate, from fits of single groups and their sampling covariances

# Degrees of freedom of the t distribution whose weights keep outlying groups from the first pass.
HEAVY = 4.0
# A group further out than this quantile of its distance is set aside in the second.
OUTLYING = 0.999
# Iterations of the two passes, and the groups that they look at: starting values need no more.
ROBUST, PLAIN, MOST = 40, 200, 2_000


def two_stage(
    own: np.ndarray, sampling: np.ndarray, designs: np.ndarray, beta: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Beta, the covariance between groups and the outlying groups of  own_i ~ N(A_i beta, spread + sampling_i), by EM.

    Groups that tell little count for little, and the covariance is positive semidefinite, neither of which holds for
    the covariance of the estimates minus their mean sampling covariance. Two passes: with the weights of a multivariate
    t, then plain without the groups that are far out.

    **Arguments:** `own` (groups, own), `sampling` (groups, own, own), `designs` A (groups, own, fixed), `beta` (fixed,)
    and `free` (fixed,) bool: the others stay.
    **Returns:** beta (fixed,), spread (own, own), outlying (groups,) bool.
    **Source:** Davidian and Giltinan (1995), Nonlinear Models for Repeated Measurement Data, section 5.3.2; the
    weights: Lange, Little and Taylor (1989), Journal of the American Statistical Association 84, 881-896.
    """
    from scipy.stats import chi2

    m, p = own.shape
    target = own - designs @ np.where(free, 0.0, beta)
    x = designs[:, :, free]
    middle = np.median(target, axis=0)
    mad = 1.4826 * np.median(np.abs(target - middle), axis=0)
    within = np.median(np.einsum("ikk->ik", sampling), axis=0)
    unit = np.sqrt(mad**2 + within)
    unit = np.where(unit > 0, unit, np.maximum(np.abs(middle), 1.0))
    # In units of each parameter's own spread, so that matrices are well scaled.
    y, x, v = target / unit, x / unit[:, None], sampling / np.outer(unit, unit)
    first = np.linalg.lstsq(x.reshape(m * p, -1), np.tile(middle / unit, m), rcond=None)[0]
    some = np.unique(np.linspace(0, m - 1, min(m, MOST)).astype(int))
    psi = np.diag(np.maximum((mad / unit) ** 2, 0.01))
    coefficients, psi = _em(y[some], x[some], v[some], first, psi, ROBUST, HEAVY)
    distance = _distance(y - x @ coefficients, psi + v)[0]
    scale = np.median(distance) / chi2.ppf(0.5, p)
    outlying = distance > max(scale, 1e-8) * chi2.ppf(OUTLYING, p)
    if m - outlying.sum() < max(p + 1, 0.75 * m):
        outlying = np.zeros(m, bool)  # a quarter of the groups are no outliers
    some = some[~outlying[some]]
    coefficients, psi = _em(y[some], x[some], v[some], coefficients, max(scale, 0.1) * psi, PLAIN, None)
    out = np.array(beta, float)
    out[free] = coefficients
    return out, psi * np.outer(unit, unit), outlying


def _em(
    y: np.ndarray, x: np.ndarray, v: np.ndarray, beta: np.ndarray, psi: np.ndarray, steps: int, heavy: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Steps of EM for beta and psi; `heavy`: degrees of freedom of a t, None for the normal distribution."""
    p = y.shape[1]
    for _ in range(steps):
        distance, inverse = _distance(y - x @ beta, psi + v)
        weight = np.ones(len(y)) if heavy is None else (heavy + p) / (heavy + distance)
        weighted = np.einsum("ikf,ikl->ifl", x, inverse) * weight[:, None, None]
        normal, right = np.einsum("ifl,ilg->fg", weighted, x), np.einsum("ifl,il->f", weighted, y)
        beta = np.linalg.lstsq(normal, right, rcond=1e-12)[0]
        residual = y - x @ beta
        gain = psi @ inverse
        b = np.einsum("ikl,il->ik", gain, residual)
        new = np.mean(weight[:, None, None] * b[:, :, None] * b[:, None, :] + psi - gain @ psi, axis=0)
        new = 0.5 * (new + new.T)
        settled = np.max(np.abs(new - psi)) < 1e-6
        psi = new
        if settled:
            break
    return beta, psi


def _distance(residual: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """e' S^-1 e (groups,) and S^-1."""
    inverse = np.linalg.inv(covariance)
    return np.einsum("ik,ikl,il->i", residual, inverse, residual), inverse
