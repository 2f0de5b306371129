"""Decorrelation of the observations of each group by the mean and covariance of their simulations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxnlme.diagnostics.npde.discrepancies import prediction_discrepancies
from jaxnlme.diagnostics.npde.settings import NPDE
from jaxnlme.numerics.linalg import accurate_eigh

METHODS = ("cholesky", "inverse", "none")


def decorrelated_discrepancies(
    observed: np.ndarray, simulated: np.ndarray, groups: np.ndarray, method: str, uniform: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Decorrelated observations, and their prediction discrepancies among the decorrelated simulations.

    1. m and V, the mean and covariance (divisor K - 1) of the simulations of a group.
    2. y* = T (y - m), for the observations and for each simulation, with T V T' = I: "cholesky", T = U^-T with the
       upper triangular V = U' U, so that each row is freed of the rows before it in the group, and the first is only
       standardised; "inverse", the symmetric T = V^(-1/2) (the R package's "polar" is the same matrix), which treats
       all rows alike, but depends on the units of rows that have different ones.
    3. pd as in `prediction_discrepancies`, of y* among the simulations' y*.

    **Arguments:** `observed` (rows,), finite; `simulated` (K, rows); `groups` (rows,): a number for the group of each
    row; `method`, "cholesky" or "inverse"; `uniform` (rows,) or None, as in `prediction_discrepancies`.
    **Returns:** y* (rows,), pd (rows,), and the numbers of the groups whose V is singular, whose rows are NaN.
    **Source:** Brendel, Comets, Laffont, Laveille and Mentre (2006), Pharmaceutical Research 23, 2036-2049; Comets,
    Brendel and Mentre (2008), Computer Methods and Programs in Biomedicine 90, 154-166.
    """
    out, share, singular = np.full(observed.shape, np.nan), np.full(observed.shape, np.nan), []
    for rows in _blocks(groups, len(simulated)):
        draws = np.moveaxis(simulated[:, rows], 0, 1)  # (groups, K, rows of the group)
        mean = draws.mean(axis=1)
        centred = draws - mean[:, None, :]
        regular, transform = _transforms(np.swapaxes(centred, 1, 2) @ centred / (len(simulated) - 1), method)
        singular += groups[rows[~regular, 0]].tolist()
        at = rows[regular]
        # T is applied from the right, to rows of simulations.
        transposed = np.swapaxes(transform[regular], 1, 2)
        y = ((observed[at] - mean[regular])[:, None, :] @ transposed)[:, 0]
        among = np.moveaxis(centred[regular] @ transposed, 1, 0)
        out[at] = y
        share[at] = prediction_discrepancies(y, among, None if uniform is None else uniform[at])
    return out, share, sorted(singular)


def _blocks(groups: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Rows (groups, rows of the group) of groups with equally many rows, as many at a time as memory allows."""
    order = np.argsort(groups, kind="stable")
    _, first, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    for size in np.unique(sizes):
        of_size = first[sizes == size]
        step = max(NPDE.cells_per_block // (count * int(size)), 1)
        for start in range(0, len(of_size), step):
            yield order[of_size[start : start + step, None] + np.arange(size)]


def _transforms(covariance: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """True (groups,) where the covariance (groups, rows, rows) is not singular, and T of these groups (groups, rows,
    rows), NaN in the others."""
    rows = covariance.shape[-1]
    sd = np.sqrt(np.einsum("gii->gi", covariance))
    usable = np.isfinite(covariance).all(axis=(1, 2)) & (sd > 0.0).all(axis=1)
    scale = np.where(usable[:, None], sd, 1.0)
    correlation = np.where(usable[:, None, None], covariance / (scale[:, :, None] * scale[:, None, :]), np.eye(rows))
    # The rank does not depend on the units of the rows: it is that of the correlation matrix.
    regular = usable & (np.linalg.eigvalsh(correlation)[:, 0] > NPDE.singular * rows * np.finfo(float).eps)
    out = np.full(covariance.shape, np.nan)
    if method == "cholesky":
        factor = np.linalg.cholesky(correlation[regular])
        out[regular] = np.linalg.solve(factor, np.eye(rows) / scale[regular][:, None, :])
    else:
        values, vectors = accurate_eigh(covariance[regular])
        positive = np.all(values > 0.0, axis=1)
        roots = np.sqrt(np.where(positive[:, None], values, 1.0))
        out[regular] = (vectors / roots[:, None, :]) @ np.swapaxes(vectors, 1, 2)
        regular[np.flatnonzero(regular)[~positive]] = False
    return regular, out
