"""Derivatives of a function of the eliminated normal equations, by the moments of the random effects, outermost level
first.

Let f be a function of log|A| and of the matrix S that remains of [Q y]'[Q y] (`elimination.py`), and G = df/dS. For a
unit with the remaining columns W, A = C C', R = L' Z'W and V = A^-1 R:

1. df = tr((A^-1 + V G V') dA) - 2 tr(G V' dR), since R' A^-1 R is subtracted from W'W.
2. With E = [L (A^-1 + V G V'), -V G]' and the unit's block B = Z'[Z W]: df/dL = 2 B E, summed over the units.
3. df/dB is L E' for Z'Z, and twice that for Z'W, which stands for its transpose too. The matrix M = [L E'; E_W L', G]
   takes the place of G for the units inside this one.

With f = -2 log L, M holds second moments of the effects given the data: the step is that of the EM algorithm. Automatic
differentiation of the elimination gives the same in three to five times the time.

**Source:** Laird, Lange and Stram (1987), Journal of the American Statistical Association 82, for the moments; Bates
and DebRoy (2004), Journal of Multivariate Analysis 91, for the gradient.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.estimators.linear.elimination import CrossProducts, Elimination, parent_values
from jaxnlme.numerics.settings import COMPUTATION


def factor_slopes(
    products: CrossProducts, relative: list[Any], elimination: Elimination, slope: Any, of_blocks: bool
) -> tuple[list[Any], list[Any]]:
    """Derivatives of f, which takes log|A| with the factor one.

    **Arguments:** `relative`: L (effects, effects) of each level; `slope`: G (fixed + 1, fixed + 1), symmetric.
    **Returns:** df/dL of each level, outermost first; and, if `of_blocks`, df/dB of each level.
    """
    slopes, block_slopes, outer = [], [], slope[:, :, None]
    n_levels = len(relative)
    for level in range(n_levels):
        block, factor = elimination.blocks[level], relative[level]
        size = factor.shape[0]
        rows = _moments(factor, elimination.factors[level], elimination.rows[level], outer)
        slopes.append(2.0 * jnp.sum(block[:, None] * rows[None], (2, 3)))
        if not of_blocks and level == n_levels - 1:
            break
        moments = jnp.einsum("zj,jcu->zcu", factor, rows)
        if of_blocks:
            block_slopes.append(jnp.concatenate([moments[:, :size], 2.0 * moments[:, size:]], axis=1))
        if level < n_levels - 1:
            mixed = moments[:, size:]
            outer = jnp.broadcast_to(outer, (*outer.shape[:2], mixed.shape[-1]))
            below = jnp.concatenate([jnp.swapaxes(mixed, 0, 1), outer], axis=1)
            outer = parent_values(products, level + 1, jnp.concatenate([moments, below], axis=0))
    return slopes, block_slopes


def _moments(relative: Any, lower: list[list[Any]], rows: list[Any], outer: Any) -> Any:
    """E' (effects, columns, units) from L, C, U and G (columns, columns, units or one)."""
    size = len(rows)
    if size > COMPUTATION.unrolled:
        return _moments_by_matrix(relative, lower, rows, outer)
    inverse: list[list[Any]] = []
    for i in range(size):
        last = 1.0 / lower[i][i]
        before = [-last * sum(lower[i][k] * inverse[k][j] for k in range(j, i)) for j in range(i)]
        inverse.append([*before, last])
    solved: list[Any] = [sum(inverse[k][i][None] * rows[k] for k in range(i, size)) for i in range(size)]
    weighted: list[Any] = [sum(outer[:, w] * row[w][None] for w in range(len(row))) for row in solved]
    second: list[list[Any]] = [[None] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            of_inverse = sum(inverse[k][i] * inverse[k][j] for k in range(i, size))
            second[i][j] = second[j][i] = of_inverse + sum(a * b for a, b in zip(solved[i], weighted[j], strict=True))
    out = []
    for j in range(size):
        first = [sum(relative[c, m] * second[m][j] for m in range(size)) for c in range(size)]
        out.append(jnp.concatenate([jnp.stack(first), -weighted[j]]))
    return jnp.stack(out)


def _moments_by_matrix(relative: Any, lower: list[list[Any]], rows: list[Any], outer: Any) -> Any:
    """The same by matrix operations for each unit, for many effects."""
    size, zero = len(rows), jnp.zeros_like(rows[0][0])
    roots = jnp.stack([jnp.stack([*row, *[zero] * (size - len(row))]) for row in lower])
    roots = jnp.moveaxis(roots, -1, 0)
    identity = jnp.broadcast_to(jnp.eye(size), roots.shape)
    inverse = jax.scipy.linalg.solve_triangular(roots, identity, lower=True)
    solved = jnp.einsum("uki,kwu->iwu", inverse, jnp.stack(rows))
    weighted = jnp.einsum("vwu,iwu->ivu", jnp.broadcast_to(outer, (*outer.shape[:2], len(zero))), solved)
    second = jnp.einsum("uki,ukj->iju", inverse, inverse) + jnp.einsum("iwu,jwu->iju", solved, weighted)
    return jnp.concatenate([jnp.einsum("cm,mju->jcu", relative, second), -weighted], axis=1)
