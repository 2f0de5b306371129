"""psi by its matrix logarithm: the exponential, round trips and derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxnlme as jn
from jaxnlme.model.covariance.specification import covariance, pattern_blocks
from jaxnlme.model.covariance.structures import LogCholesky, LogMatrix
from jaxnlme.numerics.linalg import expm
from tests.problems import decay_data, decay_model

FAMILY = LogMatrix(3)


def symmetric(seed: int, size: float) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(3, 3))
    return size * (a + a.T) / np.linalg.norm(a + a.T, 2)


@pytest.mark.parametrize("size", [1e-8, 0.3, 3.0, 30.0])
def test_the_exponential_is_that_of_scipy(size: float) -> None:
    matrix = symmetric(1, size) - 2.0 * np.eye(3)
    expected = scipy.linalg.expm(matrix)
    # Each of eight squarings doubles the rounding error of the polynomial (some ten units): 2^8 of it at most, 1e-12.
    assert np.asarray(expm(jnp.asarray(matrix))) == pytest.approx(expected, rel=0, abs=3e-12 * np.abs(expected).max())


@pytest.mark.parametrize("seed", range(3))
def test_round_trip_on_host_and_device(seed: int) -> None:
    psi = scipy.linalg.expm(symmetric(seed, 2.0))
    theta = FAMILY.from_matrix(psi)
    assert theta == pytest.approx(scipy.linalg.logm(psi)[np.triu_indices(3)], abs=1e-12)
    for value in (theta, jnp.asarray(theta)):
        assert np.asarray(FAMILY.psi(value)) == pytest.approx(psi, rel=1e-12, abs=1e-12)
    z = np.array([0.3, -1.1, 0.7])
    applied = np.asarray(FAMILY.apply(jnp.asarray(theta), jnp.asarray(z)))
    assert applied == pytest.approx(np.asarray(FAMILY.factor(theta)) @ z, abs=1e-12)


def test_derivatives_are_finite_where_eigenvalues_agree() -> None:
    """An eigendecomposition has NaN derivatives at the identity; here they are d psi = psi d(log psi)."""
    theta = FAMILY.from_matrix(0.25 * np.eye(3))
    slopes = np.asarray(jax.jacobian(FAMILY.psi)(jnp.asarray(theta)))
    expected = np.zeros((3, 3, 6))
    for k, (i, j) in enumerate(zip(*np.triu_indices(3), strict=True)):
        expected[i, j, k] = expected[j, i, k] = 0.25
    assert slopes == pytest.approx(expected, abs=1e-12)


def test_a_singular_psi_is_replaced_by_a_nearby_one() -> None:
    psi = np.outer([0.5, -0.2, 1.0], [0.5, -0.2, 1.0])
    theta = FAMILY.from_matrix(psi)
    assert np.isfinite(theta).all()
    assert np.asarray(FAMILY.psi(theta)) == pytest.approx(psi, abs=1e-10)
    with pytest.raises(ValueError, match="not positive semidefinite"):
        FAMILY.from_matrix(-np.eye(3))


def test_specification_by_name_and_in_blocks() -> None:
    assert covariance("log-matrix", ("a", "b", "c")) == FAMILY
    pattern = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    parts = pattern_blocks(pattern, LogMatrix).parts
    assert parts == (((0, 2), LogMatrix(2)), ((1,), jn.covariances.Diagonal(1)))
    assert set(FAMILY.correlated_pairs) == set(LogCholesky(3).correlated_pairs)


def test_values_and_params_are_inverse() -> None:
    model, data = decay_model("log-matrix"), decay_data()
    chosen = {"sd(a)": 0.4, "corr(a, b)": 0.3, "corr(b, c)": -0.2}
    values = model.values(model.params(data, chosen), data)
    assert {name: values[name] for name in chosen} == pytest.approx(chosen, rel=1e-10)
