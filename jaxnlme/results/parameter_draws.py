"""Draws of the population parameters from the distribution of their estimates.

The estimates of all parameters are taken as jointly normal on the scales on which they are unconstrained: fixed effects
on the transformed scale, psi by the parametrisation of its family (log standard deviations and what else makes a
positive definite matrix of any real vector), error parameters on the real line. So every draw is a valid set of
parameters, and the correlations of the estimates are kept. An inverse Wishart distribution of psi has one number, its
degrees of freedom, for the precision of all its elements, and is independent of the other parameters.

Of a posterior (`jn.NUTS`), the draws are its own, in a random order.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.user_scale import message_names
from jaxnlme.errors import FitError, some
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.linalg import semidefinite_cholesky
from jaxnlme.precision import x64
from jaxnlme.results.inference import direction_words
from jaxnlme.results.settings import DRAWS

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


def parameter_draws(fit: FitRecord, n: int, seed: int, caller: str, robust: bool = False) -> tuple[np.ndarray, int]:
    """Packed parameters (n, packed) from the normal distribution of the estimates, or from the posterior, and the
    number of draws that were not valid (a reported value was not finite) and were drawn again. Entries on a log scale
    about which the data say nothing are held at their estimates, with a warning.

    **Arguments:** `n`: 0 for the estimates themselves, (1, packed); `seed`; `caller`: for messages; `robust`: the
    covariance of the estimates is the sandwich.
    **Raises:** FitError without standard errors, and where valid draws are too rare.
    """
    packed = np.asarray(_dense(fit).pack(), float)
    if n == 0:
        return packed[None, :], 0
    if fit.posterior is not None:
        if robust:
            raise FitError(f"{caller}: a posterior has no robust (sandwich) covariance; leave out robust=True.", fit)
        return fit.posterior.kept[fit.posterior.choose(n, seed)], 0
    covariance, active = determined(fit, *covariance_of_estimates(fit, robust, caller), caller)
    out = np.repeat(packed[None, :], n, axis=0)
    needed, redrawn = np.arange(n), 0
    with x64():
        check = compiled(_valid, 0)
        density, template = on_device((fit.binding.density, _dense(fit)))
        for attempt in range(DRAWS.redraws):
            # The draws of a further attempt have a seed of their own; draw k is the same for every n.
            steps = normal_draws(covariance, n, seed + attempt * 1_000_003)[needed]
            out[np.ix_(needed, active)] = packed[active] + steps
            valid = np.asarray(check(density, template, out[needed]))
            needed = needed[~valid]
            if not len(needed):
                return out, redrawn
            redrawn += len(needed)
    raise FitError(
        f"{caller}: {len(needed)} of {n} draws of the parameters have values that are not finite; the covariance of "
        "the estimates is too wide for a normal approximation.",
        fit,
    )


def covariance_of_estimates(fit: FitRecord, robust: bool, caller: str) -> tuple[np.ndarray, np.ndarray]:
    """The covariance (active, active) of the estimated packed parameters, of a posterior that of its draws, and their
    indices; `caller`: the function that needs it, for the message.

    **Raises:** FitError where the fit has no standard errors.
    """
    if fit.posterior is not None:
        if robust:
            raise FitError(f"{caller}: a posterior has no robust (sandwich) covariance; leave out robust=True.", fit)
        return fit.posterior.packed_covariance()
    info = fit.information
    if info is None:
        reason = (
            "they were not computed: fit with standard_errors=True."
            if fit.converged
            else f"they were not computed, for the fit has not converged. {fit.status}"
        )
        raise FitError(f"{caller} needs the standard errors of the fit, and {reason}", fit)
    if info.singular:
        directions = some([direction_words(direction) for direction in info.singular])
        raise FitError(
            f"the fit has no standard errors: its information matrix is singular in the direction {directions}. Hold "
            "one of these parameters fixed, or simplify the model.",
            fit,
        )
    covariance = info.sandwich if robust else info.covariance
    assert covariance is not None
    return covariance, np.asarray(info.active, int)


def determined(
    fit: FitRecord, covariance: np.ndarray, active: np.ndarray, caller: str
) -> tuple[np.ndarray, np.ndarray]:
    """`covariance` (active, active) and `active` without the entries on a log scale whose standard error is too large
    for a normal distribution of their logarithm: a part of a residual scale, say, that is almost zero. The others have
    the distribution given these. `caller`: the function that draws, for the warning."""
    density, first = fit.binding.density, len(fit.binding.density.beta_names)
    in_units = {first + k for _, _, column in density.covariance.log_scales for k in column}
    on_log_scale = np.array([entry >= first and entry not in in_units for entry in active], bool)
    held = on_log_scale & (np.sqrt(np.diag(covariance)) > DRAWS.largest_log_se)
    if not held.any():
        return covariance, active
    names = message_names(fit.binding, active[held])
    warnings.warn(
        f"{caller}: the data do not determine {some(names)} (standard error on the log scale above "
        f"{DRAWS.largest_log_se:g}), which is held at its estimate in all draws. Leave it out of the model, or see "
        "fit.profile() for its interval.",
        stacklevel=4,
    )
    others = ~held
    across = covariance[np.ix_(others, held)]
    given = covariance[np.ix_(others, others)] - across @ np.linalg.solve(covariance[np.ix_(held, held)], across.T)
    return given, active[others]


def normal_draws(covariance: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Draws (n, active) from N(0, covariance)."""
    noise = np.asarray(jax.random.normal(jax.random.key(seed), (n, len(covariance)), float))
    scale = np.sqrt(np.diag(covariance))
    unit = np.where(scale > 0, scale, 1.0)
    return noise @ (unit[:, None] * semidefinite_cholesky(covariance / np.outer(unit, unit))).T


def _dense(fit: FitRecord) -> Params:
    return Params(fit.params.beta, fit.params.covariance, fit.params.error, None)


def _valid(density: Density, template: Params, packed: jax.Array) -> jax.Array:
    """True (n,) where all reported values are finite, and no variance is zero or infinite by overflow."""
    return jax.vmap(lambda row: jnp.isfinite(density.reported(template.unpack(row))).all())(packed)
