"""Starting values: residual scales from the misfit at the start, and the pooled fit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.model.binding import Binding
from jaxnlme.model.params import Params


def scaled_error_start(binding: Binding, params: Params, misfit: float | None, given: Collection[str] = ()) -> Params:
    """Params whose residual scales, where the user gave no start (in the model, or by name in `given`), are multiplied
    by the root mean square of the standardised residuals at z = 0: a fit does not depend on the unit of y."""
    if misfit is None or not 0.0 < misfit < np.inf:
        return params
    density = binding.density
    named = zip(density.error_names, density.error.parameters, strict=True)
    automatic = np.array([p.automatic and name not in given for name, p in named], bool)
    error = np.asarray(params.error) + np.where(automatic, np.log(misfit), 0.0)
    return Params(params.beta, params.covariance, error, params.free)


def pooled_start(binding: Binding, params: Params, given: Collection[str] = ()) -> tuple[Params, str]:
    """Beta (and the free block) of the model without random effects, by least squares over all data
    (Levenberg-Marquardt, optimistix), and residual scales that match what it leaves; and a sentence for the record.

    **Errors:** OptionError where the outcome has no Gaussian face.
    """
    import optimistix as optx

    density = binding.density
    if not density.error.gaussian_face:
        raise OptionError("starts='pooled' is least squares and needs a Gaussian residual model.")
    moving = ~binding.fixed[: len(density.beta_names)]
    problem = jax.tree.map(jnp.asarray, binding.problem)
    template = jax.tree.map(jnp.asarray, params)

    def residuals(beta_and_free: Any, problem: Any) -> Any:
        beta, free = beta_and_free
        at = Params(jnp.where(moving, beta, template.beta), template.covariance, template.error, free)

        def one(group):
            f = density.predict(at, jnp.zeros(density.n_effects), group)
            residual, scale, _ = density.error.moments(f, f, at.error, group)
            return residual, scale

        return problem.map_buckets(one)

    def weighted(y: Any, problem: Any) -> Any:
        # Scales at the start's predictions: least squares may not shrink a residual by inflating its scale.
        pieces = residuals(y, problem)
        return [root[:, None] * r / jax.lax.stop_gradient(s) for root, (r, s) in zip(roots, pieces, strict=True)]

    roots = [jnp.sqrt(template_weights) for template_weights in _bucket_weights(binding)]
    solver = optx.LevenbergMarquardt(rtol=1e-6, atol=1e-6)
    begin = (template.beta, template.free)
    end = eqx.filter_jit(optx.least_squares)(weighted, solver, begin, args=problem, max_steps=200, throw=False).value
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(end)):
        return params, "The pooled start failed (not finite); the fit began from the model's own starts."
    total = sum(
        float(jnp.sum((root[:, None] * r / s) ** 2))
        for root, (r, s) in zip(roots, residuals(end, problem), strict=True)
    )
    seen = float(np.sum(binding.data.weights * np.sum(binding.data.observed, axis=1)))
    beta = np.where(moving, np.asarray(end[0]), np.asarray(params.beta))
    pooled = Params(beta, params.covariance, params.error, jax.tree.map(np.asarray, end[1]))
    scaled = scaled_error_start(binding, pooled, float(np.sqrt(total / max(seen, 1e-300))), given)
    return scaled, "Started from a pooled fit without random effects."


def _bucket_weights(binding: Binding) -> list[Any]:
    """Group weights in the order of each bucket's groups."""
    return [jnp.asarray(binding.data.weights[which]) for which in binding.bucket_groups]
