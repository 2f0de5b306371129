"""Inverse Jacobians and Hessians of small root-finding problems, on the host (numpy)."""

from __future__ import annotations

import numpy as np

from jaxnlme.numerics.linalg import unit_diagonal
from jaxnlme.numerics.settings import MINIMISER


def broyden(inverse: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Broyden's update of an inverse Jacobian: the result maps `change` to `step`.

    **Arguments:** `inverse` (n, n); `step` (n,) of the unknowns; `change` (n,) of the residuals in that step.
    **Returns:** (n, n); `inverse` itself where the update would divide by zero.
    **Source:** Broyden (1965), Mathematics of Computation 19, 577-593, method 1."""
    predicted = inverse @ change
    divisor = float(step @ predicted)
    if not abs(divisor) > MINIMISER.least_divisor * float(np.linalg.norm(step) * np.linalg.norm(predicted)):
        return inverse
    return inverse + np.outer(step - predicted, step @ inverse) / divisor


def positive_definite_neighbour(matrix: np.ndarray) -> np.ndarray:
    """Positive definite matrix (n, n) near a symmetric `matrix` (n, n): scaled to a unit diagonal, eigenvalues are
    replaced by their absolute values, at least `MINIMISER.least_eigenvalue`, and the scaling is undone."""
    unit, scale = unit_diagonal(matrix)
    values, vectors = np.linalg.eigh(unit)
    values = np.maximum(np.abs(values), MINIMISER.least_eigenvalue)
    return (vectors * values) @ vectors.T * np.outer(scale, scale)


@np.errstate(all="ignore")
def positive_definite_inverse(matrix: np.ndarray) -> np.ndarray | None:
    """The inverse of a positive definite `matrix` (n, n), scaled to a unit diagonal first; None where a diagonal entry
    is not positive, the matrix is exactly singular, or the inverse is not finite."""
    scale = np.sqrt(np.diag(matrix))
    if not np.all(scale > 0.0):
        return None
    try:
        inverse = np.linalg.inv(matrix / np.outer(scale, scale)) / np.outer(scale, scale)
    except np.linalg.LinAlgError:
        return None
    return inverse if np.isfinite(inverse).all() else None
