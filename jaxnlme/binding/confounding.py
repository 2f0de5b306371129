"""Random effects that are confounded with a correlation of the residuals, looked for before a fit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.series import correlation_of
from jaxnlme.binding.settings import CHECKS
from jaxnlme.errors import ModelError, some
from jaxnlme.model.covariance.base import element_name
from jaxnlme.model.density import Density
from jaxnlme.model.derivatives import jacobian
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.residual_error.correlation_matrices import Exchangeable, Unstructured
from jaxnlme.model.residual_error.named_scales import _constant


def check_confounding(binding: Binding, start: Params, placed: PlacedProblem) -> None:
    """Check that no random effect is added to the prediction beside a correlation of all rows of a group.

    With a constant scale s, R + d 11' is again of the form s^2 C for compound symmetry and unstructured correlations,
    so that only the sum with the variance of such an effect is determined.

    **Raises:** ModelError naming the effects.
    """
    density, error = binding.density, binding.density.error
    correlation = correlation_of(error)
    if not isinstance(correlation, (Exchangeable, Unstructured)) or correlation.within is not None:
        return
    assert isinstance(error, GaussianError)
    free = not all(p.fix for p in error.parameters[-len(correlation.parameters) :])
    n_outer = n_effects_of_groups(density)
    if not n_outer or not free or error.scale is not _constant or error.by is not None or not density.n_effects:
        return
    _, chunks = placed.run(_variation, start, once=True)
    variation, size = (placed.collect(part) for part in zip(*chunks, strict=True))
    with np.errstate(all="ignore"):
        largest = np.max(placed.processes.gather(np.nanmax(variation, axis=0)), axis=0)
    used = np.max(placed.processes.gather(np.nanmax(size, axis=0)), axis=0) > 0
    first, last = len(density.beta_names), len(density.beta_names) + density.covariance.n_unconstrained
    if binding.fixed[first:last].all():
        return
    names = [
        name
        for k, name in enumerate(density.effect_names[:n_outer])
        if used[k]
        and largest[k] < CHECKS.padding_change
        and element_name((k,), density.effect_names) not in binding.held
    ]
    if names:
        verb = "are" if len(names) > 1 else "is"
        raise ModelError(
            f"only the sum of the variance of the random effect of {some(names)}, which {verb} added to the "
            f"prediction, and of the covariance that all residuals of a group share ({correlation.formula}) is "
            "determined by the data: leave one of them out, hold one fixed (rho=jn.fixed(...)), or give the "
            "correlation within=."
        )


def n_effects_of_groups(density: Density) -> int:
    """Number of random effects of the groups themselves, which come first among all."""
    if density.levels is None:
        return density.n_effects
    outermost = density.levels.levels[0]
    return 0 if outermost.depth else len(outermost.effects)


def _variation(problem: Problem, params: Params, _: Any) -> tuple[Any, Any]:
    """By group and effect (groups, random): how much the slope of the prediction in the effect varies over the rows
    with a response, as a fraction of its size, and that size; at b = 0 and beside it."""
    density = problem.density
    shifts = jnp.stack([jnp.zeros(density.n_effects), *(jnp.full(density.n_effects, s) for s in CHECKS.effect_shifts)])

    def per_group(group):
        def predict(b):
            phi = density.phi_given(params.beta, b, group)
            return density.structural(params.free, phi, group.x, group.v)

        slopes = jax.vmap(jacobian(predict))(shifts)  # (points, obs, random)
        seen = group.x.observed[None, :, None]
        high = jnp.max(jnp.where(seen, slopes, -jnp.inf), axis=(0, 1))
        low = jnp.min(jnp.where(seen, slopes, jnp.inf), axis=(0, 1))
        size = jnp.max(jnp.where(seen, jnp.abs(slopes), 0.0), axis=(0, 1))
        has = jnp.any(group.x.observed) & (size > 0)
        return jnp.where(has, (high - low) / jnp.where(has, size, 1.0), 0.0), size

    return (), problem.map(per_group)
