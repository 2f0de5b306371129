"""The referee: the log-likelihood of a fit's model at any program's estimates, in plain numpy.

- "exact": a linear Gaussian model by its closed form, all others by quadrature: nodes around every group's mode, spread
  by its curvature, doubled until the value moves less than PRECISION or another doubling would take more than
  MOST_POINTS points; where a group may have several modes, a grid over +-SPAN standard deviations of the effects, its
  points doubled likewise, up to 40 times as many;
- "quick": the same with few nodes, for climbs, whose end "exact" evaluates;
- "laplace": at the modes with the exact Hessian; "focei": with the Gauss-Newton curvature I + J'J / sigma^2.

Random effects are b = L z with Psi = L L' and z standard normal, so that a variance may be zero. It shares no code with
any of the programs. A value does not depend on the calls before it, except within a climb (`warm`), where the modes of
the call before are tried in place of the points around zero.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from trust_tables.problem import Estimates, HardFit, PaddedRows, table_of

STEP = 1e-30
PRECISION = 1e-3
SPAN = 9.0
MOST_POINTS = 70_000
LOG_2PI = math.log(2.0 * math.pi)


class HardFitLikelihood:
    """The likelihoods of one fit's model and table."""

    def __init__(self, fit: HardFit):
        self.fit, self.table = fit, table_of(fit)
        names = fit.shape.parameters
        self.positions = [names.index(name) for name in fit.random]
        self.n_fixed = len(names)
        self.groups = len(self.table.y)
        self.modes: np.ndarray | None = None
        self.log_factorial = np.vectorize(math.lgamma)(np.maximum(self.table.y, 0.0) + 1.0)

    def factor(self, psi: np.ndarray) -> np.ndarray:
        """(random, effective) L with Psi = L L'; directions without variance are left out."""
        psi = np.atleast_2d(np.asarray(psi, dtype=float))
        scale = np.sqrt(np.maximum(np.diag(psi), 0.0))
        safe = np.where(scale > 0.0, scale, 1.0)
        values, vectors = np.linalg.eigh(psi / np.outer(safe, safe))
        keep = values > 1e-12 * max(values.max(), 1e-300)
        return safe[:, None] * (vectors * np.sqrt(np.maximum(values, 0.0)))[:, keep]

    def log_likelihood(self, estimates: Estimates, kind: str = "exact", warm: bool = False) -> float:
        """The log-likelihood at estimates, -inf where they are outside the model; `warm` as of `find_modes`."""
        if not finite(estimates):
            return -math.inf
        with np.errstate(all="ignore"):
            if self.fit.shape.linear and self.fit.family == "gaussian":
                return self.closed_form(estimates)
            if kind in ("exact", "quick"):
                once = kind == "quick"
                return self.grid(estimates, once) if self.fit.several_modes else self.quadrature(estimates, once, warm)
            return self.laplace(estimates, exact=kind == "laplace", warm=warm)

    def closed_form(self, estimates: Estimates) -> float:
        """y ~ N(X beta, Z Psi Z' + inner^2 U U' + sigma^2 I) in every group."""
        table, beta = self.table, np.asarray(estimates["beta"], dtype=float)
        mean = self.fit.shape(np.broadcast_to(beta, (self.groups, self.n_fixed)), table.x)
        unit = np.eye(self.n_fixed)
        design = np.stack([self.fit.shape(unit[k][None], table.x) for k in self.positions], axis=-1)
        return gaussian(table, mean, design, estimates)

    def density(self, estimates: Estimates, z: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """log p(y | b = L z) of every group, (groups, points), at `z` (groups, points, effective)."""
        table, fit = self.table, self.fit
        beta = np.asarray(estimates["beta"], dtype=float)
        xb = np.broadcast_to(beta[: self.n_fixed], (*z.shape[:-1], self.n_fixed)).astype(z.dtype)
        xb[..., self.positions] += z @ factor.T
        mean = fit.shape(xb, {name: values[:, None, :] for name, values in table.x.items()})
        y, mask = table.y[:, None, :], table.mask[:, None, :]
        if fit.family == "gaussian":
            sigma = float(estimates["sigma"])
            rows = -0.5 * ((y - mean) / sigma) ** 2 - math.log(abs(sigma)) - 0.5 * LOG_2PI
        elif fit.family == "poisson":
            rows = y * mean - np.exp(mean) - self.log_factorial[:, None, :]
        elif fit.family == "bernoulli":
            rows = -_softplus(np.where(y > 0.5, -mean, mean))
        else:
            cuts = np.concatenate([[-np.inf], beta[self.n_fixed :], [np.inf]])
            k = y.astype(int)
            rows = _log_interval(cuts[k], cuts[k + 1], mean)
        return np.sum(np.where(mask, rows, 0.0), axis=-1)

    def minus_joint(self, estimates: Estimates, z: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """-log p(y | z) + z'z / 2 (groups, points)."""
        return 0.5 * np.sum(z**2, axis=-1) - self.density(estimates, z, factor)

    def gradient(self, estimates: Estimates, z: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Its gradient (groups, points, effective) by the complex step."""
        units = 1j * STEP * np.eye(z.shape[-1])
        return np.stack([self.minus_joint(estimates, z + unit, factor).imag / STEP for unit in units], axis=-1)

    def curvature(self, estimates: Estimates, z: np.ndarray, factor: np.ndarray, exact: bool) -> np.ndarray:
        """(groups, effective, effective) at one point z (groups, effective): the exact Hessian, or Gauss-Newton's."""
        q = z.shape[-1]
        if exact or self.fit.family != "gaussian":
            h = 1e-5
            steps = h * np.concatenate([np.eye(q), -np.eye(q)])
            around = self.gradient(estimates, z[:, None, :] + steps, factor)
            hessian = (around[:, :q] - around[:, q:]) / (2.0 * h)
            return 0.5 * (hessian + np.swapaxes(hessian, 1, 2))
        beta, jacobian = np.asarray(estimates["beta"], dtype=float), []
        for k in range(q):
            xb = np.broadcast_to(beta, (self.groups, self.n_fixed)).astype(complex)
            xb[:, self.positions] += (z + 1j * STEP * np.eye(q)[k]) @ factor.T
            jacobian.append(self.fit.shape(xb, self.table.x).imag / STEP)
        jac = np.where(self.table.mask[..., None], np.stack(jacobian, axis=-1), 0.0)
        return np.eye(q) + np.einsum("gok,gol->gkl", jac, jac) / float(estimates["sigma"]) ** 2

    def find_modes(self, estimates: Estimates, factor: np.ndarray, warm: bool = False) -> np.ndarray:
        """Every group's best mode of those reached by damped Newton steps from zero and from points around it; `warm`:
        from zero and from the modes of the call before, if that had as many effects."""
        q = factor.shape[1]
        starts = [np.zeros((self.groups, q))]
        if warm and self.modes is not None and self.modes.shape[1] == q:
            starts.append(self.modes)
        else:
            starts += [np.broadcast_to(s * unit, (self.groups, q)) for unit in np.eye(q) for s in (-2.0, 2.0)]
        found = [self._newton(estimates, start.copy(), factor) for start in starts]
        values = np.stack([self.minus_joint(estimates, z[:, None], factor)[:, 0] for z in found])
        best = np.argmin(np.where(np.isfinite(values), values, np.inf), axis=0)
        self.modes = np.stack(found)[best, np.arange(self.groups)]
        return self.modes

    def _newton(self, estimates: Estimates, z: np.ndarray, factor: np.ndarray) -> np.ndarray:
        identity, damping = np.eye(z.shape[1]), np.full(self.groups, 1e-6)
        value = self.minus_joint(estimates, z[:, None], factor)[:, 0]
        for _ in range(100):
            slope = self.gradient(estimates, z[:, None], factor)[:, 0]
            hessian = self.curvature(estimates, z, factor, exact=False)
            bad = ~np.isfinite(hessian).all(axis=(1, 2)) | ~np.isfinite(slope).all(axis=1)
            slope, hessian = np.where(bad[:, None], 0.0, slope), np.where(bad[:, None, None], identity, hessian)
            step = np.linalg.solve(hessian + damping[:, None, None] * identity, slope[..., None])[..., 0]
            trial = z - step
            proposed = self.minus_joint(estimates, trial[:, None], factor)[:, 0]
            better = proposed <= value
            z, value = np.where(better[:, None], trial, z), np.where(better, proposed, value)
            damping = np.clip(damping * np.where(better, 0.1, 10.0), 1e-12, 1e12)
            if np.all((np.sum(slope * step, axis=1) < 1e-13) | (damping >= 1e8)):
                break
        return z

    def laplace(self, estimates: Estimates, exact: bool, warm: bool = False) -> float:
        """The Laplace approximation at the modes, with the exact or the Gauss-Newton curvature."""
        factor = self.factor(estimates["psi"])
        if factor.shape[1] == 0:
            return self._without_effects(estimates, factor)
        z = self.find_modes(estimates, factor, warm)
        sign, logdet = np.linalg.slogdet(self.curvature(estimates, z, factor, exact))
        if np.any(sign <= 0.0):
            return -math.inf
        return float(-np.sum(self.minus_joint(estimates, z[:, None], factor)[:, 0] + 0.5 * logdet))

    def quadrature(self, estimates: Estimates, once: bool = False, warm: bool = False) -> float:
        """Adaptive Gauss-Hermite quadrature, nodes doubled until the value moves less than PRECISION, at most up to
        MOST_POINTS points."""
        factor = self.factor(estimates["psi"])
        if factor.shape[1] == 0:
            return self._without_effects(estimates, factor)
        z = self.find_modes(estimates, factor, warm)
        hessian = self.curvature(estimates, z, factor, exact=True)
        weak = np.linalg.eigvalsh(hessian)[:, 0] < 0.05
        if np.any(weak):
            rounder = (
                self.curvature(estimates, z, factor, exact=False) if self.fit.family == "gaussian" else np.eye(len(z.T))
            )
            hessian = np.where(weak[:, None, None], rounder, hessian)
        spread = np.sqrt(2.0) * np.swapaxes(np.linalg.inv(np.linalg.cholesky(hessian)), 1, 2)
        previous, nodes, q = -math.inf, 5 if factor.shape[1] > 2 else 9, factor.shape[1]
        while True:
            places, weights = np.polynomial.hermite.hermgauss(nodes)
            x = np.array(list(itertools.product(places, repeat=q)))
            log_weight = np.log(np.array(list(itertools.product(weights, repeat=q)))).sum(axis=1)
            terms = log_weight + np.sum(x**2, axis=1) - self._in_chunks(estimates, z, spread, x, factor)
            value = np.sum(_logsumexp(terms) + np.linalg.slogdet(spread)[1] - 0.5 * q * LOG_2PI)
            if once or abs(value - previous) < PRECISION or (2 * nodes) ** q > MOST_POINTS:
                return float(value)
            previous, nodes = value, 2 * nodes

    def _in_chunks(self, estimates: Estimates, z: np.ndarray, spread: np.ndarray, x: np.ndarray, factor: np.ndarray):
        size = max(1, 4_000_000 // self.table.y.size)
        parts = [
            self.minus_joint(estimates, z[:, None] + np.einsum("gkl,pl->gpk", spread, x[i : i + size]), factor)
            for i in range(0, len(x), size)
        ]
        return np.concatenate(parts, axis=1)

    def grid(self, estimates: Estimates, once: bool = False) -> float:
        """The trapezoidal rule over +-SPAN in every effect, points doubled until it moves less than PRECISION,
        at most up to 40 MOST_POINTS points."""
        factor = self.factor(estimates["psi"])
        if factor.shape[1] == 0:
            return self._without_effects(estimates, factor)
        q = factor.shape[1]
        previous, points = -math.inf, {1: 201, 2: 61}.get(q, 21)
        while True:
            axis = np.linspace(-SPAN, SPAN, points)
            x = np.array(list(itertools.product(axis, repeat=q)))
            zero, unit = np.zeros((self.groups, q)), np.broadcast_to(np.eye(q), (self.groups, q, q))
            terms = -self._in_chunks(estimates, zero, unit, x, factor)
            value = float(np.sum(_logsumexp(terms) + q * math.log(axis[1] - axis[0]) - 0.5 * q * LOG_2PI))
            if once or abs(value - previous) < PRECISION or (2 * points) ** q > 40 * MOST_POINTS:
                return value
            previous, points = value, 2 * points - 1

    def _without_effects(self, estimates: Estimates, factor: np.ndarray) -> float:
        return float(np.sum(self.density(estimates, np.zeros((self.groups, 1, 0)), factor)))


def gaussian(table: PaddedRows, mean: np.ndarray, design: np.ndarray, estimates: Estimates) -> float:
    """log N(y; mean, Z Psi Z' + inner^2 U U' + sigma^2 I) summed over the groups; masked rows have no part in it."""
    psi, sigma = np.atleast_2d(np.asarray(estimates["psi"], dtype=float)), float(estimates["sigma"])
    design = np.where(table.mask[..., None], design, 0.0)
    cov = np.einsum("gok,kl,gpl->gop", design, psi, design)
    if table.inner is not None and estimates.get("inner") is not None:
        units = np.where(table.mask[..., None], table.inner, 0.0)
        cov += float(estimates["inner"]) ** 2 * np.einsum("gou,gpu->gop", units, units)
    cov += sigma**2 * np.eye(cov.shape[1])
    residual = np.where(table.mask, table.y - mean, 0.0)
    try:
        lower = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        return -math.inf
    scaled = np.linalg.solve(lower, residual[..., None])[..., 0]
    logdet = 2.0 * np.sum(np.log(np.diagonal(lower, axis1=1, axis2=2))) - np.sum(~table.mask) * math.log(sigma**2)
    return float(-0.5 * (np.sum(scaled**2) + logdet + np.sum(table.mask) * LOG_2PI))


def finite(estimates: Estimates) -> bool:
    """Whether all numbers are, and psi has no negative variance beyond rounding."""
    psi = np.atleast_2d(np.asarray(estimates["psi"], dtype=float))
    numbers = [np.asarray(estimates["beta"], dtype=float), psi]
    numbers += [np.asarray([estimates[k]], dtype=float) for k in ("sigma", "inner") if estimates.get(k) is not None]
    if not all(np.all(np.isfinite(n)) for n in numbers):
        return False
    return bool(np.linalg.eigvalsh(psi)[0] >= -1e-8 * max(np.trace(psi), 1e-300))


def _softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + e^x) for complex x of tiny imaginary part."""
    big = np.where(x.real > 0.0, x, 0.0)
    return big + np.log(1.0 + np.exp(np.where(x.real > 0.0, -x, x)))


def _log_interval(low: np.ndarray, high: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """log of F(high - eta) - F(low - eta), F the logistic distribution."""
    upper = np.where(np.isfinite(high), high, 0.0) - eta
    lower = np.where(np.isfinite(low), low, 0.0) - eta
    top = np.where(np.isfinite(high), _softplus(-upper), 0.0)
    bottom = np.where(np.isfinite(low), _softplus(lower), 0.0)
    gap = np.where(np.isfinite(high) & np.isfinite(low), high - low, np.inf)
    return np.log(-np.expm1(-gap)) - top - bottom


def _logsumexp(terms: np.ndarray) -> np.ndarray:
    top = np.max(terms, axis=1)
    return top + np.log(np.sum(np.exp(terms - top[:, None]), axis=1))
