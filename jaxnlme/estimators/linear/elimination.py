"""Elimination of random effects from the normal equations of a linear mixed model, innermost level first.

With b = L u, u ~ N(0, sigma^2 I), the units of a level are independent given the outer levels. For one unit with the
columns Z and the remaining columns W (outer random effects, fixed effects, y):

1. A = I + L' Z'Z L = C C';
2. U = C^-1 L' Z'W;
3. log|A| is added to the log-determinant, and U'U subtracted from W'W of the unit's outer units.

What remains of [Q y]'[Q y] after the outermost level is the normal equations of the fixed effects, and in its last
entry the penalised residual sum of squares. The data enter by cross-products, formed once for each unit.

**Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 2.2 (the same by orthogonal
factors); Bates, Maechler, Bolker and Walker (2015), Journal of Statistical Software 67(1), section 3.4.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.linear.relative_factor import AbstractRelativeFactor
from jaxnlme.numerics.arrays import xp
from jaxnlme.numerics.settings import COMPUTATION


class CrossProducts(eqx.Module):
    """Cross-products of the columns by unit, levels outermost first.

    **Fields:** `blocks`: for each level (effects, columns, units): Z' times the columns [Z of this level, Z of the next
    outer one, ..., Q, y]; `cross` (fixed + 1, fixed + 1): [Q y]'[Q y] of all rows; `parents`: for each level the number
    of each unit's parent (units,), None where `slots` is not zero; `factors`: of each level; `slots`: for each level
    the number of slots of a parent: unit k of the parent j is stored at j + k * (number of parents); zero: units in
    their order, with `parents`. `sizes`: of the arrays over units.
    """

    blocks: tuple[Any, ...]
    cross: Any
    parents: tuple[Any, ...]
    factors: tuple[AbstractRelativeFactor, ...]
    slots: tuple[int, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)

    @property
    def n_residual(self) -> int:
        """The number of parameters of the residual covariance: none, the cross-products are numbers."""
        return 0

    @property
    def n_fixed(self) -> int:
        """The number of fixed effects."""
        return self.cross.shape[0] - 1

    @property
    def n_units(self) -> tuple[int, ...]:
        """The number of units of each level, outermost first."""
        return tuple(int(np.count_nonzero(np.asarray(block[0, 0]))) for block in self.blocks)

    @property
    def work(self) -> int:
        """The number of entries of the blocks."""
        return sum(int(np.prod(block.shape)) for block in self.blocks)

    def residual_start(self) -> np.ndarray:
        """Starting values of the parameters of the residual covariance: none."""
        return np.zeros(0)

    def at(self, theta: Any) -> tuple[CrossProducts, float]:
        """These cross-products, and log|Lambda| of independent residuals of one variance."""
        return self, 0.0

    @property
    def n_parameters(self) -> int:
        """The length of theta."""
        return sum(factor.n_parameters for factor in self.factors)

    def split(self, theta: Any) -> list[Any]:
        """The parts of theta by level."""
        ends = np.cumsum([0, *(factor.n_parameters for factor in self.factors)])
        return [theta[int(a) : int(b)] for a, b in itertools.pairwise(ends)]


class Elimination(NamedTuple):
    """The end of an elimination.

    **Fields:** `logdet`, the sum of log|A|; `cross` (fixed + 1, fixed + 1); and for each level, outermost first:
    `factors`, the rows of C, lists of (units,); `rows` of U, (other columns, units) each; `blocks`, those of
    CrossProducts less what the levels inside explain.
    """

    logdet: Any
    cross: Any
    factors: list[list[list[Any]]]
    rows: list[list[Any]]
    blocks: list[Any]


def eliminate(products: CrossProducts, theta: Any) -> Elimination:
    """The Elimination at `theta` (parameters,), in numpy or in JAX by the type of `theta`."""
    module = xp(theta)
    blocks, cross, logdet = list(products.blocks), products.cross, 0.0
    sizes = [factor.size for factor in products.factors]
    thetas = products.split(theta)
    all_factors, all_rows = [], []
    for level in reversed(range(len(blocks))):
        relative = products.factors[level].factor(thetas[level])
        one_level = _by_entry if sizes[level] <= COMPUTATION.unrolled else _by_matrix
        lower, rows = one_level(relative, blocks[level])
        logdet = logdet + 2.0 * sum(module.sum(module.log(row[-1])) for row in lower)
        first = 0
        for outer in reversed(range(level)):
            width = sizes[outer]
            change = _outer_products(rows, first, width)
            for step in range(level, outer, -1):
                change = parent_sums(products, step, change)
            blocks[outer] = blocks[outer] - change
            first += width
        cross = cross - sum(row[first:] @ row[first:].T for row in rows)
        all_factors.insert(0, lower)
        all_rows.insert(0, rows)
    return Elimination(logdet, cross, all_factors, all_rows, blocks)


def _by_entry(relative: Any, block: Any) -> tuple[list[list[Any]], list[Any]]:
    """C and U of one level, as in Elimination, from L (effects, effects) and the block (effects, columns, units): by
    elementwise operations on arrays over units, which is the fastest for few effects."""
    module, size = xp(relative), len(relative)
    entries = [[relative[i, j] for j in range(size)] for i in range(size)]
    scaled = [_combination([entries[k][i] for k in range(size)], block) for i in range(size)]
    lower: list[list[Any]] = []
    rows: list[Any] = []
    for i in range(size):
        products_ij = [
            sum(scaled[i][k] * entries[k][j] for k in range(size)) + (1.0 if i == j else 0.0) for j in range(i + 1)
        ]
        row: list[Any] = []
        for j in range(i):
            row.append(_less(products_ij[j], row, lower[j][:j]) / lower[j][j])
        row.append(module.sqrt(_less(products_ij[i], row, row)))
        lower.append(row)
        remainder = scaled[i][size:]
        for k in range(i):
            remainder = remainder - row[k][None] * rows[k]
        rows.append(remainder / row[i][None])
    return lower, rows


def _by_matrix(relative: Any, block: Any) -> tuple[list[list[Any]], list[Any]]:
    """The same by a factorisation for each unit: straight-line code for many effects takes minutes to compile."""
    module, size = xp(relative), len(relative)
    scaled = module.einsum("ki,kcu->uic", relative, block)
    matrices = module.einsum("uik,kj->uij", scaled[:, :, :size], relative) + module.eye(size)[None]
    if module is np:
        # numpy raises an error where JAX has NaN.
        roots = np.linalg.cholesky(matrices)
        whitened = np.linalg.solve(roots, scaled[:, :, size:])
    else:
        roots = jnp.linalg.cholesky(matrices)
        whitened = jax.scipy.linalg.solve_triangular(roots, scaled[:, :, size:], lower=True)
    lower = [[roots[:, i, j] for j in range(i + 1)] for i in range(size)]
    return lower, [whitened[:, i].T for i in range(size)]


def _outer_products(rows: list[Any], first: int, width: int) -> Any:
    """Sums over the effects of the products of the columns of the next outer level with all later ones (width, columns,
    units)."""
    if len(rows) <= COMPUTATION.unrolled:
        return sum(row[first : first + width, None] * row[None, first:] for row in rows)
    stacked = xp(rows[0]).stack(rows)
    return xp(stacked).einsum("iau,ibu->abu", stacked[:, first : first + width], stacked[:, first:])


def parent_sums(products: CrossProducts, level: int, values: Any) -> Any:
    """Sums over the units of a level (..., units) by parent (..., parents)."""
    slots, n_parents = products.slots[level], products.sizes[level - 1]
    if slots:
        return values.reshape(*values.shape[:-1], slots, n_parents).sum(-2)
    if xp(values) is np:
        out = np.zeros((n_parents, *values.shape[:-1]))
        np.add.at(out, products.parents[level], np.moveaxis(values, -1, 0))
        return np.moveaxis(out, 0, -1)
    sums = jax.ops.segment_sum(jnp.moveaxis(values, -1, 0), products.parents[level], n_parents)
    return jnp.moveaxis(sums, 0, -1)


def parent_values(products: CrossProducts, level: int, values: Any) -> Any:
    """The values of the parents (..., parents) of the units of a level (..., units)."""
    slots = products.slots[level]
    if slots:
        return xp(values).tile(values, (1,) * (values.ndim - 1) + (slots,))
    return values[..., products.parents[level]]


def solved_effects(products: CrossProducts, theta: np.ndarray, elimination: Elimination, gamma: np.ndarray) -> list:
    """Conditional means of the transformed random effects given the fixed effects `gamma` (fixed,) of Q: for each
    level, outermost first, (effects, units)."""
    out: list[np.ndarray] = []
    coefficients = np.append(-gamma, 1.0)
    for level, (lower, rows) in enumerate(zip(elimination.factors, elimination.rows, strict=True)):
        size = len(rows)
        right = [coefficients @ row[-len(coefficients) :] for row in rows]
        first = 0
        for outer in reversed(range(level)):
            values = out[outer]
            for step in range(outer + 1, level + 1):
                values = parent_values(products, step, values)
            width = values.shape[0]
            right = [
                r - np.sum(row[first : first + width] * values, axis=0) for r, row in zip(right, rows, strict=True)
            ]
            first += width
        solution: list[Any] = [None] * size
        for i in reversed(range(size)):
            later = sum((lower[k][i] * solution[k] for k in range(i + 1, size)), np.zeros_like(right[i]))
            solution[i] = (right[i] - later) / lower[i][i]
        relative = products.factors[level].factor(products.split(theta)[level])
        out.append(relative @ np.stack(solution))
    return out


def _combination(weights: list[Any], block: Any) -> Any:
    """The sum of `weights` times the leading entries of `block`."""
    return sum(weight * block[k] for k, weight in enumerate(weights))


def _less(value: Any, left: list[Any], right: list[Any]) -> Any:
    """`value` less the scalar product of two lists."""
    for a, b in zip(left, right, strict=True):
        value = value - a * b
    return value
