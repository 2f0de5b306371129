"""The log-determinant of a Hessian block and its slope, from differences of a gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.numerics.logdet_derivative import logdet_derivative
from tests import problems


def test_bend_of_a_known_function():
    """F = sum of exp(x_k) + (x0 x1)^2 / 2 + x2 x0^2: Hessian in x0, x1 and the slope of its log-determinant."""

    def f(x):
        return jnp.sum(jnp.exp(x)) + 0.5 * (x[0] * x[1]) ** 2 + x[2] * x[0] ** 2

    x = np.array([0.3, -0.2, 0.4])
    entries = np.array([0, 1])
    gradient = problems.cheap(jax.grad(f))

    def half(x):
        return 0.5 * jnp.linalg.slogdet(jax.hessian(f)(x)[:2, :2])[1]

    def shifted(shift):
        return np.asarray(gradient(jnp.asarray(x).at[entries].add(shift)))

    centre = shifted(np.zeros(2))
    exact = np.asarray(problems.cheap(jax.hessian(f))(x))
    # From the right units, from near ones, and from ones a hundred times off.
    for metric in (np.linalg.inv(exact[:2, :2]), np.eye(2), 1e4 * np.eye(2), 1e-4 * np.eye(2)):
        found = logdet_derivative(shifted, centre, entries, metric)
        assert found.positive_definite
        # Fourth order: 0.02^4 / 30 of the sixth derivatives.
        np.testing.assert_allclose(found.hessian, exact[:2, :2], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.mixed_derivatives, exact[:, :2], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.half_logdet_gradient, problems.cheap(jax.grad(half))(x), rtol=1e-5, atol=1e-6)
    assert not logdet_derivative(lambda shift: -shifted(shift), -centre, entries, np.eye(2)).positive_definite
