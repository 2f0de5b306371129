"""Divided differences of exp: convolutions of exponential decays, smooth where their rate constants meet.

E(t; a) = exp(-a t), and E(t; a, b, ...) is the convolution of E(t; a) with E(t; b, ...): what is in the last of
compartments in a row with rate constants of departure a, b, ... and flows of one times the amount. It is symmetric in
a, b, ..., positive, and up to its sign the divided difference of exp(-t x) at a, b, .... Two of the constants enter by
their mean m and the square s of half their difference, in which everything is smooth:

    C = exp(-m t) cosh(d t),   S = E(m + d, m - d) = exp(-m t) sinh(d t) / d,   s = d^2,
    T = E(m + d, m - d, c),    T ((c - m)^2 - s) = exp(-c t) - C - (m - c) S.

Their derivatives are functions of the same kind: each is computed once, by this relation or where the constants are
closer than 1 / t by its Taylor series.

**Source:** McCurdy, Ng and Parlett (1984), Mathematics of Computation 43, 501-528.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxnlme.numerics.arrays import unfused
from jaxnlme.pkpd.settings import EXPONENTIAL


def _sum_of(terms: list[tuple[Any, Any]], like: Any) -> Any:
    """The sum of factor() times tangent over the tangents that are not zero by structure."""
    parts = [factor() * dot for factor, dot in terms if not isinstance(dot, SymbolicZero)]
    return functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(like)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def pair(n: int, t: Any, mean: Any, square: Any) -> Any:
    """C for `n` = 0, S for 1, and 2^(n-1) times the derivative of S of order n - 1 in s beyond.

    These are exp(-m t) f_0 and exp(-m t) t^(2n-1) f_n, with modified spherical Bessel functions f_0(x) = cosh(x),
    f_1 = sinh(x) / x, f_{n+1} = f_n' / x at x = d t.

    **Arguments:** `n`: static; `t`; `mean`: m; `square`: s, at most m^2.
    **Source:** Abramowitz and Stegun (1964), 10.2.
    """
    return _pair(n, t, mean, square)


@functools.partial(jax.jit, static_argnums=0)  # traced once for each n
def _pair(n: int, t: Any, mean: Any, square: Any) -> Any:
    u = square * t * t
    near = u < EXPONENTIAL.series_below
    small = jnp.where(near, u, 0.0)
    terms = [
        1.0 / (2**j * math.factorial(j) * math.prod(range(1, 2 * (n + j), 2))) for j in range(EXPONENTIAL.pair_terms)
    ]
    series = jnp.full_like(small, terms[-1])
    for term in terms[-2::-1]:
        series = term + small * series
    large = jnp.where(near, 1.0, u)
    x = jnp.sqrt(large)
    slow, fast = jnp.exp(x - mean * t) / 2, jnp.exp(-x - mean * t) / 2
    before, value = slow + fast, (slow - fast) / x
    for k in range(1, n):
        before, value = value, (before - (2 * k - 1) * value) / large
    far = value if n else before
    value = jnp.where(near, series * jnp.exp(-mean * t), far)
    return unfused(t ** (2 * n - 1) * value if n else value)


@functools.partial(pair.defjvp, symbolic_zeros=True)
def _pair_rule(n: int, primals: tuple, tangents: tuple) -> tuple:
    t, mean, square = primals
    value = pair(n, *primals)

    def by_time():
        before = square * pair(1, *primals) if n == 0 else pair(n - 1, *primals) * (t if n > 1 else 1.0)
        return before - mean * value

    def by_square():
        return 0.5 * pair(n + 1, *primals) * (1.0 if n else t)

    terms = [(by_time, tangents[0]), (lambda: -t * value, tangents[1]), (by_square, tangents[2])]
    return value, _sum_of(terms, value)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def triple(j: int, k: int, near: Any, t: Any, single: Any, mean: Any, square: Any) -> Any:
    """The derivative of T of order j in s and k in c; (-1)^k j! k! times E with each of the two constants j + 1 times
    and c k + 1 times.

    **Arguments:** `j`, `k`: static; `near` (points,): where the series is used, else (c - m)^2 - s is not small; `t`;
    `single`: c; `mean`: m; `square`: s.
    """
    return _triple(j, k, near, t, single, mean, square)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _triple(j: int, k: int, near: Any, t: Any, single: Any, mean: Any, square: Any) -> Any:
    away = mean - single
    q = jnp.where(near, 1.0, away**2 - square)
    decay = jnp.exp(-single * t)

    @functools.cache
    def by_relation(j: int, k: int) -> Any:
        """The derivative of the relation for T, solved for that of T."""
        slope = _pair(j + 1, t, mean, square) / 2.0**j
        right = (-t) ** k * decay if j == 0 else 0.0
        if k == 0:
            right = right - away * slope - (t * _pair(j, t, mean, square) / 2.0**j if j else _pair(0, t, mean, square))
        if k == 1:
            right = right + slope
        if k > 0:
            right = right + 2 * k * away * by_relation(j, k - 1)
        if k > 1:
            right = right - k * (k - 1) * by_relation(j, k - 2)
        return (right + j * by_relation(j - 1, k) if j else right) / q

    # The series is used beyond its range only where T vanishes.
    spread = jnp.abs(away) + jnp.sqrt(jnp.maximum(square, 0.0))
    s = jnp.where(near, t, 0.0)
    s = jnp.where(spread * s > EXPONENTIAL.widest, EXPONENTIAL.widest / jnp.where(spread > 0, spread, 1.0), s)
    factor = (-1) ** k * math.factorial(j) * math.factorial(k) * s ** (2 + k + 2 * j)
    series = factor * _decaying_series(j, k, away * s, square * s**2) * jnp.exp(-mean * t)
    return unfused(jnp.where(near, series, by_relation(j, k)))


def _decaying_series(j: int, k: int, x: Any, y: Any) -> Any:
    """The sum of g_i / (i + 2 + k + 2 j)!, g_i the coefficient of z^i in (1 - x z)^-(k + 1) (1 - y z^2)^-(j + 1)."""
    terms = EXPONENTIAL.decay_terms
    g: list[Any] = [jnp.ones_like(x)] + [None] * (terms - 1)
    for base, step, power in ((y, 2, j + 1), (x, 1, k + 1)):
        for _ in range(power):
            for i in range(step, terms):
                if g[i - step] is not None:
                    g[i] = base * g[i - step] if g[i] is None else g[i] + base * g[i - step]
    return sum(g[i] / float(math.factorial(i + 2 + k + 2 * j)) for i in range(terms))


@functools.partial(triple.defjvp, symbolic_zeros=True)
def _triple_rule(j: int, k: int, primals: tuple, tangents: tuple) -> tuple:
    near, t, single, mean, square = primals
    _, t_dot, single_dot, mean_dot, square_dot = tangents
    value = triple(j, k, *primals)

    def by_single():
        return triple(j, k + 1, *primals)

    def by_time():  # T' = S - c T
        slope = -single * value - (k * triple(j, k - 1, *primals) if k else 0.0)
        return slope if k else slope + pair(j + 1, t, mean, square) / 2.0**j

    # A shift of all constants multiplies by exp(-shift t).
    terms = [
        (by_time, t_dot),
        (by_single, single_dot),
        (lambda: -t * value - by_single(), mean_dot),
        (lambda: triple(j + 1, k, *primals), square_dot),
    ]
    return value, _sum_of(terms, value)


def difference_2(t: Any, a: Any, b: Any) -> Any:
    """E(t; a, b) = (exp(-a t) - exp(-b t)) / (b - a)."""
    return pair(1, t, (a + b) / 2, ((a - b) / 2) ** 2)


def difference_3(t: Any, a: Any, b: Any, c: Any) -> Any:
    """E(t; a, b, c): the two closest constants are the pair."""
    ab, ac, bc = (jnp.abs(jax.lax.stop_gradient(p - q)) for p, q in ((a, b), (a, c), (b, c)))
    first, second = (bc <= ab) & (bc <= ac), ac < ab
    single = jnp.where(first, a, jnp.where(second, b, c))
    one, other = jnp.where(first, b, a), jnp.where(first | second, c, b)
    near = jnp.maximum(jnp.maximum(ab, ac), bc) * t < 1.0
    mean, square = (one + other) / 2, ((one - other) / 2) ** 2
    return triple(0, 0, near, t, single, mean, square)
