"""Small matrices of a search for a root, on the host."""

from __future__ import annotations

import numpy as np


def broyden(inverse: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Broyden's update of an inverse Jacobian (n, n), so that it takes `change` to `step`.

    **Source:** Broyden (1965), Mathematics of Computation 19, 577-593, method 1."""
    moved = inverse @ change
    size = float(step @ moved)
    if not abs(size) > 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(moved)):
        return inverse
    return inverse + np.outer(step - moved, step @ inverse) / size


def positive_neighbour(matrix: np.ndarray) -> np.ndarray:
    """The nearest matrix (n, n) of its eigenvectors that is positive definite, in units of its diagonal."""
    scale = np.sqrt(np.maximum(np.abs(np.diag(matrix)), 1e-300))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    values = np.maximum(np.abs(values), 1e-10)
    return (vectors * values) @ vectors.T * np.outer(scale, scale)


@np.errstate(all="ignore")
def positive_inverse(matrix: np.ndarray) -> np.ndarray | None:
    """The inverse of a positive neighbour (n, n), by way of a unit diagonal; None where an entry carries nothing."""
    scale = np.sqrt(np.diag(matrix))
    if not np.all(scale > 0.0):
        return None
    inverse = np.linalg.inv(matrix / np.outer(scale, scale)) / np.outer(scale, scale)
    return inverse if np.isfinite(inverse).all() else None
