"""The log-likelihood of the dose-response models by quadrature in numpy, shared with no fit.

    log L = sum_i log of the integral over z of  prod_j N(y_ij; f_ij, (b f_ij)^2) N(z; 0, I),  log phi = log beta + L z

Emax and ED50 of a subject with small doses lie on a curved ridge, which no set of nodes around a mode covers. Given
ED50 the curve is a sum of E0 and a multiple of Emax, so the integral over these two is done for each of many values of
ED50: by nodes around a mode, spread by Fisher's information, then around the mean, spread by the covariance, more of
them until the value moves by no more than a tolerance. The integral over ED50 is the trapezoidal rule on a line, whose
step is halved until a subject's value moves by no more than the tolerance; its error then is far smaller.
**Source:** Rabe-Hesketh, Skrondal and Pickles (2005), Journal of Econometrics 128, 301-323 (moments); Trefethen and
Weideman (2014), SIAM Review 56, 385-458 (the trapezoidal rule on the line).
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

GRID = np.linspace(-3.0, 3.0, 5)  # of each effect, in standard deviations: where the search for a mode begins
SEARCH_STEPS = 30
NODES = ((5, 5), (9, 9), (15, 15), (31, 31), (61, 61))  # of E0 and Emax, in steps for the values that need more
# The line of ED50, in standard deviations: its half length and first step, and how often the step may be halved.
LONGEST, FIRST_STEP, HALVINGS = 8.0, 0.25, 8
NEGLIGIBLE = 30.0  # log units below the highest density on the line from which a value counts as zero
NARROWEST = 1e-3  # covariance of one set of nodes as a fraction of that of the last, at least
TOLERANCE = 1e-4  # of a subject, in units of the log-likelihood
CHUNK = 200_000  # nodes at a time


@functools.cache
def rule(nodes: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (points, 2) and log weights of the product rule for the standard normal density."""
    rules = [np.polynomial.hermite_e.hermegauss(n) for n in nodes]
    log_weights = [np.log(weights / np.sqrt(2 * np.pi)) for _, weights in rules]
    x = np.array(list(itertools.product(*(places for places, _ in rules))))
    return x, np.array(list(itertools.product(*log_weights))).sum(axis=1)


class DoseResponseLikelihood:
    """The log-likelihood of one data set.

    **Arguments:** `dose`, `y` (subjects, rows).
    """

    def __init__(self, dose: np.ndarray, y: np.ndarray):
        self.y = y
        with np.errstate(divide="ignore"):
            self.log_dose = np.log(dose)

    def log_likelihood(self, values: dict[str, float], tolerance: float = TOLERANCE) -> float:
        """The sum over subjects.

        **Arguments:** `values`: E0, Emax, ED50, gamma (1 where it is absent), variances and covariance on the log
        scale, b; `tolerance`: as for `by_subject`.
        """
        return float(self.by_subject(values, tolerance)[0].sum())

    def by_subject(self, values: dict[str, float], tolerance: float = TOLERANCE) -> tuple[np.ndarray, np.ndarray]:
        """log p(y_i) of every subject (subjects,), and its change by the last halving of the step along ED50, at most
        `tolerance` unless the halvings ended."""
        subjects, conditional = len(self.y), _GivenED50(self, values, tolerance / 10)
        if not values["var(ED50)"]:
            return conditional.log_density(np.arange(subjects), np.zeros(subjects)), np.zeros(subjects)
        line = np.arange(-LONGEST, LONGEST + FIRST_STEP / 2, FIRST_STEP)
        # log p(y_i | z) N(z; 0, 1) of every subject along its line.
        density = self._along(conditional, np.arange(subjects), np.broadcast_to(line, (subjects, len(line))))
        value, change = _trapezoid(density, FIRST_STEP), np.full(subjects, np.inf)
        open_, step = np.arange(subjects), FIRST_STEP
        for _ in range(HALVINGS):
            step, middle = step / 2, (line[1:] + line[:-1]) / 2
            # Only between points of which one counts.
            counts = density > density.max(axis=1, keepdims=True) - 2 * NEGLIGIBLE
            wanted = counts[:, 1:] | counts[:, :-1]
            between = self._along(conditional, open_, np.broadcast_to(middle, (len(open_), len(middle))), wanted)
            merged = np.empty((len(open_), 2 * len(line) - 1))
            merged[:, ::2], merged[:, 1::2] = density, between
            line, density = np.linspace(-LONGEST, LONGEST, merged.shape[1]), merged
            found = _trapezoid(density, step)
            change[open_], value[open_] = found - value[open_], found
            moving = np.abs(change[open_]) > tolerance
            open_, density = open_[moving], density[moving]
            if not len(open_):
                break
        return value, change

    @staticmethod
    def _along(
        conditional: _GivenED50, subjects: np.ndarray, z: np.ndarray, wanted: np.ndarray | None = None
    ) -> np.ndarray:
        """log p(y_i | z) N(z; 0, 1) (subjects, points) at `z`; minus infinity where it is not `wanted`."""
        wanted = np.ones(z.shape, bool) if wanted is None else wanted
        out = np.full(z.shape, -np.inf)
        at, places = np.nonzero(wanted)[0], z[wanted]
        out[wanted] = conditional.log_density(subjects[at], places, -0.5 * (places**2 + np.log(2 * np.pi)))
        return out


class _GivenED50:
    """The integral over E0 and Emax at given values of ED50.

    **Arguments:** `referee`: the data; `values`: as for `log_likelihood`; `tolerance`: change of a value by more nodes.
    """

    def __init__(self, referee: DoseResponseLikelihood, values: dict[str, float], tolerance: float):
        self.referee, self.tolerance, self.b = referee, tolerance, values["b"]
        self.gamma, self.log_ed50 = values.get("gamma", 1.0), np.log(values["ED50"])
        variances = np.array([values["var(E0)"], values["var(Emax)"], values["var(ED50)"]])
        covariance = values["cov(Emax, ED50)"]
        self.sd_ed50 = np.sqrt(variances[2])
        self.slope = covariance / self.sd_ed50 if variances[2] > 0.0 else 0.0  # of log Emax in z
        rest = variances[1] - self.slope**2
        # The estimates on file have eight digits, and psi may be singular.
        if np.any(variances < 0.0) or rest < -1e-6 * variances[1]:
            raise ValueError(f"no covariance matrix: variances {variances}, covariance of Emax and ED50 {covariance}.")
        self.sds = np.sqrt([variances[0], max(rest, 0.0)])
        self.typical = np.log([values["E0"], values["Emax"]])

    def log_density(self, subjects: np.ndarray, z: np.ndarray, log_weight: np.ndarray | float = 0.0) -> np.ndarray:
        """log p(y | z) + `log_weight` (pairs,) of pairs of a subject and a value `z` of ED50's effect."""
        pairs = _Pairs(self, subjects, z)
        centre, curvature = pairs.mode()
        spread = np.linalg.inv(np.swapaxes(np.linalg.cholesky(curvature), 1, 2))
        value, open_ = np.full(len(z), -np.inf), np.arange(len(z))
        for nodes in NODES:
            found, centre, covariance = pairs.at(open_).quadrature(centre, spread, nodes)
            change, value[open_] = found - value[open_], found
            total = value + log_weight
            largest = np.full(subjects.max() + 1, -np.inf)
            np.maximum.at(largest, subjects, total)
            moving = np.abs(change) > self.tolerance
            moving &= total[open_] > largest[subjects[open_]] - NEGLIGIBLE
            # A posterior that is narrow beside the distance of the nodes has hardly a covariance by these.
            covariance = covariance + NARROWEST * spread @ np.swapaxes(spread, 1, 2)
            open_, centre, spread = open_[moving], centre[moving], np.linalg.cholesky(covariance[moving])
            if not len(open_):
                break
        return value + log_weight


class _Pairs:
    """Pairs of a subject and a value of ED50, whose random effects are those of E0 and Emax, z (pairs, 2)."""

    def __init__(self, given: _GivenED50, subjects: np.ndarray, z: np.ndarray):
        self.given, self.y = given, given.referee.y[subjects]
        distance = given.referee.log_dose[subjects] - (given.log_ed50 + given.sd_ed50 * z)[:, None]
        with np.errstate(over="ignore"):
            self.share = 1.0 / (1.0 + np.exp(-given.gamma * distance))  # of Emax at each dose
        self.log_emax = given.typical[1] + given.slope * z

    def at(self, index: np.ndarray) -> _Pairs:
        """Some of the pairs."""
        out = object.__new__(_Pairs)
        out.given, out.y, out.share, out.log_emax = self.given, self.y[index], self.share[index], self.log_emax[index]
        return out

    def joint(self, z: np.ndarray) -> np.ndarray:
        """log p(y, z) without the constant of N(z; 0, I), (pairs, points) for `z` (pairs, points, 2)."""
        given, rows = self.given, self.y.shape[1]
        squares, product = (z**2).sum(axis=-1), 1.0
        with np.errstate(over="ignore"):  # nodes far out: their density is zero
            e0 = np.exp(given.typical[0] + given.sds[0] * z[..., 0])
            emax = np.exp(self.log_emax[:, None] + given.sds[1] * z[..., 1])
            for j in range(rows):
                f = e0 + self.share[:, j, None] * emax
                squares += ((self.y[:, j, None] / f - 1.0) / given.b) ** 2
                product = product * f
        return -0.5 * squares - np.log(product) - rows * (np.log(given.b) + 0.5 * np.log(2 * np.pi))

    def quadrature(
        self, centre: np.ndarray, spread: np.ndarray, nodes: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value (pairs,), posterior mean (pairs, 2) and covariance by nodes at `centre` + `spread` x."""
        x, log_weights = rule(nodes)
        n = len(centre)
        value, mean, second = np.empty(n), np.empty((n, 2)), np.empty((n, 2, 2))
        log_spread = np.linalg.slogdet(spread)[1]
        for at in np.array_split(np.arange(n), max(1, n * len(x) // CHUNK)):
            z = centre[at, None, :] + x @ np.swapaxes(spread[at], 1, 2)
            terms = self.at(at).joint(z) + log_weights + 0.5 * (x**2).sum(axis=1)
            largest = terms.max(axis=1)
            weight = np.exp(terms - largest[:, None])
            total = weight.sum(axis=1)
            value[at] = largest + np.log(total) + log_spread[at]
            weight /= total[:, None]
            mean[at] = np.einsum("gp,gpk->gk", weight, z)
            centred = z - mean[at, None, :]
            second[at] = np.swapaxes(centred * weight[..., None], 1, 2) @ centred
        return value, mean, second

    def mode(self) -> tuple[np.ndarray, np.ndarray]:
        """A mode (pairs, 2) of each pair, searched from the best point of the grid, and the curvature there: Fisher's
        information, which is positive definite everywhere."""
        grid = np.array(list(itertools.product(GRID, repeat=2)))
        z = np.empty((len(self.y), 2))
        for at in np.array_split(np.arange(len(z)), max(1, len(z) * len(grid) // CHUNK)):
            z[at] = grid[self.at(at).joint(np.broadcast_to(grid, (len(at), *grid.shape))).argmax(axis=1)]
        best, open_ = self.joint(z[:, None])[:, 0], np.arange(len(z))
        for _ in range(SEARCH_STEPS):
            pairs = self.at(open_)
            score, curvature = pairs.expansion(z[open_])
            step, size = np.linalg.solve(curvature, score[..., None])[..., 0], np.ones(len(open_))
            for _ in range(12):
                trial = z[open_] + size[:, None] * step
                reached = pairs.joint(trial[:, None])[:, 0]
                better = reached > best[open_]
                z[open_], best[open_] = np.where(better[:, None], trial, z[open_]), np.maximum(reached, best[open_])
                size = np.where(better, 0.0, size / 2)
                if better.all() or not size.any():
                    break
            open_ = open_[np.einsum("gk,gk->g", step, score) > 1e-6]
            if not len(open_):
                break
        return z, self.expansion(z)[1]

    def expansion(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score (pairs, 2) of the joint density at `z` (pairs, 2), and Fisher's information."""
        given = self.given
        e0 = np.exp(given.typical[0] + given.sds[0] * z[:, :1])
        part = self.share * np.exp(self.log_emax[:, None] + given.sds[1] * z[:, 1:])
        f = e0 + part
        relative = np.stack([np.broadcast_to(e0, f.shape), part], -1) / f[..., None] * given.sds  # d log f / dz
        residual, b = (self.y - f) / f, given.b
        slope = residual / b**2 + residual**2 / b**2 - 1.0  # d log p / d log f
        score = np.einsum("gj,gjk->gk", slope, relative) - z
        return score, np.eye(2) + (1.0 / b**2 + 2.0) * np.einsum("gjk,gjl->gkl", relative, relative)


def _trapezoid(log_density: np.ndarray, step: float) -> np.ndarray:
    """Log of the integral (subjects,) of densities along lines."""
    largest = log_density.max(axis=1)
    return largest + np.log(step * np.exp(log_density - largest[:, None]).sum(axis=1))
