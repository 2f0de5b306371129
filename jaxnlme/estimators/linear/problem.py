"""A linear mixed model as arrays: y = X beta + Z_1 b_1 + ... + Z_L b_L + e, with nested levels, outermost first.

Columns are transformed, so that answers do not depend on units or on the zero of a covariate: X = Q R with orthonormal
Q, y is replaced by its least-squares residual over its standard deviation, and the columns of Z are orthogonal with
mean square one over the rows, as far as the covariance structure of the level allows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.errors import DataError, ModelError, some
from jaxnlme.estimators.linear.relative_factor import AbstractRelativeFactor, relative_factor
from jaxnlme.estimators.linear.settings import LINEAR
from jaxnlme.model.covariance.structures import AbstractCovariance


@dataclasses.dataclass(frozen=True, eq=False)
class RandomDesign:
    """Random effects of the units of one level.

    **Fields:** `label` of the level; `effects`, their names; `matrix` (rows, effects): the columns of Z; `codes`
    (rows,): the number of each row's unit, 0 to units - 1; `units`: labels of the units; `structure`: of the
    covariance.
    """

    label: str
    effects: tuple[str, ...]
    matrix: np.ndarray
    codes: np.ndarray
    units: Any
    structure: AbstractCovariance

    @property
    def n_units(self) -> int:
        """The number of units."""
        return len(self.units)


@dataclasses.dataclass(frozen=True, eq=False)
class Level:
    """A level with its rows sorted.

    **Fields:** `design`, rows as in the table; `factor`: the family of its covariance; `matrix` (rows, effects), the
    columns of Z; `transform` T (effects, effects): b = T times the transformed effects, whose columns are Z T;
    `starts`: the first row of each unit in the order of the rows; `parents` (units,): each one's unit of the next outer
    level (zeros for the outermost); `order` (units,): number of each unit in `RandomDesign.codes`.
    """

    design: RandomDesign
    factor: AbstractRelativeFactor
    matrix: np.ndarray
    transform: np.ndarray
    starts: np.ndarray
    parents: np.ndarray
    order: np.ndarray

    @property
    def size(self) -> int:
        """The number of effects of a unit."""
        return self.matrix.shape[1]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProblem:
    """Sorted rows of a linear mixed model, and the transformations of its columns.

    **Fields:** `order` (rows,): the row of the table of each sorted row; `X` (rows, fixed) and `y` (rows,); `R` (fixed,
    fixed), upper triangular: Q = X R^-1 is orthonormal; `ordinary` (fixed,): least-squares coefficients; `scale`: beta
    = ordinary + scale R^-1 gamma, b and sigma in units of `scale`; `levels`, outermost first; `well_conditioned`:
    cross-products of the columns as they are can be transformed without loss of digits.
    """

    order: np.ndarray | slice
    X: np.ndarray
    y: np.ndarray
    R: np.ndarray
    ordinary: np.ndarray
    scale: float
    levels: tuple[Level, ...]
    well_conditioned: bool

    @property
    def n_rows(self) -> int:
        """The number of observations."""
        return len(self.y)

    @property
    def n_fixed(self) -> int:
        """The number of fixed effects."""
        return self.X.shape[1]

    def beta(self, gamma: np.ndarray) -> np.ndarray:
        """Fixed effects of the user's columns from those of Q."""
        return self.ordinary + self.scale * np.linalg.solve(self.R, gamma)

    def minus_two_log_likelihood(self, value: float, restricted: bool) -> float:
        """-2 log L of the responses from that of the transformed columns."""
        value = value + 2.0 * self.n_rows * np.log(self.scale)
        if not restricted:
            return value
        return value - 2.0 * self.n_fixed * np.log(self.scale) + 2.0 * float(np.sum(np.log(np.abs(np.diag(self.R)))))


def linear_problem(
    y: np.ndarray, X: np.ndarray, designs: Sequence[RandomDesign], series: np.ndarray | None = None
) -> LinearProblem:
    """The LinearProblem of `y` (rows,), `X` (rows, fixed) of full rank, and nested `designs`, outermost first.

    **Arguments:** `series` (rows,): numbers of series of correlated rows in a model without random effects.
    **Raises:** DataError where the responses are fitted exactly by X; ModelError for random effects whose columns are
    zero or linearly dependent.
    """
    order = _sorted_rows([design.codes for design in designs] if series is None else [series])
    if not isinstance(order, slice):
        y, X = y[order], X[order]
    R, ordinary, rss, well_conditioned = _least_squares(X, y)
    scale = float(np.sqrt(rss / max(len(y), 1)))
    if not scale > LINEAR.least_residual * float(np.sqrt(np.mean(y**2))):
        raise DataError(
            "the responses are fitted exactly by the fixed effects (residual standard deviation "
            f"{scale:.3g}), so that no variance can be estimated."
        )
    levels: list[Level] = []
    for design in designs:
        codes = design.codes[order]
        starts = np.flatnonzero(codes[1:] != codes[:-1]) + 1
        starts = np.concatenate([np.zeros(1, starts.dtype), starts])
        parents = np.zeros(len(starts), int)
        if levels:
            parents = np.searchsorted(levels[-1].starts, starts, side="right") - 1
        matrix = design.matrix[order]
        transform, clear = _effect_transform(design, matrix)
        well_conditioned = well_conditioned and clear
        levels.append(
            Level(design, relative_factor(design.structure), matrix, transform, starts, parents, codes[starts])
        )
    return LinearProblem(order, X, y, R, ordinary, scale, tuple(levels), well_conditioned)


def scalar_product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The scalar product of two columns (rows,) on one core: the library behind `@` starts its threads for each, and
    they wait for work in a loop, which takes more time than the product."""
    return np.einsum("i,i->", first, second)


def gram_matrix(X: np.ndarray, y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """X'X (columns, columns) and X'y (columns,), of a few columns by scalar products: a matrix product of so few
    columns takes longer, on all cores."""
    if X.shape[1] > LINEAR.few_columns:
        return X.T @ X, X.T @ y if y is not None else np.zeros(0)
    columns = [np.ascontiguousarray(column) for column in X.T]
    gram = np.empty((len(columns),) * 2)
    for i, first in enumerate(columns):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = scalar_product(first, columns[j])
    return gram, np.array([scalar_product(column, y) for column in columns]) if y is not None else np.zeros(0)


def _least_squares(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, bool]:
    """R, the coefficients (fixed,), the residual sum of squares, and whether cross-products lose no digits: from
    cross-products if these are clear, else from a QR decomposition of the rows."""
    total = float(scalar_product(y, y))
    if not X.shape[1]:
        return np.zeros((0, 0)), np.zeros(0), total, True
    gram, right = gram_matrix(X, y)
    norms = np.sqrt(np.diag(gram))
    scaled = gram / norms[:, None] / norms[None, :]
    if np.linalg.eigvalsh(scaled)[0] > LINEAR.clear_eigenvalue:
        root = np.linalg.cholesky(scaled).T
        coefficients = np.linalg.solve(root.T @ root, right / norms) / norms
        rss = total - float(coefficients @ right)
        if rss > LINEAR.clear_residual * total:
            return root * norms[None, :], coefficients, rss, True
    Q, R = np.linalg.qr(X)
    signs = np.where(np.diag(R) < 0, -1.0, 1.0)
    R = R * signs[:, None]
    coefficients = np.linalg.solve(R, (Q * signs).T @ y)
    residual = y - X @ coefficients
    correction = np.linalg.solve(R, (Q * signs).T @ residual)
    residual = residual - X @ correction
    return R, coefficients + correction, float(residual @ residual), False


def _sorted_rows(codes: Sequence[np.ndarray]) -> np.ndarray | slice:
    """Rows in an order in which those of each unit of each level follow each other; a slice if they do already."""
    if all(_in_order(of_level) for of_level in codes):
        return slice(None)
    return np.argsort(codes[0], kind="stable") if len(codes) == 1 else np.lexsort(codes[::-1])


def _in_order(codes: np.ndarray) -> bool:
    """True if the rows of a unit follow each other: the codes do not decrease."""
    return bool(np.all(codes[1:] >= codes[:-1]))


def _effect_transform(design: RandomDesign, matrix: np.ndarray) -> tuple[np.ndarray, bool]:
    """The matrix T such that Z T has columns of mean square one, orthogonal where the covariance structure of the
    effects allows it; and whether the columns are far from dependent.

    **Raises:** ModelError naming the effects whose columns are zero or linearly dependent.
    """
    product = gram_matrix(matrix)[0] / max(len(matrix), 1)
    norms = np.sqrt(np.diag(product))
    zero = [name for name, norm in zip(design.effects, norms, strict=True) if not norm > 0]
    if zero:
        raise ModelError(
            f"the column of the random effect {zero[0]!r} of {design.label!r} is zero in every row, so that its "
            "variance cannot be estimated: leave it out."
        )
    scaled = product / norms[:, None] / norms[None, :]
    clear = bool(np.linalg.eigvalsh(scaled)[0] > LINEAR.clear_eigenvalue)
    family = relative_factor(design.structure).equivariance()
    if family == "diagonal":
        return np.diag(1.0 / norms), clear
    if family == "scalar":
        return np.eye(len(norms)) / np.sqrt(np.mean(norms**2)), clear
    root = np.linalg.cholesky(scaled).T if clear else np.linalg.qr(matrix / norms / np.sqrt(len(matrix)), mode="r")
    root = root * np.where(np.diag(root) < 0, -1.0, 1.0)[:, None]
    dependent = np.abs(np.diag(root)) < LINEAR.dependent_effects
    if dependent.any():
        k = int(np.argmax(dependent))
        raise ModelError(
            f"the column of the random effect {design.effects[k]!r} of {design.label!r} depends linearly on those of "
            f"{some([repr(name) for name in design.effects[:k]])}, so that their covariance cannot be estimated: leave "
            "one of them out."
        )
    return np.linalg.inv(root) / norms[:, None], clear
