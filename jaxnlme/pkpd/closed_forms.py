"""Closed forms of one and two compartments, with and without a depot.

| entry | one compartment | two compartments |
|---|---|---|
| central from central | E(k) | E(l1) + (k21 - l2) E(l1, l2) |
| peripheral from central | | k12 E(l1, l2) |
| central, peripheral from peripheral | | k21 E(l1, l2), E(l1) + (l1 - k21) E(l1, l2) |
| from the depot, to the depot | ka x central's with ka | the same; E(ka) |
| from an input rate | that of its compartment, with 0 | the same |

E: `divided_differences`; "with ka": ka is one more of its constants. l1 >= l2 are the roots of
l^2 - (k + k12 + k21) l + k k21. All terms are positive. Where l1 and l2 are close, E(l1, l2, ...) is computed from
their mean and the square of half their difference, which are smooth in the rate constants where l1 and l2 are not.

**Source:** Gibaldi and Perrier (1982), Pharmacokinetics, 2nd edition, appendix B.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxnlme.pkpd.divided_differences import difference_2, difference_3, pair_decay, pair_series_3
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
        self.mean = (k + k12 + k21) / 2
        above = (k12 + k21 - k) / 2
        self.half_gap_squared = above**2 + k * k12
        distinct = self.half_gap_squared > (EXPONENTIAL.distinct * self.mean) ** 2
        half_gap = jnp.sqrt(jnp.where(distinct, self.half_gap_squared, self.mean**2))
        half_gap = jnp.where(distinct, half_gap, EXPONENTIAL.distinct * self.mean)
        self.fast = self.mean + half_gap
        self.slow = k * k21 / self.fast
        # k21 - slow and fast - k21, without cancellation
        fast_k = _plus_root(above, half_gap, k * k12)
        self.k21_slow = k21 * fast_k / self.fast
        self.fast_k21 = _plus_root((k + k12 - k21) / 2, half_gap, k12 * k21)
        self.half_gap, self.close = half_gap, half_gap * t < 0.5
        self.t_close = jnp.where(self.close, t, 0.0)

    def _of_pair(self, near: Any, cosh: Any, sinhc: Any, single: Any, pair: Any) -> tuple[Any, Any, Any, Any]:
        """Central and peripheral amount for an input into the central, then for one into the peripheral compartment.

        **Arguments:** `near`: where `cosh` and `sinhc` hold, terms in mean and half gap; `single`, `pair`: E(l1, ...)
        and E(l1, l2, ...), which hold elsewhere.
        """
        central = jnp.where(near, cosh + (self.k21 - self.mean) * sinhc, single + self.k21_slow * pair)
        peripheral = jnp.where(near, cosh + (self.mean - self.k21) * sinhc, single + self.fast_k21 * pair)
        both = jnp.where(near, sinhc, pair)
        return central, self.k12 * both, self.k21 * both, peripheral

    def amounts(self) -> tuple[Any, Any, Any, Any]:
        """Amounts for one unit in the central, then for one in the peripheral compartment."""
        t, mean, square = self.t, self.mean, self.half_gap_squared
        cosh, sinhc = pair_decay(0, t, mean, square), t * pair_decay(1, t, mean, square)
        shift = (self.k21 - mean) * sinhc
        return cosh + shift, self.k12 * sinhc, self.k21 * sinhc, cosh - shift

    def after(self, a: Any) -> tuple[Any, Any, Any, Any]:
        """Amounts for an inflow exp(-a t) into the central, then for one into the peripheral compartment.

        With q(a) = (a - m)^2 - d^2, E(l1, l2, a) q(a) = exp(-a t) - exp(-m t) (cosh(d t) + (m - a) sinh(d t) / d),
        used where a is far from both eigenvalues and these are close to each other.
        """
        t, mean = self.t, self.mean
        square = self.half_gap_squared
        cosh, sinhc = pair_decay(0, t, mean, square), t * pair_decay(1, t, mean, square)
        far = (jnp.abs(a - mean) * t > EXPONENTIAL.far) & (self.close | (jnp.abs(a - mean) > 2 * self.half_gap))
        q = jnp.where(far, (a - mean) ** 2 - square, 1.0)
        fractions = (jnp.exp(-a * t) - cosh - (mean - a) * sinhc) / q
        series = pair_series_3(jnp.where(far, 0.0, self.t_close), mean, square, a)
        pair = jnp.where(far, fractions, series)
        near = self.close | (far & (self.half_gap < EXPONENTIAL.pair * mean))
        return self._of_pair(
            near,
            sinhc + (mean - a) * pair,
            pair,
            difference_2(t, self.fast, a),
            difference_3(t, self.slow, self.fast, a),
        )


def _plus_root(h: Any, d: Any, product: Any) -> Any:
    """h + d without cancellation, where d^2 = h^2 + product."""
    negative = h < 0
    return jnp.where(negative, product / jnp.where(negative, d - h, 1.0), h + d)
