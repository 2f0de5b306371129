"""Starting values suited to simulation, for stochastic fits.

1. `limit_residual_scale`: residual scales no larger than the responses vary.
2. `simulation_start`: standard deviations that the user did not give are widened, and a singular psi moves into the
   interior (`moved_inside`), because draws need positive variances.
3. `replicate_starts`: the starts that the user gave, and dispersed ones for further replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.endpoints import rows_of_part
from jaxnlme.binding.random_effects import effect_name
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.starting_values import start_params
from jaxnlme.estimators.em.saem import AbstractStochastic
from jaxnlme.estimators.em.settings import START
from jaxnlme.model.params import Params
from jaxnlme.numerics.devices import Processes


def is_singular_and_free(binding: Binding, params: Params) -> bool:
    """True if psi is singular and not fixed by the user."""
    return _is_singular(binding, params) and not binding.model.fix_psi


def _is_singular(binding: Binding, params: Params) -> bool:
    """True if psi is singular: a scale of zero."""
    theta = np.asarray(params.covariance, float)
    return any(theta[index] == -np.inf for index, _, _ in binding.density.covariance.log_scales)


def moved_inside(binding: Binding, params: Params) -> Params:
    """Params with psi moved from its boundary into the interior: small variances in place of zeros, correlations
    reduced."""
    density = binding.density
    psi = psi_of(density, np.asarray(params.covariance, float))
    start_variances = np.diag(psi_of(density, np.asarray(binding.start.covariance, float)))
    reopened = START.reopened_sd_fraction**2 * np.where(start_variances > 0, start_variances, 1.0)
    variances = np.diag(psi) + np.where(np.diag(psi) <= 0, reopened, 0.0)
    psi = START.correlation_fraction * psi + np.diag(variances - START.correlation_fraction * np.diag(psi))
    return Params(params.beta, density.covariance.from_matrix(psi), params.error, params.free)


def simulation_start(binding: Binding, params: Params, start: Any) -> tuple[Params, list[str]]:
    """Starting values suited to simulation: standard deviations that the user did not give widened, a singular psi
    moved into the interior.

    **Arguments:** `start` as the user gave it. **Returns:** Params, and sentences on psi if it was moved.
    **Raises:** OptionError if psi is fixed and singular.
    """
    density = binding.density
    psi = psi_of(density, np.asarray(params.covariance, float))
    is_zero = np.diag(psi) <= 0
    names = ", ".join(name for name, zero in zip(density.effect_names, is_zero, strict=True) if zero)
    if is_zero.any() and binding.model.fix_psi:
        raise OptionError(
            f"psi is fixed with a variance of zero for {names}, where there is nothing to draw; leave the effect out, "
            "or fit the model by 'focei' or 'laplace'."
        )
    if binding.model.fix_psi and _is_singular(binding, params):
        raise OptionError(
            "psi is fixed where it is singular (a correlation of one), and the complete data have no density there; "
            "leave an effect out, or fit the model by 'focei' or 'laplace'."
        )
    if is_singular_and_free(binding, params):
        sentence = (
            f"The variance of {names} was zero in the start and begins above zero: draws need a positive variance."
            if names
            else "Psi was singular in the start and begins positive definite, as draws need it."
        )
        return moved_inside(binding, params), [sentence]
    names_psi = isinstance(start, Mapping) and any(name.startswith(("sd(", "corr(")) for name in start)
    model_psi = start is None or (isinstance(start, Mapping) and not names_psi)
    if not model_psi or binding.model.psi is not None or binding.model.fix_psi:
        return params, []
    with_sd = {
        effect_name(p.name, level, depth)
        for depth, level in enumerate(binding.data.level_names)
        for p in binding.model.parameters
        if p.sd_of(level) is not None
    }
    factors = np.array([1.0 if name in with_sd else START.sd_factor for name in density.effect_names])
    psi = psi * np.outer(factors, factors)
    return Params(params.beta, density.covariance.from_matrix(psi), params.error, params.free), []


def limit_residual_scale(binding: Binding, params: Params, user_starts: Any, processes: Processes) -> Params:
    """Params with residual scales reduced so that the residual standard deviation is no larger than that of the
    responses of all processes: from distant starting values, everything would be attributed to residual error, and the
    chains would not concentrate.

    A scale that depends on the predictors is left as it is.

    **Arguments:** `user_starts`: names of parameters whose starting values the user gave; these are kept.
    """
    theta = np.array(params.error, float)
    for part in binding.density.error.gaussian_parts():
        _limit(binding, theta, part, user_starts, processes)
    return Params(params.beta, params.covariance, theta, params.free)


def _limit(binding: Binding, theta: np.ndarray, part: Any, user_starts: Any, processes: Processes) -> None:
    """`limit_residual_scale` of one of the `gaussian_parts` of the residual model, in place of its entries of
    `theta`."""
    error, entries, endpoint = part
    if error.n_shape or error.by is not None or error.sees_x:
        return
    own = list(entries)
    named = zip([binding.density.error_names[k] for k in own], error.parameters, strict=True)
    automatic = np.array([p.automatic and name not in user_starts for name, p in named], bool)
    y = binding.data.y[binding.data.observed & rows_of_part(binding, endpoint)]
    values, n_scale = error.natural(theta[own]), error.n_scale
    scale = np.asarray(error.scale(y, **dict(zip(values.names[:n_scale], values.values[:n_scale], strict=True))))
    real = np.asarray(error.response.to_real(y))
    sums = [len(y), real.sum(), np.broadcast_to(scale**2, y.shape).sum()]
    n, total, squares = processes.total(np.array(sums))
    response_sd = np.sqrt(processes.total(np.sum((real - total / n) ** 2)) / n)
    residual_sd = np.sqrt(squares / n)
    if np.isfinite(residual_sd) and 0.0 < response_sd < residual_sd:
        theta[own] += np.where(automatic, np.log(response_sd / residual_sd), 0.0)


def replicate_starts(
    binding: Binding, params: Params, user_starts: Sequence[Any] | None, estimator: AbstractStochastic
) -> list[Params]:
    """Params of each replicate: those that the user gave, and dispersed ones around the first for the others.

    **Raises:** OptionError if there are more starts than replicates.
    """
    if user_starts is None:
        starts = [params]
    else:
        starts = [simulation_start(binding, start_params(binding, start), start)[0] for start in user_starts]
    if user_starts is not None and len(user_starts) > max(estimator.replicates, 1):
        raise OptionError(f"start has {len(user_starts)} entries for {estimator.replicates} replicates.")
    seed = estimator.seed if isinstance(estimator.seed, tuple) else (abs(estimator.seed),)
    for number in range(len(starts), estimator.replicates):
        starts.append(_dispersed(binding, starts[0], np.random.default_rng([*seed, number])))
    return starts


def _dispersed(binding: Binding, params: Params, random: np.random.Generator) -> Params:
    """Random Params around `params`: normal with the starting SD of its random effect for an entry of beta, or a
    fraction of its absolute value; with a common SD for log standard deviations and residual parameters on their
    unconstrained scales (`settings.START`); what is fixed stays."""
    density = binding.density
    beta, theta, error = (np.array(part, float) for part in (params.beta, params.covariance, params.error))
    sd = dict(zip(density.effect_names, np.sqrt(np.diag(psi_of(density, theta))), strict=True))
    width = np.array(
        [
            sd.get(name, START.coefficient_dispersion * abs(b) or START.zero_coefficient_dispersion)
            for name, b in zip(density.beta_names, beta, strict=True)
        ]
    )
    scale_width = np.zeros(len(theta))
    scale_width[[index for index, _, _ in density.covariance.log_scales]] = START.log_scale_dispersion
    widths = np.concatenate([width, scale_width, np.full(len(error), START.log_scale_dispersion)])
    displacement = widths * random.standard_normal(len(binding.fixed))
    packed = np.concatenate([beta, theta, error]) + np.where(binding.fixed, 0.0, displacement)
    p, c = len(beta), len(theta)
    return Params(packed[:p], packed[p : p + c], packed[p + c :], params.free)
