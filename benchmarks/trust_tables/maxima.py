"""The maximum of a function of the referee, and the fixed point that Lindstrom and Bates' alternation seeks.

Parameters are packed into an unconstrained vector: fixed effects in units of their size, the factor of Psi entry by
entry (its diagonal may take either sign, so that a variance of zero is an inner point), log sigma, thresholds as the
first and the logarithms of the gaps. scipy's BFGS on central differences climbs from the estimates of the best program
and from the values that simulated the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize

from trust_tables.exact_likelihood import STEP, HardFitLikelihood, finite, gaussian
from trust_tables.problem import Estimates

WORST = 1e10


class Packing:
    """Estimates of one fit as a vector, and back."""

    def __init__(self, referee: HardFitLikelihood):
        fit = referee.fit
        self.fit, self.n_fixed, q = fit, referee.n_fixed, len(fit.random)
        truth = np.asarray(fit.truth["beta"], dtype=float)[: self.n_fixed]
        logs = np.array([name in fit.shape.log for name in fit.shape.parameters])
        self.beta_scale = np.where(logs, 0.5, np.maximum(0.2 * np.abs(truth), 1e-12))
        if fit.family != "gaussian":
            self.beta_scale = np.full(self.n_fixed, 0.5)
        # Thresholds take the place of an ordinal model's intercept, which is held at zero.
        self.free = np.arange(1 if fit.categories else 0, self.n_fixed)
        psi = np.sqrt(np.diag(np.atleast_2d(fit.truth["psi"])))
        self.sd_scale = np.where(psi > 0.0, psi, np.asarray(fit.sds))
        self.lower = np.tril_indices(q) if fit.psi == "full" else (np.arange(q), np.arange(q))

    def pack(self, estimates: Estimates) -> np.ndarray:
        """The vector."""
        beta = np.asarray(estimates["beta"], dtype=float)
        psi = np.atleast_2d(np.asarray(estimates["psi"], dtype=float)) / np.outer(self.sd_scale, self.sd_scale)
        if self.fit.psi == "full":
            values, vectors = np.linalg.eigh(psi)
            factor = np.linalg.qr((vectors * np.sqrt(np.maximum(values, 1e-10))).T)[1].T
        else:
            factor = np.diag(np.sqrt(np.maximum(np.diag(psi), 0.0)))
        parts = [(beta[: self.n_fixed] / self.beta_scale)[self.free], factor[self.lower]]
        if self.fit.family == "gaussian":
            parts.append([math.log(estimates["sigma"] / self.fit.truth["sigma"])])
        if self.fit.nested is not None:
            parts.append([estimates["inner"] / self.fit.truth["sigma"]])
        if self.fit.categories:
            cuts = beta[self.n_fixed :]
            parts.append(np.concatenate([cuts[:1], np.log(np.maximum(np.diff(cuts), 1e-8))]))
        return np.concatenate([np.atleast_1d(p) for p in parts])

    def off_zero(self, vector: np.ndarray) -> np.ndarray | None:
        """The vector with variances inside that are zero in it, where a climb would stay; None where none is."""
        place = len(self.free) + np.flatnonzero(self.lower[0] == self.lower[1])
        zero = np.abs(vector[place]) < 1e-3
        inside = vector.copy()
        inside[place[zero]] = 0.3
        if self.fit.nested is not None and abs(vector[-1]) < 1e-3:
            inside[-1] = 0.3
            return inside
        return inside if np.any(zero) else None

    def unpack(self, vector: np.ndarray) -> Estimates:
        """Back to estimates."""
        q, place = len(self.fit.random), len(self.free)
        beta = np.zeros(self.n_fixed)
        beta[self.free] = vector[:place] * self.beta_scale[self.free]
        factor = np.zeros((q, q))
        factor[self.lower] = vector[place : place + len(self.lower[0])]
        place += len(self.lower[0])
        factor = self.sd_scale[:, None] * factor
        out: Estimates = {"beta": beta.tolist(), "psi": (factor @ factor.T).tolist()}
        out |= {"sigma": None, "inner": None}
        if self.fit.family == "gaussian":
            out["sigma"] = self.fit.truth["sigma"] * math.exp(min(max(vector[place], -60.0), 60.0))
            place += 1
        if self.fit.nested is not None:
            out["inner"] = self.fit.truth["sigma"] * abs(float(vector[place]))
            place += 1
        if self.fit.categories:
            first, gaps = vector[place], np.exp(np.clip(vector[place + 1 :], -30.0, 10.0))
            out["beta"] += np.cumsum(np.concatenate([[first], gaps])).tolist()
        return out


def climb(value: Callable[[np.ndarray], float], start: np.ndarray, rounds: int = 2) -> tuple[np.ndarray, float]:
    """The highest point that BFGS reaches from a start, and its value."""

    def minus(vector: np.ndarray) -> float:
        found = value(vector)
        return -found if math.isfinite(found) else WORST

    def slope(vector: np.ndarray) -> np.ndarray:
        h = 1e-4 * np.maximum(1.0, np.abs(vector))
        ups = [vector + step for step in np.diag(h)]
        return np.array([minus(up) - minus(2.0 * vector - up) for up in ups]) / (2.0 * h)

    best, least = start, minus(start)
    for _ in range(rounds):
        options = {"gtol": 1e-3, "maxiter": 80}
        found = optimize.minimize(minus, best, jac=slope, method="BFGS", options=options)
        if not found.fun < least:
            break
        gain, best, least = least - found.fun, found.x, found.fun
        if gain < 1e-3:
            break
    return best, -least


def maximum(referee: HardFitLikelihood, kind: str, starts: list[Estimates]) -> tuple[Estimates, float]:
    """The highest value of the likelihood `kind` that is reached from any of the starts."""
    packing = Packing(referee)
    best, top = starts[0], -math.inf
    climbed = "quick" if kind == "exact" else kind
    vectors = [packing.pack(start) for start in starts]
    vectors += [inside for vector in vectors if (inside := packing.off_zero(vector)) is not None]
    for vector in vectors:
        with np.errstate(all="ignore"):
            referee.log_likelihood(packing.unpack(vector), climbed)  # modes with which the climb begins
            point, _ = climb(lambda v: referee.log_likelihood(packing.unpack(v), climbed, warm=True), vector)
        value = referee.log_likelihood(packing.unpack(point), kind)
        if value > top:
            best, top = packing.unpack(point), value
    return best, top


def alternation(referee: HardFitLikelihood, estimates: Estimates) -> tuple[float, float]:
    """Lindstrom and Bates' linearised log-likelihood at estimates and their own modes, and how much higher its maximum
    over all parameters is with the linearisation held: zero at a fixed point of the alternation."""
    if not finite(estimates):
        return -math.inf, math.inf
    fit, table = referee.fit, referee.table
    beta, factor = np.asarray(estimates["beta"], dtype=float), referee.factor(estimates["psi"])
    with np.errstate(all="ignore"):
        b = np.zeros((referee.groups, len(fit.random)))
        if factor.shape[1]:
            b = referee.find_modes(estimates, factor) @ factor.T
        at = np.broadcast_to(beta, (referee.groups, len(beta))).astype(complex)
        at[:, referee.positions] += b
        jac = [fit.shape(at + 1j * STEP * unit, table.x).imag / STEP for unit in np.eye(len(beta))]
        jacobian = np.where(table.mask[..., None], np.stack(jac, axis=-1), 0.0)
        effects = jacobian[..., referee.positions]
        pseudo = table.y - fit.shape(at, table.x).real + jacobian @ beta + np.einsum("gok,gk->go", effects, b)
        pseudo = type(table)(np.where(table.mask, pseudo, 0.0), table.x, table.mask, table.inner)
        packing = Packing(referee)

        def linearised(vector: np.ndarray) -> float:
            trial = packing.unpack(vector)
            return gaussian(pseudo, jacobian @ np.asarray(trial["beta"]), effects, trial)

        own = gaussian(pseudo, jacobian @ beta, effects, estimates)
        if not math.isfinite(own):
            return -math.inf, math.inf
        start = packing.pack(estimates)
        _, top = climb(linearised, start)
        if (inside := packing.off_zero(start)) is not None:
            top = max(top, climb(linearised, inside)[1])
    return own, max(0.0, top - own)
