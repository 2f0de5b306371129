"""Random effects that are confounded with a correlation of the residuals, looked for before a fit."""

from __future__ import annotations

import functools
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
from jaxnlme.model.residual_error.named_scales import constant_scale


def check_confounding(binding: Binding, start: Params, placed: PlacedProblem) -> None:
    """Check that no random effect is added to the prediction beside a correlation of all rows of its units: the groups,
    or the units of a nested level within which rows are correlated.

    With a constant scale s, R + d 11' is again of the form s^2 C for compound symmetry and unstructured correlations,
    so that only the sum with the variance of such an effect is determined.

    **Raises:** ModelError naming the effects.
    """
    density, error = binding.density, binding.density.error
    correlation = correlation_of(error) if isinstance(error, GaussianError) else None
    if not isinstance(correlation, (Exchangeable, Unstructured)) or not density.n_effects:
        return
    assert isinstance(error, GaussianError)
    levels = binding.data.level_names
    within = levels[0] if correlation.within is None else correlation.within
    free = not all(p.fix for p in error.parameters[-len(correlation.parameters) :])
    if within not in levels or not free or error.scale is not constant_scale or error.by is not None:
        return
    depth = levels.index(within)
    _, chunks = placed.run(_variation_at(depth), start, once=True)
    variation, size = (placed.collect(part) for part in zip(*chunks, strict=True))
    with np.errstate(all="ignore"):
        largest = np.max(placed.processes.gather(np.nanmax(variation, axis=0)), axis=0)
    used = np.max(placed.processes.gather(np.nanmax(size, axis=0)), axis=0) > 0
    first, last = len(density.beta_names), len(density.beta_names) + density.covariance.n_unconstrained
    if binding.fixed[first:last].all():
        return
    at_level = _effects_at(density, depth)
    names = [
        name
        for k, name in enumerate(density.effect_names)
        if k in at_level
        and used[k]
        and largest[k] < CHECKS.padding_change
        and element_name((k,), density.effect_names) not in binding.held
    ]
    if names:
        verb = "are" if len(names) > 1 else "is"
        unit = "a group" if depth == 0 else f"one {within}"
        raise ModelError(
            f"only the sum of the variance of the random effect of {some(names)}, which {verb} added to the "
            f"prediction, and of the covariance that all residuals of {unit} share ({correlation.formula}) is "
            "determined by the data: leave one of them out, hold one fixed (rho=jn.fixed(...)), or give the "
            "correlation within= smaller units."
        )


def _effects_at(density: Density, depth: int) -> tuple[int, ...]:
    """Positions of the distinct effects of a level: 0 for the groups, 1 for the first nested level, ..."""
    if density.levels is None:
        return tuple(range(density.n_effects)) if depth == 0 else ()
    return next((level.effects for level in density.levels.levels if level.depth == depth), ())


@functools.cache
def _variation_at(depth: int) -> Any:
    """The function for `PlacedProblem.run` that computes, by group and distinct effect (groups, distinct effects), how
    much the slope of the prediction in the effect varies over the rows with a response of a unit of the level `depth`,
    as a fraction of its size, and that size; at b = 0 and beside it."""

    def variation(problem: Problem, params: Params, _: Any) -> tuple[Any, Any]:
        density = problem.density
        n, q = density.n_effects, density.covariance.size
        shifts = jnp.stack([jnp.zeros(n), *(jnp.full(n, s) for s in CHECKS.effect_shifts)])
        effects = np.arange(n) if density.levels is None else density.levels.effect_of_entry
        together = np.eye(q)[effects]  # (random, distinct effects): the same effect of all units at once

        def per_group(group):
            def predict(b):
                phi = density.phi_given(params.beta, b, group, params.free)
                return density.structural(params.free, phi, group.x, group.v)

            slopes = jax.vmap(jacobian(predict))(shifts) @ together  # (points, obs, distinct effects)
            units = 1 if depth == 0 else group.units[depth - 1].present.shape[0]
            unit = jnp.zeros(group.y.shape, int) if depth == 0 else group.units[depth - 1].index
            inside = (unit[:, None] == jnp.arange(units)[None, :]) & group.x.observed[:, None]
            seen = inside[None, :, None, :]
            high = jnp.max(jnp.where(seen, slopes[..., None], -jnp.inf), axis=(0, 1))  # (effects, units)
            low = jnp.min(jnp.where(seen, slopes[..., None], jnp.inf), axis=(0, 1))
            size = jnp.max(jnp.where(seen, jnp.abs(slopes)[..., None], 0.0), axis=(0, 1))
            has = jnp.any(inside, axis=0)[None, :] & (size > 0)
            relative = jnp.where(has, (high - low) / jnp.where(has, size, 1.0), 0.0)
            return jnp.max(relative, axis=1), jnp.max(size, axis=1)

        return (), problem.map(per_group)

    return variation
