"""Curves as linear combinations of columns that depend on one or two nonlinear coordinates, for least squares.

Each `AbstractLinearPart` writes one curve as y = c_1 g_1(u; theta) + c_2 g_2(u; theta), in which u is x in units of
the data: u = (x - x0) / sx. Given theta the coefficients are found by linear least squares, so that a search runs over
theta only (Golub and Pereyra's variable projection). All on the host, in numpy.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

Theta = Sequence[float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class MeasurementUnits:
    """Origin `x0` and scale `sx` of x, scales `sy` of y and `dose` of the dose: u = (x - x0) / sx."""

    x0: float
    sx: float
    sy: float
    dose: float = 1.0


class AbstractLinearPart(abc.ABC):
    """A curve in its nonlinear coordinates theta and linear coefficients.

    **Fields:** `shifted`: x is measured from its least value; `non_negative`: x must not be negative; `refusal`: the
    reason why coefficients may have no parameters; `variants`: signs that theta does not hold; `grid`: for each
    coordinate the values of a grid; `bounds`: for each coordinate the limits of a search; `factor`: name of a parameter
    that is a factor for one unit of x, "" without one.
    """

    shifted: bool = True
    non_negative: bool = False
    refusal: str = "a parameter is not finite; measure the predictor from an origin near its least value"
    variants: tuple[tuple[int, ...], ...] = ((),)
    factor: str = ""
    grid: tuple[np.ndarray, ...]
    bounds: tuple[tuple[float, float], ...]

    @abc.abstractmethod
    def columns(self, u: np.ndarray, theta: Theta, signs: tuple[int, ...]) -> list[np.ndarray]:
        """The columns g_1, g_2 (rows,)."""

    @abc.abstractmethod
    def parameters(self, theta: Theta, signs: tuple[int, ...], c: np.ndarray, units: MeasurementUnits) -> list[float]:
        """The parameters of the curve, in the units of the data; NaN where none gives these coefficients."""

    def points(self) -> list[tuple[float, ...]]:
        """The points of the grid."""
        axes = np.meshgrid(*self.grid, indexing="ij")
        return list(zip(*(axis.ravel().tolist() for axis in axes), strict=True))


def _logs(low: float, high: float, n: int) -> np.ndarray:
    return np.linspace(np.log(low), np.log(high), n)


_RATES, _RATE_BOUNDS = _logs(0.03, 300.0, 28), (np.log(1e-4), np.log(1e4))


class Sigmoid(AbstractLinearPart):
    """c sigmoid(s (u - m) / exp(l)), theta = (m, l); with `two_asymptotes` A (1 - sigmoid) + B sigmoid and s = 1."""

    grid = (np.linspace(-1.0, 3.0, 25), _logs(0.02, 2.0, 14))
    bounds = ((-5.0, 10.0), (np.log(1e-3), np.log(50.0)))

    def __init__(self, two_asymptotes: bool):
        self.two_asymptotes = two_asymptotes
        self.variants = ((1,),) if two_asymptotes else ((1,), (-1,))

    def columns(self, u, theta, signs):
        risen = expit(signs[0] * (u - theta[0]) * np.exp(-theta[1]))
        return [1.0 - risen, risen] if self.two_asymptotes else [risen]

    def parameters(self, theta, signs, c, units):
        asymptotes = [units.sy * float(value) for value in c]
        return [*asymptotes, units.x0 + units.sx * theta[0], signs[0] * units.sx * float(np.exp(theta[1]))]


class Gompertz(AbstractLinearPart):
    """c exp(-s2 exp(-s exp(l) (u - m))), theta = (m, l): m is the point of inflection, s2 the sign of b2."""

    variants = ((1, 1), (-1, 1), (1, -1), (-1, -1))
    factor = "b3"
    grid = (np.linspace(-1.0, 2.0, 19), _logs(0.3, 60.0, 14))
    bounds = ((-5.0, 6.0), (np.log(0.02), np.log(1e3)))

    def columns(self, u, theta, signs):
        return [np.exp(-signs[1] * np.exp(-signs[0] * np.exp(theta[1]) * (u - theta[0])))]

    def parameters(self, theta, signs, c, units):
        rate = signs[0] * np.exp(theta[1]) / units.sx
        b2 = signs[1] * np.exp(rate * (units.x0 + units.sx * theta[0]))
        return [units.sy * float(c[0]), float(b2), float(np.exp(-rate))]


class Weibull(AbstractLinearPart):
    """Asym - Drop 2^(-(u / h)^p), theta = (log h, log p): half of the drop remains at h."""

    shifted = False
    non_negative = True
    grid = (_logs(0.01, 3.0, 20), _logs(0.3, 8.0, 12))
    bounds = ((np.log(1e-4), np.log(100.0)), (np.log(0.05), np.log(40.0)))

    def columns(self, u, theta, signs):
        return [np.ones_like(u), -np.exp2(-((u * np.exp(-theta[0])) ** np.exp(theta[1])))]

    def parameters(self, theta, signs, c, units):
        power = float(np.exp(theta[1]))
        lrc = np.log(np.log(2.0)) - power * (theta[0] + np.log(units.sx))
        return [units.sy * float(c[0]), units.sy * float(c[1]), float(lrc), power]


class MichaelisMenten(AbstractLinearPart):
    """Vm u / (exp(l) + u), theta = (l,)."""

    shifted = False
    non_negative = True
    grid = (_logs(1e-4, 1e3, 50),)
    bounds = ((np.log(1e-7), np.log(1e5)),)

    def columns(self, u, theta, signs):
        return [u / (np.exp(theta[0]) + u)]

    def parameters(self, theta, signs, c, units):
        return [units.sy * float(c[0]), units.sx * float(np.exp(theta[0]))]


class Approach(AbstractLinearPart):
    """A (1 - e) + y0 e, e = exp(-exp(l) u), theta = (l,): `kind` "asymptote" for any y0, "offset" where the curve
    crosses zero, "origin" where it does so at x = 0."""

    grid = (_RATES,)
    bounds = (_RATE_BOUNDS,)

    def __init__(self, kind: str):
        self.kind, self.shifted = kind, kind != "origin"
        if kind == "offset":
            self.refusal = "the curve through the data crosses zero nowhere (jn.models.asymptotic need not)"

    def columns(self, u, theta, signs):
        rest = np.exp(-np.exp(theta[0]) * u)
        return [1.0 - rest] if self.kind == "origin" else [1.0 - rest, rest]

    def parameters(self, theta, signs, c, units):
        rate = np.exp(theta[0]) / units.sx
        asymptote, lrc = units.sy * float(c[0]), float(np.log(rate))
        if self.kind == "origin":
            return [asymptote, lrc]
        first = units.sy * float(c[1])
        if self.kind == "asymptote":
            return [asymptote, float(asymptote + (first - asymptote) * np.exp(rate * units.x0)), lrc]
        part = (asymptote - first) / asymptote
        return [asymptote, lrc, float(units.x0 + np.log(part if part > 0 else np.nan) / rate)]


class Biexponential(AbstractLinearPart):
    """A1 exp(-exp(l1) u) + A2 exp(-exp(l2) u), theta = (l1, l2), l1 > l2."""

    grid = (_RATES, _RATES)
    bounds = (_RATE_BOUNDS, _RATE_BOUNDS)

    def points(self):
        return [point for point in super().points() if point[0] > point[1]]

    def columns(self, u, theta, signs):
        return [np.exp(-np.exp(rate) * u) for rate in theta]

    def parameters(self, theta, signs, c, units):
        pairs = sorted(zip(theta, c, strict=True), reverse=True)
        out: list[float] = []
        for log_rate, coefficient in pairs:
            rate = np.exp(log_rate) / units.sx
            out += [float(units.sy * coefficient * np.exp(rate * units.x0)), float(np.log(rate))]
        return out


class Absorption(AbstractLinearPart):
    """c dose ke ka (exp(-ke u) - exp(-ka u)) / (ka - ke), theta = (log ka, log ke), ka > ke; c is 1 / Cl. `dose` is set
    by `with_dose`."""

    shifted = False
    non_negative = True
    refusal = "the response is not that of a positive clearance"
    grid = (_RATES, _RATES)
    bounds = (_RATE_BOUNDS, _RATE_BOUNDS)

    def __init__(self, dose: Any = 1.0):
        self.dose = dose

    def with_dose(self, dose: np.ndarray) -> Absorption:
        """The same for doses (rows,)."""
        return Absorption(dose)

    def points(self):
        return [point for point in super().points() if point[0] > point[1]]

    def columns(self, u, theta, signs):
        ka, ke = np.exp(theta[0]), np.exp(theta[1])
        mean, h = 0.5 * (ka + ke) * u, 0.5 * (ka - ke) * u
        near = np.abs(h) < 1e-4
        quotient = (np.exp(h - mean) - np.exp(-h - mean)) / np.where(near, 1.0, 2.0 * h)
        return [self.dose * ka * ke * u * np.where(near, np.exp(-mean), quotient)]

    def parameters(self, theta, signs, c, units):
        fast, slow = max(theta), min(theta)
        clearance = units.dose / (float(c[0]) * units.sy * units.sx) if c[0] > 0 else np.nan
        scale = np.log(units.sx)
        return [float(slow - scale), float(fast - scale), float(np.log(clearance))]
