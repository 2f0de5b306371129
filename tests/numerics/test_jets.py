"""Functions composed with a jet have the derivatives of functions composed with the original function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnlme.numerics.jets import count_partials, jet
from tests.problems import cheap

POINT = (0.7, -0.4, 1.3)


def curve(a, b, c):
    t = jnp.linspace(0.1, 2.0, 5)
    return {"y": jnp.exp(-a * t) * jnp.sin(c * t) + b**3 * a * t, "last": a * b * c}


def through(fn, weights):
    """A scalar function of u that calls `fn` at a point depending on u, as a log joint density calls a model."""

    def scalar(u):
        out = fn(u[0] * u[1], jnp.sin(u[2]), u[0] + u[2])
        return jnp.sum(weights * out["y"] ** 2) + jnp.exp(out["last"])

    return scalar


def test_all_derivatives_up_to_the_order_equal_those_of_the_function():
    u = jnp.array([0.7, 1.1, 0.4])
    weights = jnp.arange(1.0, 6.0)
    at = (u[0] * u[1], jnp.sin(u[2]), u[0] + u[2])

    @cheap
    def both(u):
        function_jet = jet(curve, at, 3)
        out = []
        for fn in (curve, function_jet):
            scalar = through(fn, weights)
            out.append((scalar(u), jax.grad(scalar)(u), jax.hessian(scalar)(u), jax.jacfwd(jax.hessian(scalar))(u)))
        return out

    for expected, actual in zip(*both(u), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_the_function_is_traced_once():
    calls = []

    def fn(a, b, c):
        calls.append(1)
        return curve(a, b, c)

    function_jet = jet(fn, tuple(map(jnp.asarray, POINT)), 2)
    assert len(calls) == 1
    assert len(function_jet.partials) == count_partials(3, 2) == 10


def test_a_derivative_beyond_the_order_is_refused():
    function_jet = jet(curve, tuple(map(jnp.asarray, POINT)), 1)
    with pytest.raises(NotImplementedError, match="has no partial derivative"):
        jax.hessian(lambda a: function_jet(a, POINT[1], POINT[2])["last"])(jnp.asarray(POINT[0]))


def test_partial_derivatives_that_are_equal_in_all_rows_keep_their_shape():
    """A straight line: the tangent of the intercept is one number, broadcast over the rows by the sum."""
    t = jnp.linspace(0.0, 1.0, 4)
    function_jet = jet(lambda a, b: a + b * t, (jnp.asarray(1.0), jnp.asarray(2.0)), 2)
    assert [leaf.shape for leaf in function_jet.partials] == [(4,)] * 6
    np.testing.assert_array_equal(function_jet.partial(0), np.ones(4))
    np.testing.assert_array_equal(function_jet.partial(1), t)
    assert not np.any(function_jet.partial(0, 1))


def test_derivatives_in_scalars_that_are_not_repeated():
    """Derivatives in the second scalar once, with those in the others; zero where it comes twice."""
    point = tuple(map(jnp.asarray, POINT))
    full, some = jet(curve, point, 3), jet(curve, point, 3, repeated=(0, 2))
    assert some.indices == full.indices
    for index in full.indices:
        for name in ("y", "last"):
            expected = full.partial(*index)[name] * (index.count(1) < 2)
            np.testing.assert_allclose(some.partial(*index)[name], expected, rtol=1e-12, atol=1e-12)
