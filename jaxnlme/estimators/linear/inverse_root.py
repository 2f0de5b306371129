"""Inverse Cholesky factor and inverse of a large dense matrix, in place, by products of halves.

LAPACK's own routines synchronise their threads at every small step: on a machine whose cores are busy with other work
they can take fifty times as long. Here nearly all work is in a few products of large matrices, which suffer less from
that, and take the same time on an idle machine.
"""

from __future__ import annotations

import numpy as np

from jaxnlme.estimators.linear.settings import LINEAR


def inverse_root_in_place(A: np.ndarray) -> float:
    """Replace the positive definite `A` (n, n) by C^-1, with C its lower Cholesky factor; the log-determinant of A.

    With the halves A_11, A_21, A_22: C_21 = A_21 C_11'^-1, C_22 that of A_22 - C_21 C_21', and the lower left of the
    inverse is -C_22^-1 C_21 C_11^-1.

    **Raises:** numpy.linalg.LinAlgError where it is not positive definite.
    """
    size = len(A)
    if size <= LINEAR.base_block:
        C = np.linalg.cholesky(A)
        A[:] = np.tril(np.linalg.inv(C))
        return 2.0 * float(np.sum(np.log(np.diag(C))))
    half = size // 2
    first, corner, second = A[:half, :half], A[half:, :half], A[half:, half:]
    logdet = inverse_root_in_place(first)
    C = corner @ first.T
    second -= C @ C.T
    logdet += inverse_root_in_place(second)
    corner[:] = -second @ (C @ first)
    A[:half, half:] = 0.0
    return logdet


def inverse_in_place(X: np.ndarray) -> None:
    """Replace C^-1 (n, n) by the inverse of C C', which is X'X."""
    size, step = len(X), LINEAR.panel
    for a in range(0, size, step):
        b = min(a + step, size)
        column = X[a:, a:].T @ X[a:, a:b]
        X[a:, a:b] = column
        X[a:b, a:b] = 0.5 * (column[: b - a] + column[: b - a].T)
    for a in range(0, size, step):
        b = min(a + step, size)
        X[a:b, b:] = X[b:, a:b].T
