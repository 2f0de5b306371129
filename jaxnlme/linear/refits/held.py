"""Maxima of the likelihood of a linear mixed model where one parameter is held at a value."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.linear.estimates import interval_scale, reported_values, variance_point, variance_quantities
from jaxnlme.linear.refits.refit import refit
from jaxnlme.linear.refits.settings import LINEAR_PROFILE
from jaxnlme.model.transforms import AbstractTransform
from jaxnlme.numerics.central_differences import central_differences
from jaxnlme.precision import x64

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


@dataclasses.dataclass(frozen=True, eq=False)
class HeldPoint:
    """The maximum with a parameter held at `value`: `deviance`, 2 (log L of the fit - log L there), NaN with a `status`
    other than "converged"; `values` (parameters,), of all reported parameters."""

    value: float
    deviance: float
    status: str
    values: np.ndarray


class HeldFixedEffect:
    """A fixed effect that is held: its column times the value is subtracted from the responses.

    **Arguments:** `fit`, by ML; `position` of the effect.
    """

    lowest, highest = -np.inf, np.inf

    def __init__(self, fit: LinearFit, position: int):
        self.fit, self.position = fit, position

    def to_real(self, value: Any) -> Any:
        """The value on the real line, itself."""
        return value

    to_natural = to_real

    def bound(self, real: float) -> float | None:
        """The value that stands for a bound of the parameter, None for values away from any."""
        return None

    def at(self, value: float) -> HeldPoint:
        """The maximum with the effect at `value`."""
        X, j = self.fit.model.fixed.matrix, self.position
        found = refit(self.fit, self.fit.model.y - value * X[:, j], np.delete(X, j, axis=1))
        if not found.converged:
            return HeldPoint(value, np.nan, "not converged", np.full(len(self.fit.values), np.nan))
        values = np.insert(reported_values(self.fit, found), j, value)
        return HeldPoint(value, 2.0 * (self.fit.log_likelihood - found.log_likelihood), "converged", values)


class HeldVariance:
    """A standard deviation, a correlation or a residual parameter that is held, by sequential quadratic programming
    over (theta, log sigma) under that constraint, in units of standard errors.

    **Arguments:** `fit`, by ML; `position` among the variance parameters.
    **Source:** Nocedal and Wright (2006), Numerical Optimization, chapter 18.
    """

    def __init__(self, fit: LinearFit, position: int):
        self.fit = fit
        name, kind, self.quantity = variance_quantities(fit)[position]
        self.scale = interval_scale(fit, name, kind)
        self.lowest, self.highest = self._domain()
        estimation, likelihood = fit.outcome.estimation, fit.likelihood
        self.estimate = self.quantity(variance_point(fit, estimation.theta, fit.outcome.sigma))
        self.centre = np.append(estimation.theta, np.log(fit.outcome.sigma))
        free = np.append(estimation.free, True)
        self.root = np.eye(len(free))  # of the covariance of theta and log sigma
        information = estimation.information(likelihood.count)
        if np.isfinite(information).all() and np.linalg.eigvalsh(information)[0] > 0:
            self.root[np.ix_(free, free)] = np.linalg.inv(np.linalg.cholesky(information)).T
        perturbed = np.append(LINEAR_PROFILE.small_start * likelihood.start(), 0.0)
        self.off_zero = np.where(free, 0.0, perturbed)
        self.solutions: dict[float, np.ndarray] = {}

    def _domain(self) -> tuple[float, float]:
        if isinstance(self.scale, AbstractTransform):
            return self.scale.domain
        return (-1.0, 1.0) if self.scale == "correlation" else (0.0, np.inf)

    def to_real(self, value: Any) -> Any:
        """The value on the real line: log, Fisher's z, or by the transform of the parameter."""
        with np.errstate(divide="ignore"):
            if isinstance(self.scale, AbstractTransform):
                return np.asarray(self.scale.to_real(value), float)
            return np.arctanh(value) if self.scale == "correlation" else np.log(value)

    def to_natural(self, real: Any) -> Any:
        """The value from the real line."""
        if isinstance(self.scale, AbstractTransform):
            return np.asarray(self.scale.to_natural(real), float)
        return np.tanh(real) if self.scale == "correlation" else np.exp(real)

    def bound(self, real: float) -> float | None:
        """The value that stands for a bound of the parameter, None for values away from any."""
        value, near = float(self.to_natural(real)), LINEAR_PROFILE.bound
        unit = abs(self.estimate) if np.isfinite(self.estimate) and self.estimate != 0.0 else self._small()
        distance = near * (unit if not np.isfinite(self.highest) else 1.0)
        if np.isfinite(self.lowest) and value < self.lowest + distance:
            return self.lowest + distance
        if np.isfinite(self.highest) and value > self.highest - distance:
            return self.highest - distance
        return None

    def _small(self) -> float:
        """The value where variances estimated as zero are small."""
        point = self.centre + self.off_zero
        return self.quantity(variance_point(self.fit, point[:-1], float(np.exp(point[-1]))))

    def start(self) -> float:
        """For a standard deviation estimated as zero, a small one, on the real line."""
        return float(np.log(self._small()))

    def at(self, value: float) -> HeldPoint:
        """The maximum with the parameter at `value`."""
        target = float(self.to_real(value))
        near = min(self.solutions, key=lambda real: abs(real - target), default=None)
        first = self.centre if near is None else self.solutions[near]
        starts = [first, self.centre + self.off_zero] if self.off_zero.any() else [first, self.centre]
        best: tuple[float, np.ndarray] | None = None
        with x64(), np.errstate(over="ignore", invalid="ignore"):  # a step that is too long is halved
            for start in starts:
                found = self._minimised(start, target)
                if found is not None and (best is None or found[0] < best[0]):
                    best = found
                if best is not None and not self.off_zero.any():
                    break
        if best is None:
            return HeldPoint(value, np.nan, "not converged", np.full(len(self.fit.values), np.nan))
        self.solutions[target] = best[1]
        return HeldPoint(value, 2.0 * best[0], "converged", self._values(best[1]))

    def _values(self, point: np.ndarray) -> np.ndarray:
        """All reported values at theta and log sigma."""
        theta, sigma = point[:-1], float(np.exp(point[-1]))
        beta = self.fit.problem.beta(self.fit.likelihood.solve(theta).gamma)
        at = variance_point(self.fit, theta, sigma)
        return np.array([*beta, *(fn(at) for _, _, fn in variance_quantities(self.fit))])

    def _loss(self, point: np.ndarray) -> float:
        """log L of the fit less log L at theta and log sigma, fixed effects at their maximum for these."""
        likelihood, problem = self.fit.likelihood, self.fit.problem
        value, _, rss = likelihood.profiled(point[:-1])
        count, log_sigma = likelihood.count, point[-1] - np.log(problem.scale)
        value += count * (2.0 * log_sigma - np.log(rss / count) - 1.0) + rss * np.exp(-2.0 * log_sigma)
        return self.fit.log_likelihood + 0.5 * problem.minus_two_log_likelihood(value, False)

    def _minimised(self, start: np.ndarray, target: float) -> tuple[float, np.ndarray] | None:
        """The least loss with the parameter at `target` on the real line, and the point; None where the search did not
        end at a minimum.

        Steps of sequential quadratic programming, no longer than `LINEAR_PROFILE.longest_step` standard errors; the
        curvature of the Lagrangian begins as the information of the fit and is updated as of Powell (1978).
        """

        def both(x: np.ndarray) -> np.ndarray:
            point = self.centre + self.root @ x
            value = self.quantity(variance_point(self.fit, point[:-1], float(np.exp(point[-1]))))
            return np.array([self._loss(point), float(self.to_real(value)) - target])

        x, curvature, weight = np.linalg.solve(self.root, start - self.centre), np.eye(len(start)), 0.0
        loss, off = both(x)
        of_loss, of_value = central_differences(both, x).T
        for _ in range(LINEAR_PROFILE.iterations):
            if not (np.isfinite(of_loss).all() and np.isfinite(of_value).all() and of_value.any()):
                return None
            along = of_loss - of_value * (of_loss @ of_value) / (of_value @ of_value)
            if abs(off) < LINEAR_PROFILE.constraint and np.linalg.norm(along) < LINEAR_PROFILE.score:
                return float(loss), self.centre + self.root @ x
            system = np.block([[curvature, of_value[:, None]], [of_value[None, :], np.zeros((1, 1))]])
            *step, multiplier = np.linalg.solve(system, -np.append(of_loss, off))
            step = np.array(step) * min(1.0, LINEAR_PROFILE.longest_step / np.linalg.norm(step))
            weight = max(weight, 2.0 * abs(multiplier))
            before = loss + weight * abs(off)
            for _ in range(LINEAR_PROFILE.halvings):
                moved = both(x + step)
                if moved[0] + weight * abs(moved[1]) < before:
                    break
                step = 0.5 * step
            else:
                return None
            old = of_loss + multiplier * of_value
            x, (loss, off) = x + step, moved
            of_loss, of_value = central_differences(both, x).T
            curvature = _updated(curvature, step, of_loss + multiplier * of_value - old)
        return None


def _updated(curvature: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The curvature (n, n) after a step (n,) over which the gradient changed by `change` (n,), positive definite.

    **Source:** Powell (1978), Lecture Notes in Mathematics 630, 144-157 (damped BFGS).
    """
    product = curvature @ step
    bent, expected = float(step @ change), float(step @ product)
    if bent < 0.2 * expected:
        share = 0.8 * expected / (expected - bent)
        change = share * change + (1.0 - share) * product
    return curvature + np.outer(change, change) / (step @ change) - np.outer(product, product) / expected
