"""Linear dependence between the columns of a design matrix."""

from __future__ import annotations

import numpy as np

from jaxnlme.formulas.settings import RANK


def independent_columns(matrix: np.ndarray) -> np.ndarray:
    """A mask (columns,): False for a column that the columns kept before it explain, up to `RANK.tolerance` of its
    length; a column of zeros is one.

    The columns are taken in their order, as in R's lm. X'X decides where it clearly can, a QR decomposition otherwise.

    **Arguments:** `matrix` (rows, columns), finite.
    """
    rows, columns = matrix.shape
    if columns == 0:
        return np.ones(0, bool)
    with np.errstate(over="ignore", invalid="ignore"):
        gram = matrix.T @ matrix
    lengths = np.sqrt(gram.diagonal())
    if rows >= columns and np.isfinite(gram).all() and (lengths > 0).all():
        try:
            pivots = np.linalg.cholesky(gram / np.outer(lengths, lengths)).diagonal()
        except np.linalg.LinAlgError:
            pivots = np.zeros(columns)
        if (pivots**2 > RANK.clear_pivot).all():
            return np.ones(columns, bool)
    return _independent_in_triangle(_triangle(matrix))


def _triangle(matrix: np.ndarray) -> np.ndarray:
    """The triangular factor of `matrix` with columns scaled to a largest entry of one, block by block of rows."""
    largest = np.abs(matrix).max(axis=0, initial=0.0)
    scaled = matrix / np.where(largest > 0, largest, 1.0)
    blocks = range(0, max(len(scaled), 1), RANK.block_rows)
    return np.concatenate([np.linalg.qr(scaled[k : k + RANK.block_rows], mode="r") for k in blocks])


def _independent_in_triangle(triangle: np.ndarray) -> np.ndarray:
    """`independent_columns` of a small matrix, by Gram-Schmidt steps taken twice."""
    kept = np.zeros(triangle.shape[1], bool)
    basis = np.zeros((len(triangle), 0))
    for k in range(triangle.shape[1]):
        column = triangle[:, k]
        rest = column - basis @ (basis.T @ column)
        rest = rest - basis @ (basis.T @ rest)
        length = np.linalg.norm(rest)
        if length > RANK.tolerance * np.linalg.norm(column):
            kept[k] = True
            basis = np.column_stack([basis, rest / length])
    return kept
