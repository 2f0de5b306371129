"""Sums over rows with the inverse of the covariance of y, and its derivatives, by independent blocks of rows.

In transformed columns and units of sigma^2 the covariance of y is V = I + Z S Z', with S block diagonal in the
covariances of the random effects. It is linear in its components gamma: V = gamma_0 I + sum_r gamma_r Z B_r Z'. All
sums follow from cross-products: with T = Z'Z, C = Z'Q, S = L L' and H = L (I + L'T L)^-1 L',

    V^-1 = I - Z H Z',   Z'V^-1 Q = C - T H C,   Z'V^-1 Z = T - T H T.

Random effects that share rows, directly or through others, form a block; blocks of one layout are computed together.
The memory is that of the cross-products, never rows by rows.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.estimators.linear.relative_factor import (
    AbstractRelativeFactor,
    BlockFactor,
    DiagonalFactor,
    FullFactor,
    IdentityFactor,
    psi_and_slopes,
)
from jaxnlme.linear.inference.settings import INFERENCE

if TYPE_CHECKING:
    from jaxnlme.estimators.linear.problem import LinearProblem


@dataclasses.dataclass(frozen=True, eq=False)
class CovarianceSums:
    """Sums over all rows; component 0 is the residual variance, then those of each level, outermost first.

    **Fields:** `normal` (fixed, fixed): Q'V^-1 Q; `P` (components, fixed, fixed): -Q'V^-1 G_r V^-1 Q; `Q` (components,
    components, fixed, fixed): Q'V^-1 G_r V^-1 G_s V^-1 Q; `traces` (components, components): tr(V^-1 G_r V^-1 G_s).
    """

    normal: np.ndarray
    P: np.ndarray
    Q: np.ndarray
    traces: np.ndarray


def covariance_sums(problem: LinearProblem, theta: np.ndarray) -> CovarianceSums:
    """The CovarianceSums at `theta` (parameters,) of a model with independent residuals of one variance.

    **Raises:** OptionError where a block has more random effects than `INFERENCE.most_effects`.
    """
    columns = problem.X @ np.linalg.inv(problem.R)
    p = columns.shape[1]
    roots, bases, first = [], [], 0
    for level in problem.levels:
        last = first + level.factor.n_parameters
        roots.append(np.asarray(level.factor.factor(theta[first:last])))
        bases.append(linear_basis(level.factor, theta[first:last]))
        first = last
    owner = [k for k, basis in enumerate(bases) for _ in basis]
    count = 1 + len(owner)
    gram = columns.T @ columns
    powers = [np.zeros((p, p)) for _ in range(3)]
    P, Q, traces = np.zeros((count, p, p)), np.zeros((count, count, p, p)), np.zeros((count, count))
    traces[0, 0] = len(columns)
    for counts, T, C in _blocks(problem, columns):
        units, effects = T.shape[:2]
        root = _placed([(k, root) for k, root in enumerate(roots)], counts, roots)
        identity = np.eye(effects)
        H = root @ np.linalg.solve(identity + root.T @ T @ root, np.broadcast_to(root.T, T.shape))
        TH = T @ H
        for k in range(3):
            # C'HC, C'HTHC, C'HTHTHC.
            middle = H if k == 0 else middle @ TH
            powers[k] += np.einsum("uip,uij,ujq->pq", C, middle, C, optimize=True)
        C1 = C - TH @ C
        C2 = C1 - TH @ C1
        E1 = T - TH @ T
        K = identity - np.swapaxes(TH, 1, 2)
        traces[0, 0] += float(np.einsum("uij,uji->", K, K)) - units * effects
        E2 = E1 @ K
        places = [_placed([(k, basis)], counts, roots) for k, part in enumerate(bases) for basis in part]
        scaled = [B @ E1 for B in places]
        for r, B in enumerate(places, 1):
            left = np.swapaxes(C1, 1, 2) @ B
            P[r] -= np.einsum("upi,uiq->pq", left, C1, optimize=True)
            Q[r, 0] += np.einsum("upi,uiq->pq", left, C2, optimize=True)
            traces[r, 0] += float(np.einsum("ij,uji->", B, E2))
            through = left @ E1
            for s in range(1, r + 1):
                Q[r, s] += np.einsum("upi,ij,ujq->pq", through, places[s - 1], C1, optimize=True)
                traces[r, s] += float(np.sum(scaled[r - 1] * np.swapaxes(scaled[s - 1], 1, 2)))
    P[0] = -(gram - 2.0 * powers[0] + powers[1])
    Q[0, 0] = gram - 3.0 * powers[0] + 3.0 * powers[1] - powers[2]
    for r in range(count):
        for s in range(r):
            Q[s, r], traces[s, r] = Q[r, s].T, traces[r, s]
    return CovarianceSums(gram - powers[0], P, Q, traces)


def linear_basis(factor: AbstractRelativeFactor, theta: np.ndarray) -> list[np.ndarray]:
    """Symmetric matrices (effects, effects) that span the covariances of a family: exactly where these are a linear
    space, otherwise its tangents at `theta`."""
    size = factor.size
    if isinstance(factor, FullFactor):
        return [_unit(size, i, j) for i in range(size) for j in range(i + 1)]
    if isinstance(factor, DiagonalFactor):
        return [_unit(size, i, i) for i in range(size)]
    if isinstance(factor, IdentityFactor):
        return [np.eye(size)]
    if isinstance(factor, BlockFactor):
        out, first = [], 0
        for effects, part in factor.parts:
            place = np.eye(size)[list(effects)]
            out += [place.T @ B @ place for B in linear_basis(part, theta[first : first + part.n_parameters])]
            first += part.n_parameters
        return out
    return list(psi_and_slopes(factor, theta)[1])


def _unit(size: int, i: int, j: int) -> np.ndarray:
    """The symmetric matrix with ones at (i, j) and (j, i)."""
    out = np.zeros((size, size))
    out[i, j] = out[j, i] = 1.0
    return out


def _placed(
    matrices: Sequence[tuple[int, np.ndarray]], counts: Sequence[int], roots: Sequence[np.ndarray]
) -> np.ndarray:
    """The matrix of a block: for each (level, matrix) the matrix for every unit of the level, zero elsewhere."""
    starts = np.cumsum([0, *(count * len(root) for count, root in zip(counts, roots, strict=True))])
    out = np.zeros((int(starts[-1]),) * 2)
    for level, matrix in matrices:
        part = slice(int(starts[level]), int(starts[level + 1]))
        out[part, part] = np.kron(np.eye(int(counts[level])), matrix)
    return out


def _blocks(problem: LinearProblem, columns: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """For blocks of one layout: the number of units of each level in a block, T (blocks, effects, effects), and C
    (blocks, effects, fixed)."""
    if not problem.levels:
        return
    import scipy.sparse

    codes = [level.design.codes[problem.order] for level in problem.levels]
    sizes = [level.size for level in problem.levels]
    labels, n_blocks = _independent(codes, [level.design.n_units for level in problem.levels])
    counts = np.stack([np.bincount(label, minlength=n_blocks) for label in labels], axis=1)
    layouts, layout = np.unique(counts, axis=0, return_inverse=True)
    layout = np.ravel(layout)
    widths = layouts @ np.array(sizes)
    if widths.max() > INFERENCE.most_effects:
        raise OptionError(
            f"Kenward and Roger's method computes with the {int(widths.max())} random effects of dependent rows at "
            f"once; the limit is {INFERENCE.most_effects}: use df='satterthwaite'."
        )
    # Blocks by layout, within them levels and units: the columns of a block follow each other.
    rank = np.empty(n_blocks, int)
    rank[np.argsort(layout, kind="stable")] = np.arange(n_blocks)
    ordered_widths = np.empty(n_blocks, int)
    ordered_widths[rank] = widths[layout]
    block_starts = np.concatenate([[0], np.cumsum(ordered_widths)])
    rows, places, values = [], [], []
    inside = np.zeros(n_blocks, int)
    for level, code, label, size in zip(problem.levels, codes, labels, sizes, strict=True):
        order = np.argsort(label, kind="stable")
        firsts = np.searchsorted(label[order], label[order], side="left")
        position = np.empty(len(label), int)
        position[order] = np.arange(len(label)) - firsts
        starts = block_starts[rank[label]] + inside[label] + position * size
        inside += np.bincount(label, minlength=n_blocks) * size
        matrix = level.matrix @ level.transform
        rows.append(np.repeat(np.arange(len(code)), size))
        places.append((starts[code][:, None] + np.arange(size)).ravel())
        values.append(matrix.ravel())
    shape = (len(columns), int(block_starts[-1]))
    Z = scipy.sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(places))), shape=shape)
    products: Any = (Z.T @ Z).tocsr()
    cross = np.asarray(Z.T @ columns)
    done = 0
    for number, width in enumerate(widths.tolist()):
        remaining = int(np.sum(layout == number))
        while remaining:
            some = min(remaining, max(1, INFERENCE.block_entries // width**2))
            start = int(block_starts[done])
            span = slice(start, start + some * width)
            entries = products[span].tocoo()
            T = np.zeros((some, width, width))
            block = entries.row // width
            T[block, entries.row % width, entries.col - start - block * width] = entries.data
            yield tuple(layouts[number].tolist()), T, cross[span].reshape(some, width, -1)
            done, remaining = done + some, remaining - some


def _independent(codes: Sequence[np.ndarray], n_units: Sequence[int]) -> tuple[list[np.ndarray], int]:
    """The number of the independent block of each unit of each level, and the number of blocks."""
    import scipy.sparse
    from scipy.sparse.csgraph import connected_components

    ends = np.cumsum([0, *n_units])
    pairs = [(codes[0], codes[k] + ends[k]) for k in range(1, len(codes))]
    first = np.concatenate([a for a, _ in pairs]) if pairs else np.zeros(0, int)
    second = np.concatenate([b for _, b in pairs]) if pairs else np.zeros(0, int)
    graph = scipy.sparse.coo_matrix((np.ones(len(first)), (first, second)), shape=(int(ends[-1]),) * 2)
    count, label = connected_components(graph, directed=False)
    return [label[a:b] for a, b in itertools.pairwise(ends)], int(count)
