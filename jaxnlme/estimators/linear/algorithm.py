"""Estimation of a linear mixed model: search, variances of zero, convergence, in numbered steps.

1. Minimise -2 log L over theta (`search.py`), fixed effects and sigma profiled out.
2. Variances of zero: where the covariance with its smallest scales set to zero has the same likelihood, it is the
   estimate, and the entries of theta that it has no use for are held.
3. Minimise once more over the other entries, and check.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxnlme.estimators.linear.curvature import first_hessian, moment_start
from jaxnlme.estimators.linear.interface import Likelihood
from jaxnlme.estimators.linear.objective import ProfiledLikelihood, Solution
from jaxnlme.estimators.linear.search import Minimum, descend, minimise
from jaxnlme.estimators.linear.settings import LINEAR
from jaxnlme.numerics.linalg import semidefinite_cholesky
from jaxnlme.precision import x64


@dataclasses.dataclass(frozen=True, eq=False)
class Estimation:
    """The end of an estimation, in transformed coordinates.

    **Fields:** `theta` (parameters,); `free` (parameters,) bool: entries that are not held at a variance of zero;
    `minimum` over the free entries; `solution` at theta; `converged`, and `problems`, sentences on what does not hold.
    """

    theta: np.ndarray
    free: np.ndarray
    minimum: Minimum
    solution: Solution
    converged: bool
    problems: tuple[str, ...]

    def information(self, count: float) -> np.ndarray:
        """The observed information (free + 1, free + 1) of the free entries of theta and log sigma, fixed effects
        profiled out.

        With f(theta, s) = -2 log L at s = log sigma, f_ss = 4 n, f_theta,s = -2 n d log rss / d theta, and the profiled
        Hessian is that of f less f_theta,s f_s,theta / f_ss. **Arguments:** `count`: n.
        """
        cross = -2.0 * count * self.minimum.rss_slope
        full = np.empty((len(cross) + 1,) * 2)
        full[:-1, :-1] = self.minimum.hessian + np.outer(cross, cross) / (4.0 * count)
        full[:-1, -1] = full[-1, :-1] = cross
        full[-1, -1] = 4.0 * count
        return 0.5 * full


def estimate(likelihood: Likelihood, starts: Sequence[np.ndarray] = ()) -> Estimation:
    """The Estimation of `likelihood`: the best of searches from `starts` (parameters,); without any from variances of
    one residual variance, and, where an evaluation is cheap, from smaller ones."""
    with x64():
        if not starts:
            starts = [moment_start(likelihood, likelihood.start())]
            if likelihood.factors and likelihood.work <= LINEAR.work_of_second_search:
                starts.append(likelihood.start(LINEAR.second_start))
        minimum = minimise(likelihood.profiled, starts[0], likelihood.count, first_hessian(likelihood, starts[0]))
        for start in starts[1:]:
            other = minimise(likelihood.profiled, start, likelihood.count, first_hessian(likelihood, start))
            if other.value < minimum.value - LINEAR.better or not np.isfinite(minimum.value):
                minimum = other
        theta = minimum.theta
        free = np.ones(len(theta), bool)
        if np.isfinite(minimum.value) and len(theta):
            theta, free = _with_zeros(likelihood, minimum)
        if not free.all():
            minimum = minimise(_restricted_to(likelihood, theta, free), theta[free], likelihood.count)
            theta = theta.copy()
            theta[free] = minimum.theta
        solution = likelihood.solve(theta)
    problems = _problems(minimum)
    return Estimation(theta, free, minimum, solution, not problems, tuple(problems))


def residual_start(likelihood: ProfiledLikelihood, theta: np.ndarray) -> np.ndarray:
    """`theta` (parameters,) with its parameters of the residual covariance at their maximum for the others."""
    free = np.arange(len(theta)) >= len(theta) - likelihood.source.n_residual
    if not free.any():
        return theta
    with x64():
        hessian = first_hessian(likelihood, theta)
        assert hessian is not None
        part = hessian[np.ix_(free, free)]
        found = descend(_restricted_to(likelihood, theta, free), theta[free], likelihood.count, part)
    out = theta.copy()
    out[free] = found[0]
    return out


def _restricted_to(likelihood: Likelihood, theta: np.ndarray, free: np.ndarray):
    """The function of the free entries of theta."""

    def fn(part: np.ndarray) -> tuple[float, np.ndarray, float]:
        whole = theta.copy()
        whole[free] = part
        value, gradient, rss = likelihood.profiled(whole)
        return value, gradient[free], rss

    return fn


def _with_zeros(likelihood: Likelihood, minimum: Minimum) -> tuple[np.ndarray, np.ndarray]:
    """theta with its smallest scales at zero where the likelihood allows it, and the entries that stay free."""
    theta, free = minimum.theta.copy(), np.ones(len(minimum.theta), bool)
    first = 0
    for factor in likelihood.factors:
        last = first + factor.n_parameters
        relative = np.asarray(factor.factor(theta[first:last]))
        psi = relative @ relative.T
        values, vectors = np.linalg.eigh(psi)
        small = values < LINEAR.zero_scale**2
        if small.any() and factor.scales:
            values = np.where(small, 0.0, values)
            reduced = theta.copy()
            reduced[first:last] = factor.from_psi(_symmetric(vectors, values))
            if likelihood.profiled(reduced)[0] <= minimum.value + 2.0 * LINEAR.zero_gain:
                theta = reduced
                zero_columns = [column for column in factor.signed if not np.any(theta[first:last][list(column)])]
                for column in zero_columns:
                    free[[first + k for k in column]] = False
        first = last
    return theta, free


def _symmetric(vectors: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The matrix with these eigenvectors and eigenvalues, and exact zeros where rounding would leave more."""
    matrix = (vectors * values) @ vectors.T
    matrix = 0.5 * (matrix + matrix.T)
    lower = semidefinite_cholesky(matrix, LINEAR.zero_scale**2)
    return lower @ lower.T


def _problems(minimum: Minimum) -> list[str]:
    """Sentences on what does not hold at the end of a search."""
    if not np.isfinite(minimum.value):
        return ["the log-likelihood is not finite at the end of the search."]
    if not np.isfinite(minimum.hessian).all():
        return [
            "the log-likelihood is not finite in the neighbourhood of the end of the search: a variance function or a "
            "correlation reaches numbers that cannot be computed; simplify it, or rescale the column that it is of."
        ]
    problems = []
    if not minimum.decrement < LINEAR.tolerance:
        problems.append(
            f"a further step is still expected to gain {minimum.decrement:.1e} log-likelihood units (limit "
            f"{LINEAR.tolerance:g}), and the search found no better point."
        )
    if not minimum.definite:
        problems.append(
            "the information matrix of the variance parameters is not positive definite: the data do not determine all "
            "of them; leave out a random effect or a correlation."
        )
    return problems
