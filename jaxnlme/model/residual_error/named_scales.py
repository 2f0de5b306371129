"""The scales of the named residual models as functions of the prediction f."""

from __future__ import annotations

import jax.numpy as jnp

from jaxnlme.numerics.arrays import xp


def _constant(f, a):
    return a * xp(f).ones_like(f)


def _proportional(f, b):
    return b * xp(f).abs(f)


def _combined(f, a, b):
    return a + b * xp(f).abs(f)


def _combined_variance(f, a, b):
    return xp(f).sqrt(a**2 + (b * f) ** 2)


def _abs_power(f, c):
    """|f|^c with finite derivatives: those with respect to f are set to zero at f = 0."""
    size = jnp.abs(f)
    null = size == 0.0
    # Avoid log(0) even in the branch that is not selected: its derivative would be NaN.
    power = jnp.where(null, 1.0, size) ** c
    return jnp.where(null, jnp.where(c > 0, 0.0, jnp.where(c == 0, 1.0, jnp.inf)), power)


def _power(f, b, c):
    return b * _abs_power(f, c)


def _constant_power(f, a, b, c):
    return a + b * _abs_power(f, c)
