"""Intervals of predictions of a linear mixed model.

With sigma^2 (T'T)^-1 the covariance of the residuals, X and Z in rows whitened by T, L L' the covariance of the random
effects of all units and M = I + L'Z'Z L / sigma^2, the error of the prediction x'beta + z'b has the variance

    z' L M^-1 L' z + d' C d,   d = x - X'Z L M^-1 L' z / sigma^2,   C the covariance of the fixed effects,

for units of the fit, and z' psi z + x' C x for new ones; a new response adds its residual variance.

**Source:** Henderson (1975), Biometrics 31, 423-447; Harville (1976), Annals of Statistics 4, 384-395.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxnlme.errors import OptionError
from jaxnlme.linear.predict import means, n_levels, unit_numbers
from jaxnlme.numerics.linalg import semidefinite_cholesky

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from jaxnlme.linear.record import LinearFit

# Random effects of dependent rows up to which their matrix is dense (72 MB); beyond, it is sparse.
_DENSE = 3000
# Entries of the right-hand sides that are solved together (32 MB).
_ENTRIES = 4_000_000


def prediction_intervals(
    fit: LinearFit, data: Any, level: str | int | None, interval: float, sources: Sequence[str]
) -> pd.DataFrame:
    """Predictions with their limits, a row per row of `data`; arguments as of `predict`."""
    from scipy.special import ndtri

    prediction = means(fit, data, level)
    half_width = float(ndtri(0.5 + interval / 2.0)) * np.sqrt(_variances(fit, data, n_levels(fit, level), sources))
    limits = {"prediction": prediction, "lower": prediction - half_width, "upper": prediction + half_width}
    return pd.DataFrame(limits, index=getattr(fit.model.frame if data is None else data, "index", None))


def _variances(fit: LinearFit, data: Any, count: int, sources: Sequence[str]) -> np.ndarray:
    """Variances (rows,) of the errors of predictions with the effects of the first `count` grouping factors."""
    groupings, fixed = fit.model.groupings, fit.model.fixed
    X = fixed.matrix if data is None else np.asarray(fixed.for_frame(data), float)
    variance = np.zeros(len(X))
    known: list[np.ndarray] = []
    matrices: list[np.ndarray] = []
    needed = groupings if "effects" in sources else groupings[:count]
    for k, grouping in enumerate(needed):
        matrix = grouping.matrix
        if data is not None:
            matrix = np.concatenate([design.for_frame(data) for design in grouping.designs], axis=1)
        if k >= count:
            units = np.full(len(X), -1)  # beyond the level of the prediction: the effects of a new unit
        else:
            units = grouping.units.codes if data is None else unit_numbers(grouping, data)
        new = units < 0
        if "effects" in sources:
            variance[new] += np.einsum("ij,jk,ik->i", matrix[new], fit.outcome.psi[k], matrix[new])
        known.append(units)
        matrices.append(matrix)
    d = X
    if any((units >= 0).any() for units in known):
        conditional, d = _given_responses(fit, X, matrices, known)
        variance += conditional if "effects" in sources else 0.0
    if "parameters" in sources:
        variance += np.einsum("ij,jk,ik->i", d, fit.outcome.beta_covariance, d)
    if "residual" in sources:
        variance += _residual_variances(fit, data, len(X))
    return variance


def _residual_variances(fit: LinearFit, data: Any, rows: int) -> np.ndarray:
    """Variances (rows,) of the residuals of new responses. **Raises:** OptionError for a variance function at other
    rows than those of the fit."""
    if fit.residual is None:
        return np.full(rows, fit.sigma**2)
    scale, _ = fit.residual.scale(fit.residual.delta(fit.outcome.estimation.theta))
    if data is not None and np.ptp(scale) > 0.0:
        raise OptionError(
            "the residual variance of this fit is a function of its rows, which is not computed for other data: use "
            "data=None, or uncertainty=('parameters', 'effects') for the interval of the mean."
        )
    if data is not None:
        return np.full(rows, fit.outcome.sigma**2)
    out = np.empty(rows)
    out[fit.problem.order] = (scale * fit.outcome.sigma) ** 2
    return out


def _given_responses(
    fit: LinearFit, X: np.ndarray, matrices: Sequence[np.ndarray], known: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """z' L M^-1 L' z (rows,) and d (rows, fixed), units that are not of the fit (number -1) without effects.

    Effects that share rows, directly or through others, form a block of M; blocks are solved one after another.
    """
    from scipy.sparse.csgraph import connected_components

    roots = [semidefinite_cholesky(psi) for psi in fit.outcome.psi]
    groupings, sigma = fit.model.groupings, fit.outcome.sigma
    starts = np.cumsum(
        [0, *(grouping.units.count * len(root) for grouping, root in zip(groupings, roots, strict=True))]
    )
    observed = _columns_of_units(
        [_whitened(fit, grouping.matrix @ root) / sigma for grouping, root in zip(groupings, roots, strict=True)],
        [grouping.units.codes for grouping in groupings], starts,
    )  # fmt: skip
    wanted = _columns_of_units(
        [matrix @ root for matrix, root in zip(matrices, roots, strict=False)], known, starts[: len(matrices) + 1]
    )
    wanted.resize(len(X), int(starts[-1]))
    cross = np.asarray(observed.T @ (_whitened(fit, fit.model.fixed.matrix) / sigma))
    _, block = connected_components(_pattern(observed) + _pattern(wanted), directed=False)
    order = np.argsort(block, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(block))])
    products, wanted, cross = (observed.T @ observed).tocsr()[order][:, order], wanted[:, order], cross[order]
    block_of = np.full(len(X), -1)
    with_effects = np.flatnonzero(np.diff(wanted.indptr))
    block_of[with_effects] = block[order][wanted.indices[wanted.indptr[with_effects]]]
    variance, d = np.zeros(len(X)), np.array(X, float)
    by_block = np.argsort(block_of, kind="stable")
    for at in np.split(by_block, np.flatnonzero(np.diff(block_of[by_block])) + 1):
        if block_of[at[0]] < 0:
            continue
        own = slice(int(ends[block_of[at[0]]]), int(ends[block_of[at[0]] + 1]))
        for some in np.array_split(at, -(-len(at) * (own.stop - own.start) // _ENTRIES)):
            z = wanted[some, own].toarray()
            solved = _solved(products[own, own], z.T)
            variance[some] = np.einsum("ij,ji->i", z, solved)
            d[some] -= solved.T @ cross[own]
    return variance, d


def _columns_of_units(matrices: Sequence[np.ndarray], units: Sequence[np.ndarray], starts: np.ndarray) -> csr_matrix:
    """The matrix (rows, effects of all units) of `matrices` (rows, effects) by grouping factor, whose columns of
    `units` (rows,) begin at `starts`; units -1 have none."""
    import scipy.sparse

    rows, places, values = [], [], []
    for matrix, unit, start in zip(matrices, units, starts[:-1], strict=True):
        at, width = np.flatnonzero(unit >= 0), matrix.shape[1]
        rows.append(np.repeat(at, width))
        places.append((start + unit[at][:, None] * width + np.arange(width)).ravel())
        values.append(matrix[at].ravel())
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(places))
    return scipy.sparse.csr_matrix(entries, shape=(len(matrices[0]), int(starts[-1])))


def _pattern(matrix: csr_matrix) -> csr_matrix:
    """Entries (columns, columns) for pairs of columns with entries in one row, zeros among them."""
    ones = matrix.copy()
    ones.data = np.ones_like(ones.data)
    return ones.T @ ones


def _solved(products: Any, right: np.ndarray) -> np.ndarray:
    """(products + I)^-1 right, dense up to `_DENSE` columns."""
    import scipy.sparse
    from scipy.sparse.linalg import splu

    size = products.shape[0]
    if size <= _DENSE:
        return np.linalg.solve(products.toarray() + np.eye(size), right)
    return splu((products + scipy.sparse.identity(size)).tocsc()).solve(right)


def _whitened(fit: LinearFit, columns: np.ndarray) -> np.ndarray:
    """T times columns (rows, columns), in the order of the rows of the fit."""
    if fit.residual is None:
        return columns
    delta, order = fit.residual.delta(fit.outcome.estimation.theta), fit.problem.order
    out = np.empty_like(columns, float)
    for j, column in enumerate(columns.T):
        out[order, j] = fit.residual.whitened(column[order], delta)
    return out
