"""One profile as it grows: which points to fit next, where their refits begin, and where the interval ends."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.model.covariance.reordered import Ordered
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.refits.profile_coordinate import Coordinate
from jaxnlme.refits.refits import OPENED, Refits

# Multiples of (quantile x standard error) at which a side is looked at: first, and where the end lies further out.
REACH = 1.25
FURTHER = ((1.75, 2.5, 3.5), (5.0, 8.0, 12.0))
# Log standard deviations around their start at which the profile of an SD estimated as zero is looked at, then further.
FROM_ZERO, FURTHER_FROM_ZERO = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0), ((1.5, 2.0, 3.0), (4.0, 5.0, 6.0))
# The deviance at an end of an interval is right to this much, which is less than 1e-4 of a standard error.
EXACT = 1e-4


def with_family(problem: Problem, family: Any) -> Problem:
    """The problem with another covariance family, its own for None."""
    return problem if family is None else eqx.tree_at(lambda p: p.density.covariance, problem, family)


class ProfileTrace:
    """The profile of one value as it grows: points `c` on the coordinate's scale with their `deviance` (NaN where the
    refit failed) and `x` (packed, in the coordinate's own parametrisation; at the estimates, the first point, with the
    variances opened that are zero there); where its ends are."""

    def __init__(
        self, refits: Refits, coordinate: Coordinate, inner: AbstractCovariance | None, level: float, points: int
    ):
        """**Arguments:** `inner`, the family in which full blocks can be reordered, None where none needs to be."""
        from scipy.special import ndtri

        self.coordinate = coordinate
        self.quantile = float(ndtri(0.5 + level / 2.0))
        binding, self.family = refits.binding, None
        if inner is not None:
            places = np.eye(inner.size) if coordinate.places is None else coordinate.places
            self.family = Ordered(inner.size, inner, binding.density.covariance.related, places)
        self.problem = with_family(refits.problem, self.family)
        self.binding = dataclasses.replace(binding, problem=self.problem)
        first = len(binding.density.beta_names)
        self.theta = slice(first, first + binding.density.covariance.n_unconstrained)
        self.centre, slope = self._moved(refits.binding, refits.x)
        assert refits.metrics is not None
        self.metric = slope @ refits.metrics[0] @ slope.T
        self.zero = coordinate.name.startswith("sd(") and refits.fit.values[coordinate.name] == 0.0
        k = coordinate.index
        self.start = float(self.centre[k])
        self.unit = float(np.sqrt(self.metric[k, k])) * self.quantile
        self.c: list[float] = [] if self.zero else [self.start]
        self.deviance: list[float] = [] if self.zero else [0.0]
        self.log_likelihood: list[float] = [] if self.zero else [refits.fit.log_likelihood]
        self.x: list[np.ndarray] = [] if self.zero else [self.centre]
        self.status: list[str] = [] if self.zero else ["converged"]
        self.points = points
        self.asked = 0

    def _moved(self, binding: Binding, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x (n,) in this coordinate's parametrisation, and the derivative (n, n) of that map (central differences of a
        few powers and logarithms)."""
        if self.family is None:
            return x.copy(), np.eye(len(x))
        family = self.family

        def there(theta):
            return np.asarray(family.from_matrix(psi_of(binding.density, theta)), float)

        theta, slope = x[self.theta], np.eye(len(x))
        rows = []
        for k in range(len(theta)):
            step = 1e-5 * np.eye(len(theta))[k] * max(abs(theta[k]), 0.1)
            rows.append((there(theta + step) - there(theta - step)) / (2.0 * np.sum(step)))
        slope[self.theta, self.theta] = np.array(rows).T
        moved = x.copy()
        moved[self.theta] = there(theta)
        return moved, slope

    def side(self, sign: int) -> tuple[np.ndarray, np.ndarray]:
        """Points of one side with a refit that ended: c and zeta >= 0, outwards."""
        c, deviance = np.array(self.c), np.array(self.deviance)
        use = np.isfinite(deviance) & ((sign * (c - self.start) >= 0) | self.zero)
        order = np.argsort(sign * c[use])
        return c[use][order], np.sqrt(np.maximum(deviance[use][order], 0.0))

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides that have an end to look for: an SD estimated as zero has no lower one."""
        return (1,) if self.zero else (-1, 1)

    def ask(self) -> np.ndarray:
        """The next points to evaluate, none where both ends are settled."""
        first = self.asked == 0
        self.asked += 1
        if first and self.zero:
            return self.start_of_zero() + np.array(FROM_ZERO)
        if first:
            steps = self.unit * REACH * np.arange(1, self.points + 1) / self.points
            return self.start + np.concatenate([-steps, steps])
        out: list[float] = []
        for sign in self.sides:
            c, zeta = self.side(sign)
            if not np.any(zeta >= self.quantile):
                if self.asked - 2 < len(FURTHER):
                    further = FURTHER_FROM_ZERO if self.zero else FURTHER
                    steps = np.array(further[self.asked - 2])
                    base = self.start_of_zero() + steps if self.zero else self.start + sign * steps * self.unit
                    out += base.tolist()
                continue
            if np.min(np.abs(zeta**2 - self.quantile**2)) > EXACT:
                out.append(self._untried(self._crossing(c, zeta), c, zeta))
        return np.array(out)

    def _untried(self, at: float, c: np.ndarray, zeta: np.ndarray) -> float:
        """`at`, or where a refit close to it has failed, halfway from there to the last point within."""
        k = int(np.argmax(zeta >= self.quantile))
        within = c[max(k - 1, 0)]
        failed = np.array(self.c)[~np.isfinite(self.deviance)]
        near = 0.01 * abs(at - within)
        for _ in range(len(failed)):
            if not np.any(np.abs(failed - at) <= near):
                break
            at = 0.5 * (at + within)
            near *= 0.5
        return float(at)

    def start_of_zero(self) -> float:
        """Log of the size that an SD estimated as zero was thought to have."""
        return self.start - np.log(OPENED)

    def _crossing(self, c: np.ndarray, zeta: np.ndarray) -> float:
        """Where zeta reaches the quantile, by interpolation: cubic where zeta grows throughout, else linear."""
        from scipy.interpolate import PchipInterpolator

        k = int(np.argmax(zeta >= self.quantile))
        if k == 0:  # of an SD estimated as zero
            return float(c[0] - 1.0)
        if len(c) > 2 and (np.diff(zeta) > 0).all():
            return float(PchipInterpolator(zeta, c)(self.quantile))
        share = (self.quantile - zeta[k - 1]) / (zeta[k] - zeta[k - 1])
        return float(c[k - 1] + share * (c[k] - c[k - 1]))

    def begin(self, c: float) -> np.ndarray:
        """Where the refit at c starts (n,): from the nearest point at hand along the direction in which the others
        follow, Sigma[:, k] / Sigma[k, k]."""
        k = self.coordinate.index
        good = [j for j, d in enumerate(self.deviance) if np.isfinite(d)]
        near = min(good, key=lambda j: abs(self.c[j] - c)) if good else None
        x = (self.centre if near is None else self.x[near]).copy()
        x = np.where(np.isfinite(x), x, self.centre)
        if not self.zero:
            x += self.metric[:, k] / self.metric[k, k] * (c - x[k])
        x[k] = c
        return x

    def end(self, sign: int, interrupted: bool) -> tuple[float, str]:
        """An end of the interval on the natural scale, and what is to be said of it; NaN where the search of an end was
        `interrupted`."""
        to_natural, limits = self.coordinate.to_natural, self.coordinate.limits
        if self.zero and sign < 0:
            return 0.0, "estimated as zero"
        c, zeta = self.side(sign)
        word = "lower" if sign < 0 else "upper"
        if interrupted and not np.any(np.abs(zeta**2 - self.quantile**2) <= EXACT):
            return np.nan, f"{word} limit: interrupted"
        if not np.any(zeta >= self.quantile):
            return limits[0] if sign < 0 else limits[1], f"{word} limit not reached"
        gap = np.abs(zeta**2 - self.quantile**2)
        k = int(np.argmin(gap))
        if gap[k] <= EXACT:
            return float(to_natural(c[k])), ""
        return float(to_natural(self._crossing(c, zeta))), f"{word} limit by interpolation only"
