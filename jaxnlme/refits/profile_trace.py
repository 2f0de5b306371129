"""Profile of one value: the points to fit next, the starting points of their refits, and the interval limits."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.model.covariance.reordered import Permuted
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.refits.profile_coordinate import Coordinate
from jaxnlme.refits.refits import Refits
from jaxnlme.refits.settings import PROFILE, REFIT


def with_family(problem: Problem, family: Any) -> Problem:
    """The problem with the covariance `family` in the place of its own, or unchanged for None."""
    return problem if family is None else eqx.tree_at(lambda p: p.density.covariance, problem, family)


class ProfileTrace:
    """Profile of one value, to which points are added round by round.

    `c`: the points, on the scale of the coordinate, the estimate first (none for an SD estimated as zero); `deviance`
    (NaN where the refit failed), `log_likelihood` and `status` there; `x`: the packed vectors there, in the
    parametrisation of the coordinate; `centre` (n,): the estimates, SDs of zero restarted; `estimate`: its entry
    for the coordinate; `free` (n,): the entries that a refit estimates; `half_width` of the Wald interval, on the scale
    of the coordinate; `zero`: the value is an SD estimated as zero; `rounds`: the number of rounds requested so far.

    **Arguments:** `inner`: the covariance family whose effects may be permuted, None where no coordinate needs that;
    `level` of the interval; `points` on each side in the first round.
    """

    def __init__(
        self, refits: Refits, coordinate: Coordinate, inner: AbstractCovariance | None, level: float, points: int
    ):
        from scipy.special import ndtri

        self.coordinate = coordinate
        self.quantile = float(ndtri(0.5 + level / 2.0))
        binding, self.family = refits.binding, coordinate.family
        if inner is not None and self.family is None:
            permutation = np.eye(inner.size) if coordinate.permutation is None else coordinate.permutation
            self.family = Permuted(inner.size, inner, binding.density.covariance.correlated_pairs, permutation)
        self.problem = with_family(refits.problem, self.family)
        self.binding = dataclasses.replace(binding, problem=self.problem)
        first = len(binding.density.beta_names)
        self.theta = slice(first, first + binding.density.covariance.n_unconstrained)
        self.free = refits.free.copy()
        if coordinate.family is not None:
            self.free[self.theta] = True
            self.free[[first + k for k in coordinate.family.fixed_entries]] = False
        self.free[coordinate.index] = False
        self.centre, slope = self._reparametrised(refits.binding, refits.x)
        assert refits.inverse_hessians is not None
        self.inverse_information = slope @ refits.inverse_hessians[0] @ slope.T
        self.zero = coordinate.name.startswith("sd(") and refits.fit.values[coordinate.name] == 0.0
        k = coordinate.index
        self.estimate = float(self.centre[k])
        self.half_width = float(np.sqrt(self.inverse_information[k, k])) * self.quantile
        self.c: list[float] = [] if self.zero else [self.estimate]
        self.deviance: list[float] = [] if self.zero else [0.0]
        self.log_likelihood: list[float] = [] if self.zero else [refits.fit.log_likelihood]
        self.x: list[np.ndarray] = [] if self.zero else [self.centre]
        self.status: list[str] = [] if self.zero else ["converged"]
        self.points = points
        self.rounds = 0

    def _reparametrised(self, binding: Binding, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x (n,) in the parametrisation of the coordinate, and the Jacobian (n, n) of that map by central differences
        of its theta block, which consists of powers and logarithms."""
        if self.family is None:
            return x.copy(), np.eye(len(x))
        family = self.family

        def new_theta(theta):
            return np.asarray(family.from_matrix(psi_of(binding.density, theta)), float)

        theta, slope = x[self.theta], np.eye(len(x))
        rows = []
        for k in range(len(theta)):
            step = PROFILE.difference_step * np.eye(len(theta))[k] * max(abs(theta[k]), PROFILE.least_size)
            rows.append((new_theta(theta + step) - new_theta(theta - step)) / (2.0 * np.sum(step)))
        slope[self.theta, self.theta] = np.array(rows).T
        slope[:, [self.theta.start + k for k in binding.density.covariance.fixed_entries]] = 0.0
        moved = x.copy()
        moved[self.theta] = new_theta(theta)
        return moved, slope

    def side(self, sign: int) -> tuple[np.ndarray, np.ndarray]:
        """Points c below (`sign` -1) or above (1) the estimate whose refit converged, and zeta >= 0 there, outwards."""
        c, deviance = np.array(self.c), np.array(self.deviance)
        use = np.isfinite(deviance) & ((sign * (c - self.estimate) >= 0) | self.zero)
        order = np.argsort(sign * c[use])
        return c[use][order], np.sqrt(np.maximum(deviance[use][order], 0.0))

    @property
    def sides(self) -> tuple[int, ...]:
        """Signs of the sides whose limit is searched for: an SD estimated as zero has no lower one."""
        return (1,) if self.zero else (-1, 1)

    def next_points(self) -> np.ndarray:
        """The points (k,) of the next round, none where both limits are exact or out of reach."""
        first = self.rounds == 0
        self.rounds += 1
        if first and self.zero:
            return self.initial_log_sd() + np.array(PROFILE.zero_sd_points)
        if first:
            steps = self.half_width * PROFILE.first_reach * np.arange(1, self.points + 1) / self.points
            return self.estimate + np.concatenate([-steps, steps])
        points: list[float] = []
        for sign in self.sides:
            c, zeta = self.side(sign)
            if not np.any(zeta >= self.quantile):
                if self.rounds - 2 < len(PROFILE.further_points):
                    further = PROFILE.further_zero_sd_points if self.zero else PROFILE.further_points
                    steps = np.array(further[self.rounds - 2])
                    wald_points = self.estimate + sign * steps * self.half_width
                    points += (self.initial_log_sd() + steps if self.zero else wald_points).tolist()
                continue
            if np.min(np.abs(zeta**2 - self.quantile**2)) > PROFILE.deviance_tolerance:
                points.append(self._avoid_failures(self._crossing(c, zeta), c, zeta))
        return np.array(points)

    def _avoid_failures(self, at: float, c: np.ndarray, zeta: np.ndarray) -> float:
        """The point `at`, or, where a refit close to it has failed, one halfway to the last point inside the interval
        (repeatedly)."""
        k = int(np.argmax(zeta >= self.quantile))
        inside = c[max(k - 1, 0)]
        failed = np.array(self.c)[~np.isfinite(self.deviance)]
        near = PROFILE.close_to_failed * abs(at - inside)
        for _ in range(len(failed)):
            if not np.any(np.abs(failed - at) <= near):
                break
            at = 0.5 * (at + inside)
            near *= 0.5
        return float(at)

    def initial_log_sd(self) -> float:
        """Start of the log SD, for an SD estimated as zero."""
        return self.estimate - np.log(REFIT.restarted_sd)

    def _crossing(self, c: np.ndarray, zeta: np.ndarray) -> float:
        """Point at which zeta reaches the quantile, by interpolation: monotone cubic where zeta increases, else
        linear."""
        from scipy.interpolate import PchipInterpolator

        k = int(np.argmax(zeta >= self.quantile))
        if k == 0:  # of an SD estimated as zero
            return float(c[0] - 1.0)
        if len(c) > 2 and (np.diff(zeta) > 0).all():
            return float(PchipInterpolator(zeta, c)(self.quantile))
        fraction = (self.quantile - zeta[k - 1]) / (zeta[k] - zeta[k - 1])
        return float(c[k - 1] + fraction * (c[k] - c[k - 1]))

    def starting_point(self, c: float) -> np.ndarray:
        """Starting point (n,) of the refit at c: the nearest point that converged, moved to c along the regression of
        the other entries on this one, Sigma[:, k] / Sigma[k, k] with Sigma the inverse information."""
        k = self.coordinate.index
        good = [j for j, d in enumerate(self.deviance) if np.isfinite(d)]
        near = min(good, key=lambda j: abs(self.c[j] - c)) if good else None
        x = (self.centre if near is None else self.x[near]).copy()
        x = np.where(np.isfinite(x), x, self.centre)
        if not self.zero:
            x += self.inverse_information[:, k] / self.inverse_information[k, k] * (c - x[k])
        x[k] = c
        return x

    def limit(self, sign: int, interrupted: bool) -> tuple[float, str]:
        """A limit of the interval on the natural scale, and a note on it (may be empty); NaN where the search was
        `interrupted` before the limit was found."""
        to_natural, limits = self.coordinate.to_natural, self.coordinate.limits
        if self.zero and sign < 0:
            return 0.0, "estimated as zero"
        c, zeta = self.side(sign)
        side = "lower" if sign < 0 else "upper"
        if interrupted and not np.any(np.abs(zeta**2 - self.quantile**2) <= PROFILE.deviance_tolerance):
            return np.nan, f"{side} limit: interrupted"
        if not np.any(zeta >= self.quantile):
            return limits[0] if sign < 0 else limits[1], f"{side} limit not reached"
        error = np.abs(zeta**2 - self.quantile**2)
        k = int(np.argmin(error))
        if error[k] <= PROFILE.deviance_tolerance:
            return float(to_natural(c[k])), ""
        return float(to_natural(self._crossing(c, zeta))), f"{side} limit by interpolation only"
