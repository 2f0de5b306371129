"""Kenward and Roger's adjusted covariance of fixed effects, scaled F statistics and degrees of freedom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.errors import FitError, OptionError
from jaxnlme.linear.inference.degrees_of_freedom import DegreesOfFreedom
from jaxnlme.linear.inference.marginal_covariance import covariance_sums
from jaxnlme.linear.inference.settings import INFERENCE

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


class KenwardRoger(DegreesOfFreedom):
    """Tests with the covariance Phi_A = Phi + 2 Lambda of the fixed effects.

    With W the inverse of the expected restricted information of the variance components, U_rs = Q_rs - P_r Phi P_s and
    Lambda = Phi (sum_rs W_rs U_rs) Phi; the F statistic is scaled, and its degrees of freedom chosen, so that its first
    two moments are those of an F variable. One combination has the factor one.

    **Arguments:** `Phi` (fixed, fixed), `P` (components, fixed, fixed), `W` (components, components), `Lambda`, of the
    coefficients gamma of transformed columns; `transform` (fixed, fixed): beta = transform gamma + constant.
    **Source:** Kenward and Roger (1997), Biometrics 53; Halekoh and Hojsgaard (2014), Journal of Statistical Software
    59(9). Covariances that are not linear in their parameters are linearised: the term in second derivatives is left
    out.
    """

    name = "kenward-roger"

    def __init__(self, Phi: np.ndarray, P: np.ndarray, W: np.ndarray, Lambda: np.ndarray, transform: np.ndarray):
        self.Phi, self.P, self.W, self.transform = Phi, P, W, transform
        self.covariance = transform @ (Phi + 2.0 * Lambda) @ transform.T

    def of_contrast(self, row: np.ndarray) -> float:
        return self.of_joint(np.atleast_2d(row))[1]

    def of_joint(self, rows: np.ndarray) -> tuple[float, float]:
        L, q = rows @ self.transform, len(rows)
        theta = L.T @ np.linalg.solve(L @ self.Phi @ L.T, L)
        u = theta @ self.Phi @ self.P @ self.Phi
        spurs = np.trace(u, axis1=1, axis2=2)
        A1 = float(spurs @ self.W @ spurs)
        A2 = float(np.einsum("rs,rij,sji->", self.W, u, u))
        if A2 == 0.0:
            return 1.0, float("inf")
        B = (A1 + 6.0 * A2) / (2.0 * q)
        g = ((q + 1.0) * A1 - (q + 4.0) * A2) / ((q + 2.0) * A2)
        below = 3.0 * q + 2.0 * (1.0 - g)
        V0, V1, V2 = 1.0 + g / below * B, 1.0 - (q - g) / below * B, 1.0 - (q + 2.0 - g) / below * B
        V0 = 0.0 if abs(V0) < INFERENCE.zero_of_rho else V0
        ratio = 1.0 if max(abs(1.0 - A2 / q), abs(V1)) < INFERENCE.zero_of_rho else (1.0 - A2 / q) / V1
        rho = ratio**2 * V0 / V2 / q
        df = 4.0 + (q + 2.0) / (q * rho - 1.0)
        scale = 1.0 if abs(df - 2.0) < INFERENCE.near_two else df * (1.0 - A2 / q) / (df - 2.0)
        return scale, df


def kenward_roger(fit: LinearFit) -> KenwardRoger:
    """The KenwardRoger of a fit by REML.

    **Raises:** OptionError for a fit by ML, and where too many random effects depend on each other; FitError where the
    information of the variance components is singular.
    """
    if not fit.restricted:
        raise OptionError(
            "df='kenward-roger' adjusts the covariance of a fit by REML, and this one is by ML: fit with "
            "method='REML', or use df='satterthwaite'."
        )
    if fit.residual is not None:
        raise OptionError(
            "df='kenward-roger' is for independent residuals of one variance, where the covariance of y is linear in "
            "its parameters; this fit has a variance function or a correlation of residuals: use df='satterthwaite'."
        )
    problem = fit.problem
    sums = covariance_sums(problem, fit.outcome.estimation.theta)
    Phi, P = np.linalg.inv(sums.normal), sums.P
    U = sums.Q - np.einsum("rij,jk,skl->rsil", P, Phi, P, optimize=True)
    information = sums.traces - 2.0 * np.einsum("ij,rsij->rs", Phi, sums.Q)
    information += np.einsum("ij,rjk,kl,sli->rs", Phi, P, Phi, P, optimize=True)
    scales = np.sqrt(np.maximum(np.diag(information), 0.0))
    values = np.linalg.eigvalsh(information / np.outer(scales, scales)) if (scales > 0).all() else np.zeros(1)
    if not values[0] > len(scales) * np.finfo(float).eps:
        raise FitError(
            "the expected information of the variance components is singular, so that Kenward and Roger's method is "
            "not defined: simplify the random effects, or use df='satterthwaite'.",
            fit,
        )
    W = 2.0 * np.linalg.inv(information)
    total = np.einsum("rs,rsij->ij", W, U)
    Lambda = Phi @ (0.5 * (total + total.T)) @ Phi
    return KenwardRoger(Phi, P, W, Lambda, fit.outcome.sigma * np.linalg.inv(problem.R))
