"""Cholesky factor and inverse of a large dense matrix in place, by products of panels.

LAPACK's own routines synchronise their threads at every small step: on a machine whose cores are busy they take twenty
times as long. Here nearly all work is in few products of matrices, which suffer little from that, and are as fast
otherwise.
"""

from __future__ import annotations

import numpy as np

from jaxnlme.estimators.linear.settings import LINEAR


def cholesky_in_place(A: np.ndarray, step: int = LINEAR.panel) -> None:
    """Replace the positive definite `A` (n, n) by its lower Cholesky factor, zeros above the diagonal.

    **Raises:** numpy.linalg.LinAlgError where it is not positive definite.
    """
    size = len(A)
    if size <= LINEAR.base_panel:
        A[:] = np.linalg.cholesky(A)
        return
    for a in range(0, size, step):
        b = min(a + step, size)
        if a:
            A[a:, a:b] -= A[a:, :a] @ A[a:b, :a].T
        corner = A[a:b, a:b]
        cholesky_in_place(corner, LINEAR.base_panel)
        if b < size:
            inverse = corner.copy()
            lower_inverse_in_place(inverse, LINEAR.base_panel)
            A[b:, a:b] = A[b:, a:b] @ inverse.T
            A[a:b, b:] = 0.0


def lower_inverse_in_place(L: np.ndarray, step: int = LINEAR.panel) -> None:
    """Replace the lower triangular `L` (n, n) by its inverse."""
    size = len(L)
    if size <= LINEAR.base_panel:
        L[:] = np.tril(np.linalg.inv(L))
        return
    for a in range(0, size, step):
        b = min(a + step, size)
        corner = L[a:b, a:b]
        lower_inverse_in_place(corner, LINEAR.base_panel)
        if a:
            L[a:b, :a] = -corner @ (L[a:b, :a] @ L[:a, :a])


def inverse_in_place(L: np.ndarray, step: int = LINEAR.panel) -> None:
    """Replace the lower triangular `L` (n, n) by the inverse of L L'."""
    lower_inverse_in_place(L)
    size = len(L)
    for a in range(0, size, step):
        b = min(a + step, size)
        L[a:, a:b] = L[a:, a:].T @ L[a:, a:b]
        L[a:b, a:b] = 0.5 * (L[a:b, a:b] + L[a:b, a:b].T)
        L[a:b, b:] = 0.0
    for a in range(0, size, step):
        b = min(a + step, size)
        L[a:b, b:] = L[b:, a:b].T


def lower_solve(L: np.ndarray, right: np.ndarray, transposed: bool = False, step: int = LINEAR.panel) -> np.ndarray:
    """L^-1 `right` (n, k) of a lower triangular `L`, or L'^-1 `right` if `transposed`."""
    out, size = right.copy(), len(L)
    starts = range(0, size, step)
    for a in reversed(starts) if transposed else starts:
        b = min(a + step, size)
        corner = L[a:b, a:b].copy()
        lower_inverse_in_place(corner, LINEAR.base_panel)
        if transposed:
            out[a:b] = corner.T @ (out[a:b] - L[b:, a:b].T @ out[b:])
        else:
            out[a:b] = corner @ (out[a:b] - L[a:b, :a] @ out[:a])
    return out
