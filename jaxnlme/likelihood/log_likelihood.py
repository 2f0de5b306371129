"""The pure likelihood functions: under jit, grad, hessian and vmap of the user's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnlme.binding.bind import bind
from jaxnlme.binding.problem import Problem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError
from jaxnlme.likelihood.approximations import GroupResult, LikelihoodApproximation, approximation
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.params import Params
from jaxnlme.precision import require_x64
from jaxnlme.typing import Scalar, Vector


def as_problem(model: NLMEModel | None, data: GroupedData | Problem) -> Problem:
    """The Problem of model and data, its leaves JAX arrays (numpy constants may not be closed over inside a jit)."""
    return jax.tree.map(jnp.asarray, data if isinstance(data, Problem) else bind(model, data).problem)


def check_weights(weights: Any, n_groups: int) -> Any:
    """Group weights as an array (groups,). **Errors:** OptionError for another shape, or negative numbers."""
    weights = jnp.asarray(weights)
    if weights.shape != (n_groups,):
        raise OptionError(f"weights must have shape ({n_groups},), one a group; received {weights.shape}.")
    if not isinstance(weights, Tracer) and bool((np.asarray(weights) < 0).any()):
        raise OptionError("weights must not be negative.")
    return weights


def evaluate_groups(
    problem: Problem, params: Params, method: LikelihoodApproximation, modes: Any = None
) -> GroupResult:
    """One GroupResult with a leading groups axis, in the order of the data.

    **Arguments:** `modes` (groups, random): starts of the searches, zeros where None.
    """
    density = problem.density
    if modes is None:
        modes = jnp.zeros((problem.n_groups, density.n_effects))
    return problem.map(lambda group, z0: method.evaluate(density, params, group, z0), modes)


def group_log_likelihoods(
    model: NLMEModel | None,
    params: Params,
    data: GroupedData | Problem,
    method: str | LikelihoodApproximation = "focei",
    *,
    modes: Any = None,
) -> Vector:
    """log p(y_i | params) of each group (groups,), with every constant, in the order of the data's labels.

    Pure, and differentiable in params to any order (through the conditional modes, exactly).

    **Arguments:** `params` from `model.params(data)`; `data` a GroupedData (or a Problem, where the data themselves are
    traced); `method`, a rung or its name; `modes` (groups, random), whitened starts of the inner searches.
    **Errors:** PrecisionError where 64-bit floats are off; ModelError where the outcome does not suit the rung. A group
    without a finite likelihood is NaN.
    """
    require_x64("group_log_likelihoods")
    problem = as_problem(model, data)
    chosen = jax.tree.map(jnp.asarray, approximation(method))
    chosen.check(problem.density)
    return evaluate_groups(problem, params, chosen, modes).value


def log_likelihood(
    model: NLMEModel | None,
    params: Params,
    data: GroupedData | Problem,
    method: str | LikelihoodApproximation = "focei",
    weights: Any = None,
    *,
    modes: Any = None,
) -> Scalar:
    """sum_i w_i log p(y_i | params): see `group_log_likelihoods`; priors are not included.

    **Arguments:** `weights` (groups,), the data's own where None; a group of weight zero adds nothing to value and
    derivatives, whatever its likelihood is.
    """
    problem = as_problem(model, data)
    weights = problem.weights if weights is None else check_weights(weights, problem.n_groups)
    if isinstance(weights, Tracer) or not np.all(np.asarray(weights)):
        problem = problem.with_spared(weights)
    values = group_log_likelihoods(model, params, problem, method, modes=modes)
    return jnp.sum(jnp.where(weights == 0, 0.0, weights * values))
