"""Satterthwaite's degrees of freedom: 2 v^2 / var(v), v the estimated variance of a linear combination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.errors import FitError
from jaxnlme.estimators.linear.interface import Likelihood
from jaxnlme.linear.inference.degrees_of_freedom import DegreesOfFreedom, weighted_df
from jaxnlme.linear.inference.settings import INFERENCE
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
    likelihood = fit.likelihood
    free = np.flatnonzero(estimation.free).tolist()
    with x64():
        slopes = [
            (_covariance(fit, likelihood, k, 1.0) - _covariance(fit, likelihood, k, -1.0)) / (2.0 * _step(fit, k))
            for k in free
        ]
    covariance = fit.outcome.beta_covariance
    return Satterthwaite(covariance, np.stack([*slopes, 2.0 * covariance]), np.linalg.inv(information))


def _step(fit: LinearFit, k: int) -> float:
    """The step of the central difference in the k-th entry of theta."""
    return INFERENCE.difference * max(abs(float(fit.outcome.estimation.theta[k])), 1.0)


def _covariance(fit: LinearFit, likelihood: Likelihood, k: int, sign: float) -> np.ndarray:
    """The covariance of the fixed effects with the k-th entry of theta moved by a step, sigma held."""
    theta = fit.outcome.estimation.theta.copy()
    theta[k] += sign * _step(fit, k)
    root = likelihood.solve(theta).root @ fit.problem.R
    inverse = np.linalg.inv(root)
    return fit.outcome.sigma**2 * inverse @ inverse.T
