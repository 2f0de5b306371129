"""Symmetric matrices of nested blocks ("block arrows"): I + sum over units of E_o' K_o E_o.

The unknowns of a unit are those of the root, of the units around it, and its own: a unit of the last level has the
coordinates x_o = E_o x (local,), with x the vector of all. Each unit couples only these, so elimination begins with the
last level and fills nothing in: with D the block of a unit of that level and C its coupling to the rest,

    D = K_dd + I = T T',    X = T^-1 C,    K_rest <- K_rest - X' X,

where the blocks K_rest of the units with one parent add up to that of the parent. Costs grow with the number of units.

**Source:** Duff, Erisman and Reid (2017), Direct Methods for Sparse Matrices, second edition, section 4.3 (doubly
bordered block diagonal form); Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 2.2.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.numerics.linalg import backward_solve, cholesky, cholesky_inverse, forward_solve, guarded_cholesky
from jaxnlme.numerics.settings import COMPUTATION
from jaxnlme.typing import Scalar


class Nesting(eqx.Module):
    """The units of each level, and which unit of the level before each lies in.

    **Fields:** `sizes`: number of unknowns of a unit of each level, the root first (zero allowed there); `parents`: for
    each level after the root (units,), positions among the units of the level before.
    """

    sizes: tuple[int, ...] = eqx.field(static=True)
    parents: tuple[Any, ...]

    @property
    def units(self) -> tuple[int, ...]:
        """Number of units of each level, one for the root."""
        return (1, *(parent.shape[0] for parent in self.parents))

    def local(self, parts: Sequence[Any]) -> Any:
        """The coordinates (units, local, ...) of the units of the last level, from the `parts` (units, size, ...) of a
        vector by level."""
        out = parts[0]
        for parent, part in zip(self.parents, parts[1:], strict=True):
            out = jnp.concatenate([out[parent], part], axis=1)
        return out

    def add_up(self, local: Any) -> list[Any]:
        """The transpose of `local`: the parts (units, size, ...) by level of the sum over units of E_o' x_o, from
        `local` (units, local, ...)."""
        parts = []
        for level in range(len(self.parents), 0, -1):
            own = local.shape[1] - self.sizes[level]
            parts.append(local[:, own:])
            local = add_to_parents(local[:, :own], self.parents[level - 1], self.units[level - 1])
        return [local, *reversed(parts)]


def add_to_parents(values: Any, parent: Any, units: int) -> Any:
    """Sums (units, ...) of `values` (children, ...) over the children of each unit."""
    if units == 1:
        return jnp.sum(values, axis=0, keepdims=True)
    return jax.ops.segment_sum(values, parent, units)


class BlockArrow(eqx.Module):
    """A factored matrix.

    **Fields:** `nesting`; `factors`: of each level the factors T (units, size, size); `couplings`: of each level after
    the root X (units, size, local coordinates of the levels before).
    """

    nesting: Nesting
    factors: list[Any]
    couplings: list[Any]

    @property
    def half_logdet(self) -> Scalar:
        """Half the log-determinant."""
        return sum((jnp.sum(jnp.log(jnp.diagonal(t, axis1=1, axis2=2))) for t in self.factors), jnp.zeros(()))

    def solve(self, parts: Sequence[Any]) -> list[Any]:
        """The solution, by level, for a right-hand side given by level, (units, size) or (units, size, columns)."""
        n = self.nesting
        matrices = parts[0].ndim == 3
        forward, backward = (
            jax.vmap(jax.vmap(fn, in_axes=(None, 1), out_axes=1) if matrices else fn)
            for fn in (forward_solve, backward_solve)
        )
        solved: list[Any] = [None] * len(parts)
        carried: Any = None
        for level in range(len(parts) - 1, -1, -1):
            own = sum(n.sizes[:level])
            right = parts[level] if carried is None else parts[level] + carried[:, own:]
            solved[level] = forward(self.factors[level], right)
            if level:
                down = -_transposed_product(self.couplings[level - 1], solved[level])
                down = down if carried is None else down + carried[:, :own]
                carried = add_to_parents(down, n.parents[level - 1], n.units[level - 1])
        out = [backward(self.factors[0], solved[0])]
        local = out[0]
        for level in range(1, len(parts)):
            around = local[n.parents[level - 1]]
            own = backward(self.factors[level], solved[level] - _product(self.couplings[level - 1], around))
            out.append(own)
            local = jnp.concatenate([around, own], axis=1)
        return out

    def local_inverse(self) -> Any:
        """The blocks E_o H^-1 E_o' (units, local, local) of the inverse, for the units of the last level."""
        n = self.nesting
        inverse = jax.vmap(cholesky_inverse)(self.factors[0])
        backward = jax.vmap(jax.vmap(backward_solve, in_axes=(None, 1), out_axes=1))
        for level in range(1, len(self.factors)):
            around = inverse[n.parents[level - 1]]
            g = backward(self.factors[level], self.couplings[level - 1])
            cross = -_matrix_product(g, around)
            own = jax.vmap(cholesky_inverse)(self.factors[level]) - _matrix_product(cross, jnp.swapaxes(g, 1, 2))
            inverse = jnp.concatenate(
                [
                    jnp.concatenate([around, jnp.swapaxes(cross, 1, 2)], axis=2),
                    jnp.concatenate([cross, own], axis=2),
                ],
                axis=1,
            )
        return inverse


def factored(nesting: Nesting, blocks: Any) -> BlockArrow:
    """The factors of I + sum of E_o' K_o E_o; NaN where it is not positive definite.

    **Arguments:** `blocks` (units, local, local): K_o of the units of the last level, symmetric.
    """
    return _eliminate(_entries(nesting, blocks), nesting, _cholesky)[0]


def guarded(nesting: Nesting, blocks: Any, floor: float = COMPUTATION.least_pivot) -> tuple[BlockArrow, Scalar]:
    """As `factored`, with modified pivots (`linalg.guarded_cholesky`, with its `floor`) where the matrix is not
    positive definite, and whether one was modified."""
    return _eliminate(_entries(nesting, blocks), nesting, lambda matrix: guarded_cholesky(matrix, floor))


def _cholesky(matrix: Any) -> tuple[Any, Any]:
    return cholesky(matrix), jnp.zeros((), bool)


def _entries(nesting: Nesting, blocks: Any) -> list[Any]:
    """I + sum of E_o' K_o E_o by level, as `_eliminate` takes it."""
    ends = np.cumsum(nesting.sizes)
    identities: list[Any] = [
        np.diag((np.arange(end) >= end - size).astype(float))[None]
        for end, size in zip(ends, nesting.sizes, strict=True)
    ]
    return [*identities[:-1], blocks + identities[-1]]


def _eliminate(
    entries: list[Any], nesting: Nesting, factor: Callable[[Any], tuple[Any, Any]]
) -> tuple[BlockArrow, Scalar]:
    """The factors of a matrix, and whether `factor` modified a block.

    **Arguments:** `entries` of each level (units, local, local) or (1, local, local): terms of the matrix in the local
    coordinates of its units, those of the levels before and their own; all levels together add up to it.
    """
    changed = jnp.zeros((), bool)
    factors: list[Any] = []
    couplings: list[Any] = []
    forward = jax.vmap(jax.vmap(forward_solve, in_axes=(None, 1), out_axes=1))
    blocks: Any = 0.0
    for level in range(len(nesting.sizes) - 1, -1, -1):
        own = sum(nesting.sizes[:level])
        blocks = blocks + entries[level]
        lower, repaired = jax.vmap(factor)(blocks[:, own:, own:])
        factors.append(lower)
        changed = changed | jnp.any(repaired)
        if level:
            x = forward(lower, blocks[:, own:, :own])
            couplings.append(x)
            rest = blocks[:, :own, :own] - _matrix_product(jnp.swapaxes(x, 1, 2), x)
            blocks = add_to_parents(rest, nesting.parents[level - 1], nesting.units[level - 1])
    return BlockArrow(nesting, factors[::-1], couplings[::-1]), changed


def dense(nesting: Nesting, blocks: Any) -> Any:
    """The matrix (n, n) itself, its unknowns ordered by level and unit."""
    local = nesting.local(_positions(nesting))
    out = jnp.eye(sum(s * u for s, u in zip(nesting.sizes, nesting.units, strict=True)), dtype=blocks.dtype)
    return out.at[local[:, :, None], local[:, None, :]].add(blocks)


def factored_dense(nesting: Nesting, matrix: Any) -> BlockArrow:
    """The factors of a `matrix` (n, n) of this form, its unknowns ordered as in `dense`."""
    entries, local = [], jnp.zeros((1, 0), int)
    for level, own in enumerate(_positions(nesting)):
        around = local[nesting.parents[level - 1]] if level else local
        local = jnp.concatenate([around, own], axis=1)
        n = around.shape[1]  # entries of the levels before stand among those of their own level
        entries.append(matrix[local[:, :, None], local[:, None, :]].at[:, :n, :n].set(0.0))
    return _eliminate(entries, nesting, _cholesky)[0]


def _positions(nesting: Nesting) -> list[Any]:
    """Positions (units, size), by level, of the unknowns in a vector ordered by level and unit."""
    sizes, units = nesting.sizes, nesting.units
    starts = np.cumsum([0, *(s * u for s, u in zip(sizes, units, strict=True))])
    return [
        jnp.asarray(starts[level] + np.arange(sizes[level] * units[level]).reshape(units[level], sizes[level]))
        for level in range(len(sizes))
    ]


def _product(matrices: Any, vectors: Any) -> Any:
    """Products (units, m, ...) of `matrices` (units, m, n) and `vectors` (units, n, ...)."""
    if vectors.ndim == 3:
        return _matrix_product(matrices, vectors)
    return jnp.sum(matrices * vectors[:, None, :], axis=2)


def _transposed_product(matrices: Any, vectors: Any) -> Any:
    return _product(jnp.swapaxes(matrices, 1, 2), vectors)


def _matrix_product(a: Any, b: Any) -> Any:
    """Products (units, m, k) of `a` (units, m, n) and `b` (units, n, k)."""
    return jnp.sum(a[:, :, :, None] * b[:, None, :, :], axis=2)
