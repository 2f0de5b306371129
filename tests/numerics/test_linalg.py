"""Linear algebra of small matrices against numpy, for unrolled and for LAPACK sizes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnlme.numerics.broyden import positive_definite_inverse, positive_definite_neighbour
from jaxnlme.numerics.linalg import (
    accurate_eigh,
    backward_solve,
    cholesky,
    cholesky_solve,
    forward_solve,
    guarded_cholesky,
    half_logdet,
    lower_product,
    semidefinite_cholesky,
)
from jaxnlme.numerics.quadrature import normal_grid
from jaxnlme.numerics.settings import COMPUTATION

SIZES = (1, 2, 3, COMPUTATION.unrolled, COMPUTATION.unrolled + 1, 8)
# rounding error for a well-conditioned matrix of a few rows
CLOSE = {"rel": 1e-11, "abs": 1e-11}


def spd(n: int, seed: int = 0) -> np.ndarray:
    """A symmetric positive definite matrix (n, n)."""
    a = np.random.default_rng(seed).normal(size=(n, n))
    return a @ a.T + np.eye(n)


@pytest.mark.parametrize("n", SIZES)
def test_factor_and_solves(n: int) -> None:
    matrix, right = spd(n), np.arange(1.0, n + 1)
    expected = np.linalg.cholesky(matrix)
    lower = cholesky(jnp.asarray(matrix))
    assert np.asarray(lower) == pytest.approx(expected, **CLOSE)
    assert np.asarray(forward_solve(lower, right)) == pytest.approx(np.linalg.solve(expected, right), **CLOSE)
    assert np.asarray(backward_solve(lower, right)) == pytest.approx(np.linalg.solve(expected.T, right), **CLOSE)
    assert np.asarray(cholesky_solve(lower, right)) == pytest.approx(np.linalg.solve(matrix, right), **CLOSE)
    assert float(half_logdet(lower)) == pytest.approx(0.5 * np.linalg.slogdet(matrix)[1], **CLOSE)
    assert np.asarray(lower_product(lower, right)) == pytest.approx(expected @ right, **CLOSE)


@pytest.mark.parametrize("n", SIZES)
def test_indefinite_matrix_has_no_factor(n: int) -> None:
    matrix = spd(n)
    matrix[-1, -1] = -1.0
    assert np.isnan(np.asarray(cholesky(jnp.asarray(matrix)))).any()


@pytest.mark.parametrize("n", SIZES)
def test_guarded_factor_does_not_change_definite_matrices(n: int) -> None:
    lower, changed = guarded_cholesky(jnp.asarray(spd(n)))
    assert not changed
    assert np.asarray(lower @ lower.T) == pytest.approx(spd(n), **CLOSE)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["negative", "indefinite", "singular", "zero"])
def test_guarded_factor_always_gives_a_descent_direction(n: int, kind: str) -> None:
    rng = np.random.default_rng(n)
    a = rng.normal(size=(n, n))
    matrix = {
        "negative": -spd(n),
        "indefinite": spd(n) - 2 * np.trace(spd(n)) / n * np.diag(np.arange(n) == 0),
        "singular": a[:, :1] @ a[:, :1].T if n > 1 else np.zeros((1, 1)),
        "zero": np.zeros((n, n)),
    }[kind]
    lower, changed = guarded_cholesky(jnp.asarray(matrix))
    gradient = rng.normal(size=n)
    direction = -np.asarray(cholesky_solve(lower, jnp.asarray(gradient)))
    assert changed
    assert np.isfinite(direction).all()
    assert direction @ gradient < 0


def test_semidefinite_factor_keeps_zero_rows_and_refuses_negative_matrices() -> None:
    psi = np.array([[4.0, 0.0, 2.0], [0.0, 0.0, 0.0], [2.0, 0.0, 1.0]])
    lower = semidefinite_cholesky(psi)
    assert lower @ lower.T == pytest.approx(psi, **CLOSE)
    assert lower[1].tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="not positive semidefinite"):
        semidefinite_cholesky(np.array([[1.0, 2.0], [2.0, 1.0]]))


def test_semidefinite_factor_of_a_zero_pivot_after_a_small_one() -> None:
    """Rounding in the small pivot can make the zero pivot -1e-10 or less; the Gram matrix must still be accepted."""
    rng = np.random.default_rng(1)
    for small in (1e-4, 3e-5):
        for _ in range(50):
            lower = np.tril(rng.normal(size=(4, 4)))
            lower[2, 2], lower[3, 3] = small, 0.0
            psi = lower @ lower.T
            factor = semidefinite_cholesky(psi)
            # relative rounding error after a pivot of `small` squared: 1e-16 / 1e-9 of the last diagonal entry
            assert factor @ factor.T == pytest.approx(psi, abs=1e-5 * np.max(np.diag(psi)))


def test_positive_definite_inverse_is_exact_or_none() -> None:
    matrix, units = spd(4), np.outer([1e-6, 1.0, 1e8, 1.0], [1e-6, 1.0, 1e8, 1.0])
    inverse = positive_definite_inverse(positive_definite_neighbour(matrix * units))
    assert inverse is not None
    assert (inverse * units) @ matrix == pytest.approx(np.eye(4), **CLOSE)
    for tiny in (0.0, 1e-310):
        matrix[2, :] = matrix[:, 2] = 0.0
        matrix[2, 2] = tiny
        assert positive_definite_inverse(matrix) is None


def test_normal_grid_integrates_polynomials() -> None:
    points, log_weights = normal_grid(4, 3)
    weights = np.exp(log_weights)
    assert points.shape == (64, 3)
    assert weights.sum() == pytest.approx(1.0, rel=1e-13)
    # degree 7 in each variable: E u^6 = 15, E u^4 = 3, E u^2 = 1
    assert weights @ (points[:, 0] ** 6 * points[:, 1] ** 4 * points[:, 2] ** 2) == pytest.approx(45.0, rel=1e-12)
    assert weights @ points[:, 0] ** 7 == pytest.approx(0.0, abs=1e-11)


@pytest.mark.parametrize("units", [1.0, 1e7, 1e14])
def test_eigenvalues_have_relative_accuracy_in_any_units(units: float) -> None:
    """The inverse root of matrices (2, 2) has a closed form, with the determinant from the correlation."""
    variances, r = np.array([0.3, 2.0 * units**2]), 0.8
    covariance = np.sqrt(variances[0] * variances[1]) * r
    root_det = np.sqrt(variances.prod() * (1.0 - r**2))
    inverse = np.array([[variances[1], -covariance], [-covariance, variances[0]]]) / root_det**2
    expected = (inverse + np.eye(2) / root_det) / np.sqrt(np.trace(inverse) + 2.0 / root_det)
    values, vectors = accurate_eigh(np.array([[[variances[0], covariance], [covariance, variances[1]]]]))
    found = (vectors[0] / np.sqrt(values[0])) @ vectors[0].T
    scale = np.sqrt(variances)
    np.testing.assert_allclose(found * scale[:, None], expected * scale[:, None], rtol=1e-10, atol=1e-10)
    assert np.isnan(accurate_eigh(np.array([[[1.0, units], [units, units**2]]]))[0]).all()
