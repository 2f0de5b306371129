"""Starting values: residual scales and standard deviations of random effects from the residuals at the start, and the
pooled fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.endpoints import rows_of_part
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.errors import OptionError, some
from jaxnlme.estimators.core.objective import weighted_sum
from jaxnlme.estimators.core.settings import POOLED
from jaxnlme.model.derivatives import jacobian
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.residual_error.parts import two_parts
from jaxnlme.numerics.devices import Processes
from jaxnlme.results.record import FitRecord
from jaxnlme.typing import Vector


def start_params(binding: Binding, start: Any) -> Params:
    """Params from the user's `start`: Params, values by name, an earlier Fit, or None for the starts of the model.

    **Raises:** OptionError or ModelError if `start` does not fit the model.
    """
    if start is None:
        return binding.start
    if isinstance(start, FitRecord):
        if start.binding.density.reported_names != binding.density.reported_names:
            raise OptionError("start is a fit of another model: its parameters have other names.")
        return _with_held(binding, _params_of_fit(binding, start), binding.fixed & ~start.binding.fixed)
    if isinstance(start, Params):
        shapes = [np.shape(getattr(start, name)) for name in ("beta", "covariance", "error")]
        expected = [np.shape(getattr(binding.start, name)) for name in ("beta", "covariance", "error")]
        if shapes != expected:
            raise OptionError(
                f"start has blocks of shapes {shapes}; this model has {expected} (beta, covariance, error)."
            )
        return _with_held(binding, start, np.zeros(len(binding.fixed), bool))
    if isinstance(start, Mapping):
        return binding.params(start)
    raise OptionError(f"start must be Params, a mapping of names to values, or a Fit; received {type(start).__name__}.")


def _params_of_fit(binding: Binding, fit: FitRecord) -> Params:
    """The estimates of an earlier fit in the parametrisation of psi of this model, which depends on what is held."""
    params, family, other = fit.params, binding.density.covariance, fit.binding.density.covariance
    if not (family.fixed_entries or other.fixed_entries):
        return params
    theta = family.from_matrix(psi_of(fit.binding.density, np.asarray(params.covariance)))
    return Params(params.beta, theta, params.error, params.free)


def _with_held(binding: Binding, params: Params, newly_fixed: np.ndarray) -> Params:
    """Params with the values that the model holds fixed in the place of those of a start.

    **Arguments:** `newly_fixed` (packed,) bool: entries that take the model's value, besides those of `binding.held`.
    """
    held = newly_fixed | np.array([name in binding.held for name in binding.packed_names], bool)
    first = len(binding.density.beta_names)
    held[[first + k for k in binding.density.covariance.fixed_entries]] = True
    if not held.any():
        return params
    return params.unpack(np.where(held, binding.start.pack(), np.asarray(params.pack())))


def balanced_error_start(
    binding: Binding, params: Params, user_named: Collection[str] = (), processes: Processes | None = None
) -> Params:
    """Params with parts a and b of a residual scale such as a + b |f|^c that are equal at predictions as large as the
    data, so that a fit does not depend on the unit of y: a has that unit and b has not.

    **Arguments:** `user_named`: error parameters whose start the user gave by name; these, and those with a start in
    the model, stay, and the other part follows them. `processes` whose data count; None: of this one.
    """
    theta = np.array(params.error, float)
    for part in binding.density.error.gaussian_parts():
        _balance(binding, theta, part, user_named, processes)
    return Params(params.beta, params.covariance, theta, params.free)


def _balance(
    binding: Binding, theta: np.ndarray, part: Any, user_named: Collection[str], processes: Processes | None
) -> None:
    """`balanced_error_start` of one of the `gaussian_parts` of the residual model, in place of its entries of
    `theta`."""
    error, entries, endpoint = part
    parts, data = two_parts(error), binding.data
    if not parts:
        return
    y = data.y[data.observed & rows_of_part(binding, endpoint)]
    base = np.asarray(error.response.to_real(y)) if error.of_transformed and not error.n_shape else y
    usable = base[np.isfinite(base)]
    sums = np.array([float(np.sum(usable**2)), float(len(usable))])
    square, count = sums if processes is None else processes.total(sums)
    if not square > 0:
        return
    size = np.sqrt(square / count)
    natural = [float(p.transform.to_natural(theta[k])) for k, p in zip(entries, error.parameters, strict=True)]
    names = [binding.density.error_names[k] for k in entries]
    for a, b, power in parts:
        c = 1.0 if power is None else natural[power]
        a_moves, b_moves = (error.parameters[k].automatic and names[k] not in user_named for k in (a, b))
        if b_moves and natural[a] > 0:
            theta[entries[b]] = np.log(natural[a] / size**c)
        elif a_moves and natural[b] > 0:
            theta[entries[a]] = np.log(natural[b] * size**c)


def scaled_error_start(
    binding: Binding, params: Params, misfit: float | np.ndarray | None, user_named: Collection[str] = ()
) -> Params:
    """Params with residual scales multiplied by the root mean square of the standardised residuals at z = 0, so that a
    fit does not depend on the unit of y.

    **Arguments:** `misfit`: that root mean square (with several endpoints one for each), None if unknown; `user_named`:
    error parameters whose start the user gave by name; these, and those with a start in the model, stay.
    """
    density = binding.density
    of_endpoints = np.atleast_1d(np.nan if misfit is None else misfit)
    of_endpoints = np.where((of_endpoints > 0.0) & (of_endpoints < np.inf), of_endpoints, 1.0)
    factors = np.ones(len(density.error.parameters))
    for _, entries, endpoint in density.error.gaussian_parts():
        factors[list(entries)] = of_endpoints[endpoint or 0] if len(of_endpoints) > 1 else of_endpoints[0]
    if (factors == 1.0).all():
        return params
    named = zip(density.error_names, density.error.parameters, strict=True)
    automatic = np.array([p.automatic and name not in user_named for name, p in named], bool)
    error = np.asarray(params.error) + np.where(automatic, np.log(factors), 0.0)
    return Params(params.beta, params.covariance, error, params.free)


def scaled_sd_start(
    binding: Binding, params: Params, effect_sizes: np.ndarray | None, user_named: Collection[str] = ()
) -> Params:
    """Params with default starting SDs of random effects brought into the range of `Binding.sd_ranges`, so that a fit
    does not depend on the units of the parameters.

    **Arguments:** `effect_sizes` (random,): as in `DryRun`, None if unknown; `user_named`: standard deviations whose
    start the user gave by name stay.
    """
    if effect_sizes is None or not len(effect_sizes):
        return params
    low, high = np.array(binding.sd_ranges).T
    named = np.array([f"sd({name})" in user_named for name in binding.density.effect_names])
    usable = np.isfinite(effect_sizes) & (effect_sizes > 0.0) & ~named
    sizes = np.where(usable, effect_sizes, 1.0)
    factors = np.where(usable, np.clip(sizes, low, high) / sizes, 1.0)
    if (factors == 1.0).all():
        return params
    psi = psi_of(binding.density, np.asarray(params.covariance)) * np.outer(factors, factors)
    return Params(params.beta, binding.density.covariance.from_matrix(psi), params.error, params.free)


def log_excess_of_residuals(binding: Binding, params: Params, placed: PlacedProblem) -> float:
    """The logarithm of the ratio of residual standard deviations, at predictions equal to the responses and in root
    mean square, to the standard deviation of the responses h(y): below zero where a residual model fits. NaN where it
    is not known: of outcomes that are not Gaussian, say."""
    if not isinstance(binding.density.error, GaussianError):
        return np.nan
    data = binding.data
    weights = np.where(data.observed, np.asarray(data.weights)[:, None], 0.0)
    total, count = placed.processes.total(
        np.array([np.sum(weights[data.observed] * data.y[data.observed]), weights.sum()])
    )
    if not count > 0.0:
        return np.nan
    sums, _ = placed.run(_residual_sums, (jax.tree.map(np.asarray, params), np.asarray(total / count)), once=True)
    first, second, residual = np.asarray(sums)
    with np.errstate(all="ignore"):
        return float(0.5 * np.log(residual / (second - first**2 / count)))


def _residual_sums(problem: Problem, at: tuple[Params, Any], _: Any) -> tuple[Any, Any]:
    """Weighted sums over rows of the deviations h(y) - h(centre), of their squares, and of residual variances at y."""
    params, centre = at

    def per_group(group):
        constant = jnp.full_like(group.y, centre)
        deviation, scale, _ = problem.density.error_at(params).moments(constant, group.y, params.error, group)
        terms = deviation, deviation**2, jnp.where(group.x.observed, scale**2, 0.0)
        return jnp.stack([jnp.sum(term) for term in terms])

    return weighted_sum(problem.weights, problem.map(per_group)), ()


def pooled_start(
    binding: Binding, params: Params, user_named: Collection[str] = (), placed: PlacedProblem | None = None
) -> tuple[Params, str]:
    """Start from the pooled fit: beta (and the free block) of the model without random effects by least squares over
    all data, and residual scales that match its residuals.

    The Levenberg-Marquardt method on the normal equations, which add up over groups. The scales are held at the
    predictions of the current point during a step, so that least squares cannot lower a residual by raising its scale.

    **Arguments:** `params`: start of the pooled fit, and source of psi; `user_named`: as for `scaled_error_start`;
    `placed`: the groups, placed here if None.
    **Returns:** the Params, and a sentence for the record.
    **Raises:** OptionError if the response has no Gaussian moments (mean and covariance).
    **Source:** Nocedal and Wright (2006), Numerical Optimization, section 10.3.
    """
    density = binding.density
    if not density.error.has_gaussian_moments:
        raise OptionError("starts='pooled' is least squares and needs a Gaussian residual model.")
    placed = PlacedProblem(binding.problem, grid=False) if placed is None else placed
    template = jax.tree.map(np.asarray, params)
    initial, unravel = ravel_pytree((template.beta, template.free))
    free = np.concatenate([~binding.fixed[: len(density.beta_names)], np.ones(len(initial) - len(density.beta_names))])
    moving = np.flatnonzero(free)

    def normal_equations(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        sums, _ = placed.run(_normal_equations, (template, x))
        square, right, matrix = (np.asarray(part) for part in sums)
        return float(square), right[moving], matrix[np.ix_(moving, moving)]

    end, square, matrix, converged = _least_squares(normal_equations, np.asarray(initial), moving)
    if end is None:
        return params, "The pooled start failed (not finite); the fit began from the model's own starts."
    if not converged:
        return params, (
            "The pooled fit did not converge (a distant start, or parameters on which the data of all groups carry no "
            "information); the fit began from the model's own starts."
        )
    # A parameter that could change by its own size without any effect on the predictions: the curve has flattened out.
    effects = np.sqrt(np.diag(matrix)) * np.abs(end[moving])
    flat = (end[moving] != 0.0) & (effects < POOLED.least_effect * np.sqrt(square))
    if flat.any() and template.free is None:
        names = some([density.beta_names[k] for k in moving[flat]])
        verb = "have" if flat.sum() > 1 else "has"
        return params, (
            f"The pooled fit ended where {names} {verb} no effect on the predictions (a curve that has flattened out): "
            "the fit began from the model's own starts."
        )
    data, processes = binding.data, placed.processes
    n_observations = sum(processes.gather(float(np.sum(data.weights * np.sum(data.observed, axis=1)))))
    beta, free_block = jax.tree.map(np.asarray, unravel(jnp.asarray(end)))
    pooled = Params(beta, params.covariance, params.error, free_block)
    scaled = scaled_error_start(
        binding, pooled, float(np.sqrt(square / max(n_observations, np.finfo(float).tiny))), user_named
    )
    return scaled, "Started from a pooled fit without random effects."


def _least_squares(
    equations: Any, x: np.ndarray, moving: np.ndarray
) -> tuple[np.ndarray | None, float, np.ndarray, bool]:
    """Minimise the sum of squares over the entries `moving` of x.

    **Arguments:** `equations(x)`: sum of squares, right-hand side and matrix of the normal equations.
    **Returns:** the minimiser, None if the equations are not finite at the start; the sum of squares and the matrix
    there; and whether the search converged.
    """
    square, right, matrix = equations(x)
    if not (np.isfinite(square) and np.isfinite(right).all() and np.isfinite(matrix).all()):
        return None, square, matrix, False
    first, damping, converged = square, POOLED.first_damping, not len(moving)
    for _ in range(0 if converged else POOLED.max_steps):
        largest = max(np.diag(matrix).max(initial=0.0), np.finfo(float).tiny)
        scale = np.sqrt(np.maximum(np.diag(matrix), POOLED.least_diagonal * largest))
        unit, slope, eye = matrix / np.outer(scale, scale), right / scale, np.eye(len(moving))
        # The relative offset: what a step without damping would gain, as a fraction of the sum of squares.
        offset = slope @ np.linalg.solve(unit + POOLED.least_damping * eye, slope)
        converged = bool(offset <= POOLED.least_gain * square or square <= POOLED.exact_fit * first)
        if converged:
            break
        step = -np.linalg.solve(unit + damping * eye, slope) / scale
        trial = x.copy()
        trial[moving] += step
        trial_equations = equations(trial)
        if all(np.isfinite(part).all() for part in trial_equations) and trial_equations[0] <= square:
            x, (square, right, matrix) = trial, trial_equations
            damping = max(damping / POOLED.damping_factor, POOLED.least_damping)
        elif damping > POOLED.largest_damping:
            break
        else:
            damping *= POOLED.damping_factor
    return x, square, matrix, converged


def _normal_equations(problem: Problem, at: tuple[Params, Vector], _: Any) -> tuple[Any, Any]:
    """Sum of squares of standardised residuals at z = 0 over all groups, half its gradient, and J'J."""
    template, x = at
    density = problem.density
    _, unravel = ravel_pytree((template.beta, template.free))

    def per_group(group):
        def residuals(x):
            beta, free = unravel(x)
            params = Params(beta, template.covariance, template.error, free)
            f = density.predict(params, jnp.zeros(density.n_effects), group)
            residual, scale, _ = density.error_at(params).moments(f, f, params.error, group)
            return jnp.where(group.x.observed, residual / jax.lax.stop_gradient(scale), 0.0)

        r, derivatives = residuals(x), jacobian(residuals)(x)
        return jnp.sum(r**2), derivatives.T @ r, derivatives.T @ derivatives

    return jax.tree.map(lambda values: weighted_sum(problem.weights, values), problem.map(per_group)), ()
