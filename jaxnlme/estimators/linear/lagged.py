"""Cross-products by lag, for Markov correlations with few distances of time and one variance.

A row a with the row a' before it in its series has the whitened value (a - phi a') / sqrt(1 - phi^2), so that the sum
of products of two whitened columns over the rows of a unit is

    sum ab (first rows)  +  sum over lags of (sum ab - phi sum (ab' + a'b) + phi^2 sum a'b') / (1 - phi^2)

and sums by lag, formed once, serve every phi. The difference loses digits as phi approaches one, so that these serve
the search for correlations below `LINEAR.largest_lagged`.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.linear.cross_products import transformed
from jaxnlme.estimators.linear.elimination import CrossProducts, parent_sums
from jaxnlme.estimators.linear.relative_factor import AbstractRelativeFactor
from jaxnlme.estimators.linear.settings import LINEAR
from jaxnlme.estimators.linear.whitened import WhitenedRows
from jaxnlme.model.residual_error.markov import AbstractMarkov
from jaxnlme.model.residual_error.variance_scale import VarianceScale
from jaxnlme.precision import x64


class LaggedProducts(eqx.Module):
    """Transformed cross-products by lag.

    **Fields:** `blocks`: for each level (sums, effects, columns, units), the sums of first rows and, for each lag, the
    three of the formula; `cross` (sums, fixed + 1, fixed + 1); `counts` (lags,): rows with this lag; `lags`; `empty`:
    CrossProducts without numbers; `correlation`; `start` of its parameters (unconstrained), `free`: those estimated.
    """

    blocks: tuple[Any, ...]
    cross: Any
    counts: Any
    lags: tuple[float, ...] = eqx.field(static=True)
    empty: CrossProducts
    correlation: AbstractMarkov
    start: Any
    free: tuple[int, ...] = eqx.field(static=True)

    @property
    def factors(self) -> tuple[AbstractRelativeFactor, ...]:
        """The families of relative factors by level."""
        return self.empty.factors

    @property
    def n_residual(self) -> int:
        """The number of parameters of the residual covariance, the last ones of theta."""
        return len(self.free)

    @property
    def n_fixed(self) -> int:
        """The number of fixed effects."""
        return self.cross.shape[-1] - 1

    @property
    def n_units(self) -> tuple[int, ...]:
        """The number of units of each level in the arrays, outermost first."""
        return self.empty.sizes

    @property
    def work(self) -> int:
        """The number of entries of the blocks."""
        return sum(int(np.prod(block.shape)) for block in self.blocks)

    def residual_start(self) -> np.ndarray:
        """Starting values of the parameters of the residual covariance."""
        return np.asarray(self.start)[list(self.free)]

    def links(self, theta: Any) -> list[tuple[Any, Any]]:
        """phi and 1 - phi^2 of each lag at theta (parameters,)."""
        full = jnp.asarray(self.start)
        if self.free:
            full = full.at[np.array(self.free, int)].set(theta[theta.shape[0] - self.n_residual :])
        return [self.correlation.link(full, lag) for lag in self.lags]

    def largest_correlation(self, theta: np.ndarray) -> float:
        """The largest absolute correlation of neighbours at `theta` (parameters,), on the host."""
        with x64():
            return max(abs(float(phi)) for phi, _ in self.links(jnp.asarray(theta)))

    def at(self, theta: Any) -> tuple[CrossProducts, Any]:
        """The CrossProducts at `theta` (parameters,), and log|Lambda|."""
        weights, logdet = [jnp.ones(())], jnp.zeros(())
        for k, (phi, remainder) in enumerate(self.links(theta)):
            weights += [1.0 / remainder, -phi / remainder, phi**2 / remainder]
            logdet = logdet + self.counts[k] * jnp.log(remainder)
        stacked = jnp.stack(weights)
        blocks = tuple(jnp.tensordot(stacked, block, 1) for block in self.blocks)
        empty: Any = self.empty
        products = eqx.tree_at(
            lambda tree: (tree.blocks, tree.cross),
            empty,
            (blocks, jnp.tensordot(stacked, self.cross, 1)),
            is_leaf=lambda leaf: leaf is None,
        )
        return products, logdet


def lagged_products(rows: WhitenedRows) -> LaggedProducts | None:
    """The LaggedProducts of rows with a Markov correlation, few lags and no variance function; None for others."""
    residual = rows.residual
    correlation, layout, scale = residual.error.correlation, residual.rows.layout, residual.error.scale
    if not isinstance(correlation, AbstractMarkov) or not isinstance(scale, VarianceScale) or scale.terms:
        return None
    if layout is None or layout.lags is None or len(layout.lags) > LINEAR.most_lags:
        return None
    offset, lag = np.asarray(layout.offset), np.asarray(layout.lag)
    positions = np.maximum(np.arange(len(offset))[:, None] - offset, 0)
    columns = [np.asarray(column) for column in rows.columns]
    previous = [np.take_along_axis(column, positions, axis=0) for column in columns]
    masks = [(offset != 0) & (lag == value) for value in layout.lags]
    sums: dict[tuple[int, int], np.ndarray] = {}

    def of_pair(i: int, j: int) -> np.ndarray:
        pair = (min(i, j), max(i, j))
        if pair not in sums:
            a, b, before_a, before_b = columns[pair[0]], columns[pair[1]], previous[pair[0]], previous[pair[1]]
            products = [a * b, a * before_b + before_a * b, before_a * before_b]
            first = np.sum(np.where(offset == 0, products[0], 0.0), axis=0)
            by_lag = [np.sum(np.where(mask, product, 0.0), axis=0) for mask in masks for product in products]
            sums[pair] = np.stack([first, *by_lag])
        return sums[pair]

    count = 1 + 3 * len(layout.lags)
    parts: list[CrossProducts] = []
    for k in range(count):
        blocks = []
        for level, (own, every) in enumerate(zip(rows.own, rows.every, strict=True)):
            block = np.stack([np.stack([of_pair(i, j)[k] for j in every]) for i in own])
            for step in range(len(rows.own) - 1, level, -1):
                block = parent_sums(rows.empty, step, block)
            blocks.append(block)
        cross = np.array([[np.sum(of_pair(i, j)[k]) for j in rows.right] for i in rows.right])
        parts.append(transformed(blocks, cross, rows.transforms, rows.empty))
    levels = range(len(rows.own))
    start = np.asarray(residual.start)
    first = len(start) - residual.error.n_correlation
    return LaggedProducts(
        tuple(np.stack([part.blocks[level] for part in parts]) for level in levels),
        np.stack([part.cross for part in parts]),
        np.array([np.sum(mask) for mask in masks], float),
        layout.lags,
        rows.empty,
        correlation,
        start[first:],
        tuple(k - first for k in residual.free),
    )
