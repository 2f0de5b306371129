"""Elimination of crossed random effects: the first factor unit by unit, the others by dense Cholesky factors.

With b = L u, u ~ N(0, sigma^2 I), and columns Z_1 of the first factor, Z of the others, W = [Q y]:

1. A = I + L_1' Z_1'Z_1 L_1 = C_1 C_1', K = C_1^-1 L_1' by unit; K'K = (psi_1^-1 + Z_1'Z_1)^-1 =: Phi_1;
2. S_0 = [Z W]'[Z W] - [Z W]'Z_1 Phi_1 Z_1'[Z W];
3. S = I + L' S_0,zz L = C C', T = C^-1 L' S_0,zw;
4. F = S_0,ww - T'T, the normal equations of the fixed effects and, in the last entry of its Cholesky factor, the root
   of the penalised residual sum of squares.

-2 log L is log|A| + log|S| + n log rss, for REML + log|F_qq|. With U = C'^-1 T, X = L U, Phi = L S^-1 L', R = S_0,zw -
S_0,zz X, and F_bar the derivative of the last two terms in F, the derivatives in the factors are

    d/dL   = 2 S_0,zz L S^-1 - 2 R F_bar U', the diagonal blocks summed over units,
    d/dL_1 = 2 Z_1'Z_1 L_1 A^-1 - 2 N S_bar N' L_1, summed over units, with
    N = (I - Z_1'Z_1 Phi_1) Z_1'[Z W],  S_bar = [Phi 0; 0 0] + [-X; I] F_bar [-X; I]'.

They follow from d log|S| = 2 tr(S^-1 L' S_0 dL) + tr(Phi dS_0) and d Phi_1 = (I - Phi_1 G) d psi_1 (I - G Phi_1), hold
for singular L too, and need of the inverse of the whole matrix only S^-1.

**Source:** Bates, Maechler, Bolker and Walker (2015), Journal of Statistical Software 67(1), section 3.4, for the
blocked factor of MixedModels.jl; derivatives by the chain rule.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp

from jaxnlme.estimators.linear.component_blocks import (
    Bands,
    Layout,
    add_identity,
    inverse_roots,
    inverses,
    multiply,
    row_products,
    times_columns,
    times_rows,
)
from jaxnlme.estimators.linear.crossed_products import CrossedProducts


@dataclasses.dataclass(frozen=True, eq=False)
class CrossedElimination:
    """The quantities of steps 1 to 4.

    **Fields:** `relative`: L of each factor; `phi` (units, effects, effects): Phi_1; `inverse`: A^-1; `remainder`: S_0
    of the other factors' columns, and `root`: C^-1, as their Layout stores them; `remainder_right`: S_0,zw; `solved` U
    and `scaled` X (columns, f); `logdet`: log|A| + log|S|; `cross` F (f, f).
    """

    relative: list[np.ndarray]
    phi: np.ndarray
    inverse: np.ndarray
    remainder: np.ndarray
    root: np.ndarray
    remainder_right: np.ndarray
    solved: np.ndarray
    scaled: np.ndarray
    logdet: float
    cross: np.ndarray


def eliminate_crossed(products: CrossedProducts, relative: list[np.ndarray]) -> CrossedElimination:
    """The CrossedElimination at the factors `relative`.

    **Raises:** numpy.linalg.LinAlgError where a matrix is not positive definite in floating point.
    """
    where, incidence = products.where, products.incidence
    L1 = relative[products.first]
    A = np.eye(len(L1)) + L1.T @ products.gram @ L1
    C1 = np.linalg.cholesky(A)
    K = np.linalg.solve(C1, np.broadcast_to(L1.T, C1.shape))
    values = incidence.combined(K)
    right = K @ products.right
    remainder = np.zeros(where.n_entries)
    remainder[products.rest[0]] = products.rest[1]
    _subtract(where, remainder, incidence.total_gram(values))
    remainder_right = products.rest_right - incidence.transposed_times(values, right)
    columns, rows = _bands(products, relative)
    root = times_rows(where, columns, times_columns(where, remainder, columns))
    add_identity(where, root)
    logdet = 2.0 * float(np.sum(np.log(np.diagonal(C1, axis1=1, axis2=2)))) + inverse_roots(where, root)
    half = multiply(where, root, _scaled(where, columns, remainder_right))
    solved = multiply(where, root, half, transposed=True)
    cross = products.cross - np.einsum("uif,uig->fg", right, right, optimize=True) - half.T @ half
    phi = np.swapaxes(K, 1, 2) @ K
    roots = np.linalg.solve(C1, np.broadcast_to(np.eye(len(L1)), C1.shape))
    inverse = np.swapaxes(roots, 1, 2) @ roots
    return CrossedElimination(
        relative,
        phi,
        inverse,
        remainder,
        root,
        remainder_right,
        solved,
        _scaled(where, rows, solved),
        logdet,
        cross,
    )


def factor_slopes(products: CrossedProducts, found: CrossedElimination, weights: np.ndarray) -> list[np.ndarray]:
    """Derivatives of log|A| + log|S| + tr(F_bar F) in the entries of L of each factor, with F_bar = `weights` weights'
    (f, k). `found.root` is overwritten.
    """
    where, incidence = products.where, products.incidence
    _, rows = _bands(products, found.relative)
    residual = (found.remainder_right - multiply(where, found.remainder, found.scaled)) @ weights
    effects = found.solved @ weights
    inverses(where, found.root)
    half = times_columns(where, found.root, rows)
    sizes = [len(L) for L in found.relative]
    reach = max(size for k, size in enumerate(sizes) if k != products.first) - 1
    near = {d: row_products(where, found.remainder, half, d) for d in range(-reach, reach + 1)}
    out = []
    for k, place in enumerate(products.columns):
        if place is None:
            out.append(np.zeros((sizes[k], sizes[k])))
            continue
        slope = -2.0 * np.einsum("uic,uec->ie", residual[place], effects[place], optimize=True)
        for i in range(sizes[k]):
            for e in range(sizes[k]):
                slope[i, e] += 2.0 * float(np.sum(near[i - e][place[:, e]]))
        out.append(slope)
    phi = times_rows(where, rows, half)
    L1, G = found.relative[products.first], products.gram
    E = np.eye(len(L1)) - G @ found.phi
    values = incidence.combined(E)
    N = E @ (products.right @ weights - incidence.times(found.scaled @ weights))
    Q = np.einsum("uic,ujc->ij", N, N, optimize=True)
    for i in range(len(L1)):
        for j in range(i + 1):
            both = _weighted(where, phi, incidence.gram(values[i], values[j]))
            Q[i, j] += both
            if i != j:
                Q[j, i] += both
    out[products.first] = 2.0 * np.sum(G @ L1 @ found.inverse, axis=0) - 2.0 * Q @ L1
    return out


def crossed_effects(products: CrossedProducts, found: CrossedElimination, gamma: np.ndarray) -> list[np.ndarray]:
    """Conditional means of the transformed random effects given the fixed effects `gamma` (fixed,) of Q: for each
    factor (effects, units)."""
    coefficients = np.append(-gamma, 1.0)
    rest = found.scaled @ coefficients
    first = products.right @ coefficients - products.incidence.times(rest[:, None])[:, :, 0]
    out = [None if place is None else rest[place].T for place in products.columns]
    of_first = np.einsum("uij,uj->iu", found.phi, first)
    return [of_first if part is None else part for part in out]


def _bands(products: CrossedProducts, relative: list[np.ndarray]) -> tuple[Bands, Bands]:
    """The Bands of the block diagonal L of all columns of the other factors, and those of L'."""
    reach = max(len(L) for k, L in enumerate(relative) if k != products.first) - 1
    upright = {d: np.zeros(products.where.n_columns) for d in range(-reach, reach + 1)}
    turned = {d: np.zeros(products.where.n_columns) for d in range(-reach, reach + 1)}
    for L, place in zip(relative, products.columns, strict=True):
        if place is not None:
            for i in range(len(L)):
                for e in range(len(L)):
                    upright[i - e][place[:, e]] = L[i, e]
                    turned[i - e][place[:, e]] = L[e, i]
    return upright, turned


def _scaled(where: Layout, bands: Bands, right: np.ndarray) -> np.ndarray:
    """B' `right` (columns, k), with B by its `bands`."""
    out = bands[0][:, None] * right
    every = np.arange(where.n_columns)
    for d, band in bands.items():
        inside = np.flatnonzero((where.local + d >= 0) & (where.local + d < where.size))
        if d and len(inside):
            out[inside] += band[inside, None] * right[every[inside] + d]
    return out


def _subtract(where: Layout, flat: np.ndarray, product: sp.csr_array | np.ndarray) -> None:
    """Subtract a matrix over all columns from the stored blocks."""
    if isinstance(product, np.ndarray):
        flat -= product.ravel()
        return
    flat[_places(where, product)] -= product.data


def _weighted(where: Layout, flat: np.ndarray, product: sp.csr_array | np.ndarray) -> float:
    """The sum of products of stored entries with those of a matrix over all columns."""
    if isinstance(product, np.ndarray):
        return float(flat @ product.ravel())
    return float(flat[_places(where, product)] @ product.data)


def _places(where: Layout, product: sp.csr_array) -> np.ndarray:
    start = where.offset + where.local * where.size
    return np.repeat(start, np.diff(product.indptr)) + where.local[product.indices]
