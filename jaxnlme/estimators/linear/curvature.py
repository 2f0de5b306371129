"""The first step and the first Hessian of a search, from the covariances of estimated effects.

For one level whose units have the cross-products B = Z'Z, least squares of a unit estimates its effects with covariance
sigma^2 (psi + B^-1), whose expected information of -2 log L for m units is

    H_ab = m tr(W D_a W D_b),   W = (psi + B^-1)^-1,   D_a = d psi / d theta_a.

Columns of Z have mean square one, so that B is about the number of rows of a unit; with effects of other levels inside,
about the number of units inside over the variance of their estimates. With B infinite a Newton step in psi is one of
the EM algorithm. Both shorten a search, and do not change its end.

**Source:** Dempster, Rubin and Tsutakawa (1981), Journal of the American Statistical Association 76.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.estimators.linear.objective import ProfiledLikelihood
from jaxnlme.estimators.linear.relative_factor import AbstractRelativeFactor, psi_and_slopes
from jaxnlme.estimators.linear.settings import LINEAR


def first_hessian(likelihood: Any, theta: np.ndarray) -> np.ndarray | None:
    """A positive definite approximation (parameters, parameters) of the Hessian of -2 log L at `theta` (parameters,);
    None without parameters, and for a likelihood that is not one of nested levels.

    That of the parameters of a residual covariance is the number of rows."""
    if not isinstance(likelihood, ProfiledLikelihood) or not len(theta):
        return None
    hessian = np.zeros((len(theta),) * 2)
    units, parts = likelihood.source.n_units, _parts(likelihood)
    rows = likelihood.count / units[-1] if units else 1.0
    for level in reversed(range(len(parts))):
        factor, place = parts[level]
        psi, slopes = psi_and_slopes(factor, theta[place])
        weights = np.linalg.inv(psi + np.eye(len(psi)) / rows) @ slopes
        hessian[place, place] = units[level] * np.einsum("aij,bji->ab", weights, weights)
        rows = units[level] / units[level - 1] / (1.0 / rows + np.trace(psi) / len(psi)) if level else rows
    n_residual = likelihood.source.n_residual
    if n_residual:
        hessian[-n_residual:, -n_residual:] = likelihood.count * np.eye(n_residual)
    return hessian + LINEAR.least_hessian * np.max(np.diag(hessian)) * np.eye(len(theta))


def moment_start(likelihood: Any, theta: np.ndarray) -> np.ndarray:
    """`theta` (parameters,) after one step of the EM algorithm in the covariances of the effects; unchanged where that
    is not finite, and for a likelihood that is not one of nested levels."""
    if not isinstance(likelihood, ProfiledLikelihood) or not likelihood.factors:
        return theta
    _, gradient, _ = likelihood.profiled(theta)
    out = theta.copy()
    for units, (factor, place) in zip(likelihood.source.n_units, _parts(likelihood), strict=True):
        psi, slopes = psi_and_slopes(factor, theta[place])
        weights = np.linalg.inv(psi) @ slopes
        hessian = units * np.einsum("aij,bji->ab", weights, weights)
        changed = psi - np.tensordot(np.linalg.solve(hessian, gradient[place]), slopes, 1)
        if np.isfinite(changed).all() and np.linalg.eigvalsh(changed)[0] > 0:
            out[place] = factor.from_psi(changed)
    return out


def _parts(likelihood: ProfiledLikelihood) -> list[tuple[AbstractRelativeFactor, slice]]:
    """The factor of each level and its place in theta, outermost first."""
    ends = np.cumsum([0, *(factor.n_parameters for factor in likelihood.factors)])
    return [(factor, slice(int(a), int(b))) for factor, a, b in zip(likelihood.factors, ends, ends[1:], strict=False)]
