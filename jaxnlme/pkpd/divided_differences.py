"""Divided differences of exp: convolutions of exponential decays, smooth where their rate constants meet.

E(t; a) = exp(-a t), and E(t; a, b, ...) is the convolution of E(t; a) with E(t; b, ...): what is in the last of
compartments in a row with rate constants of departure a, b, ... and flows of one times the amount. It is symmetric in
a, b, ..., positive, and up to its sign the divided difference of exp(-t x) at a, b, .... Differences are taken
between the smallest and the largest constant, and only where they differ by more than 1 / t; elsewhere a Taylor
series is summed, so that values and all derivatives are accurate everywhere.

**Source:** McCurdy, Ng and Parlett (1984), Mathematics of Computation 43, 501-528.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.pkpd.settings import EXPONENTIAL


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def decay_moment(n: int, z: Any) -> Any:
    """The integral of u^n exp(-z u) over u from 0 to 1, for z >= 0; its derivative is minus that for n + 1."""
    near = z < 1.0
    small = jnp.where(near, z, 0.0)
    series = jnp.ones_like(z)
    for k in range(EXPONENTIAL.decay_terms, 0, -1):
        series = 1.0 + small / (n + 1 + k) * series
    large = jnp.where(near, 1.0, z)
    end = jnp.exp(-z)
    value = (1.0 - end) / large
    for k in range(1, n + 1):
        value = (k * value - end) / large
    return jnp.where(near, end * series / (n + 1), value)


@decay_moment.defjvp
def _decay_moment_rule(n: int, primals: tuple, tangents: tuple) -> tuple:
    return decay_moment(n, *primals), -decay_moment(n + 1, *primals) * tangents[0]


def difference_2(t: Any, a: Any, b: Any) -> Any:
    """E(t; a, b) = (exp(-a t) - exp(-b t)) / (b - a)."""
    low, high = jnp.where(a <= b, a, b), jnp.where(a <= b, b, a)
    return t * jnp.exp(-low * t) * decay_moment(0, (high - low) * t)


def difference_3(t: Any, a: Any, b: Any, c: Any) -> Any:
    """E(t; a, b, c)."""
    low, middle, high = _sorted_3(a, b, c)
    near = (high - low) * t < 1.0
    span = jnp.where(near, 1.0, high - low)
    separate = (difference_2(t, low, middle) - difference_2(t, middle, high)) / span
    s = jnp.where(near, t, 0.0)
    return jnp.where(near, _series_3(s, middle, (middle - low) * s, (middle - high) * s), separate)


def _series_3(t: Any, centre: Any, x: Any, y: Any) -> Any:
    """E(t; centre, centre - x / t, centre - y / t): t^2 exp(-centre t) times the sum of h_k(x, y) / (k + 2)!, h_k the
    complete homogeneous symmetric polynomials."""
    power = homogeneous = jnp.ones_like(x)
    total = homogeneous / 2
    for k in range(1, EXPONENTIAL.decay_terms):
        power = power * x
        homogeneous = power + y * homogeneous
        total = total + homogeneous / float(math.factorial(k + 2))
    return t**2 * jnp.exp(-centre * t) * total


def _sorted_3(a: Any, b: Any, c: Any) -> tuple[Any, Any, Any]:
    """The three constants in rising order."""
    a, b = jnp.where(a <= b, a, b), jnp.where(a <= b, b, a)
    b, c = jnp.where(b <= c, b, c), jnp.where(b <= c, c, b)
    a, b = jnp.where(a <= b, a, b), jnp.where(a <= b, b, a)
    return a, b, c


def pair_series(t: Any, mean: Any, half_gap_squared: Any) -> tuple[Any, Any]:
    """exp(-m t) cosh(d t) and exp(-m t) sinh(d t) / d by their series in (d t)^2, for d t < 1/2: smooth at d = 0."""
    w = half_gap_squared * t**2
    cosh = sinhc = jnp.ones_like(w)
    for k in range(EXPONENTIAL.pair_terms, 0, -1):
        cosh = 1.0 + w / ((2 * k - 1) * (2 * k)) * cosh
        sinhc = 1.0 + w / ((2 * k) * (2 * k + 1)) * sinhc
    end = jnp.exp(-mean * t)
    return end * cosh, end * sinhc * t


def pair_series_3(t: Any, mean: Any, half_gap_squared: Any, a: Any) -> Any:
    """E(t; m + d, m - d, a) by its Taylor series, for d t < 1/2 and |a - m| t < `EXPONENTIAL.far`."""
    x, w = (mean - a) * t, half_gap_squared * t**2
    homogeneous, power = jnp.ones_like(x), jnp.ones_like(x)
    total = homogeneous / 2
    for k in range(1, EXPONENTIAL.far_terms):
        homogeneous = x * homogeneous
        if k % 2 == 0:
            power = power * w
            homogeneous = homogeneous + power
        total = total + homogeneous / float(math.factorial(k + 2))
    return t**2 * jnp.exp(-mean * t) * total
