"""The outcome of an estimation in the user's coordinates."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxnlme.estimators.linear.algorithm import Estimation
from jaxnlme.estimators.linear.cross_products import unit_places
from jaxnlme.estimators.linear.interface import Likelihood
from jaxnlme.estimators.linear.objective import ProfiledLikelihood
from jaxnlme.estimators.linear.problem import LinearProblem


@dataclasses.dataclass(frozen=True, eq=False)
class LinearOutcome:
    """Estimates of a linear mixed model in the units of the data.

    **Fields:** `beta` (fixed,); `beta_covariance` (fixed, fixed); `sigma`, the residual standard
    deviation, with a variance function its geometric mean over rows; `psi`: for each level, outermost first, the
    covariance (effects, effects); `effects`: for each level the conditional means (units, effects), in the order of the
    codes of the design; `log_likelihood`; `estimation`, with theta and the information of the variance parameters.
    """

    beta: np.ndarray
    beta_covariance: np.ndarray
    sigma: float
    psi: tuple[np.ndarray, ...]
    effects: tuple[np.ndarray, ...]
    log_likelihood: float
    estimation: Estimation


def outcome(problem: LinearProblem, likelihood: Likelihood, estimation: Estimation) -> LinearOutcome:
    """The LinearOutcome of an Estimation."""
    solution = estimation.solution
    sigma = solution.sigma * problem.scale
    root = solution.root @ problem.R
    inverse = np.linalg.inv(root) if len(root) else root
    value = problem.minus_two_log_likelihood(estimation.minimum.value, bool(likelihood.restricted))
    psi = covariances(problem, estimation.theta, sigma)
    effects = []
    nested = isinstance(likelihood, ProfiledLikelihood)
    levels = problem.levels
    places = [units.place for units in unit_places(levels)] if nested else [level.order for level in levels]
    for level, values, place in zip(problem.levels, solution.effects, places, strict=True):
        of_units = np.empty((level.design.n_units, level.size))
        of_units[level.order] = (problem.scale * level.transform @ values[:, place]).T
        effects.append(of_units)
    return LinearOutcome(
        problem.beta(solution.gamma),
        sigma**2 * inverse @ inverse.T,
        sigma,
        psi,
        tuple(effects),
        -0.5 * value,
        estimation,
    )


def covariances(problem: LinearProblem, theta: np.ndarray, sigma: float) -> tuple[np.ndarray, ...]:
    """psi of each level, outermost first, in the units of the data."""
    out, first = [], 0
    for level in problem.levels:
        last = first + level.factor.n_parameters
        root = sigma * level.transform @ np.asarray(level.factor.factor(theta[first:last]))
        out.append(root @ root.T)
        first = last
    return tuple(out)


def fitted_rows(problem: LinearProblem, estimation: Estimation) -> np.ndarray:
    """X beta + Z b of the sorted rows (rows,), with the random effects of all levels."""
    out = problem.X @ problem.beta(estimation.solution.gamma)
    for level, values, units in zip(
        problem.levels, estimation.solution.effects, unit_places(problem.levels), strict=True
    ):
        b = (problem.scale * level.transform @ values[:, units.place]).T
        counts = np.diff(np.append(level.starts, problem.n_rows))
        out = out + np.einsum("ij,ij->i", level.matrix, np.repeat(b, counts, axis=0))
    return out
