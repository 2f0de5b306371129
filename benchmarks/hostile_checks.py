"""Checks of a finished fit that do not use what it says of itself: values of the log-likelihood around the reported
parameters, from which score and information follow by differences.

Of a likelihood approximation these are values of `jn.log_likelihood` (`Surface`): one compiled program a model and
method evaluates `POINTS` packed vectors; the modes are searched afresh at each. Of LME and RELME they are those of the
linear mixed model at the reported estimates and modes (`Linearised`), written here in numpy.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np

import jaxnlme as jn

POINTS = 32
STEP = 0.02
"""Of a difference, in standard errors."""
GRADIENT_STEP = 1e-3
"""Of a difference of exact gradients, in standard errors."""
DOUBTFUL_GAIN, DOUBTFUL_EIGENVALUE = 1e-3, -1e-4
"""Beyond these the derivatives are computed again from exact gradients: on a ridge of the log-likelihood second
differences of values are mostly rounding."""
LEAST_EIGENVALUE = 1e-6
"""Of the scaled information; directions below it have no Newton step."""


@eqx.filter_jit
def _values(problem: jn.Problem, params: jn.Params, method: jn.LikelihoodApproximation, points: Any) -> jax.Array:
    return jax.lax.map(lambda x: jn.log_likelihood(None, params.unpack(x), problem, method), points)


@eqx.filter_jit
def _gradient(problem: jn.Problem, params: jn.Params, method: jn.LikelihoodApproximation, x: Any) -> jax.Array:
    return jax.grad(lambda x: jn.log_likelihood(None, params.unpack(x), problem, method))(x)


@dataclasses.dataclass(frozen=True)
class Surface:
    """The log-likelihood of a fit's model and data as a function of the packed vector; `restricted`: of the entries of
    psi and residual error, `fixed` beta integrated out. `scale` (packed,): steps of about a standard error."""

    problem: jn.Problem
    params: jn.Params
    method: Any
    restricted: bool
    scale: np.ndarray
    n_beta: int

    def plain(self, points: np.ndarray) -> np.ndarray:
        """Values (n,) of the unrestricted log-likelihood at `points` (n, packed)."""
        out = []
        for first in range(0, len(points), POINTS):
            part = points[first : first + POINTS]
            padded = np.concatenate([part, np.repeat(part[-1:], POINTS - len(part), 0)])
            out.append(np.asarray(_values(self.problem, self.params, self.method, padded))[: len(part)])
        return np.concatenate(out)

    def exact_derivatives(self, x: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score and information in the entries `active` at `x` (packed,), by automatic differentiation and differences
        of the gradient."""

        def gradient(point: np.ndarray) -> np.ndarray:
            return np.asarray(_gradient(self.problem, self.params, self.method, point))[active]

        rows = []
        for k in active:
            step = np.zeros(len(x))
            step[k] = GRADIENT_STEP * self.scale[k]
            rows.append((gradient(x - step) - gradient(x + step)) / (2.0 * step[k]))
        return gradient(x), 0.5 * (np.array(rows) + np.array(rows).T)

    def values(self, points: np.ndarray) -> np.ndarray:
        """Values (n,) of the log-likelihood at `points` (n, packed); where it is restricted, beta is moved to its
        maximum by a Newton step."""
        if not self.restricted:
            return self.plain(points)
        active = np.arange(self.n_beta)
        return np.array([_integrated(self.plain, point, active, self.scale) for point in points])


@dataclasses.dataclass(frozen=True)
class Linearised:
    """The log-likelihood of the linear mixed model that LME and RELME end with, its tangent and the weights held.

    **Fields:** `groups`: of each group working response (obs,), derivatives in beta (obs, fixed) and in b
    (obs, random), and relative variances (obs,); `density` of the fit; `restricted`; `scale` (packed,), `n_beta`: as of
    `Surface`.
    **Source:** Lindstrom and Bates (1990), Biometrics 46, 673-687; Pinheiro and Bates (2000), sections 2.2 and 7.2.1.
    """

    groups: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    density: Any
    restricted: bool
    scale: np.ndarray
    n_beta: int

    def values(self, points: np.ndarray) -> np.ndarray:
        """Values (n,) at `points` (n, packed)."""
        return np.array([self.value(point, self.restricted) for point in points])

    def plain(self, points: np.ndarray) -> np.ndarray:
        """Values (n,) of the unrestricted log-likelihood at `points` (n, packed)."""
        return np.array([self.value(point, False) for point in points])

    def _parts(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        last = self.n_beta + self.density.covariance.n_unconstrained
        factor = np.asarray(self.density.covariance.factor(x[self.n_beta : last]))
        return x[: self.n_beta], factor @ factor.T, float(np.exp(2.0 * x[last]))

    def value(self, x: np.ndarray, restricted: bool) -> float:
        """The log-likelihood at `x` (packed,)."""
        beta, psi, variance = self._parts(x)
        total, information, score = 0.0, np.zeros((self.n_beta, self.n_beta)), np.zeros(self.n_beta)
        for response, fixed, random, weight in self.groups:
            matrix = random @ psi @ random.T + variance * np.diag(weight)
            residual = response - fixed @ beta
            total -= 0.5 * (len(residual) * np.log(2.0 * np.pi) + np.linalg.slogdet(matrix)[1])
            total -= 0.5 * residual @ np.linalg.solve(matrix, residual)
            information += fixed.T @ np.linalg.solve(matrix, fixed)
            score += fixed.T @ np.linalg.solve(matrix, residual)
        if restricted:
            total += 0.5 * (score @ np.linalg.solve(information, score) + self.n_beta * np.log(2.0 * np.pi))
            total -= 0.5 * np.linalg.slogdet(information)[1]
        return float(total)

    def gain_of_modes(self, x: np.ndarray, b: np.ndarray) -> float:
        """What the predicted random effects would gain over the modes `b` (groups, random), summed over groups."""
        beta, psi, variance = self._parts(x)
        gain = 0.0
        for (response, fixed, random, weight), mode in zip(self.groups, b, strict=True):
            matrix = random @ psi @ random.T + variance * np.diag(weight)
            predicted = psi @ random.T @ np.linalg.solve(matrix, response - fixed @ beta)
            gain += 0.5 * np.sum((random @ (predicted - mode)) ** 2 / (variance * weight))
        return gain


def linearised(fit: jn.Fit, curve: Any, restricted: bool) -> Linearised:
    """The `Linearised` of a fit by LME or RELME; `curve`: a Curve."""
    b, beta = fit.random_effects.to_numpy(float), np.asarray(fit.params.beta, float)
    names = list(curve.typical)
    effects = [names.index(name) for name in fit.binding.density.effect_names]
    centre = np.tile(beta, (len(b), 1))
    centre[:, effects] += b
    data = fit.binding.data
    x = _Columns({name: np.asarray(data.x[name]) for name in curve.columns})

    def mean(values: np.ndarray) -> np.ndarray:
        logs = [curve.log_scale(name) for name in names]
        natural = [np.exp(v) if log else v for v, log in zip(values.T, logs, strict=True)]
        phi = _Columns({name: value[:, None] for name, value in zip(names, natural, strict=True)})
        return np.asarray(curve.function(phi, x), float)

    columns = []
    for k, name in enumerate(names):
        step = np.zeros(len(names))
        step[k] = 1e-4 if curve.log_scale(name) else 1e-4 * max(abs(beta[k]), np.max(np.abs(centre[:, k])), 1e-12)
        near = (mean(centre + step) - mean(centre - step)) / (2.0 * step[k])
        far = (mean(centre + 2.0 * step) - mean(centre - 2.0 * step)) / (4.0 * step[k])
        columns.append((4.0 * near - far) / 3.0)
    slopes, fitted = np.stack(columns, axis=-1), mean(centre)
    weights = np.ones_like(fitted) if curve.error == "constant" else fitted**2
    groups = []
    for i, seen in enumerate(np.asarray(data.observed)):
        fixed = slopes[i][seen]
        response = np.asarray(data.y)[i][seen] - fitted[i][seen] + fixed @ beta + fixed[:, effects] @ b[i]
        groups.append((response, fixed, fixed[:, effects], weights[i][seen]))
    return Linearised(groups, fit.binding.density, restricted, steps(fit), len(beta))


class _Columns:
    """Columns as attributes."""

    def __init__(self, columns: dict[str, Any]):
        self.__dict__.update(columns)


def _integrated(function: Any, x: np.ndarray, active: np.ndarray, scale: np.ndarray) -> float:
    """log of the integral of exp `function` over the entries `active`, by Laplace's method."""
    value, score, information = derivatives(function, x, active, scale)
    sign, logdet = np.linalg.slogdet(information)
    if sign <= 0:
        return float("nan")
    at_maximum = value + 0.5 * score @ np.linalg.solve(information, score)
    return float(at_maximum + 0.5 * len(active) * np.log(2.0 * np.pi) - 0.5 * logdet)


def derivatives(
    function: Any, x: np.ndarray, active: np.ndarray, scale: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Value at `x`, score and information (minus the second derivatives) in the entries `active`, by central
    differences with steps of `STEP` times `scale`."""
    n, steps = len(active), STEP * scale[active]
    unit = np.zeros((n, len(x)))
    unit[np.arange(n), active] = steps
    pairs = [(j, k) for j in range(n) for k in range(j)]
    shifts = [np.zeros((1, len(x))), unit, -unit]
    shifts += [np.array([unit[j] + unit[k] for j, k in pairs]), np.array([-unit[j] - unit[k] for j, k in pairs])]
    sizes = np.cumsum([len(part) for part in shifts])[:-1]
    points = x + np.concatenate([part.reshape(-1, len(x)) for part in shifts])
    (value,), up, down, both_up, both_down = np.split(function(points), sizes)
    second = np.diag(up + down - 2.0 * value)
    for (j, k), high, low in zip(pairs, both_up, both_down, strict=True):
        second[j, k] = second[k, j] = 0.5 * (high + low - up[j] - down[j] - up[k] - down[k] + 2.0 * value)
    return float(value), (up - down) / (2.0 * steps), -second / np.outer(steps, steps)


def surface(fit: jn.Fit, method: Any, restricted: bool) -> Surface:
    """The Surface of a fit."""
    problem, params = jax.tree.map(jax.numpy.asarray, (fit.binding.problem, fit.params))
    return Surface(problem, params, method, restricted, steps(fit), len(fit.params.beta))


def steps(fit: jn.Fit) -> np.ndarray:
    """Steps (packed,) of about a standard error: those that the fit reports, where it does."""
    x, n_beta = np.asarray(fit.params.pack(), float), len(fit.params.beta)
    scale = np.where(np.arange(len(x)) < n_beta, 1e-2 * np.maximum(np.abs(x), 1e-6), 0.1)
    information = fit.information
    if information is not None and information.covariance is not None:
        variances = np.diag(information.covariance)
        scale[information.active] = np.where(variances > 0, np.sqrt(np.abs(variances)), scale[information.active])
    # Logarithms of standard deviations that the data hardly determine: no longer steps than a factor.
    scale[n_beta:] = np.minimum(scale[n_beta:], _largest_steps(fit))
    return scale


def _largest_steps(fit: jn.Fit) -> np.ndarray:
    """A factor for logarithms, infinite for other entries of theta (below the diagonal of psi's factor)."""
    size = np.full(len(fit.params.covariance), np.inf)
    size[[k for k, _, _ in fit.binding.density.covariance.log_scales]] = 10.0
    return np.concatenate([size, np.full(len(fit.params.error), 10.0)])


def free_entries(fit: jn.Fit) -> np.ndarray:
    """Packed entries that the fit estimates: all but zero variances and entries without effect beside them."""
    if fit.information is not None:
        return np.asarray(fit.information.active)
    return np.flatnonzero(np.isfinite(fit.params.pack()) & ~fit.binding.fixed)


@dataclasses.dataclass(frozen=True)
class _Quadratic:
    """What a quadratic approximation predicts: the `gain` of a Newton step, the least `eigenvalue` of the information
    scaled to a unit diagonal, and `steps` to try. NaN and none where derivatives are not finite."""

    gain: float
    eigenvalue: float
    steps: list[np.ndarray]


def _quadratic(score: np.ndarray, information: np.ndarray) -> _Quadratic:
    """The `_Quadratic` of a score and an information."""
    diagonal = np.sqrt(np.abs(np.diag(information)))
    diagonal = np.where(diagonal > 0, diagonal, 1.0)
    scaled = information / np.outer(diagonal, diagonal)
    if not np.isfinite(scaled).all() or not np.isfinite(score).all():
        return _Quadratic(np.nan, np.nan, [])
    values, vectors = np.linalg.eigh(scaled)
    along = vectors.T @ (score / diagonal)
    used = values > LEAST_EIGENVALUE
    newton = vectors[:, used] @ (along[used] / values[used]) / diagonal
    steps = [length * newton for length in (1.0, 0.3, 0.1)]
    if values[0] < 0:
        steps += [length * vectors[:, 0] / diagonal for length in (-1.0, -0.3, 0.3, 1.0)]
    return _Quadratic(0.5 * float(np.sum(along[used] ** 2 / values[used])), float(values[0]), steps)


def stationarity(fit: jn.Fit, found: Surface | Linearised) -> dict[str, float]:
    """Whether the reported parameters are a stationary point.

    **Returns:** `recomputed`: the log-likelihood there; `gain`: s' I^-1 s / 2, what a Newton step is predicted to gain;
    `eigenvalue`: the least of I scaled to a unit diagonal; `gained`: the most that such steps, or steps along that
    eigenvector where it is negative, gain in fact.
    """
    x, active = np.asarray(fit.params.pack(), float), free_entries(fit)
    if found.restricted:
        active = active[active >= found.n_beta]
    value, score, information = derivatives(found.values, x, active, found.scale)
    if not len(active):
        return {"recomputed": value, "gain": 0.0, "eigenvalue": 1.0, "gained": 0.0}
    quadratic = _quadratic(score, information)
    doubtful = not (quadratic.gain <= DOUBTFUL_GAIN and quadratic.eigenvalue >= DOUBTFUL_EIGENVALUE)
    if doubtful and isinstance(found, Surface) and not found.restricted:
        quadratic = _quadratic(*found.exact_derivatives(x, active))
    if not np.isfinite(quadratic.gain):
        return {"recomputed": value, "gain": np.nan, "eigenvalue": np.nan, "gained": np.nan}
    steps, gain = quadratic.steps, quadratic.gain
    points = np.repeat(x[None], len(steps), 0)
    points[:, active] += np.array(steps)
    gained = np.nanmax(np.append(found.values(points) - value, 0.0))
    if isinstance(found, Linearised):
        gain += found.gain_of_modes(x, fit.random_effects.to_numpy(float))
    if found.restricted:  # beta maximises the likelihood beside the other entries
        _, score, information = derivatives(found.plain, x, np.arange(found.n_beta), found.scale)
        gain += 0.5 * float(score @ np.linalg.solve(information, score))
    return {"recomputed": value, "gain": gain, "eigenvalue": quadratic.eigenvalue, "gained": float(gained)}


def zeros(fit: jn.Fit) -> list[tuple[int, str]]:
    """Packed places of the zeros on the diagonal of psi's factor, and the effect of each."""
    density, theta = fit.binding.density, np.asarray(fit.params.covariance)
    names = density.effect_names
    return [
        (len(fit.params.beta) + k, names[effects[0]])
        for k, effects, _ in density.covariance.log_scales
        if theta[k] == -np.inf
    ]


def highest_on_rays(fit: jn.Fit, found: Surface | Linearised, value: float, spreads: dict[str, float]) -> float:
    """The most by which the log-likelihood is above `value` where one zero standard deviation is set to others, half a
    decade apart, from 1e-5 of its spread up to it."""
    x, points = np.asarray(fit.params.pack(), float), []
    for place, name in zeros(fit):
        for decade in np.linspace(-5.0, 0.0, 11):
            point = x.copy()
            point[place] = np.log(spreads[name]) + decade * np.log(10.0)
            points.append(point)
    return float(np.nanmax(np.append(found.values(np.array(points)) - value, -np.inf)))


def distance(first: jn.Fit, second: jn.Fit) -> float:
    """The largest difference of two fits' reported values, in the first one's standard errors; values of which it has
    none (a zero variance) are left out."""
    tables = first.estimates, second.estimates
    se = tables[0]["se"].to_numpy(float)
    moved = np.abs(tables[1]["estimate"].to_numpy(float) - tables[0]["estimate"].to_numpy(float))
    used = np.isfinite(se) & (se > 0)
    return float(np.max(moved[used] / se[used], initial=0.0))
