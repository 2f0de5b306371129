"""The scales of the named residual models as functions of the prediction f."""

from __future__ import annotations

import jax.numpy as jnp

from jaxnlme.numerics.arrays import xp


def constant_scale(f, a):
    """a."""
    return a * xp(f).ones_like(f)


def proportional_scale(f, b):
    """b |f|."""
    return b * xp(f).abs(f)


def combined_scale(f, a, b):
    """a + b |f|."""
    return a + b * xp(f).abs(f)


def combined_variance_scale(f, a, b):
    """sqrt(a^2 + b^2 f^2)."""
    return xp(f).sqrt(a**2 + (b * f) ** 2)


def abs_power(f, c):
    """|f|^c with finite derivatives: those with respect to f are set to zero at f = 0."""
    size = jnp.abs(f)
    null = size == 0.0
    # Avoid log(0) even in the branch that is not selected: its derivative would be NaN.
    power = jnp.where(null, 1.0, size) ** c
    return jnp.where(null, jnp.where(c > 0, 0.0, jnp.where(c == 0, 1.0, jnp.inf)), power)


def power_scale(f, b, c):
    """b |f|^c."""
    return b * abs_power(f, c)


def constant_power_scale(f, a, b, c):
    """a + b |f|^c."""
    return a + b * abs_power(f, c)
