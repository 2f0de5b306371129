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
def pair_decay(n: int, t: Any, mean: Any, square: Any) -> Any:
    """exp(-m t) f_n(d^2 t^2) with f_0(u) = cosh(sqrt(u)) and f_{n+1} = 2 f_n', for d <= m.

    These are the modified spherical Bessel functions: f_1 = sinh(x) / x with x^2 = u, f_{n+1} = (f_{n-1} - (2 n - 1)
    f_n) / u. With them values and derivatives of exp at two points m + d and m - d are smooth in m and d^2.

    **Arguments:** `n`: static; `t`; `mean`: m; `square`: d^2.
    **Source:** Abramowitz and Stegun (1964), 10.2.
    """
    return _pair_decay(n, t, mean, square)


@functools.partial(jax.jit, static_argnums=0)  # traced once for each n
def _pair_decay(n: int, t: Any, mean: Any, square: Any) -> Any:
    u = square * t * t
    near = u < EXPONENTIAL.series_below
    small = jnp.where(near, u, 0.0)
    terms = [1.0 / math.prod(2 * k * (2 * (k + n) - 1) for k in range(1, j + 1)) for j in range(EXPONENTIAL.pair_terms)]
    series = jnp.full_like(small, terms[-1])
    for term in terms[-2::-1]:
        series = term + small * series
    series = series * (jnp.exp(-mean * t) / math.prod(range(1, 2 * n, 2)))
    large = jnp.where(near, 1.0, u)
    x = jnp.sqrt(large)
    slow, fast = jnp.exp(x - mean * t) / 2, jnp.exp(-x - mean * t) / 2
    # One division comes last: XLA computes divisions once, but products and sums again in each of their uses.
    if n == 0:
        return jnp.where(near, series, (slow + fast) * x) / x
    if n == 1:
        return jnp.where(near, series, slow - fast) / x
    before, value = slow + fast, (slow - fast) / x
    for k in range(1, n - 1):
        before, value = value, (before - (2 * k - 1) * value) / large
    return jnp.where(near, series, before - (2 * n - 3) * value) / large


@pair_decay.defjvp
def _pair_decay_rule(n: int, primals: tuple, tangents: tuple) -> tuple:
    t, mean, square = primals
    t_dot, mean_dot, square_dot = tangents
    value, after = pair_decay(n, *primals), pair_decay(n + 1, *primals)
    change = (t * square_dot + 2.0 * square * t_dot) * (0.5 * t * after)
    return value, change - (t * mean_dot + mean * t_dot) * value


def difference_2(t: Any, a: Any, b: Any) -> Any:
    """E(t; a, b) = (exp(-a t) - exp(-b t)) / (b - a)."""
    return t * pair_decay(1, t, (a + b) / 2, ((a - b) / 2) ** 2)


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
    return t**2 * _decaying_series(2, 1, 1, 1, EXPONENTIAL.decay_terms, centre * t, x, y)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3, 4))
def _decaying_series(n: int, p: int, q: int, stride: int, terms: int, c: Any, x: Any, y: Any) -> Any:
    """exp(-c) times the sum of g_k(x, y) / (k + n)!, where g_k is the coefficient of z^k in (1 - x z)^-p
    (1 - y z^stride)^-q. Derivatives are series of the same kind."""
    g: list[Any] = [jnp.ones_like(x)] + [None] * (terms - 1)
    for base, step, power in ((y, stride, q), (x, 1, p)):
        for _ in range(power):
            for k in range(step, terms):
                if g[k - step] is not None:
                    g[k] = base * g[k - step] if g[k] is None else g[k] + base * g[k - step]
    total = sum((g[k] / float(math.factorial(k + n)) for k in range(1, terms)), g[0] / float(math.factorial(n)))
    return total / jnp.exp(c)  # the division comes last, as above


@_decaying_series.defjvp
def _decaying_series_rule(n: int, p: int, q: int, stride: int, terms: int, primals: tuple, tangents: tuple) -> tuple:
    c_dot, x_dot, y_dot = tangents
    value = _decaying_series(n, p, q, stride, terms, *primals)
    by_x = p * _decaying_series(n + 1, p + 1, q, stride, terms, *primals)
    by_y = q * _decaying_series(n + stride, p, q + 1, stride, terms, *primals)
    return value, by_x * x_dot + by_y * y_dot - value * c_dot


def _sorted_3(a: Any, b: Any, c: Any) -> tuple[Any, Any, Any]:
    """The three constants in rising order."""
    a, b = jnp.where(a <= b, a, b), jnp.where(a <= b, b, a)
    b, c = jnp.where(b <= c, b, c), jnp.where(b <= c, c, b)
    a, b = jnp.where(a <= b, a, b), jnp.where(a <= b, b, a)
    return a, b, c


def pair_series_3(t: Any, mean: Any, half_gap_squared: Any, a: Any) -> Any:
    """E(t; m + d, m - d, a) by its Taylor series, for d t < 1/2 and |a - m| t < `EXPONENTIAL.far`."""
    return t**2 * _decaying_series(2, 1, 1, 2, EXPONENTIAL.far_terms, mean * t, (mean - a) * t, half_gap_squared * t**2)
