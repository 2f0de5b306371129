"""Cross-products of whitened rows: residuals with variance functions and correlation, at parameters delta.

With e = sigma Lambda^(1/2) noise within a unit of the innermost level, the columns [Z, X, y] are replaced by T [Z, X,
y], T' T = Lambda^-1, and log|Lambda| is added to -2 log L.

**Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.1.2.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.linear.cross_products import transformed
from jaxnlme.estimators.linear.elimination import CrossProducts, parent_sums
from jaxnlme.estimators.linear.relative_factor import AbstractRelativeFactor
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.residual_error.correlation_base import SeriesLayout
from jaxnlme.records import Record


class RowData(eqx.Module):
    """Data of the rows for variance functions: `x`, a Record of columns; `v`, empty; `codes`: for each of its
    columns of strata the level of each row; `layout` of the series, None without correlation."""

    x: Record
    v: Record
    codes: tuple[Any, ...]
    layout: SeriesLayout | None


class ResidualCovariance(eqx.Module):
    """Lambda of the rows of all units, arrays (rows of the largest unit, units).

    **Fields:** `error`: scale and correlation, whose first parameter is sigma; `start` (parameters of error,),
    unconstrained; `free`: positions of those that are estimated, sigma not among them; `units` (free,): delta times
    these are the unconstrained parameters, so that a step of the search is of the same size whatever the units of the
    data are; `rows`; `real`: true for rows, false for padding; `fitted`: predictions that the variance function is of.
    """

    error: GaussianError
    start: Any
    free: tuple[int, ...] = eqx.field(static=True)
    units: Any
    rows: RowData
    real: Any
    fitted: Any

    def full(self, delta: Any) -> Any:
        """All parameters of `error`, from the free ones, with sigma one."""
        full = jnp.asarray(self.start).at[0].set(0.0)
        return full.at[np.array(self.free, int)].set(delta * self.units) if self.free else full

    def log_scale(self, delta: Any) -> tuple[Any, Any]:
        """log g of the rows less its mean (rows, units), and the mean."""
        natural = self.error.natural(self.full(delta))
        values = dict(zip(natural.names, natural.values, strict=True))
        scale = jnp.broadcast_to(self.error.scale_at(self.fitted, values, self.rows), self.real.shape)
        log = jnp.log(jnp.where(self.real, scale, 1.0))
        mean = jnp.sum(log) / jnp.sum(self.real)
        return jnp.where(self.real, log - mean, 0.0), mean

    def whiten(self, columns: list[Any], delta: Any) -> tuple[list[Any], Any]:
        """T times the columns, (rows, units) each, and log|Lambda|, with g of geometric mean one: the relative
        covariances of the random effects then do not depend on the units that g has."""
        full = self.full(delta)
        weight, logdet = jnp.exp(-self.log_scale(delta)[0]), jnp.zeros(())
        scaled = [column * weight for column in columns]
        correlation = self.error.correlation
        if correlation is None or self.rows.layout is None:
            return scaled, logdet
        of_correlation = full[len(self.error.parameters) - self.error.n_correlation :]

        def unit(layout: SeriesLayout, parts: list[Any]) -> tuple[list[Any], Any]:
            factor = correlation.factor(of_correlation, layout)
            return [factor.whiten(part) for part in parts], factor.half_logdet

        whitened, half = jax.vmap(unit, in_axes=-1, out_axes=-1)(self.rows.layout, scaled)
        return whitened, logdet + 2.0 * jnp.sum(half)

    def color(self, noise: Any, delta: Any) -> Any:
        """Correlated residuals of variance one (rows, units) from independent `noise` (rows, units)."""
        correlation, layout = self.error.correlation, self.rows.layout
        assert correlation is not None and layout is not None
        theta = self.full(delta)[len(self.error.parameters) - self.error.n_correlation :]

        def unit(layout: SeriesLayout, noise: Any) -> Any:
            return correlation.color(noise, theta, layout)

        return jax.vmap(unit, in_axes=-1, out_axes=-1)(layout, noise)


class WhitenedRows(eqx.Module):
    """Rows whose cross-products depend on parameters of the residual covariance.

    **Fields:** `columns`: distinct columns (rows of the largest unit, units), zero in padding; `own`, `every`, `right`,
    `transforms`: as in ColumnPlan; `empty`: CrossProducts without numbers; `residual`.
    """

    columns: list[Any]
    own: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    every: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    right: tuple[int, ...] = eqx.field(static=True)
    transforms: tuple[Any, ...] | None
    empty: CrossProducts
    residual: ResidualCovariance

    @property
    def factors(self) -> tuple[AbstractRelativeFactor, ...]:
        """The families of relative factors by level."""
        return self.empty.factors

    @property
    def n_residual(self) -> int:
        """The number of parameters of the residual covariance, the last ones of theta."""
        return len(self.residual.free)

    @property
    def n_fixed(self) -> int:
        """The number of fixed effects."""
        return len(self.right) - 1

    @property
    def n_units(self) -> tuple[int, ...]:
        """The number of units of each level in the arrays, outermost first."""
        return self.empty.sizes

    @property
    def work(self) -> int:
        """The number of entries of the columns."""
        return sum(int(np.prod(column.shape)) for column in self.columns)

    def residual_start(self) -> np.ndarray:
        """Starting values of the parameters of the residual covariance."""
        return np.asarray(self.residual.start)[list(self.residual.free)] / np.asarray(self.residual.units)

    def at(self, theta: Any) -> tuple[CrossProducts, Any]:
        """The CrossProducts at `theta` (parameters,), and log|Lambda|."""
        columns, logdet = self.residual.whiten(self.columns, theta[theta.shape[0] - self.n_residual :])
        sums: dict[tuple[int, int], Any] = {}

        def of_pair(i: int, j: int) -> Any:
            pair = (min(i, j), max(i, j))
            if pair not in sums:
                sums[pair] = jnp.sum(columns[pair[0]] * columns[pair[1]], axis=0)
            return sums[pair]

        blocks: list[Any] = []
        for level, (own, every) in enumerate(zip(self.own, self.every, strict=True)):
            rows = jnp.stack([jnp.stack([of_pair(i, j) for j in every]) for i in own])
            for step in range(len(self.own) - 1, level, -1):
                rows = parent_sums(self.empty, step, rows)
            blocks.append(rows)
        cross = jnp.stack([jnp.stack([jnp.sum(of_pair(i, j)) for j in self.right]) for i in self.right])
        return transformed(blocks, cross, self.transforms, self.empty), logdet
