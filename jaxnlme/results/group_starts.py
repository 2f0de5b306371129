"""From fits of single groups to starting values of a mixed fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.errors import FitError
from jaxnlme.model.params import Params
from jaxnlme.results.two_stage import two_stage
from jaxnlme.typing import Matrix, Vector

if TYPE_CHECKING:
    from jaxnlme.results.group_fits import GroupFits

# A starting SD is so many standard errors of a group's estimate at least, and a correlation at most so large: a fit
# should not start at a boundary.
LEAST_SD, MOST_CORRELATION = 0.3, 0.95


@dataclasses.dataclass(frozen=True)
class Stage:
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


def second_stage(fits: GroupFits, gather: Callable[[np.ndarray], np.ndarray] = own_arrays) -> Stage:
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
    return Stage(beta, spread, middle, tuple(labels[outlying].tolist()), int((~outlying).sum()), sd)


def start_params(fits: GroupFits, stage: Stage) -> Params:
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


def _psi(fits: GroupFits, stage: Stage) -> np.ndarray:
    """Psi (random, random) from the spread of the groups, away from its boundaries."""
    back = np.linalg.pinv(fits.effects.mean(axis=0))
    psi = back @ stage.spread @ back.T
    least = LEAST_SD * np.sqrt(np.diag(back @ np.diag(stage.sampling) @ back.T))
    sd = np.sqrt(np.maximum(np.diag(psi), 0.0))
    correlation = MOST_CORRELATION * psi / np.where(np.outer(sd, sd) > 0, np.outer(sd, sd), 1.0)
    np.fill_diagonal(correlation, 1.0)
    sd = np.maximum(np.maximum(sd, least), 1e-8)
    return correlation * np.outer(sd, sd)
