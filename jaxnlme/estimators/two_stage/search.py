"""Each group fitted by itself: the search of all groups as one batched program, and the residual model that they share.

With a Gaussian residual, group i has the standard deviation s_i scale(f; error parameters): s_i is its own and is
profiled out, the error parameters hold the shape of the residual model, which no single group tells (the ratio of two
parts, an exponent), and are estimated from the residuals of all groups.
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
from jaxnlme.estimators.two_stage.single_group import SingleGroup
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.base import AbstractError, GaussianError
from jaxnlme.model.transforms import Log
from jaxnlme.numerics.levenberg_marquardt import Damped, damped_newton
from jaxnlme.typing import Vector

# Log-likelihood units that a step must still gain: estimates are within a millionth of a standard error then.
TOLERANCE = 1e-12
# A last step of so little gain leaves the curvature as it was, in shares of it, unless the end lies at infinity: on an
# exponential tail, where every step is as long as the one before, it falls by a factor e.
FADING = 0.05
# Rounds of group fits and residual model, and the change of the latter's parameters below which they end.
ROUNDS, SETTLED = 20, 1e-5
# How far an error parameter may move from its start, on its unconstrained scale: a factor of 20,000.
REACH = 10.0
# A residual SD below this share of the spread of y is rounding.
EXACT = 1e-10


@dataclasses.dataclass
class GroupOptima:
    """Where the searches of all groups ended (numpy): `own` (groups, own); `curvature` (groups, own, own) of minus the
    log-likelihood, Fisher's information at s_i^2 = squares / n_i where the residual is Gaussian; `squares` (groups,),
    sum of (residual / scale)^2; `converged`; `fading` (groups, own), where that was on the way to infinity: the
    curvature in the parameter vanishes; `finite`; `steps`."""

    own: np.ndarray
    curvature: np.ndarray
    squares: np.ndarray
    converged: np.ndarray
    fading: np.ndarray
    finite: np.ndarray
    steps: np.ndarray


def initial_values(placed: PlacedProblem, single_group: SingleGroup, params: Params) -> np.ndarray:
    """The own parameters (groups, own) that `params` imply with random effects zero."""
    return placed.own(placed.run(_begin, (single_group, params), once=True)[1])


def search_groups(
    placed: PlacedProblem, single_group: SingleGroup, params: Params, start: np.ndarray, max_steps: int
) -> GroupOptima:
    """Fits every group from its `start` (groups, own), each with its own steps and its own end."""

    def run(start: np.ndarray, bound: int) -> Any:
        # The bound is an array: the program would be made anew for another number.
        _, pieces = placed.run(_search, (single_group, params, np.asarray(bound)), placed.spread(start))
        return jax.tree.map(lambda *parts: placed.own(parts), *pieces)

    found = run(start, max_steps)
    # The curvature was taken before the last step; one evaluation more has it after.
    before, after = (np.einsum("ikk->ik", at.curvature) for at in (found, run(found.x, 1)))
    fading = found.converged[:, None] & (after < (1.0 - FADING) * before)
    return GroupOptima(found.x, found.curvature, found.extra, found.converged, fading, found.finite, found.steps)


def _begin(problem: Problem, shared: tuple[SingleGroup, Params], _: Any) -> tuple[Any, Any]:
    single_group, params = shared
    return (), problem.map(lambda group: single_group.start(params, group))


def _search(problem: Problem, shared: tuple[SingleGroup, Params, Any], start: Any) -> tuple[Any, Damped]:
    single_group, params, max_steps = shared
    density = problem.density

    def one(group: Group, start: Vector) -> Damped:
        if density.error.has_gaussian_moments:
            floor = _floor(density, single_group, params, group, start)

            def expand(own):
                return _profile(density, single_group, params, group, own, floor)
        else:

            def expand(own):
                return _exact(density, single_group, params, group, own)

        return damped_newton(expand, start, max_steps, TOLERANCE)

    return (), problem.map(one, start)


def _profile(
    density: Density, single_group: SingleGroup, params: Params, group: Group, own: Vector, floor: Any
) -> tuple:
    """Minus the log-likelihood of a group with its s profiled out, up to a constant: n/2 log sum u^2 + sum log scale,
    u = residual / scale; its gradient and Fisher's information. With a constant scale that is least squares.

    **Source:** Davidian and Giltinan (1995), Nonlinear Models for Repeated Measurement Data, section 2.3.
    """
    seen = group.x.observed
    n = jnp.maximum(jnp.sum(seen), 1)

    def parts(own):
        f = single_group.predict(density, params, own, group)
        residual, scale, _ = density.error.moments(f, f, params.error, group)
        return (residual, jnp.log(scale)), (residual, scale)

    (slopes, log_slopes), (residual, scale) = jax.jacfwd(parts, has_aux=True)(own)
    u = residual / scale
    squares = jnp.sum(u**2)
    variance = squares / n + floor
    slopes = slopes / scale[:, None]
    turned = slopes - u[:, None] * log_slopes
    centred = jnp.where(seen[:, None], log_slopes - jnp.sum(log_slopes, axis=0, keepdims=True) / n, 0.0)
    value = 0.5 * n * jnp.log(variance) + jnp.sum(jnp.log(scale))
    gradient = u @ turned / variance + jnp.sum(log_slopes, axis=0)
    return value, gradient, slopes.T @ slopes / variance + 2.0 * centred.T @ centred, n * variance


def _floor(density: Density, single_group: SingleGroup, params: Params, group: Group, start: Vector) -> Any:
    """The least s^2 of a group, so that one which the model fits exactly ends: a rounding error of the spread of y."""
    f = single_group.predict(density, params, start, group)
    seen = group.x.observed
    mean = jnp.sum(jnp.where(seen, group.y, 0.0)) / jnp.maximum(jnp.sum(seen), 1)
    residual, scale, _ = density.error.moments(jnp.full_like(group.y, mean), f, params.error, group)
    spread = jnp.sum((residual / scale) ** 2)
    return EXACT**2 * jnp.where(jnp.isfinite(spread), spread, 0.0) + jnp.finfo(group.y.dtype).tiny


def _exact(density: Density, single_group: SingleGroup, params: Params, group: Group, own: Vector) -> tuple:
    """Minus the log-likelihood of any other outcome, with its gradient and Hessian."""

    def loss(own):
        f = single_group.predict(density, params, own, group)
        return -density.error.log_density(f, f, params.error, group)

    def slope(own):
        value, gradient = jax.value_and_grad(loss)(own)
        return gradient, (value, gradient)

    hessian, (value, gradient) = jax.jacfwd(slope, has_aux=True)(own)
    return value, gradient, hessian, jnp.zeros(())


# --- the residual model that the groups share ---


def one_scale(error: AbstractError) -> bool:
    """Whether the error parameter is one factor of the scale, so that a group's own s is all there is to it."""
    if not isinstance(error, GaussianError) or len(error.parameters) != 1:
        return False
    (parameter,) = error.parameters
    if not isinstance(parameter.transform, Log):
        return False
    name = parameter.name.rsplit("[", 1)[0] if error.by else parameter.name
    f = np.array([0.7, 1.9])
    single, double = (np.asarray(error.scale(jnp.asarray(f), **{name: np.asarray(a)})) for a in (1.0, 2.0))
    return bool(np.allclose(double, 2.0 * single, rtol=1e-12))


def shared_error(
    placed: PlacedProblem,
    binding: Binding,
    single_group: SingleGroup,
    params: Params,
    ends: GroupOptima,
    usable: np.ndarray,
) -> np.ndarray:
    """The error parameters (error,) that make the residuals of the `usable` groups (groups,) most likely, at the
    groups' own estimates and with one scale for all (groups of weight zero not counted); a Gaussian variance counts
    N - (parameters of the groups) degrees of freedom.

    **Source:** Davidian and Giltinan (1995), section 5.2.3 (pseudo-likelihood, pooled over individuals).
    """
    from scipy.optimize import minimize

    density, p = binding.density, ends.own.shape[1]
    moving = ~binding.fixed[len(binding.fixed) - len(np.asarray(params.error)) :]
    rows = sum(placed.processes.everyone(float(np.sum(binding.data.observed[usable]))))
    groups = sum(placed.processes.everyone(float(np.sum(usable))))
    factor = rows / (rows - groups * p) if density.error.has_gaussian_moments else 1.0
    given = list(zip(placed.spread(ends.own), placed.spread(usable), strict=True))
    start = np.asarray(params.error, float)

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        error = start.copy()
        error[moving] = free
        at = Params(params.beta, params.covariance, error, params.free)
        (value, gradient), _ = placed.run(_error_loss, (single_group, at, np.asarray(factor)), given)
        return float(value), np.asarray(gradient)[moving]

    bounds = [(value - REACH, value + REACH) for value in start[moving]]
    with np.errstate(all="ignore"):
        found = minimize(loss, start[moving], jac=True, method="L-BFGS-B", bounds=bounds)
    error = start.copy()
    if np.isfinite(found.fun):
        error[moving] = found.x
    return error


def _error_loss(problem: Problem, shared: tuple[SingleGroup, Params, Any], given: tuple[Any, Any]) -> tuple[Any, Any]:
    single_group, params, factor = shared
    density = problem.density

    def total(error):
        at = Params(params.beta, params.covariance, error, params.free)

        def one(group: Group, own: Vector, use: Any, weight: Any) -> Any:
            f = single_group.predict(density, at, own, group)
            if not density.error.has_gaussian_moments:
                value = -density.error.log_density(f, f, error, group)
            else:
                residual, scale, slope = density.error.moments(f, f, error, group)
                value = jnp.sum(jnp.log(scale) - slope + 0.5 * factor * (residual / scale) ** 2)
            return jnp.where(use & (weight != 0), value, 0.0)  # stand-ins have no weight

        value = jnp.sum(problem.map(one, *given, problem.weights))
        return value, value

    # Forward derivatives: what is not finite in a group that is left out stays there.
    gradient, value = jax.jacfwd(total, has_aux=True)(params.error)
    return (value, gradient), ()
