"""Logarithms of normal probabilities, with derivatives of every order that are finite and accurate far in the tails.

With phi and Phi the density and the distribution function of N(0, 1):

    d log Phi(a) / da = lambda(a),   lambda = phi / Phi
    d lambda / da = -lambda r,       r(a) = lambda(a) + a > 0
    d r / da = 1 - lambda r.

For a < -TAIL, r = 1 / (x + 2 / (x + 3 / (x + ...))) at x = -a, without cancellation, and
log Phi = log phi - log lambda; elsewhere both follow from Phi itself.

**Source:** Laplace's continued fraction of Mills' ratio, Abramowitz and Stegun (1964), Handbook of Mathematical
Functions, 26.2.14.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.numerics.constants import HALF_LOG_2PI

# Beyond it the continued fraction with FRACTION_TERMS levels is exact to rounding.
TAIL = 10.0
FRACTION_TERMS = 12
# A bound that is open, in standard deviations: its probability is 0 or 1 exactly, and its square does not overflow.
OPEN = 1e10


def _tail_excess(a: Any) -> Any:
    """r(a) for a < -TAIL by the continued fraction; at -TAIL for larger a."""
    x = jnp.maximum(-a, TAIL)
    fraction = x
    for k in range(FRACTION_TERMS, 1, -1):
        fraction = x + k / fraction
    return 1.0 / fraction


def _values(a: Any) -> tuple[Any, Any, Any]:
    """log Phi, lambda and r at `a`."""
    is_tail = a < -TAIL
    tail_excess = _tail_excess(a)
    central = jnp.where(is_tail, 0.0, a)
    beyond = 0.5 * jax.lax.erfc(jnp.abs(central) * (0.5**0.5))
    log_central = jnp.where(central > 0, jnp.log1p(-beyond), jnp.log(jnp.where(central > 0, 1.0, beyond)))
    central_slope = jnp.exp(-0.5 * central**2 - HALF_LOG_2PI - log_central)
    slope = jnp.where(is_tail, tail_excess - a, central_slope)
    log_tail = -0.5 * a**2 - HALF_LOG_2PI - jnp.log(jnp.where(is_tail, tail_excess - a, 1.0))
    return jnp.where(is_tail, log_tail, log_central), slope, jnp.where(is_tail, tail_excess, central_slope + a)


@jax.custom_jvp
def log_ndtr(a: Any) -> Any:
    """log Phi(a), elementwise."""
    return _values(a)[0]


@jax.custom_jvp
def inverse_mills(a: Any) -> Any:
    """lambda(a) = phi(a) / Phi(a), the derivative of `log_ndtr`, elementwise."""
    return _values(a)[1]


@jax.custom_jvp
def mills_excess(a: Any) -> Any:
    """r(a) = lambda(a) + a, elementwise."""
    return _values(a)[2]


@log_ndtr.defjvp
def _log_ndtr_rule(primals, tangents):
    return log_ndtr(primals[0]), inverse_mills(primals[0]) * tangents[0]


@inverse_mills.defjvp
def _inverse_mills_rule(primals, tangents):
    slope = inverse_mills(primals[0])
    return slope, -slope * mills_excess(primals[0]) * tangents[0]


@mills_excess.defjvp
def _mills_excess_rule(primals, tangents):
    excess = mills_excess(primals[0])
    return excess, (1.0 - inverse_mills(primals[0]) * excess) * tangents[0]


@jax.custom_jvp
def _log_ratio(a: Any, b: Any) -> Any:
    """log Phi(b) - log Phi(a), without the cancellation of a^2 and b^2 where both are in the lower tail."""
    (log_a, slope_a, _), (log_b, slope_b, _) = _values(a), _values(b)
    both = (a < -TAIL) & (b < -TAIL)
    ratio = jnp.where(both, slope_a, 1.0) / jnp.where(both, slope_b, 1.0)
    return jnp.where(both, 0.5 * (a - b) * (a + b) + jnp.log(ratio), log_b - log_a)


@_log_ratio.defjvp
def _log_ratio_rule(primals, tangents):
    a, b = primals
    return _log_ratio(a, b), inverse_mills(b) * tangents[1] - inverse_mills(a) * tangents[0]


@jax.custom_jvp
def _log_complement(d: Any) -> Any:
    """log(1 - exp(-d)) for d > 0."""
    return jnp.where(d < 0.7, jnp.log(-jnp.expm1(-d)), jnp.log1p(-jnp.exp(-d)))


@_log_complement.defjvp
def _log_complement_rule(primals, tangents):
    # exp(-d) / (1 - exp(-d)), whose own derivatives do not overflow for large d as those of 1 / expm1(d) do.
    (d,) = primals
    return _log_complement(d), jnp.exp(-d) / -jnp.expm1(-d) * tangents[0]


def log_normal_probability(a: Any, b: Any) -> Any:
    """log(Phi(b) - Phi(a)) for a < b, elementwise: the log-probability that a N(0, 1) variable lies between them.

    **Arguments:** `a`, `b`: of one shape; `-OPEN` and `OPEN` where there is no bound.
    """
    # By symmetry the bounds are put where their midpoint is not positive: there Phi has full relative accuracy.
    flip = a + b > 0
    low, high = jnp.where(flip, -b, a), jnp.where(flip, -a, b)
    return log_ndtr(high) + _log_complement(_log_ratio(low, high))
