"""Closed forms of one and two compartments, with and without a depot.

| entry | one compartment | two compartments |
|---|---|---|
| central from central | E(k) | E(l1) + (k21 - l2) E(l1, l2) |
| peripheral from central | | k12 E(l1, l2) |
| central, peripheral from peripheral | | k21 E(l1, l2), E(l1) + (l1 - k21) E(l1, l2) |
| from the depot, to the depot | ka x central's with ka | the same; E(ka) |
| from an input rate | that of its compartment, with 0 | the same |

E: `divided_differences`; "with ka": ka is one more of its constants. l1 >= l2 are the roots of
l^2 - (k + k12 + k21) l + k k21. E(l1) + (k21 - l2) E(l1, l2) is C + (k21 - m) S with C and S of the pair l1, l2, and
with one more constant it is S of two of the three constants plus (k21 - c) T, c the third one.

**Source:** Gibaldi and Perrier (1982), Pharmacokinetics, 2nd edition, appendix B.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.numerics.arrays import unfused
from jaxnlme.pkpd.divided_differences import difference_2, difference_3, pair, triple
from jaxnlme.pkpd.settings import EXPONENTIAL


class OneCompartment:
    """Amounts after a time `t` (points,) in one compartment with the rate constants `rates`, by name."""

    def __init__(self, rates: dict[str, Any], t: Any):
        self.rates, self.t = rates, t

    def from_central(self) -> tuple[Any, ...]:
        """Central amount, for one unit there."""
        return (jnp.exp(-self.rates["k"] * self.t),)

    def after(self, a: Any) -> tuple[Any, ...]:
        """Central amount, for an inflow exp(-a t)."""
        return (difference_2(self.t, self.rates["k"], a),)

    def after_two(self, a: Any, b: Any) -> tuple[Any, ...]:
        """Central amount, for an inflow E(t; a, b)."""
        return (difference_3(self.t, self.rates["k"], a, b),)


class TwoCompartments:
    """Amounts after a time `t` (points,) in two compartments with the rate constants `rates`, by name."""

    def __init__(self, rates: dict[str, Any], t: Any):
        k, k12, k21 = rates["k"], rates["k12"], rates["k21"]
        self.k12, self.k21, self.t = k12, k21, t
        self.mean = unfused((k + k12 + k21) / 2)
        above = (k12 + k21 - k) / 2
        self.square = unfused(above**2 + k * k12)
        self.distinct = self.square > (EXPONENTIAL.distinct * self.mean) ** 2
        half_gap = jnp.sqrt(jnp.where(self.distinct, self.square, self.mean**2))
        self.half_gap = jnp.where(self.distinct, half_gap, EXPONENTIAL.distinct * self.mean)
        self.fast = self.mean + self.half_gap
        self.slow = k * k21 / self.fast
        # k21 - slow and fast - k21, without cancellation
        self.k21_slow = k21 * _plus_root(above, self.half_gap, k * k12) / self.fast
        self.fast_k21 = _plus_root((k + k12 - k21) / 2, self.half_gap, k12 * k21)

    def amounts(self) -> tuple[Any, Any, Any, Any]:
        """Amounts for one unit in the central, then for one in the peripheral compartment."""
        cosh, sinhc = pair(0, self.t, self.mean, self.square), pair(1, self.t, self.mean, self.square)
        shift = (self.k21 - self.mean) * sinhc
        return cosh + shift, self.k12 * sinhc, self.k21 * sinhc, cosh - shift

    def after(self, a: Any) -> tuple[Any, Any, Any, Any]:
        """Amounts for an inflow exp(-a t) into the central, then for one into the peripheral compartment.

        One of l1, l2 and a is the single constant c, the others are the pair. c is a where l1 and l2 are close to each
        other, so that they enter by their mean and s only, which are smooth in the rate constants; else it is l2, so
        that all terms are positive; else, where a is close to l2, l1.
        """
        gap, of_a = jax.lax.stop_gradient((self.half_gap, jnp.abs(a - self.mean)))
        close = gap < EXPONENTIAL.close * self.mean
        whole = close & (of_a >= 3 * gap) | ~self.distinct
        at_slow = jnp.abs(a - self.slow) < 0.6 * gap
        single = jnp.where(whole, a, jnp.where(at_slow, self.fast, self.slow))
        partner = jnp.where(at_slow, self.slow, self.fast)
        mean = jnp.where(whole, self.mean, (a + partner) / 2)
        square = jnp.where(whole, self.square, ((a - partner) / 2) ** 2)
        to_central = jnp.where(whole, self.k21 - a, jnp.where(at_slow, -self.fast_k21, self.k21_slow))
        to_peripheral = jnp.where(
            whole, 2 * self.mean - self.k21 - a, jnp.where(at_slow, -self.k21_slow, self.fast_k21)
        )
        single, mean, square, to_central, to_peripheral = map(
            unfused, (single, mean, square, to_central, to_peripheral)
        )
        spread = jnp.maximum(jnp.abs(a - self.mean) + gap, 2 * gap)
        near = (spread * self.t < 1.0) | (whole & (of_a < 3 * gap))
        one, both = pair(1, self.t, mean, square), triple(0, 0, near, self.t, single, mean, square)
        return one + to_central * both, self.k12 * both, self.k21 * both, one + to_peripheral * both


def _plus_root(h: Any, d: Any, product: Any) -> Any:
    """h + d without cancellation, where d^2 = h^2 + product."""
    negative = h < 0
    return jnp.where(negative, product / jnp.where(negative, d - h, 1.0), h + d)
