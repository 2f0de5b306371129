"""Log-likelihoods of all groups at many values of the parameters, in one compiled program."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.errors import FitError, OptionError
from jaxnlme.estimators.core.objective import unflatten
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.refits.settings import SIR
from jaxnlme.results.inference import Information
from jaxnlme.results.record import FitRecord


def group_values_at(fit: FitRecord, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p(y_i | params) (points, groups) and the log prior (points,) at `packed` (points, n), by the likelihood
    approximation of the fit, mode searches starting from its modes; NaN where the likelihood is not finite."""
    assert isinstance(fit.estimator, MaximumLikelihood)
    problem, width = fit.binding.problem, SIR.points_at_a_time
    values, priors = [], []
    with x64():
        arguments = on_device((problem, fit.estimator.method, fit.params, fit.modes))
        program = compiled(_values, problem.n_rows * width)
        for first in range(0, len(packed), width):
            points = packed[first : first + width]
            padded = np.concatenate([points, np.repeat(points[-1:], width - len(points), axis=0)])
            value, prior = program(*arguments, padded)
            values.append(np.asarray(value)[: len(points)])
            priors.append(np.asarray(prior)[: len(points)])
    return np.concatenate(values), np.concatenate(priors)


def _values(problem: Problem, method: LikelihoodApproximation, template: Params, modes: Any, packed: jax.Array) -> Any:
    def at(x: jax.Array) -> Any:
        params = unflatten(template, x)
        density = problem.density
        result = problem.map(lambda group, z0: method.evaluate(density, params, group, z0), modes)
        return result.value, density.log_prior(params)

    return jax.lax.map(at, packed)


def information_of(fit: FitRecord, analysis: str) -> Information:
    """The information matrix of a fit, for an `analysis` that takes it for that of the maximum of a likelihood.

    **Raises:** FitError where the fit did not converge or has no information matrix; OptionError for a restricted
    likelihood, and for networks in the model.
    """
    if not fit.converged:
        raise FitError(f"{analysis} needs a fit that converged. {fit.status}", fit)
    if fit.restricted:
        raise OptionError(
            f"{analysis} needs the maximum of a sum over groups, which a restricted likelihood is not; fit the model "
            "without restricted=True (method 'lme' for 'relme')."
        )
    if fit.params.free is not None:
        raise OptionError(
            f"{analysis} needs the information of all parameters, and the weights of networks have none; use "
            "fit.bootstrap()."
        )
    info = fit.information
    if info is None or info.covariance is None:
        raise FitError(
            f"{analysis} needs the observed information, which this fit has not (standard_errors=False, or it is "
            f"singular). {fit.status}",
            fit,
        )
    return info


def require_approximation(fit: FitRecord, analysis: str) -> MaximumLikelihood:
    """The estimator of a fit that maximises a likelihood approximation. **Raises:** OptionError for another fit."""
    if not isinstance(fit.estimator, MaximumLikelihood):
        raise OptionError(
            f"{analysis} needs a fit that maximises a likelihood approximation ('focei', ...); this one is by "
            f"{fit.method}. Fit the model that way from these estimates: jn.fit(model, data, 'focei', start=fit)."
        )
    return fit.estimator
