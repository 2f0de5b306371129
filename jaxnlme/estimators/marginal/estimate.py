"""`estimate`: a whole fit as a pure function of arrays, for vmap over starts, weights or responses."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.binding.bind import bind
from jaxnlme.binding.explanations import explained_errors
from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.problem import Problem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.estimators.core.objective import flatten, unflatten
from jaxnlme.estimators.core.settings import RUN_SETTINGS
from jaxnlme.estimators.marginal.method import MaximumLikelihood, MaximumLikelihoodState
from jaxnlme.likelihood.approximations import LikelihoodApproximation, approximation
from jaxnlme.likelihood.log_likelihood import check_weights, evaluate_groups
from jaxnlme.model.params import Params, check_params
from jaxnlme.numerics.implicit import implicit_minimiser
from jaxnlme.precision import require_x64
from jaxnlme.signatures import public
from jaxnlme.typing import Scalar, Vector


class Estimate(eqx.Module):
    """Result of `estimate`.

    **Fields:** `params`; `log_likelihood`: the weighted sum there; `modes` (groups, random); `expected_gain`: the
    predicted gain of a further step (log-likelihood units); `ended`: true if that is below the tolerance (the further
    checks that `fit` makes before it calls a fit converged are not made); `iterations`.

    **Example:**

    ```python
    jn.estimate(model, fit.params, data, "focei").params.beta
    ```
    """

    params: Params
    log_likelihood: Any
    modes: Any
    expected_gain: Any
    ended: Any
    iterations: Any


@public("jn.estimate")
def estimate(
    model: NLMEModel | None,
    params0: Params,
    data: GroupedData | Problem,
    method: str | LikelihoodApproximation = "focei",
    weights: Any = None,
    *,
    fixed: Any = None,
    max_iterations: Any = RUN_SETTINGS.max_iterations,
    tolerance: Any = RUN_SETTINGS.tolerance,
) -> Estimate:
    """Maximise a likelihood approximation from `params0`: a pure function, so that whole fits run under jit and vmap;
    each fit of a vmapped batch ends by its own criterion.

    **Arguments:** `model`: None if `data` is a Problem; `method`: name of a likelihood approximation, or the
    approximation; `weights` (groups,): those of the data if None (multinomial weights are a case bootstrap, zeros
    delete cases); `fixed` (packed,) bool: entries held fixed (if None, those of the model, or none for a Problem);
    `max_iterations`, `tolerance` as in `fit`.
    **Returns:** an Estimate. Its `params` have exact derivatives in weights, data and fixed entries by the implicit
    function theorem (the Hessian of the marginal likelihood is compiled when one is asked for); nothing else has.
    **Raises:** PrecisionError if 64-bit floats are off.

    **Example:**

    ```python
    jax.jit(lambda weights: jn.estimate(model, fit.params, data, "focei", weights).log_likelihood)(np.ones(12))
    ```
    """
    require_x64("estimate")
    check_params(params0)
    estimator = MaximumLikelihood(approximation(method), max_iterations, tolerance)
    if isinstance(data, Problem):
        problem = data
    else:
        binding = bind(model, data)
        problem, fixed = binding.problem, binding.fixed if fixed is None else fixed
    estimator.method.check(problem.density)
    if weights is not None:
        problem = eqx.tree_at(lambda p: p.weights, problem, check_weights(weights, problem.n_groups))
    params0 = jax.tree.map(jnp.asarray, params0)
    x = flatten(params0)
    free = jnp.ones(x.shape, bool)
    if fixed is not None:
        free = free.at[: len(fixed)].set(~jnp.asarray(fixed))
    problem = jax.tree.map(jnp.asarray, problem)
    with explained_errors():
        end, state = implicit_minimiser(_objective, _search)((problem, params0, estimator, free), x)
    ended = (state.bfgs.decrement < tolerance) & jnp.isfinite(state.bfgs.value)
    return Estimate(
        unflatten(params0, end), state.log_likelihood, state.modes, state.bfgs.decrement, ended, state.bfgs.iterations
    )


def _search(args: tuple[Problem, Params, MaximumLikelihood, Any], x: Vector) -> tuple[Vector, MaximumLikelihoodState]:
    """The maximum (n,) and the final state, from the packed start `x` (n,)."""
    problem, template, estimator, free = args
    modes = jnp.zeros((problem.n_groups, problem.density.n_effects))
    state = estimator.minimise(problem, template, x, modes, free)
    return state.bfgs.x, state


def _objective(x: Vector, args: tuple[Problem, Params, MaximumLikelihood, Any]) -> Scalar:
    """The objective of `_search`, for its implicit derivative. Entries that are not free are held at the values of the
    template by a quadratic term, so that the Hessian is the identity there."""
    problem, template, estimator, free = args
    held = flatten(template)
    params = unflatten(template, jnp.where(free, x, held))
    values = evaluate_groups(problem.replace_zero_weight_groups(problem.weights), params, estimator.method).value
    total = jnp.sum(jnp.where(problem.weights == 0, 0.0, problem.weights * values))
    return 0.5 * jnp.sum(jnp.where(free, 0.0, x - held) ** 2) - total - problem.density.log_prior(params)
