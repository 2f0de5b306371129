"""The profiled log-likelihood of a linear mixed model, and its maximum for given covariances.

    -2 log L(theta) = log|A| + n log(2 pi rss / n) + n           ML, n = rows
    -2 log L_R(theta) = the same + log|R_x|^2, n = rows - fixed  REML

rss is the penalised residual sum of squares at the fixed effects that minimise it, R_x' R_x their normal equations.

**Source:** Bates, Maechler, Bolker and Walker (2015), Journal of Statistical Software 67(1), equations 34 and 39.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.linear.adjoint import factor_slopes
from jaxnlme.estimators.linear.elimination import CrossProducts, eliminate, solved_effects
from jaxnlme.estimators.linear.lagged import LaggedProducts
from jaxnlme.estimators.linear.relative_factor import AbstractRelativeFactor
from jaxnlme.estimators.linear.whitened import WhitenedRows
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.linalg import cholesky
from jaxnlme.precision import x64

Source = CrossProducts | WhitenedRows | LaggedProducts


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """The maximum over fixed effects and sigma for given theta: `gamma` (fixed,) of Q; `root` (fixed, fixed), upper
    triangular, root' root = the normal equations of gamma; `rss`; `sigma`; `effects`: transformed random effects of
    each level (effects, units of the arrays)."""

    gamma: np.ndarray
    root: np.ndarray
    rss: float
    sigma: float
    effects: list[np.ndarray]


def _profiled(source: Source, theta: Any, restricted: Any, count: Any) -> Any:
    """-2 log L without its constant, rss, and the gradient in theta, in one array (2 + parameters,), which is one
    transfer to the host; `restricted`, one for REML, zero for ML; `count`: n."""

    def at(theta: Any) -> Any:
        products, logdet = source.at(theta)
        relative = [factor.factor(part) for factor, part in zip(source.factors, products.split(theta), strict=True)]
        of_rows = (products.blocks, products.cross) if source.n_residual else ()
        return (relative, of_rows, jnp.asarray(logdet, theta.dtype)), products

    def remaining(cross: Any) -> Any:
        diagonal = jnp.diagonal(cholesky(cross))
        rss = diagonal[-1] ** 2
        return restricted * 2.0 * jnp.sum(jnp.log(diagonal[:-1])) + count * jnp.log(rss), rss

    (relative, _, logdet), pull_back, products = jax.vjp(at, theta, has_aux=True)
    elimination = eliminate(products, theta)
    (value, rss), slope = jax.value_and_grad(remaining, has_aux=True)(elimination.cross)
    slope = 0.5 * (slope + slope.T)
    slopes, block_slopes = factor_slopes(products, relative, elimination, slope, bool(source.n_residual))
    of_rows = (tuple(block_slopes), slope) if source.n_residual else ()
    (gradient,) = pull_back((slopes, of_rows, jnp.ones_like(logdet)))
    return jnp.concatenate([jnp.stack([logdet + elimination.logdet + value, rss]), gradient])


def _products(source: Source, theta: Any) -> CrossProducts:
    """The cross-products at theta (parameters,)."""
    return source.at(theta)[0]


class ProfiledLikelihood:
    """-2 log L of a model in transformed coordinates. theta holds the parameters of the relative covariances, outermost
    level first, then those of the residual covariance.

    **Arguments:** `source` of cross-products; `n_rows`; `restricted`: REML.
    """

    def __init__(self, source: Source, n_rows: int, restricted: bool):
        self.source, self.restricted = source, float(restricted)
        self.count = float(n_rows - (source.n_fixed if restricted else 0))
        self.work = source.work
        self._device: Source | None = None

    @property
    def factors(self) -> tuple[AbstractRelativeFactor, ...]:
        """The families of relative factors by level, outermost first."""
        return self.source.factors

    def start(self, scale: float = 1.0) -> np.ndarray:
        """theta of relative covariances of one, standard deviations times `scale`, and of the starting values of the
        residual covariance."""
        random = [scale * factor.start() for factor in self.factors]
        return np.concatenate([*random, self.source.residual_start()])

    def profiled(self, theta: np.ndarray) -> tuple[float, np.ndarray, float]:
        """-2 log L, its gradient, and rss at `theta` (parameters,), sigma and fixed effects at their maximum."""
        if not len(theta) and isinstance(self.source, CrossProducts):
            solution = self.solve(theta)
            logdet = self.restricted * 2.0 * float(np.sum(np.log(np.diag(solution.root))))
            return self.constant + logdet + self.count * np.log(solution.rss), theta, solution.rss
        numbers = np.asarray(theta, float), np.asarray(self.restricted), np.asarray(self.count)
        found = np.asarray(compiled(_profiled, self.work)(self._on_device(), *numbers))
        return float(found[0]) + self.constant, found[2:], float(found[1])

    @property
    def constant(self) -> float:
        """n (1 + log(2 pi / n))."""
        return self.count * (1.0 + np.log(2.0 * np.pi / self.count))

    def _on_device(self) -> Source:
        with x64():
            found = on_device(self.source) if self._device is None else self._device
        self._device = found
        return found

    def products(self, theta: np.ndarray) -> CrossProducts:
        """The cross-products at `theta` (parameters,), on the host."""
        if isinstance(self.source, CrossProducts):
            return self.source
        with x64():
            found = compiled(_products, self.work)(self._on_device(), np.asarray(theta, float))
            return jax.tree.map(np.asarray, found)

    def solve(self, theta: np.ndarray) -> Solution:
        """The Solution at `theta` (parameters,), on the host."""
        theta = np.asarray(theta, float)
        products = self.products(theta)
        elimination = eliminate(products, theta)
        lower = np.linalg.cholesky(elimination.cross)
        root, right = lower[:-1, :-1].T, lower[-1, :-1]
        gamma = np.linalg.solve(root, right)
        rss = float(lower[-1, -1] ** 2)
        effects = solved_effects(products, theta, elimination, gamma)
        return Solution(gamma, root, rss, float(np.sqrt(rss / self.count)), effects)
