"""The global two-stage estimate: population values from fits of single groups and their sampling covariances."""

from __future__ import annotations

import numpy as np

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
