"""Maximum likelihood of every group by itself, all groups as one batched program, and the residual model they share.

With a Gaussian residual, group i has the residual standard deviation s_i scale(f; error parameters):

1. s_i belongs to group i and is profiled out of its likelihood, together with the search for its parameters;
2. the error parameters (the ratio of two parts of the variance, an exponent) are common to all groups, since no single
   group has enough data for them, and are estimated from the residuals of all groups (`shared_error`);
3. steps 1 and 2 alternate (`fit_groups`).

The parameters of one group are called `group_params` (params,), see `SingleGroup`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.two_stage.settings import SEARCH, SHARED_ERROR
from jaxnlme.estimators.two_stage.single_group import SingleGroup
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import jacobian, value_and_gradient
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.base import AbstractError, GaussianError
from jaxnlme.model.transforms import Log
from jaxnlme.numerics.levenberg_marquardt import LevenbergMarquardtResult, levenberg_marquardt
from jaxnlme.typing import Vector


@dataclasses.dataclass
class GroupOptima:
    """End points of the searches of all groups (numpy).

    **Fields:** `group_params` (groups, params); `curvature` (groups, params, params), minus the Hessian of the
    log-likelihood, or Fisher's information at s_i^2 = squares / n_i where the residual is Gaussian; `squares`
    (groups,), the sum of (residual / scale)^2; `converged` (groups,) bool; `diverging` (groups, params) bool:
    parameters on the way to infinity, in which the curvature vanishes; `finite` (groups,) bool, false where the model
    was not finite at the start; `steps` (groups,) taken.
    """

    group_params: np.ndarray
    curvature: np.ndarray
    squares: np.ndarray
    converged: np.ndarray
    diverging: np.ndarray
    finite: np.ndarray
    steps: np.ndarray


def initial_values(placed: PlacedProblem, single_group: SingleGroup, params: Params) -> np.ndarray:
    """The group parameters (groups, params) that `params` imply with random effects zero."""
    return placed.collect(placed.run(_initial_values, (single_group, params), once=True)[1])


def search_groups(
    placed: PlacedProblem, single_group: SingleGroup, params: Params, start: np.ndarray, max_steps: int
) -> GroupOptima:
    """Maximise the likelihood of every group by itself.

    **Arguments:** `start` (groups, params); `max_steps`, a bound on the evaluations of each group's search.
    **Returns:** GroupOptima; each group ends by its own criterion.
    """

    def run(start: np.ndarray, bound: int) -> Any:
        # The bound is passed as an array: as a number, each value would need a new compilation.
        _, pieces = placed.run(_search_piece, (single_group, params, np.asarray(bound)), placed.scatter(start))
        return jax.tree.map(lambda *parts: placed.collect(parts), *pieces)

    result = run(start, max_steps)
    # The curvature was evaluated before the last step; a further evaluation gives it after that step.
    before, after = (np.einsum("ikk->ik", end.curvature) for end in (result, run(result.x, 1)))
    diverging = result.converged[:, None] & (after < (1.0 - SEARCH.curvature_drop) * before)
    return GroupOptima(
        result.x, result.curvature, result.extra, result.converged, diverging, result.finite, result.steps
    )


def _initial_values(problem: Problem, shared: tuple[SingleGroup, Params], _: Any) -> tuple[Any, Any]:
    single_group, params = shared
    return (), problem.map(lambda group: single_group.start(params, group))


def _search_piece(
    problem: Problem, shared: tuple[SingleGroup, Params, Any], start: Any
) -> tuple[Any, LevenbergMarquardtResult]:
    """Levenberg-Marquardt search of every group of a piece from `start` (groups, params)."""
    single_group, params, max_steps = shared
    density = problem.density

    def per_group(group: Group, start: Vector) -> LevenbergMarquardtResult:
        if density.error.is_gaussian:
            floor = _least_variance(density, single_group, params, group, start)

            def expand(group_params):
                return _profiled_objective(density, single_group, params, group, group_params, floor)
        else:

            def expand(group_params):
                return _objective(density, single_group, params, group, group_params)

        return levenberg_marquardt(expand, start, max_steps, SEARCH.tolerance)

    return (), problem.map(per_group, start)


def _profiled_objective(
    density: Density, single_group: SingleGroup, params: Params, group: Group, group_params: Vector, floor: Any
) -> tuple:
    """Minus the log-likelihood of a group with s profiled out, up to a constant: n/2 log sum u^2 + sum log scale with
    u = T residual / scale, T the factor of the residual correlation. With a constant scale this is least squares.

    **Arguments:** `floor`: the least s^2 (see `_least_variance`).
    **Returns:** the value, its gradient (params,), Fisher's information (params, params) and sum u^2.
    **Source:** Davidian and Giltinan (1995), Nonlinear Models for Repeated Measurement Data, section 2.3.
    """
    observed = group.x.observed
    n = jnp.maximum(jnp.sum(observed), 1)

    def residual_and_log_scale(group_params):
        f = single_group.predict(density, params, group_params, group)
        residual, scale, _ = density.error.moments(f, f, params.error, group)
        return (residual, jnp.log(scale)), (residual, scale)

    (slopes, log_slopes), (residual, scale) = jacobian(residual_and_log_scale, has_aux=True)(group_params)
    factor = density.error.factor(params.error, group)
    whiten = jax.vmap(factor.whiten, 1, 1)
    u = factor.whiten(residual / scale)
    squares = jnp.sum(u**2)
    variance = squares / n + floor
    u_slopes = whiten((slopes - residual[:, None] * log_slopes) / scale[:, None])
    slopes = whiten(slopes / scale[:, None])
    centred = jnp.where(observed[:, None], log_slopes - jnp.sum(log_slopes, axis=0, keepdims=True) / n, 0.0)
    value = 0.5 * n * jnp.log(variance) + jnp.sum(jnp.log(scale))
    gradient = u @ u_slopes / variance + jnp.sum(log_slopes, axis=0)
    left, right = jax.vmap(factor.interaction, 1, 1)(centred)
    of_scale = sum(a.T @ b for a, b in zip(left, right, strict=True))
    return value, gradient, slopes.T @ slopes / variance + of_scale, n * variance


def _least_variance(density: Density, single_group: SingleGroup, params: Params, group: Group, start: Vector) -> Any:
    """Lower bound of s^2 for a group, the square of a rounding error of the spread of y, so that the search ends where
    the model fits a group exactly."""
    f = single_group.predict(density, params, start, group)
    observed = group.x.observed
    mean = jnp.sum(jnp.where(observed, group.y, 0.0)) / jnp.maximum(jnp.sum(observed), 1)
    residual, scale, _ = density.error.moments(jnp.full_like(group.y, mean), f, params.error, group)
    spread = jnp.sum(density.error.factor(params.error, group).whiten(residual / scale) ** 2)
    return SEARCH.rounding_sd**2 * jnp.where(jnp.isfinite(spread), spread, 0.0) + jnp.finfo(group.y.dtype).tiny


def _objective(
    density: Density, single_group: SingleGroup, params: Params, group: Group, group_params: Vector
) -> tuple:
    """Minus the log-likelihood of an outcome without Gaussian moments, its gradient (params,) and Hessian
    (params, params), and zero in the place of a sum of squares."""

    def loss(group_params):
        f = single_group.predict(density, params, group_params, group)
        return -density.error.log_density(f, f, params.error, group)

    def slope(group_params):
        value, gradient = value_and_gradient(loss)(group_params)
        return gradient, (value, gradient)

    hessian, (value, gradient) = jacobian(slope, has_aux=True)(group_params)
    return value, gradient, hessian, jnp.zeros(())


# --- the residual model that the groups share ---


def has_single_scale(error: AbstractError) -> bool:
    """True if the residual model has one parameter and that is a factor of the residual SD: the SD of each group then
    takes its place, and the groups share nothing."""
    if not isinstance(error, GaussianError) or len(error.parameters) != 1 or error.sees_x or error.is_limited:
        return False
    (parameter,) = error.parameters
    if not isinstance(parameter.transform, Log):
        return False
    name = parameter.name.rsplit("[", 1)[0] if error.by else parameter.name
    f = np.array([0.7, 1.9])
    single, double = (np.asarray(error.scale(jnp.asarray(f), **{name: np.asarray(a)})) for a in (1.0, 2.0))
    return bool(np.allclose(double, 2.0 * single, rtol=SHARED_ERROR.same_scale))


def shared_error(
    placed: PlacedProblem,
    binding: Binding,
    single_group: SingleGroup,
    params: Params,
    optima: GroupOptima,
    usable: np.ndarray,
) -> np.ndarray:
    """Pseudo-likelihood estimate of the error parameters (error,), unconstrained scale, from the residuals of the
    `usable` groups (groups,) bool at their own estimates, with one scale for all. Groups of weight zero do not enter; a
    Gaussian variance has N - (parameters of the groups) degrees of freedom.

    **Arguments:** `params`: their error parameters are the start, and the values of fixed ones; `optima` of the groups.
    **Source:** Davidian and Giltinan (1995), section 5.2.3 (pseudo-likelihood, pooled over individuals).
    """
    from scipy.optimize import minimize

    density, p = binding.density, optima.group_params.shape[1]
    moving = ~binding.fixed[len(binding.fixed) - len(np.asarray(params.error)) :]
    rows = sum(placed.processes.gather(float(np.sum(binding.data.observed[usable]))))
    groups = sum(placed.processes.gather(float(np.sum(usable))))
    factor = rows / (rows - groups * p) if density.error.is_gaussian else 1.0
    per_group = list(zip(placed.scatter(optima.group_params), placed.scatter(usable), strict=True))
    start = np.asarray(params.error, float)

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        error = start.copy()
        error[moving] = free
        trial = Params(params.beta, params.covariance, error, params.free)
        (value, gradient), _ = placed.run(_error_objective, (single_group, trial, np.asarray(factor)), per_group)
        return float(value), np.asarray(gradient)[moving]

    bounds = [(value - SHARED_ERROR.max_move, value + SHARED_ERROR.max_move) for value in start[moving]]
    with np.errstate(all="ignore"):
        minimum = minimize(loss, start[moving], jac=True, method="L-BFGS-B", bounds=bounds)
    error = start.copy()
    if np.isfinite(minimum.fun):
        error[moving] = minimum.x
    return error


def _error_objective(
    problem: Problem, shared: tuple[SingleGroup, Params, Any], group_params_and_use: tuple[Any, Any]
) -> tuple[Any, Any]:
    """Minus the pooled log pseudo-likelihood of the error parameters and its gradient (error,), sums over groups."""
    single_group, params, factor = shared
    density = problem.density

    def total(error):
        trial = Params(params.beta, params.covariance, error, params.free)

        def per_group(group: Group, group_params: Vector, use: Any, weight: Any) -> Any:
            f = single_group.predict(density, trial, group_params, group)
            if not density.error.is_gaussian:
                value = -density.error.log_density(f, f, error, group)
            else:
                residual, scale, slope = density.error.moments(f, f, error, group)
                correlation = density.error.factor(error, group)
                squares = correlation.whiten(residual / scale) ** 2
                value = jnp.sum(jnp.log(scale) - slope + 0.5 * factor * squares) + correlation.half_logdet
            return jnp.where(use & (weight != 0), value, 0.0)  # padding groups have weight zero

        value = jnp.sum(problem.map(per_group, *group_params_and_use, problem.weights))
        return value, value

    # Forward mode: derivatives that are not finite in an excluded group do not reach the sum.
    gradient, value = jacobian(total, has_aux=True)(params.error)
    return (value, gradient), ()
