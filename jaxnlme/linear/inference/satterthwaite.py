"""Satterthwaite's degrees of freedom: 2 v^2 / var(v), v the estimated variance of a linear combination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.errors import FitError
from jaxnlme.linear.inference.degrees_of_freedom import DegreesOfFreedom, weighted_df
from jaxnlme.numerics.central_differences import central_differences
from jaxnlme.precision import x64

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


class Satterthwaite(DegreesOfFreedom):
    """2 v^2 / (g' A g), with v = l' C l, g its gradient in (theta, log sigma), and A the inverse of their observed
    information; several combinations by `weighted_df` of uncorrelated ones.

    **Fields:** `covariance` C (fixed, fixed); `slopes` (parameters, fixed, fixed): its derivatives; `variance`
    (parameters, parameters): A.
    **Source:** Giesbrecht and Burns (1985), Biometrics 41; Fai and Cornelius (1996), Journal of Statistical Computation
    and Simulation 54; Kuznetsova, Brockhoff and Christensen (2017), Journal of Statistical Software 82(13).
    """

    name = "satterthwaite"

    def __init__(self, covariance: np.ndarray, slopes: np.ndarray, variance: np.ndarray):
        self.covariance, self.slopes, self.variance = covariance, slopes, variance

    def of_contrast(self, row: np.ndarray) -> float:
        value = float(row @ self.covariance @ row)
        gradient = np.einsum("i,kij,j->k", row, self.slopes, row)
        return 2.0 * value**2 / float(gradient @ self.variance @ gradient)

    def of_joint(self, rows: np.ndarray) -> tuple[float, float]:
        return 1.0, weighted_df([self.of_contrast(row) for row in rows])


def satterthwaite(fit: LinearFit) -> Satterthwaite:
    """The Satterthwaite degrees of freedom of a fit. Variances estimated as zero are held there.

    **Raises:** FitError where the information of the variance parameters is not positive definite.
    """
    problem, estimation = fit.problem, fit.outcome.estimation
    count = float(fit.model.n_rows - (problem.n_fixed if fit.restricted else 0))
    information = estimation.information(count)
    if not np.isfinite(information).all() or np.linalg.eigvalsh(information)[0] <= 0:
        raise FitError(
            "the information of the variance parameters is not positive definite, so that Satterthwaite's degrees of "
            "freedom are not defined: simplify the random effects, or use df='containment'.",
            fit,
        )
    theta, free = estimation.theta, estimation.free

    def covariance_at(point: np.ndarray) -> np.ndarray:
        """C at the free entries of theta, sigma held."""
        moved = theta.copy()
        moved[free] = point
        inverse = np.linalg.inv(fit.likelihood.solve(moved).root @ problem.R)
        return fit.outcome.sigma**2 * inverse @ inverse.T

    with x64():
        slopes = central_differences(covariance_at, theta[free])
    covariance = fit.outcome.beta_covariance
    return Satterthwaite(covariance, np.stack([*slopes, 2.0 * covariance]), np.linalg.inv(information))
