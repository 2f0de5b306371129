"""The gradient of the log-determinant of a Hessian block, by differences of a gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnlme.numerics.broyden import positive_definite_inverse
from jaxnlme.numerics.logdet_derivative import logdet_derivative
from tests import problems


def test_gradient_of_the_log_determinant_of_a_known_function():
    """F = sum of exp(x_k) + (x0 x1)^2 / 2 + x2 x0^2: the Hessian in x0, x1 and the gradient of its log-determinant."""

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
    # With exact units, similar ones, and ones wrong by a factor of a hundred.
    for metric in (np.linalg.inv(exact[:2, :2]), np.eye(2), 1e4 * np.eye(2), 1e-4 * np.eye(2)):
        result = logdet_derivative(shifted, centre, entries, metric)
        assert result.positive_definite
        # Fourth order: 0.02^4 / 30 of the sixth derivatives.
        np.testing.assert_allclose(result.hessian, exact[:2, :2], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(result.mixed_derivatives, exact[:, :2], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(result.half_logdet_gradient, problems.cheap(jax.grad(half))(x), rtol=1e-5, atol=1e-6)
    assert not logdet_derivative(lambda shift: -shifted(shift), -centre, entries, np.eye(2)).positive_definite


def test_a_metric_that_rounding_made_indefinite():
    """The block of F(b) = b' H b / 2, with a metric whose smaller eigenvalue is -1e-17."""
    hessian = np.array([[2.0, 0.3], [0.3, 1.0]])
    metric = np.array([[1.0, 1.0 + 1e-15], [1.0 + 1e-15, 1.0]])
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(metric)
    found = logdet_derivative(lambda shift: hessian @ shift, np.zeros(2), np.arange(2), metric)
    np.testing.assert_allclose(found.hessian, hessian, rtol=1e-6)


def test_a_singular_matrix_has_no_inverse():
    assert positive_definite_inverse(np.ones((2, 2))) is None
