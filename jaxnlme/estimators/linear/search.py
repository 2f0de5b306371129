"""Minimisation of -2 log L over theta: a quasi-Newton search, then Newton steps with the Hessian from differences of
the exact gradient, and departures from saddle points."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnlme.estimators.linear.settings import LINEAR
from jaxnlme.numerics.central_differences import central_differences

Function = Callable[[np.ndarray], tuple[float, np.ndarray, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Minimum:
    """The end of a search: `theta` (parameters,), `value`, `gradient`, `hessian` of -2 log L; `decrement`: the
    log-likelihood units that a Newton step is expected to gain; `iterations`; `definite`: the Hessian is positive
    definite; `rss_slope` (parameters,): derivatives of log rss."""

    theta: np.ndarray
    value: float
    gradient: np.ndarray
    hessian: np.ndarray
    decrement: float
    iterations: int
    definite: bool
    rss_slope: np.ndarray


def minimise(fn: Function, start: np.ndarray, rows: float, hessian: np.ndarray | None = None) -> Minimum:
    """The Minimum of `fn`, which returns a value, its gradient and rss, from `start` (parameters,); `rows`: their
    number, with whose square root gradients grow; `hessian` (parameters, parameters), positive definite: about that at
    the start."""
    if not len(start):
        return Minimum(start, fn(start)[0], np.zeros(0), np.zeros((0, 0)), 0.0, 0, True, np.zeros(0))
    return _newton(fn, *descend(fn, start, rows, hessian))


def descend(
    fn: Function, start: np.ndarray, rows: float, hessian: np.ndarray | None = None
) -> tuple[np.ndarray, float, np.ndarray, int]:
    """The end of the quasi-Newton search (parameters,), arguments as in `minimise`, with the value and the gradient
    there, and the number of iterations."""
    import scipy.optimize

    def finite(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient, _ = fn(theta)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return LINEAR.not_finite, np.zeros_like(theta)
        return value, gradient

    options: dict[str, Any] = {"gtol": LINEAR.gradient_tolerance * np.sqrt(rows), "maxiter": LINEAR.iterations}
    if hessian is not None:
        inverse = np.linalg.inv(hessian)
        options["hess_inv0"] = 0.5 * (inverse + inverse.T)
    result = scipy.optimize.minimize(finite, start, jac=True, method="BFGS", options=options)
    theta, value = np.asarray(result.x), float(result.fun)
    gradient = np.asarray(result.jac)
    if value >= LINEAR.not_finite:
        value, gradient, _ = fn(theta)
    return theta, value, gradient, int(result.nit)


def _newton(fn: Function, theta: np.ndarray, value: float, gradient: np.ndarray, iterations: int) -> Minimum:
    """Newton steps from `theta`, where fn has this value and gradient; along directions of negative curvature, where
    there are any."""
    for _ in range(LINEAR.newton_steps):
        hessian, rss_slope = _derivatives(fn, theta)
        if not np.isfinite(hessian).all():
            return Minimum(theta, value, gradient, hessian, np.inf, iterations, False, rss_slope)
        values, vectors = np.linalg.eigh(hessian)
        scale = max(float(np.max(np.abs(values))), np.finfo(float).tiny)
        definite = bool(values[0] > LINEAR.least_curvature * scale)
        along = vectors.T @ gradient
        size = np.maximum(np.abs(values), LINEAR.least_curvature * scale)
        with np.errstate(over="ignore"):  # no curvature in any direction: an infinite gain is not taken for convergence
            decrement = float(0.25 * np.sum(along**2 / size))
            step = -vectors @ (along / size)
        saddle = values[0] < -LINEAR.negative_curvature * scale
        small = decrement < LINEAR.newton_tolerance
        if small and not saddle:
            last = _line_search(fn, theta, value, step) if decrement > 0.0 else None
            theta, value, gradient = last or (theta, value, gradient)
            if last and decrement > LINEAR.negligible:
                # Standard errors are those of the point where the search ends.
                hessian, rss_slope = _derivatives(fn, theta)
                values, vectors = np.linalg.eigh(hessian)
                definite = bool(values[0] > LINEAR.least_curvature * np.max(np.abs(values)))
            size = np.maximum(np.abs(values), LINEAR.least_curvature * scale)
            decrement = float(0.25 * np.sum((vectors.T @ gradient) ** 2 / size))
            break
        if saddle and small:
            step = vectors[:, 0] * LINEAR.saddle_step * (1.0 if along[0] <= 0 else -1.0)
        moved = _line_search(fn, theta, value, step)
        iterations += 1
        if moved is None:
            break
        theta, value, gradient = moved
    return Minimum(theta, value, gradient, hessian, decrement, iterations, definite, rss_slope)


def _line_search(
    fn: Function, theta: np.ndarray, value: float, step: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """The first point of shorter and shorter steps where the value does not rise; None if there is none."""
    slack = LINEAR.rounding * max(1.0, abs(value))
    for _ in range(LINEAR.halvings):
        trial = theta + step
        new, gradient, _ = fn(trial)
        if np.isfinite(new) and np.isfinite(gradient).all() and new <= value + slack:
            return trial, new, gradient
        step = step / 2.0
    return None


def _derivatives(fn: Function, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Hessian (parameters, parameters) and the derivatives of log rss (parameters,): central differences of the
    gradient and of rss."""

    def gradient_and_log_rss(point: np.ndarray) -> np.ndarray:
        _, gradient, rss = fn(point)
        return np.append(gradient, np.log(rss))

    slopes = central_differences(gradient_and_log_rss, theta)
    return 0.5 * (slopes[:, :-1] + slopes[:, :-1].T), slopes[:, -1]
