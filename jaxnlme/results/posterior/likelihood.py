"""Log-likelihoods of all groups at draws of the parameters, and moments of the random effects over draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.results.settings import DRAWS


def log_likelihoods_at(binding: Binding, method: LikelihoodApproximation, packed: np.ndarray) -> np.ndarray:
    """log p(y_i) (draws, groups) by `method` at the parameters `packed` (draws, packed)."""
    problem, start = binding.problem, binding.start
    template = Params(start.beta, start.covariance, start.error, None)
    size = max(1, min(len(packed), DRAWS.cells_per_call // max(problem.n_rows, 1)))
    out = []
    with x64():
        program = compiled(_log_likelihoods, problem.n_rows * size)
        on = on_device((problem, template))
        method = on_device(method)
        for first in range(0, len(packed), size):
            part = packed[np.minimum(np.arange(first, first + size), len(packed) - 1)]
            out.append(np.asarray(program(*on, method, jnp.asarray(part)))[: len(packed) - first])
    return np.concatenate(out) if out else np.zeros((0, binding.data.n_groups))


def _log_likelihoods(problem: Problem, template: Params, method: LikelihoodApproximation, packed: Any) -> Any:
    """For `log_likelihoods_at`: (draws, groups), one draw after another."""
    zero = jnp.zeros((problem.n_groups, problem.density.n_effects))

    def at(row: Any) -> Any:
        params = template.unpack(row)
        return problem.map(lambda group, z: method.evaluate(problem.density, params, group, z).value, zero)

    return jax.lax.map(at, packed)


def effect_moments(binding: Binding, packed: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (groups, random) of the random effects b = L z over draws of `packed` (draws,
    packed) and whitened effects `z` (draws, groups, random)."""
    n, m, q = z.shape
    start = binding.start
    template = Params(start.beta, start.covariance, start.error, None)
    size = max(1, min(n, DRAWS.cells_per_call // max(m * q, 1)))
    first, second = np.zeros((m, q)), np.zeros((m, q))
    with x64():
        program = compiled(_effects, size * m)
        on = on_device((binding.density, template))
        for begin in range(0, n, size):
            rows = np.minimum(np.arange(begin, begin + size), n - 1)
            b = np.asarray(program(*on, jnp.asarray(packed[rows]), jnp.asarray(z[rows])))[: n - begin]
            first += b.sum(axis=0)
            second += (b**2).sum(axis=0)
    mean = first / max(n, 1)
    return mean, np.sqrt(np.maximum(second / max(n, 1) - mean**2, 0.0))


def _effects(density: Density, template: Params, packed: Any, z: Any) -> Any:
    """Random effects (draws, groups, random)."""

    def at(row: Any, z: Any) -> Any:
        params = template.unpack(row)
        return jax.vmap(lambda z: density.effects(params, z))(z)

    return jax.vmap(at)(packed, z)
