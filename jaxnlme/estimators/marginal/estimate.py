"""`estimate`: a whole fit as a pure function of arrays, for vmap over starts, weights or responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import bind
from jaxnlme.binding.explanations import explained_errors
from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.problem import Problem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.estimators.core.objective import flatten, unflatten, weighted_sum
from jaxnlme.estimators.core.settings import RUN_SETTINGS
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.estimators.marginal.minimiser_state import MaximumLikelihoodState
from jaxnlme.estimators.marginal.settings import DIFFERENCES, ESTIMATE
from jaxnlme.likelihood.approximations import LikelihoodApproximation, approximation
from jaxnlme.likelihood.differentiable import group_value, group_value_and_score
from jaxnlme.likelihood.log_likelihood import check_weights
from jaxnlme.model.derivatives import along, gradient
from jaxnlme.model.params import Params, check_params
from jaxnlme.numerics.implicit import partition_perturbed
from jaxnlme.precision import require_x64
from jaxnlme.signatures import public
from jaxnlme.typing import Matrix, PyTree, Scalar, Vector


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
    at_boundary: Any


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
        end, (state, at_boundary) = _maximum((problem, params0, estimator, free), x)
    ended = (state.bfgs.decrement < tolerance) & jnp.isfinite(state.bfgs.value)
    return Estimate(
        unflatten(params0, end),
        state.log_likelihood,
        state.modes,
        state.bfgs.decrement,
        ended,
        state.bfgs.iterations,
        at_boundary,
    )


Arguments = tuple[Problem, Params, MaximumLikelihood, Vector]


@eqx.filter_custom_jvp
def _maximum(args: Arguments, x: Vector) -> tuple[Vector, tuple[MaximumLikelihoodState, Vector]]:
    """The maximum (n,), with the final state and the entries that are at the boundary there (n,), from the start `x`
    (n,)."""
    problem, template, estimator, free = args
    modes = jnp.zeros((problem.n_groups, problem.density.n_effects))
    state = estimator.minimise(problem, template, x, modes, free)
    end = state.bfgs.x
    return jax.lax.stop_gradient((end, (state, _at_boundary(problem, end, state.squares, free))))


@_maximum.def_jvp
def _maximum_rule(primals, tangents):
    """With H the Hessian of the objective at the maximum and G its gradient, entries F free and the others C held:
    dx_F = -H_FF^-1 (dG_F at the held x + H_FC dx_C), where dx_C is that of the template, and zero at the boundary.

    **Source:** implicit function theorem; Krantz and Parks (2013), The Implicit Function Theorem, theorem 3.3.1.
    """
    args, x = primals
    dot = tangents[0]
    end, (state, at_boundary) = _maximum(args, x)
    problem, template, _, free = args
    moving, still = partition_perturbed(args, dot)
    moves = free & ~at_boundary

    def slope(moving: PyTree, x: Vector) -> Vector:
        return _slope_and_scores(eqx.combine(moving, still), x, state.modes)[0]

    _, held_dot = along(lambda moving: flatten(eqx.combine(moving, still)[1]), moving, dot)
    held_dot = jnp.where(free, 0.0, held_dot)
    differenced = end.shape[0] <= ESTIMATE.most_differenced
    by_scores = differenced and template.free is None and _only_weights_move(dot)
    slope_dot = None if by_scores else along(lambda moving: slope(moving, end), moving, dot)[1]

    if differenced:
        n_groups = problem.n_groups if template.free is None else 0
        matrix, scores = _differenced(
            lambda x: _slope_and_scores(args, x, state.modes), end, moves | ~free, state, n_groups
        )
        if slope_dot is None:
            # Groups of weight zero are left out: their scores were those of another group.
            slope_dot = -jnp.where(problem.weights == 0, 0.0, dot[0].weights) @ scores
        right = slope_dot + matrix @ held_dot
        both = moves[:, None] & moves[None, :]
        unit = 1.0 / jnp.sqrt(jnp.where(moves, jnp.abs(jnp.diagonal(matrix)), 1.0))
        scaled = jnp.where(both, matrix * unit[:, None] * unit[None, :], jnp.eye(end.shape[0]))
        moved = -unit * jnp.linalg.solve(scaled, unit * jnp.where(moves, right, 0.0))
    else:

        def times(v: Vector) -> Vector:
            return along(lambda x: slope(moving, x), end, v)[1]

        right = jnp.where(moves, slope_dot + times(held_dot), 0.0)
        moved = -jax.lax.custom_linear_solve(
            lambda v: jnp.where(moves, times(jnp.where(moves, v, 0.0)), v), right, _conjugate_gradient, symmetric=True
        )
    aux = (state, at_boundary)
    still_aux = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_inexact_array(leaf) else None, aux)
    return (end, aux), (jnp.where(moves, moved, held_dot), still_aux)


def _at_boundary(problem: Problem, x: Vector, squares: Vector, free: Vector) -> Vector:
    """The free entries (n,) of `x` (n,) that have gone to the boundary, a variance of zero, say: on a log scale no
    group's likelihood depends on them. With a variance that is zero, also the entries that psi then does not depend on.

    **Arguments:** `squares` (dense,): sums of the squares of the groups' scores at `x`.
    """
    density = problem.density
    first, dense = len(density.beta_names), squares.shape[0]
    on_log_scale = np.ones(dense, bool)
    on_log_scale[:first] = False
    for _, _, column in density.covariance.log_scales:
        on_log_scale[[first + k for k in column]] = False
    flat = on_log_scale & ((squares < ESTIMATE.least_squares) | ~jnp.isfinite(x[:dense]))
    for index, _, column in density.covariance.log_scales:
        for k in column:
            flat = flat.at[first + k].set(flat[first + k] | flat[first + index])
    return free & jnp.concatenate([flat, jnp.zeros(x.shape[0] - dense, bool)])


def _only_weights_move(dot: Any) -> bool:
    """True if the tangents of `_maximum`'s arguments are those of the groups' weights, and of the template, whose
    values matter for entries that are held only."""
    problem_dot, _, estimator_dot, free_dot = dot
    others = eqx.tree_at(lambda p: p.weights, problem_dot, None, is_leaf=lambda leaf: leaf is None)
    return problem_dot.weights is not None and not jax.tree.leaves((others, estimator_dot, free_dot))


def _slope_and_scores(args: Arguments, x: Vector, modes: Any) -> tuple[Vector, Any]:
    """The gradient (n,) of the objective at `x` (n,), and the groups' scores (groups, n); None for a model with a free
    block, whose scores are not kept by group."""
    problem, template, estimator, _ = args
    if template.free is not None:
        return gradient(_objective)(x, args, modes), None
    params, method, density = unflatten(template, x), estimator.method, problem.density
    spared = problem.replace_zero_weight_groups(problem.weights)
    _, scores = spared.map(lambda group, z0: group_value_and_score((method, density, params, group), z0), modes)
    prior = gradient(lambda x: density.log_prior(unflatten(template, x)))(x)
    return -weighted_sum(problem.weights, scores) - prior, scores


def _differenced(
    slope_and_scores: Callable[[Vector], tuple[Vector, Any]],
    x: Vector,
    wanted: Vector,
    state: MaximumLikelihoodState,
    n_groups: int,
) -> tuple[Matrix, Any]:
    """The Hessian (n, n) at `x` (n,) by central differences of the exact gradient, whose program is short beside that
    of the Hessian; zero in rows and columns of entries that are not `wanted`. And the groups' scores at `x`.

    The step is a fraction of the standard error as in `objective.points_beside`.

    **Arguments:** `n_groups`: zero where there are no scores by group.
    """
    se = jnp.sqrt(jnp.abs(jnp.diagonal(state.bfgs.inverse)))
    size = jnp.maximum(jnp.abs(jnp.where(jnp.isfinite(x), x, 0.0)), se)
    step = jnp.clip(DIFFERENCES.step * se, DIFFERENCES.least_step * size, DIFFERENCES.largest_step * size)
    step = jnp.where(wanted, jnp.where(step > 0.0, step, DIFFERENCES.step), 0.0)
    changes = jnp.concatenate([jnp.diag(step), -jnp.diag(step), jnp.zeros((1, x.shape[0]))])
    points = jnp.where(changes == 0.0, x[None, :], x[None, :] + changes)

    # The scores of the last point are kept, which is x itself.
    def visit(_: Any, point: Vector) -> tuple[Any, Vector]:
        slope, scores = slope_and_scores(point)
        return scores, slope

    blank = jnp.zeros((n_groups, x.shape[0])) if n_groups else None
    scores, slopes = jax.lax.scan(visit, blank, points)
    n = x.shape[0]
    width = jnp.diagonal(points[:n] - points[n : 2 * n])
    width = jnp.where(wanted, width, 1.0)
    matrix = jnp.where(wanted[:, None] & wanted[None, :], (slopes[:n] - slopes[n : 2 * n]) / width[:, None], 0.0)
    return 0.5 * (matrix + matrix.T), scores


def _conjugate_gradient(times: Callable[[Vector], Vector], right: Vector) -> Vector:
    return jax.scipy.sparse.linalg.cg(times, right, tol=ESTIMATE.cg_tolerance, maxiter=10 * right.shape[0])[0]


def _objective(x: Vector, args: Arguments, modes: Any) -> Scalar:
    """The objective of `_maximum` at `x` (n,), mode searches starting from `modes` (groups, random)."""
    problem, template, estimator, _ = args
    params, method, density = unflatten(template, x), estimator.method, problem.density
    spared = problem.replace_zero_weight_groups(problem.weights)
    values = spared.map(lambda group, z0: group_value((method, density, params, group), z0), modes)
    return -weighted_sum(problem.weights, values) - density.log_prior(params)
