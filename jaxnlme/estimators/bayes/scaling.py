"""Coordinates of chains in which the posterior has about unit scale, from what is known at the start.

1. Parameters: around the start, by the factor of the inverse information (of a fit), of the covariance of posterior
   draws (of an earlier sampler), or by rough widths.
2. Random effects of the joint density, where the start is a fit: around their conditional modes m, by the factors C of
   the inverse curvatures H there, and with the slopes D = dm/du of the modes in the parameters (implicit function
   theorem, H^-1 times the mixed second derivatives of the log joint density). Without these slopes, effects that the
   data determine well would be strongly correlated with the parameters.
3. The centring c of an effect is 1 minus the mean over groups of the diagonal of H^-1, its conditional variance in
   units of its variance.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.errors import OptionError, some
from jaxnlme.estimators.bayes.objective import Scaling, log_scales
from jaxnlme.estimators.bayes.settings import RUN
from jaxnlme.model import derivatives
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.linalg import unit_diagonal
from jaxnlme.results.record import FitRecord


def scaling_of(
    binding: Binding, problem: Problem, params: Params, active: np.ndarray, start: Any, joint: bool
) -> Scaling:
    """The Scaling around `params`.

    **Arguments:** `problem`: that of `binding`, on the device; `active`: positions of the free parameters; `start`: the
    earlier fit, or anything else; `joint`: the random effects are coordinates too.
    """
    packed = np.asarray(params.pack(), float)
    factor = _parameter_factor(binding, params, active, start)
    m, q = binding.data.n_groups, binding.density.n_effects
    modes, curvature = _modes_of(start, binding)
    starts = np.zeros((m, q)) if modes is None else modes
    rest = starts, np.zeros(q), np.zeros(q), np.zeros(q, int)
    if not joint:
        return Scaling(
            packed[active], factor, np.zeros((0, q)), np.zeros((0, q, len(active))), np.zeros((0, q, q)), *rest
        )
    if modes is None or curvature is None or not q:
        identity = np.broadcast_to(np.eye(q), (m, q, q)).copy()
        return Scaling(packed[active], factor, np.zeros((m, q)), np.zeros((m, q, len(active))), identity, *rest)
    inverse = np.linalg.inv(curvature)
    program = compiled(_mixed_derivatives, problem.n_rows * len(active), once=True)
    on_host = program(problem, on_device(params), jnp.asarray(active), jnp.asarray(modes))
    mixed, log_scale, growth = (np.asarray(part) for part in on_host)
    levels, size = binding.density.levels, binding.density.covariance.size
    # Row of the factor of each random effect: with nested levels the effects of all units share those of their level.
    rows = np.diag(np.arange(size) + 1.0)
    distinct = np.diag(rows if levels is None else levels.expanded(rows)).astype(int) - 1
    informed = binding.data.observed.any(axis=1) & (binding.data.weights != 0)
    share = np.diagonal(inverse, axis1=1, axis2=2)[informed].mean(axis=0) if informed.any() else np.ones(q)
    centring = np.where(log_scale[distinct] != 0.0, np.clip(1.0 - share, 0.0, 1.0), 0.0)
    slopes = inverse @ mixed + modes[:, :, None] * (centring[:, None] * growth[distinct])[None]
    slopes = np.nan_to_num(slopes, nan=0.0, posinf=0.0, neginf=0.0)
    spread = np.linalg.cholesky(inverse)
    return Scaling(packed[active], factor, modes, slopes, spread, starts, centring, log_scale[distinct], distinct)


def _parameter_factor(binding: Binding, params: Params, active: np.ndarray, start: Any) -> np.ndarray:
    """Lower factor (active, active) of a covariance of the free parameters."""
    widths = _rough_widths(binding, params)[active]
    factor = np.diag(widths)
    if not isinstance(start, FitRecord) or len(start.binding.packed_names) != len(binding.packed_names):
        return factor
    covariance, known = None, np.zeros(0, int)
    if start.posterior is not None:
        known = np.flatnonzero(~start.binding.fixed)
        draws = start.posterior.packed.reshape(-1, start.posterior.packed.shape[-1])[:, known]
        covariance = np.cov(draws, rowvar=False).reshape(len(known), len(known))
    elif start.information is not None and not start.information.singular:
        covariance, known = start.information.covariance, np.asarray(start.information.active, int)
    if covariance is None or not np.isfinite(covariance).all():
        return factor
    place = {int(entry): k for k, entry in enumerate(active)}
    pairs = [(place[int(entry)], k) for k, entry in enumerate(known) if int(entry) in place]
    here, there = np.array([a for a, _ in pairs], int), np.array([b for _, b in pairs], int)
    full = np.diag(widths**2)
    full[np.ix_(here, here)] = covariance[np.ix_(there, there)]
    scaled, scale = unit_diagonal(full)
    try:
        return scale[:, None] * np.linalg.cholesky(scaled)
    except np.linalg.LinAlgError:
        return factor


def _rough_widths(binding: Binding, params: Params) -> np.ndarray:
    """Widths (packed,) where nothing is known: of a fixed effect the standard deviation of its random effect over the
    root of the number of groups, or a tenth of its size; of others, scales and correlations on unconstrained scales,
    1 / sqrt(2 groups), and for residual parameters 1 / sqrt(2 observations)."""
    density, data = binding.density, binding.data
    sd = {}
    if density.n_effects:
        sizes = np.sqrt(np.diag(psi_of(density, np.asarray(params.covariance, float))))
        sd = dict(zip(density.effect_names, sizes, strict=True))
    groups, rows = max(data.n_groups, 1), max(data.n_obs, 1)
    beta = [
        sd[name] / np.sqrt(groups) if sd.get(name, 0.0) > 0 else max(0.1 * abs(float(b)), 0.1)
        for name, b in zip(density.beta_names, np.asarray(params.beta), strict=True)
    ]
    theta = np.full(len(np.asarray(params.covariance)), 1.0 / np.sqrt(2.0 * groups))
    error = np.full(len(np.asarray(params.error)), 1.0 / np.sqrt(2.0 * rows))
    return np.concatenate([beta, theta, error])


def _modes_of(start: Any, binding: Binding) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Whitened conditional modes (groups, random) and curvatures of an earlier fit of the same groups, (None, None)
    where there are none, or some are not positive definite."""
    if not isinstance(start, FitRecord) or start.binding.density.n_effects != binding.density.n_effects:
        return None, None
    if start.fingerprint != binding.data.fingerprint():
        return None, None
    modes, curvature = start.conditional
    if not (np.isfinite(modes).all() and np.isfinite(curvature).all()):
        return None, None
    if modes.shape[1] and not (np.linalg.eigvalsh(curvature) > 0).all():
        return None, None
    return np.asarray(modes), np.asarray(curvature)


def _mixed_derivatives(problem: Problem, params: Params, active: Any, modes: Any) -> tuple[Any, Any, Any]:
    """Mixed second derivatives (groups, random, active) of the log joint density at `modes`; the log scales (distinct,)
    and their derivatives (distinct, active)."""
    density, packed = problem.density, params.pack()

    def per_group(group: Any, z: Any) -> Any:
        def slope(u: Any) -> Any:
            at = params.unpack(packed.at[active].set(u))
            return derivatives.gradient(lambda z: density.log_joint(at, z, group))(z)

        return derivatives.jacobian(slope)(packed[active])

    def scales(u: Any) -> Any:
        return log_scales(density, params.unpack(packed.at[active].set(u)))

    u = packed[active]
    return problem.map(per_group, modes), scales(u), derivatives.jacobian(scales)(u)


def check_reported(binding: Binding, params: Params, active: np.ndarray) -> None:
    """Check that every free parameter of psi and the residual model has reported values, on which priors are densities.

    **Raises:** OptionError where a combination of them changes no reported value.
    """
    n_beta = len(binding.density.beta_names)
    tail = [int(k) for k in active if k >= n_beta]
    if not tail:
        return
    program = compiled(_reported_jacobian, 0)
    jacobian = np.asarray(program(binding.density, on_device(params), jnp.asarray(params.pack())))[:, tail]
    gram, _ = unit_diagonal(jacobian.T @ jacobian)
    if not np.isfinite(gram).all() or np.linalg.eigvalsh(gram)[0] < RUN.least_flat_eigenvalue:
        names = some([binding.packed_names[k] for k in tail])
        raise OptionError(
            f"a posterior needs a reported value for every free parameter of psi and of the residual model, because "
            f"priors are densities of reported values; some combination of {names} changes none. Use another "
            "covariance structure, such as 'full' or 'diagonal'."
        )


def _reported_jacobian(density: Any, template: Params, packed: Any) -> Any:
    """Derivatives (reported, packed) of the reported values."""
    return derivatives.jacobian(lambda packed: density.reported(template.unpack(packed)))(packed)
