"""The likelihood as pure functions, for the user's own jit, grad, hessian and vmap."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.arguments import is_traced
from jaxnlme.binding.bind import bind
from jaxnlme.binding.explanations import explained_errors
from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.problem import Problem, check_problem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, shown
from jaxnlme.likelihood.approximations import LikelihoodApproximation, approximation
from jaxnlme.likelihood.conditional_mode import search_mode
from jaxnlme.likelihood.curvature import exact
from jaxnlme.likelihood.differentiable import group_value
from jaxnlme.likelihood.group_result import GroupResult
from jaxnlme.likelihood.mode import ModeSearch, mode_starts
from jaxnlme.model.derivatives import gradient, jacobian, value_and_gradient
from jaxnlme.model.params import Params, check_params
from jaxnlme.precision import require_x64
from jaxnlme.signatures import public
from jaxnlme.typing import Matrix, Scalar, Vector


def as_problem(model: NLMEModel | None, data: GroupedData | Problem) -> Problem:
    """The Problem of a model and data, or the Problem given as `data`, with JAX arrays as leaves."""
    return jax.tree.map(jnp.asarray, data if isinstance(data, Problem) else bind(model, data).problem)


def _check_numbers(weights: Any) -> None:
    if not is_traced(weights) and np.asarray(weights).dtype.kind not in "biuf":
        raise OptionError(f"weights must be numbers, one a group; received {shown(weights)}.")


def check_weights(weights: Any, n_groups: int) -> Any:
    """`weights` as an array (groups,). **Raises:** OptionError for another shape or negative numbers."""
    _check_numbers(weights)
    weights = jnp.asarray(weights)
    if weights.shape != (n_groups,):
        raise OptionError(f"weights must have shape ({n_groups},), one a group; received {weights.shape}.")
    if not is_traced(weights) and bool((np.asarray(weights) < 0).any()):
        raise OptionError("weights must not be negative.")
    return weights


@public("jn.evaluate_groups")
def evaluate_groups(
    problem: Problem, params: Params, method: LikelihoodApproximation, modes: Any = None
) -> GroupResult:
    """Likelihoods of all groups by one approximation.

    **Arguments:** `problem`; `params`; `method`: the approximation; `modes` (groups, random): starts of the searches of
    the modes, whitened; None: each group's mode is the best of those found from `mode_starts`.
    **Returns:** a GroupResult with a leading groups axis, in the order of the data.

    **Example:**

    ```python
    jn.evaluate_groups(fit.binding.problem, fit.params, jn.FOCEI())
    ```
    """
    check_problem(problem)
    check_params(params)
    if not isinstance(method, LikelihoodApproximation):
        method = approximation(method)
    density = problem.density
    return problem.map(lambda group, z0: method.evaluate(density, params, group, z0), _starts(problem, modes))


def _starts(problem: Problem, modes: Any) -> Any:
    """`modes`, or the starts of every group's search (groups, starts, random) if they are None."""
    if modes is not None:
        return modes
    starts = jnp.asarray(mode_starts(problem.density.n_effects))
    return jnp.broadcast_to(starts, (problem.n_groups, *starts.shape))


def modes_of_groups(
    problem: Problem, at: tuple[Params, ModeSearch, bool], starts: Any
) -> tuple[tuple[()], tuple[Any, Any, Any]]:
    """For `PlacedProblem.run`: the conditional modes of all groups, without derivatives.

    **Arguments:** `at`: the Params; limits of the search; true if the residual scale depends on the random effects,
    false if it is that at zero; `starts` (groups, starts, random), whitened.
    **Returns:** no sums; by group, whitened modes (groups, random), the Hessian of minus the log joint density there,
    and whether the mode was found.
    """
    params, search, interacting = at
    density = problem.density
    zero = jnp.zeros(density.n_effects)

    def per_group(group, z0):
        at_zero = None if interacting else density.predict(params, zero, group)
        z, result = search_mode(search, density, params, group, at_zero, z0)
        return z, exact(density, params, z, group, at_zero), result.converged & result.finite

    return (), problem.map(per_group, starts)


@public("jn.group_log_likelihoods")
def group_log_likelihoods(
    model: NLMEModel | None,
    params: Params,
    data: GroupedData | Problem,
    method: str | LikelihoodApproximation = "focei",
    *,
    modes: Any = None,
) -> Vector:
    """log p(y_i | params) of each group, including all constants; a pure function, differentiable in `params` to any
    order (exactly, through the conditional modes).

    **Arguments:**

    - `model`: the NLMEModel; None if `data` is a Problem.
    - `params`: from `model.params(data)`.
    - `data`: GroupedData, or a Problem if the data themselves are traced.
    - `method`: a likelihood approximation or its name.
    - `modes` (groups, random): starts of the searches of the modes, whitened. None: several starts for each group, of
      which the mode with the highest joint density is taken.

    **Returns:** (groups,), in the order of the data's labels; NaN for a group without a finite likelihood.
    **Raises:** PrecisionError where 64-bit floats are off; ModelError where the outcome does not suit the
    approximation.

    **Example:**

    ```python
    jn.group_log_likelihoods(model, fit.params, data, "focei")
    ```
    """
    require_x64("group_log_likelihoods")
    check_params(params)
    problem = as_problem(model, data)
    chosen = jax.tree.map(jnp.asarray, approximation(method))
    chosen.check(problem.density)
    with explained_errors():
        density = problem.density
        return problem.map(lambda group, z0: group_value((chosen, density, params, group), z0), _starts(problem, modes))


@public("jn.log_likelihood")
def log_likelihood(
    model: NLMEModel | None,
    params: Params,
    data: GroupedData | Problem,
    method: str | LikelihoodApproximation = "focei",
    weights: Any = None,
    *,
    modes: Any = None,
) -> Scalar:
    """sum_i w_i log p(y_i | params), without priors; a pure function like `group_log_likelihoods`.

    **Arguments:** as for `group_log_likelihoods`; `weights` (groups,): None for those of the data; a group with weight
    zero adds nothing to value and derivatives, even if its likelihood is not finite.
    **Returns:** a scalar.
    **Raises:** as `group_log_likelihoods`; OptionError for weights of another shape or negative ones.

    **Example:**

    ```python
    jax.grad(lambda params: jn.log_likelihood(model, params, data, "focei"))(fit.params).beta
    ```
    """
    require_x64("log_likelihood")
    check_params(params)
    method = approximation(method)
    if weights is not None:
        _check_numbers(weights)
    problem = as_problem(model, data)
    weights = problem.weights if weights is None else check_weights(weights, problem.n_groups)
    if is_traced(weights) or not np.all(np.asarray(weights)):
        problem = problem.replace_zero_weight_groups(weights)
    values = group_log_likelihoods(model, params, problem, method, modes=modes)
    return jnp.sum(jnp.where(weights == 0, 0.0, weights * values))


@public("jn.log_likelihood_and_score")
def log_likelihood_and_score(
    model: NLMEModel | None,
    params: Params,
    data: GroupedData | Problem,
    method: str | LikelihoodApproximation = "focei",
    weights: Any = None,
    *,
    modes: Any = None,
) -> tuple[Scalar, Params]:
    """`log_likelihood` and its gradient in `params`, the score, from one pass; a pure function.

    **Arguments:** as for `log_likelihood`.
    **Returns:** a scalar, and Params of the same shape as `params`, on its scales.
    **Raises:** as `log_likelihood`.

    **Example:**

    ```python
    jn.log_likelihood_and_score(model, fit.params, data, "focei")[1].beta
    ```
    """
    require_x64("log_likelihood_and_score")
    check_params(params)
    arrays, others = eqx.partition(jax.tree.map(jnp.asarray, params), eqx.is_inexact_array)

    def value(arrays: Params) -> Scalar:
        return log_likelihood(model, eqx.combine(arrays, others), data, method, weights, modes=modes)

    return value_and_gradient(value)(arrays)


@public("jn.information")
def information(
    model: NLMEModel | None,
    params: Params,
    data: GroupedData | Problem,
    method: str | LikelihoodApproximation = "focei",
    weights: Any = None,
    *,
    modes: Any = None,
) -> Matrix:
    """The observed information: minus the second derivatives of `log_likelihood` in `params.pack()`, exact; a pure
    function.

    **Arguments:** as for `log_likelihood`.
    **Returns:** (packed, packed), in the order and on the scales of `params.pack()`: beta, covariance, error. The free
    block (weights of a network) is held.
    **Raises:** as `log_likelihood`.

    **Example:**

    ```python
    jax.jit(lambda params: jn.information(model, params, data, "focei"))(fit.params)
    ```
    """
    require_x64("information")
    check_params(params)

    def slope(packed: Vector) -> Vector:
        return gradient(
            lambda packed: log_likelihood(model, params.unpack(packed), data, method, weights, modes=modes)
        )(packed)

    return -jacobian(slope)(jnp.asarray(params.pack()))
