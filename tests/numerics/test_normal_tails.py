"""Logarithms of normal probabilities and their derivatives, far in the tails too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erfcx, ndtr
from scipy.special import log_ndtr as scipy_log_ndtr

from jaxnlme.numerics.normal_tails import OPEN, log_ndtr, log_normal_probability

POINTS = [-1e4, -300.0, -40.0, -12.0, -10.001, -9.999, -3.0, 0.0, 2.0, 8.0, 40.0, OPEN]


def derivatives(function, at: np.ndarray, orders: int = 4) -> list[np.ndarray]:
    """Values and derivatives of an elementwise function."""

    def slope_of(f):
        return lambda a: jax.jvp(f, (a,), (jnp.ones_like(a),))[1]

    functions = [function]
    for _ in range(orders - 1):
        functions.append(slope_of(functions[-1]))
    return [np.asarray(part) for part in jax.jit(lambda a: [f(a) for f in functions])(jnp.asarray(at))]


def test_log_distribution_function_and_derivatives():
    """Against scipy's, and lambda = phi / Phi by erfcx, from which the higher derivatives follow; in the far tail,
    where the rounding of lambda leaves few digits of these, against their series in 1 / a."""
    values, first, second, third = derivatives(log_ndtr, np.array(POINTS))
    at = np.array(POINTS)
    slope = np.sqrt(2.0 / np.pi) / erfcx(-at / np.sqrt(2.0))
    excess = slope + at
    np.testing.assert_allclose(values, scipy_log_ndtr(at), rtol=1e-13)
    np.testing.assert_allclose(first, slope, rtol=1e-12)
    assert np.isfinite([second, third]).all() and ((second >= -1.0) & (second <= 0.0)).all()
    near = np.abs(at) < 100
    np.testing.assert_allclose(second[near], (-slope * excess)[near], rtol=1e-9, atol=1e-300)
    expected = slope * excess**2 - slope * (1.0 - slope * excess)
    np.testing.assert_allclose(third[near], expected[near], rtol=1e-5, atol=1e-12)
    far = at < -100  # log Phi(a) = -a^2 / 2 - log(-a) - 1 / a^2 + ...
    np.testing.assert_allclose(second[far], -1.0 + at[far] ** -2.0, rtol=1e-8)
    np.testing.assert_allclose(third[far], -2.0 * at[far] ** -3.0, rtol=1e-2, atol=1e-11)


INTERVALS = [(-0.5, 1.5), (39.0, 41.0), (-41.0, -39.0), (-60.0, 60.0), (-300.0, -299.0), (3.0, 3.01), (8.0, 9.0)]


def test_log_probability_of_an_interval():
    a, b = np.array([(-1.0, 1.0), (3.0, 3.01), (-3.01, -3.0), (8.0, 9.0), (-OPEN, -3.0), (2.0, OPEN)]).T
    low, high = np.where(a > 0, -b, a), np.where(a > 0, -a, b)
    got = jax.jit(log_normal_probability)(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(got, np.log(ndtr(high) - ndtr(low)), rtol=1e-9)
    mirrored = jax.jit(log_normal_probability)(jnp.asarray(-b), jnp.asarray(-a))
    np.testing.assert_array_equal(got, mirrored)
    assert float(log_normal_probability(-OPEN, OPEN)) == 0.0


@pytest.mark.parametrize("bound", ["lower", "upper", "both"])
def test_derivatives_of_an_interval(bound: str):
    """Each derivative against central differences of the one before, in a bound or in both."""
    a, b = (jnp.asarray(column) for column in np.array(INTERVALS).T)
    # Moved together, the bounds keep their distance: a step in its unit would be lost in the rounding of a narrow one.
    step = 1e-4 * np.asarray(jnp.ones_like(a) if bound == "both" else b - a)

    def function(t):
        return log_normal_probability(a + (0 if bound == "upper" else t), b + (0 if bound == "lower" else t))

    above, below, centre = (derivatives(function, t) for t in (step, -step, 0.0 * step))
    for order in range(3):
        difference = (above[order] - below[order]) / (2.0 * step)
        # Derivatives of this order in an interval of width w cancel to eps / w^order, which the difference divides.
        rounding = np.finfo(float).eps / np.minimum(b - a, 1.0) ** order / step
        size = np.maximum(np.abs(difference), 1e-6)
        assert np.all(np.abs(centre[order + 1] - difference) < 1e-4 * size + rounding), order
