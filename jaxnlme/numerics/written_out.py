"""Small matrices stored by entry: a dictionary from (row, column) to a scalar, without entries that are zero by
structure.

Under vmap each entry is one array over groups. Structural zeros cost nothing, and multiplications by the ones of a
design matrix are omitted.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxnlme.typing import Matrix, Scalar, Vector

Entries = dict[tuple[int, int], Any]


def column(values: list[Scalar]) -> Entries:
    """The column vector (n, 1) of `values`."""
    return {(k, 0): value for k, value in enumerate(values)}


def symmetric(lower: list[list[Scalar]]) -> Entries:
    """The symmetric matrix (n, n) with the lower triangle `lower`, a list of rows."""
    n = len(lower)
    return {(j, k): lower[max(j, k)][min(j, k)] for j in range(n) for k in range(n)}


def transposed(a: Entries) -> Entries:
    """a'."""
    return {(k, j): value for (j, k), value in a.items()}


def added(a: Entries, b: Entries) -> Entries:
    """a + b."""
    return {p: a[p] + b[p] if p in a and p in b else a.get(p, b.get(p)) for p in [*a, *(p for p in b if p not in a)]}


def product(a: Entries, b: Entries) -> Entries:
    """a b, without multiplications by structural ones (Python numbers equal to 1) and zeros (absent entries)."""
    out: Entries = {}
    for (i, k), left in a.items():
        for (m, j), right in b.items():
            if m != k:
                continue
            factors = [side for side in (left, right) if not (isinstance(side, (int, float)) and side == 1.0)]
            term = factors[0] * factors[1] if len(factors) == 2 else factors[0] if factors else 1.0
            out[i, j] = out[i, j] + term if (i, j) in out else term
    return out


def as_vector(column: Entries, n: int, dtype: Any) -> Vector:
    """The array (n,) of a column vector."""
    return jnp.stack([jnp.asarray(column.get((k, 0), 0.0), dtype) for k in range(n)]) if n else jnp.zeros((0,), dtype)


def as_matrix(a: Entries, rows: int, dtype: Any, columns: int | None = None) -> Matrix:
    """The array (rows, columns); square (rows, rows) for `columns` None."""
    columns = rows if columns is None else columns
    values = [jnp.asarray(a.get((j, k), 0.0), dtype) for j in range(rows) for k in range(columns)]
    return jnp.stack(values).reshape(rows, columns) if values else jnp.zeros((rows, columns), dtype)
