"""The curves of the hard fits in numpy, for simulating, for the referee and for the programs in Python beside ours.

`curve(xb, x)`: `xb` (..., parameters) on the scale where random effects are added, `x` columns (..., rows), to means
(..., rows). They are analytic, so that a complex step gives derivatives. What is positive enters by its logarithm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]


def _parts(xb: np.ndarray) -> list[np.ndarray]:
    return [xb[..., k, None] for k in range(xb.shape[-1])]


def oral(xb: np.ndarray, x: Columns) -> np.ndarray:
    """One compartment, first-order absorption."""
    ka, cl, vol = (np.exp(part) for part in _parts(xb))
    ke = cl / vol
    return x["dose"] * ka / (vol * (ka - ke)) * (np.exp(-ke * x["t"]) - np.exp(-ka * x["t"]))


def oral_fraction(xb: np.ndarray, x: Columns) -> np.ndarray:
    """The same with a bioavailability, which no table of one route identifies beside clearance and volume."""
    return np.exp(xb[..., 3, None]) * oral(xb[..., :3], x)


def biexponential(xb: np.ndarray, x: Columns) -> np.ndarray:
    """Two exponentials."""
    a1, k1, a2, k2 = (np.exp(part) for part in _parts(xb))
    return a1 * np.exp(-k1 * x["t"]) + a2 * np.exp(-k2 * x["t"])


def logistic(xb: np.ndarray, x: Columns) -> np.ndarray:
    """Logistic growth."""
    asym, mid, scale = _parts(xb)
    return asym / (1.0 + np.exp((mid - x["t"]) / scale))


def emax(xb: np.ndarray, x: Columns) -> np.ndarray:
    """A baseline and a saturating effect of the dose."""
    e0, log_top, log_half = _parts(xb)
    return e0 + np.exp(log_top) * x["t"] / (np.exp(log_half) + x["t"])


def circadian(xb: np.ndarray, x: Columns) -> np.ndarray:
    """A rhythm of 24 hours, its peak at the random hour."""
    level, swing, peak = _parts(xb)
    return level + swing * np.cos(2.0 * np.pi * (x["t"] - peak) / 24.0)


def asymptotic(xb: np.ndarray, x: Columns) -> np.ndarray:
    """Growth to an asymptote."""
    asym, start, log_rate = _parts(xb)
    return asym + (start - asym) * np.exp(-np.exp(log_rate) * x["t"])


def line(xb: np.ndarray, x: Columns) -> np.ndarray:
    """A straight line."""
    return xb[..., 0, None] + xb[..., 1, None] * x["t"]


def two_lines(xb: np.ndarray, x: Columns) -> np.ndarray:
    """A line in two columns."""
    return line(xb, x) + xb[..., 2, None] * x["u"]


def four_columns(xb: np.ndarray, x: Columns) -> np.ndarray:
    """A line with a further column and its product with t."""
    return two_lines(xb, x) + xb[..., 3, None] * x["w"]


def three_columns(xb: np.ndarray, x: Columns) -> np.ndarray:
    """A line with a further slope."""
    return line(xb, x) + xb[..., 2, None] * x["w"]


@dataclass(frozen=True)
class Curve:
    """A curve, the names of its parameters in order (`log`: those that enter by their logarithm) and its columns."""

    function: Callable[[np.ndarray, Columns], np.ndarray]
    parameters: tuple[str, ...]
    log: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("t",)
    linear: bool = False

    def __call__(self, xb: np.ndarray, x: Columns) -> Any:
        return self.function(xb, x)


CURVES: dict[str, Curve] = {
    "oral": Curve(oral, ("ka", "cl", "vol"), ("ka", "cl", "vol"), ("t", "dose")),
    "oral_fraction": Curve(oral_fraction, ("ka", "cl", "vol", "frac"), ("ka", "cl", "vol", "frac"), ("t", "dose")),
    "biexponential": Curve(biexponential, ("a1", "k1", "a2", "k2"), ("a1", "k1", "a2", "k2")),
    "logistic": Curve(logistic, ("asym", "mid", "scale")),
    "emax": Curve(emax, ("e0", "top", "half"), ("top", "half")),
    "circadian": Curve(circadian, ("level", "swing", "peak")),
    "asymptotic": Curve(asymptotic, ("asym", "start", "rate"), ("rate",)),
    "line": Curve(line, ("base", "slope"), linear=True),
    "two_lines": Curve(two_lines, ("base", "slope", "other"), (), ("t", "u"), linear=True),
    "three_columns": Curve(three_columns, ("base", "slope", "cross"), (), ("t", "w"), linear=True),
    "four_columns": Curve(four_columns, ("base", "slope", "other", "cross"), (), ("t", "u", "w"), linear=True),
}
