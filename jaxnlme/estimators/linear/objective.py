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

from jaxnlme.estimators.linear.elimination import CrossProducts, eliminate, solved_effects
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.linalg import cholesky


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


def _pieces(products: CrossProducts, theta: Any, restricted: Any) -> tuple[Any, Any]:
    """The log-determinants and rss of -2 log L at theta (parameters,); `restricted`, one for REML, zero for ML."""
    elimination = eliminate(products, theta)
    lower = cholesky(elimination.cross)
    diagonal = jnp.diagonal(lower)
    return elimination.logdet + restricted * 2.0 * jnp.sum(jnp.log(diagonal[:-1])), diagonal[-1] ** 2


def _profiled(products: CrossProducts, theta: Any, restricted: Any, count: Any) -> tuple[Any, Any, Any]:
    """-2 log L without its constant, its gradient in theta, and rss; `count`: n."""

    def fn(theta: Any) -> Any:
        logdet, rss = _pieces(products, theta, restricted)
        return logdet + count * jnp.log(rss), rss

    (value, rss), gradient = jax.value_and_grad(fn, has_aux=True)(theta)
    return value, gradient, rss


class ProfiledLikelihood:
    """-2 log L of a model with independent residuals of one variance, in transformed coordinates.

    **Arguments:** `products`; `n_rows`; `restricted`: REML. `evaluations` counts calls.
    """

    def __init__(self, products: CrossProducts, n_rows: int, restricted: bool):
        self.products, self.restricted = products, float(restricted)
        self.n_fixed = products.cross.shape[0] - 1
        self.count = float(n_rows - (self.n_fixed if restricted else 0))
        self.work = sum(block.size for block in products.blocks)
        self.evaluations = 0
        self._device: CrossProducts | None = None

    @property
    def n_parameters(self) -> int:
        """The length of theta."""
        return self.products.n_parameters

    def start(self) -> np.ndarray:
        """theta of relative covariances of one."""
        return np.concatenate([factor.start() for factor in self.products.factors] or [np.zeros(0)])

    def profiled(self, theta: np.ndarray) -> tuple[float, np.ndarray, float]:
        """-2 log L, its gradient, and rss at `theta` (parameters,), sigma and fixed effects at their maximum."""
        if not len(theta):
            solution = self.solve(theta)
            return self.constant + self._logdet(solution) + self.count * np.log(solution.rss), theta, solution.rss
        self.evaluations += 1
        if self._device is None:
            self._device = on_device(self.products)
        numbers = np.asarray(theta, float), np.asarray(self.restricted), np.asarray(self.count)
        value, gradient, rss = compiled(_profiled, self.work)(self._device, *numbers)
        return float(value) + self.constant, np.asarray(gradient), float(rss)

    @property
    def constant(self) -> float:
        """n (1 + log(2 pi / n))."""
        return self.count * (1.0 + np.log(2.0 * np.pi / self.count))

    def _logdet(self, solution: Solution) -> float:
        return self.restricted * 2.0 * float(np.sum(np.log(np.abs(np.diag(solution.root)))))

    def solve(self, theta: np.ndarray) -> Solution:
        """The Solution at `theta` (parameters,), on the host."""
        theta = np.asarray(theta, float)
        elimination = eliminate(self.products, theta)
        lower = np.linalg.cholesky(elimination.cross)
        root, right = lower[:-1, :-1].T, lower[-1, :-1]
        gamma = np.linalg.solve(root, right)
        rss = float(lower[-1, -1] ** 2)
        effects = solved_effects(self.products, theta, elimination, gamma)
        return Solution(gamma, root, rss, float(np.sqrt(rss / self.count)), effects)
