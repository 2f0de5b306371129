"""The profiled log-likelihood of a linear mixed model with crossed grouping factors, on the host."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np

from jaxnlme.estimators.linear.crossed_elimination import crossed_effects, eliminate_crossed, factor_slopes
from jaxnlme.estimators.linear.crossed_products import CrossedProducts
from jaxnlme.estimators.linear.objective import Solution
from jaxnlme.estimators.linear.relative_factor import (
    AbstractRelativeFactor,
    BlockFactor,
    DiagonalFactor,
    FullFactor,
    IdentityFactor,
)
from jaxnlme.numerics.compiling import compiled


class CrossedLikelihood:
    """-2 log L of a model with independent residuals of one variance, in transformed coordinates.

    **Arguments:** `products`; `n_rows`; `restricted`: REML. `evaluations` counts calls.
    """

    def __init__(self, products: CrossedProducts, n_rows: int, restricted: bool):
        self.products, self.restricted = products, float(restricted)
        self.n_fixed = len(products.cross) - 1
        self.count = float(n_rows - (self.n_fixed if restricted else 0))
        self.constant = self.count * (1.0 + np.log(2.0 * np.pi / self.count))
        self.work = products.work
        self._linear = [_slopes_of_linear(factor) for factor in products.factors]

    @property
    def n_parameters(self) -> int:
        """The length of theta."""
        return sum(factor.n_parameters for factor in self.products.factors)

    @property
    def factors(self) -> Sequence[AbstractRelativeFactor]:
        """The families of relative factors."""
        return self.products.factors

    def start(self, scale: float = 1.0) -> np.ndarray:
        """theta of relative covariances of one, standard deviations times `scale`."""
        return np.concatenate([scale * factor.start() for factor in self.products.factors])

    def profiled(self, theta: np.ndarray) -> tuple[float, np.ndarray, float]:
        """-2 log L, its gradient, and rss at `theta` (parameters,), sigma and fixed effects at their maximum; infinite
        where theta is so large that a matrix is not positive definite in floating point."""
        theta = np.asarray(theta, float)
        relative, derivatives = self._factors(theta)
        try:
            found = eliminate_crossed(self.products, relative)
            lower = np.linalg.cholesky(found.cross)
        except np.linalg.LinAlgError:
            return np.inf, np.full(len(theta), np.nan), np.nan
        rss = float(lower[-1, -1] ** 2)
        diagonal = np.diag(lower)[:-1]
        value = found.logdet + self.restricted * 2.0 * float(np.sum(np.log(diagonal))) + self.count * np.log(rss)
        # The derivative in F is n / rss [-gamma; 1][-gamma; 1]', for REML + F_qq^-1, both as products of factors.
        inverse = np.linalg.inv(lower)
        weights = [inverse[-1] * lower[-1, -1] * np.sqrt(self.count / rss)]
        if self.restricted:
            weights += list(inverse[:-1])
        slopes = factor_slopes(self.products, found, np.array(weights).T)
        gradient = [np.einsum("kij,ij->k", d, slope) for d, slope in zip(derivatives, slopes, strict=True)]
        return value + self.constant, np.concatenate(gradient), rss

    def solve(self, theta: np.ndarray) -> Solution:
        """The Solution at `theta` (parameters,)."""
        found = eliminate_crossed(self.products, self._factors(np.asarray(theta, float))[0])
        lower = np.linalg.cholesky(found.cross)
        root, right = lower[:-1, :-1].T, lower[-1, :-1]
        gamma = np.linalg.solve(root, right)
        rss = float(lower[-1, -1] ** 2)
        effects = crossed_effects(self.products, found, gamma)
        return Solution(gamma, root, rss, float(np.sqrt(rss / self.count)), effects)

    def _split(self, theta: np.ndarray) -> list[np.ndarray]:
        """The parts of theta by factor."""
        ends = np.cumsum([0, *(factor.n_parameters for factor in self.products.factors)])
        return [theta[int(a) : int(b)] for a, b in itertools.pairwise(ends)]

    def _factors(self, theta: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """L of each factor, and its derivatives in theta (parameters, effects, effects)."""
        relative, derivatives = [], []
        for factor, part, slopes in zip(self.products.factors, self._split(theta), self._linear, strict=True):
            if slopes is None:
                L, jacobian = compiled(_with_jacobian, 1)(factor, part)
                slopes = np.moveaxis(np.asarray(jacobian), -1, 0)
            else:
                L = np.tensordot(part, slopes, 1)
            relative.append(np.asarray(L))
            derivatives.append(slopes)
        return relative, derivatives


def _slopes_of_linear(factor: AbstractRelativeFactor) -> np.ndarray | None:
    """Derivatives of L (parameters, effects, effects) of a family that is linear in theta; None for others."""
    if not _is_linear(factor):
        return None
    return np.stack([np.asarray(factor.factor(row)) for row in np.eye(factor.n_parameters)])


def _is_linear(factor: AbstractRelativeFactor) -> bool:
    if isinstance(factor, BlockFactor):
        return all(_is_linear(part) for _, part in factor.parts)
    return isinstance(factor, (FullFactor, DiagonalFactor, IdentityFactor))


def _with_jacobian(factor: AbstractRelativeFactor, theta: Any) -> tuple[Any, Any]:
    """L (effects, effects) and its derivatives (effects, effects, parameters)."""

    def fn(theta: Any) -> tuple[Any, Any]:
        L = factor.factor(theta)
        return L, L

    jacobian, L = jax.jacfwd(fn, has_aux=True)(theta)
    return L, jacobian
