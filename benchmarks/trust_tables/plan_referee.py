"""The log-likelihood of the dose-response models by quadrature in numpy, shared with no fit.

    log L = sum_i log of the integral over z of  prod_j N(y_ij; f_ij, (b f_ij)^2) N(z; 0, I),  log phi = log beta + L z

With proportional error a subject's posterior can have two modes or a long tail, so nodes are placed by its moments
rather than at a mode: a grid over the prior finds where the posterior lies, Fisher scoring a mode of it, quadrature
around the mode its mean and covariance, and quadrature around the mean, spread by the covariance, the value. `check` is
the change of the value where all nodes are doubled.
**Source:** Rabe-Hesketh, Skrondal and Pickles (2005), Journal of Econometrics 128, 301-323 (moments).
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

GRID = np.linspace(-3.0, 3.0, 7)  # of each effect, in standard deviations: where the search for a mode begins
STEPS, NODES = 30, (21, 31, 31)


@functools.cache
def rule(nodes: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (points, 3) and log weights of the product rule for the standard normal density, `nodes` by effect."""
    rules = [np.polynomial.hermite_e.hermegauss(n) for n in nodes]
    log_weights = [np.log(weights / np.sqrt(2 * np.pi)) for _, weights in rules]
    z = np.array(list(itertools.product(*(places for places, _ in rules))))
    return z, np.array(list(itertools.product(*log_weights))).sum(axis=1)


class DoseResponseLikelihood:
    """The log-likelihood of one data set.

    **Arguments:** `dose`, `y` (subjects, rows).
    """

    def __init__(self, dose: np.ndarray, y: np.ndarray):
        self.y = y
        with np.errstate(divide="ignore"):
            self.log_dose = np.log(dose)

    def log_likelihood(self, values: dict[str, float], nodes: tuple[int, int, int] = NODES) -> float:
        """The sum over subjects.

        **Arguments:** `values`: E0, Emax, ED50, gamma (1 where it is absent), variances and covariance on the log
        scale, b; `nodes` a dimension.
        """
        return float(self.by_subject(values, nodes).sum())

    def check(self, values: dict[str, float], nodes: tuple[int, int, int] = NODES) -> float:
        """Change of the log-likelihood where the number of nodes a dimension is doubled."""
        return self.log_likelihood(values, tuple(2 * n for n in nodes)) - self.log_likelihood(values, nodes)

    def by_subject(self, values: dict[str, float], nodes: tuple[int, int, int] = NODES) -> np.ndarray:
        """log p(y_i) of every subject (subjects,)."""
        typical, factor = _typical_and_factor(values)
        mode, curvature = self._mode(values, typical, factor)
        spread = np.linalg.inv(np.swapaxes(np.linalg.cholesky(curvature), 1, 2))
        # Around modes by curvature, then around means by covariance.
        first = self._quadrature(values, typical, factor, mode, spread, tuple((n + 1) // 2 for n in nodes))
        return self._quadrature(values, typical, factor, first[1], np.linalg.cholesky(first[2]), nodes)[0]

    def _joint(self, values: dict[str, float], logs: np.ndarray, z: np.ndarray) -> np.ndarray:
        """log p(y_i, z) without the constant of N(z; 0, I): (subjects, points) for `logs` and `z` (subjects,
        points, 3)."""
        e0, top = np.exp(logs[..., 0]), np.exp(logs[..., 1])
        squares, product, gamma = (z**2).sum(axis=-1), 1.0, values.get("gamma", 1.0)
        with np.errstate(over="ignore"):
            ratio = np.exp(gamma * logs[..., 2])
            powers = np.exp(-gamma * self.log_dose)
            for j in range(self.y.shape[1]):
                f = e0 + top / (1.0 + ratio * powers[:, j, None])
                squares += ((self.y[:, j, None] / f - 1.0) / values["b"]) ** 2
                product = product * f
        rows = self.y.shape[1]
        return -0.5 * squares - np.log(product) - rows * (np.log(values["b"]) + 0.5 * np.log(2 * np.pi))

    def _quadrature(self, values, typical, factor, centre, spread, nodes):
        """Value (subjects,), posterior mean (subjects, 3) and covariance by nodes at `centre` + `spread` x."""
        x, log_weights = rule(nodes)
        n = len(centre)
        value, mean, second = np.empty(n), np.empty((n, 3)), np.empty((n, 3, 3))
        log_spread = np.linalg.slogdet(spread)[1]
        for at in np.array_split(np.arange(n), max(1, n * len(x) // 100_000)):
            z = centre[at, None, :] + x @ np.swapaxes(spread[at], 1, 2)
            part = _Subjects(self, at)
            terms = part.joint(values, typical + z @ factor.T, z) + log_weights + 0.5 * (x**2).sum(axis=1)
            largest = terms.max(axis=1)
            weight = np.exp(terms - largest[:, None])
            total = weight.sum(axis=1)
            value[at] = largest + np.log(total) + log_spread[at]
            weight /= total[:, None]
            mean[at] = np.einsum("gp,gpk->gk", weight, z)
            centred = z - mean[at, None, :]
            second[at] = np.swapaxes(centred * weight[..., None], 1, 2) @ centred
        return value, mean, second

    def _mode(self, values, typical, factor):
        """A mode (subjects, 3) of each subject, the highest found from the best point of the grid, and the curvature
        there: Fisher's information, which is positive definite everywhere."""
        grid = np.array(list(itertools.product(GRID, repeat=3)))
        z = np.broadcast_to(grid, (len(self.y), *grid.shape))
        z = grid[self._joint(values, typical + z @ factor.T, z).argmax(axis=1)]
        best = self._at(values, typical, factor, z)
        for _ in range(STEPS):
            score, curvature = self._expansion(values, typical, factor, z)
            step, size = np.linalg.solve(curvature, score[..., None])[..., 0], np.ones(len(z))
            if np.max(np.einsum("gk,gk->g", step, score)) < 1e-12:
                break
            for _ in range(12):
                trial = z + size[:, None] * step
                reached = self._at(values, typical, factor, trial)
                better = reached > best
                z, best = np.where(better[:, None], trial, z), np.where(better, reached, best)
                size = np.where(better, 0.0, size / 2)
        return z, self._expansion(values, typical, factor, z)[1]

    def _at(self, values, typical, factor, z):
        return self._joint(values, (typical + z @ factor.T)[:, None], z[:, None])[:, 0]

    def _expansion(self, values, typical, factor, z):
        """Score (subjects, 3) of the joint density and Fisher's information."""
        logs = typical + z @ factor.T
        e0, top = np.exp(logs[:, :1]), np.exp(logs[:, 1:2])
        gamma = values.get("gamma", 1.0)
        with np.errstate(over="ignore"):
            share = 1.0 / (1.0 + np.exp(gamma * (logs[:, 2:] - self.log_dose)))
        f = e0 + top * share
        relative = np.stack([np.broadcast_to(e0, f.shape), top * share, -gamma * top * share * (1.0 - share)], -1)
        relative = relative / f[..., None] @ factor  # d log f / dz
        residual, b = (self.y - f) / f, values["b"]
        slope = residual / b**2 + residual**2 / b**2 - 1.0  # d log p / d log f
        score = np.einsum("gj,gjk->gk", slope, relative) - z
        return score, np.eye(3) + (1.0 / b**2 + 2.0) * np.einsum("gjk,gjl->gkl", relative, relative)


class _Subjects:
    """Some subjects of a referee."""

    def __init__(self, referee: DoseResponseLikelihood, at: np.ndarray):
        self.y, self.log_dose = referee.y[at], referee.log_dose[at]

    joint = DoseResponseLikelihood._joint


def _typical_and_factor(values: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the typical values, and a factor of psi, which may be singular."""
    variances = np.array([values["var(E0)"], values["var(Emax)"], values["var(ED50)"]])
    covariance = values["cov(Emax, ED50)"]
    slope = covariance / variances[1] if variances[1] > 0.0 else 0.0
    rest = variances[2] - slope * covariance
    if np.any(variances < 0.0) or rest < -1e-8 * variances[2]:
        raise ValueError(f"no covariance matrix: variances {variances}, covariance of Emax and ED50 {covariance}.")
    factor = np.diag(np.sqrt([variances[0], variances[1], max(rest, 0.0)]))
    factor[2, 1] = slope * factor[1, 1]
    return np.log([values["E0"], values["Emax"], values["ED50"]]), factor
