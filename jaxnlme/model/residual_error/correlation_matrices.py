"""Correlations with a matrix for each group, by its Cholesky factor."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError, shown, some
from jaxnlme.model.residual_error.correlation_base import (
    AbstractCorrelation,
    AbstractFactor,
    Bound,
    Series,
    SeriesLayout,
    Vectors,
    range_bounds,
    with_start,
)
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.residual_error.kernel_check import check_kernel
from jaxnlme.model.residual_error.partial_correlations import correlation_factor, from_correlations
from jaxnlme.model.settings import MODEL
from jaxnlme.model.transforms import Logit
from jaxnlme.typing import Matrix, Scalar, Vector


@jax.custom_jvp
def inverse_factor(matrix: Matrix) -> Matrix:
    """T (n, n), lower triangular, with T' T = `matrix`^-1, positive definite; NaN where it is not.

    A loop over columns: batched library calls of one program may wait for each other forever where the pool of jaxlib
    has two threads.
    """
    n = matrix.shape[-1]
    rows = jnp.arange(n)

    def column(j, carry):
        lower, root = carry
        row = lower[j]
        pivot = jnp.sqrt(matrix[j, j] - jnp.sum(row**2))
        below = (matrix[:, j] - jnp.sum(lower * row[None, :], axis=1)) / pivot
        lower = lower.at[:, j].set(jnp.where(rows > j, below, jnp.where(rows == j, pivot, 0.0)))
        of_root = (jnp.where(rows == j, 1.0, 0.0) - jnp.sum(row[:, None] * root, axis=0)) / pivot
        return lower, root.at[j].set(of_root)

    zero = jnp.zeros_like(matrix)
    return jax.lax.fori_loop(0, n, column, (zero, zero))[1]


@inverse_factor.defjvp
def _inverse_factor_rule(primals, tangents):
    # dT = -half(T dC T') T, half the lower triangle with half of the diagonal.
    root = inverse_factor(primals[0])
    inner = root @ tangents[0] @ root.T
    half = jnp.tril(inner, -1) + 0.5 * jnp.diag(jnp.diagonal(inner))
    return root, -half @ root


class MatrixFactor(AbstractFactor):
    """The factor of a correlation matrix.

    **Fields:** `matrix` (obs, obs): C; `root` (obs, obs): T, lower triangular; `log_diagonal` (obs,): of the Cholesky
    factor of C.
    """

    matrix: Any
    root: Any
    log_diagonal: Any

    @property
    def half_logdet(self) -> Scalar:
        return jnp.sum(self.log_diagonal)

    def whiten(self, residual: Vector) -> Vector:
        return jnp.sum(self.root * residual[None, :], axis=1)  # ten times as fast as a batched product

    def interaction(self, slopes: Vector) -> tuple[Vectors, Vectors]:
        elementwise = (self.root.T @ self.root) * self.matrix
        return (slopes,), (slopes + jnp.sum(elementwise * slopes[None, :], axis=1),)


class AbstractMatrix(AbstractCorrelation):
    """A correlation by its `entries`, computed for every pair of rows."""

    @abc.abstractmethod
    def entries(self, theta: Vector, layout: SeriesLayout) -> Matrix:
        """Correlations (obs, obs) of two different rows of one series; others are not used."""

    def matrix(self, theta: Vector, layout: SeriesLayout, code: Vector) -> Matrix:
        """C (obs, obs), where `code` (obs,) are the numbers of the series, -1 for rows on their own."""
        n = code.shape[0]
        same = (code[:, None] == code[None, :]) & (code[:, None] >= 0) & ~np.eye(n, dtype=bool)
        return jnp.where(same, self.entries(theta, layout), jnp.eye(n, dtype=theta.dtype))

    def factor(self, theta, layout):
        matrix = self.matrix(theta, layout, layout.code)
        root = inverse_factor(matrix)
        return MatrixFactor(matrix, root, -jnp.log(jnp.diagonal(root)))

    def color(self, noise, theta, layout):
        matrix = self.matrix(theta, layout, layout.row_code)
        return matrix @ (inverse_factor(matrix).T @ noise)  # L = C T'


class Exchangeable(AbstractMatrix):
    """Compound symmetry: one correlation rho of any two rows; `jn.correlation.CompoundSymmetry` makes it."""

    parameters: tuple[ErrorParameter, ...]
    time: str | None = eqx.field(static=True, default=None)
    within: str | None = eqx.field(static=True, default=None)

    @property
    def formula(self) -> str:
        return "rho"

    @property
    def description(self) -> str:
        return f"rho within {self.within}" if self.within else "rho"

    @property
    def allows_ties(self) -> bool:
        return True

    def entries(self, theta, layout):
        (rho,) = self.natural(theta)
        return jnp.full((layout.code.shape[0],) * 2, rho)

    def resolve(self, series: Series) -> AbstractCorrelation:
        (p,) = self.parameters
        low = -1.0 / max(series.largest - 1, 1)
        if not low < float(p.start):
            raise OptionError(
                f"compound symmetry: rho must be above {low:g} = -1 / (n - 1), so that the correlation matrix of the "
                f"largest series (n = {series.largest} responses) is positive definite; it starts at "
                f"{float(p.start):g}."
            )
        return Exchangeable((ErrorParameter(p.name, p.start, Logit(low, 1.0), p.fix),), None, self.within)


class Distances(AbstractMatrix):
    """(1 - nugget) exp(-(distance / range)^power) of two rows at different times; `jn.correlation.Gaussian` (power 2)
    and `Exponential` with a nugget (power 1) make it."""

    parameters: tuple[ErrorParameter, ...]
    time: str | None = eqx.field(static=True)
    within: str | None = eqx.field(static=True, default=None)
    power: int = eqx.field(static=True, default=2)
    automatic: bool = eqx.field(static=True, default=False)

    @property
    def formula(self) -> str:
        decay = "exp(-lag / range)" if self.power == 1 else "exp(-(lag / range)^2)"
        return f"(1 - nugget) {decay}" if self.allows_ties else decay

    @property
    def allows_ties(self) -> bool:
        return len(self.parameters) > 1

    def entries(self, theta, layout):
        # With log range, so that nothing depends on the unit of time.
        ratio = jnp.abs(layout.time[:, None] - layout.time[None, :]) * jnp.exp(-theta[0])
        decay = jnp.exp(-(ratio**self.power))
        return (1.0 - self.natural(theta)[1]) * decay if self.allows_ties else decay

    def at_bounds(self, theta, series):
        out = [] if self.parameters[0].fix else range_bounds(self.parameters[0], float(theta[0]), series, self.power)
        if self.allows_ties and not self.parameters[1].fix and abs(theta[1]) > MODEL.bound_logit:
            out.append(Bound("nugget", bool(theta[1] > 0), (-2.0, 0.0, 2.0)))
        return out

    def resolve(self, series: Series) -> AbstractCorrelation:
        if not self.automatic:
            return self
        ratio = (-np.log(MODEL.start_correlation)) ** (1.0 / self.power)
        first = with_start(self.parameters[0], series.median_lag / ratio)
        return Distances((first, *self.parameters[1:]), self.time, self.within, self.power)


class Kernel(AbstractMatrix):
    """A correlation function of the user; `jn.correlation.Kernel` makes it."""

    fn: Callable = eqx.field(static=True)
    parameters: tuple[ErrorParameter, ...]
    time: str | None = eqx.field(static=True)
    within: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        names = [p.name for p in self.parameters]
        if not callable(self.fn):
            raise OptionError(f"the kernel must be a function fn(s, t, **parameters); received {shown(self.fn)}.")
        try:
            inspect.signature(self.fn).bind(None, None, **dict.fromkeys(names))
        except TypeError:
            raise OptionError(
                f"the kernel must be a function of two times and of {', '.join(names) or 'no parameters'}; it takes "
                f"{inspect.signature(self.fn)}."
            ) from None

    @property
    def formula(self) -> str:
        return getattr(self.fn, "__name__", "kernel")

    @property
    def allows_ties(self) -> bool:
        return True  # whether its matrix is singular there is seen from the matrix

    def entries(self, theta, layout):
        values = dict(zip([p.name for p in self.parameters], self.natural(theta), strict=True))
        n = layout.time.shape[0]
        return jnp.broadcast_to(self.fn(layout.time[:, None], layout.time[None, :], **values), (n, n))

    def resolve(self, series: Series) -> AbstractCorrelation:
        values = {p.name: float(p.start) for p in self.parameters}
        check_kernel(self.fn, self.formula, values, series)
        return self


class Unstructured(AbstractMatrix):
    """A correlation of its own for every pair of occasions; `jn.correlation.Unstructured` makes it.

    theta are partial correlations on Fisher's scale, pair (j, k) given the occasions before j; the reported values are
    the correlations.

    **Source:** Lewandowski, Kurowicka and Joe (2009), Journal of Multivariate Analysis 100, 1989-2001, section 3.
    """

    time: str | None = eqx.field(static=True)
    within: str | None = eqx.field(static=True, default=None)
    parameters: tuple[ErrorParameter, ...] = ()
    occasions: tuple[float, ...] = eqx.field(static=True, default=())

    @property
    def formula(self) -> str:
        return "one for each pair"

    @property
    def is_joint(self) -> bool:
        return True

    def at_bounds(self, theta, series):
        singular = np.abs(theta) > 0.5 * MODEL.bound_logit  # Fisher's z is half the logit
        return [Bound(p.name, False) for p, at in zip(self.parameters, singular, strict=True) if at]

    def natural(self, theta):
        lower = correlation_factor(theta, len(self.occasions))
        return tuple((lower[j] * lower[k]).sum() for j, k in pairs(len(self.occasions)))

    def unconstrained(self, values: Sequence[float]) -> np.ndarray:
        n = len(self.occasions)
        matrix = np.eye(n)
        for (j, k), value in zip(pairs(n), values, strict=True):
            matrix[j, k] = matrix[k, j] = value
        named = [f"{p.name} = {value:g}" for p, value in zip(self.parameters, values, strict=True)]
        return from_correlations(matrix, some(named, len(named)))

    def entries(self, theta, layout):
        lower = correlation_factor(theta, len(self.occasions))
        index = layout.time.astype(int)
        return (lower @ lower.T)[index[:, None], index[None, :]]

    def resolve(self, series: Series) -> AbstractCorrelation:
        occasions = tuple(float(t) for t in np.unique(series.time[series.observed]))
        names = [f"{t:g}" for t in occasions]
        apart = [f"{names[j]} and {names[k]}" for j, k in pairs(len(names)) if not series.together(occasions)[j, k]]
        if apart:
            raise OptionError(
                f"an unstructured correlation needs series with both occasions of every pair; no series has responses "
                f"at {self.time} {some(apart)}. Use a correlation with fewer parameters, or leave such occasions out."
            )
        parameters = tuple(
            ErrorParameter(f"corr({names[j]}, {names[k]})", 0.0, Logit(-1.0, 1.0)) for j, k in pairs(len(occasions))
        )
        return Unstructured(self.time, self.within, parameters, occasions)

    def place(self, series: Series) -> Series:
        return series.numbered(self.occasions)


def pairs(n: int) -> list[tuple[int, int]]:
    """The pairs of `n` occasions, (0, 1), (0, 2), ..., (1, 2), ..."""
    return [(j, k) for j in range(n) for k in range(j + 1, n)]
