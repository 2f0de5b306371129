"""Models whose likelihood every approximation gives exactly: residuals linear in the effects, a scale that does not
depend on them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.comparison.settings import EXACTNESS
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.integrals import ImportanceIntegral
from jaxnlme.model.params import Params
from jaxnlme.results.evaluate import evaluate_by_bucket
from jaxnlme.results.record import FitRecord
from jaxnlme.results.stochastic_summary import INTEGRALS

IMPORTANCE_SAMPLING = "importance sampling"


def approximation_of(fit: FitRecord) -> str:
    """The name of the approximation of a fit's log-likelihood: equal names are the same function of the parameters, but
    for Monte Carlo error."""
    if fit.sampling is not None:
        kind = fit.sampling.likelihood
        return IMPORTANCE_SAMPLING if kind == "is" else INTEGRALS.get(kind, kind)
    method = fit.estimator.method if fit.posterior is None else fit.posterior.approximation
    if not isinstance(method, LikelihoodApproximation):
        return "LME"  # the linearised mixed model; RELME is its restricted form
    if isinstance(method.integral, ImportanceIntegral):
        return IMPORTANCE_SAMPLING
    plain = method.curvature == "exact" or not method.name.startswith(("Laplace", "AGQ"))
    return method.name if plain else f"{method.name} with Gauss-Newton curvature"


def is_exact(fit: FitRecord) -> bool:
    """True if the log-likelihood of a fit is exact: by a deterministic method, of a model with Gaussian responses whose
    residuals are linear in the random effects (for a restricted likelihood also in the fixed ones) and whose residual
    scale does not depend on them. Decided by second differences of the residuals of all rows, at the estimates."""
    density = fit.binding.density
    if approximation_of(fit) == IMPORTANCE_SAMPLING:
        return False
    if not fit.restricted and not density.n_effects:
        return True
    if not density.error.has_gaussian_moments or density.error.is_limited:
        return False
    rng = np.random.default_rng(0)
    beta = np.asarray(fit.params.beta, float)
    shape = (fit.data.n_groups, density.n_effects)
    centre = _moments(fit, beta, np.zeros(shape))
    for step in EXACTNESS.steps:
        z = step * rng.standard_normal(shape)
        moved = step * rng.uniform(-0.5, 0.5, len(beta)) * np.maximum(np.abs(beta), 1e-3)
        change = np.where(fit.binding.fixed[: len(beta)], 0.0, moved) if fit.restricted else np.zeros(len(beta))
        above, below = _moments(fit, beta + change, z), _moments(fit, beta - change, -z)
        for (r0, s0), (r1, s1), (r2, s2) in zip(centre, above, below, strict=True):
            size = np.maximum(np.max(np.abs(r1 - r2)), np.max(np.abs(r0)) * EXACTNESS.tolerance)
            bent = np.max(np.abs(r1 + r2 - 2.0 * r0))
            rescaled = max(np.max(np.abs(s1 - s0) / s0), np.max(np.abs(s2 - s0) / s0))
            if not (bent <= EXACTNESS.tolerance * size and rescaled <= EXACTNESS.tolerance):
                return False
    return True


def _moments(fit: FitRecord, beta: np.ndarray, z: np.ndarray) -> list[Any]:
    """Residuals and scales, each (groups, obs), by bucket."""
    at = dataclasses.replace(fit, params=dataclasses.replace(fit.params, beta=beta))
    return evaluate_by_bucket(_residual_and_scale, at, fit.binding, z)


def _residual_and_scale(problem: Problem, params: Params, z: jax.Array) -> list[Any]:
    """Residuals and scales per bucket at whitened effects `z` (groups, random)."""
    density = problem.density

    def per_group(group: Any, z: jax.Array) -> Any:
        f = density.predict(params, z, group)
        return density.error_at(params).moments(f, f, params.error, group)[:2]

    return problem.map_buckets(per_group, z)
