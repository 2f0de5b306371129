"""Small matrices written out: entries by (row, column), absent where they are zero whatever the values.

A batch of groups computes with each entry as one array over groups; what is zero by structure costs nothing, and a
design's ones are not multiplied by.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxnlme.typing import Matrix, Scalar, Vector

Entries = dict[tuple[int, int], Any]


def column(values: list[Scalar]) -> Entries:
    return {(k, 0): value for k, value in enumerate(values)}


def symmetric(lower: list[list[Scalar]]) -> Entries:
    """The symmetric matrix of a lower triangle."""
    n = len(lower)
    return {(j, k): lower[max(j, k)][min(j, k)] for j in range(n) for k in range(n)}


def transposed(a: Entries) -> Entries:
    return {(k, j): value for (j, k), value in a.items()}


def added(a: Entries, b: Entries) -> Entries:
    return {p: a[p] + b[p] if p in a and p in b else a.get(p, b.get(p)) for p in [*a, *(p for p in b if p not in a)]}


def product(a: Entries, b: Entries) -> Entries:
    """a b, ones and zeros of a design left out."""
    out: Entries = {}
    for (i, k), left in a.items():
        for (m, j), right in b.items():
            if m != k:
                continue
            one = [side for side in (left, right) if not (isinstance(side, (int, float)) and side == 1.0)]
            term = one[0] * one[1] if len(one) == 2 else one[0] if one else 1.0
            out[i, j] = out[i, j] + term if (i, j) in out else term
    return out


def as_vector(column: Entries, n: int, dtype: Any) -> Vector:
    return jnp.stack([jnp.asarray(column.get((k, 0), 0.0), dtype) for k in range(n)]) if n else jnp.zeros((0,), dtype)


def as_matrix(a: Entries, rows: int, dtype: Any, columns: int | None = None) -> Matrix:
    """The array (rows, columns), square where `columns` is not given."""
    columns = rows if columns is None else columns
    values = [jnp.asarray(a.get((j, k), 0.0), dtype) for j in range(rows) for k in range(columns)]
    return jnp.stack(values).reshape(rows, columns) if values else jnp.zeros((rows, columns), dtype)
