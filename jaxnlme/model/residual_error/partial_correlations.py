"""Correlation matrices and autoregressions from partial correlations, which may each take any value in (-1, 1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.numerics.arrays import xp
from jaxnlme.typing import Matrix, Vector


def correlation_factor(theta: Vector, n: int) -> Matrix:
    """The Cholesky factor (n, n) of a correlation matrix, from `theta` (n (n - 1) / 2,): Fisher's z of the partial
    correlations of (j, k) given the variables before j, for (0, 1), (0, 2), ..., (1, 2), ...

    **Source:** Lewandowski, Kurowicka and Joe (2009), Journal of Multivariate Analysis 100, 1989-2001, section 3.
    """
    x = xp(theta)  # on the host in 64 bits
    place = np.zeros((n, n, len(theta)))
    first, second = np.triu_indices(n, 1)
    place[second, first, np.arange(len(first))] = 1.0
    partial = place @ x.tanh(theta) if len(theta) else x.zeros((n, n))
    remainder = x.ones((n,), theta.dtype)
    columns = []
    for j in range(n):
        below = np.arange(n) > j
        columns.append(x.where(below, partial[:, j] * remainder, x.where(np.arange(n) == j, remainder, 0.0)))
        remainder = remainder * x.where(below, x.sqrt((1.0 - partial[:, j]) * (1.0 + partial[:, j])), 1.0)
    return x.stack(columns, axis=1)


def from_correlations(matrix: np.ndarray, listed: str) -> np.ndarray:
    """The inverse of `correlation_factor`: theta (n (n - 1) / 2,) of a correlation matrix (n, n), on the host.

    **Arguments:** `listed`: the correlations with their names, for the message.
    **Raises:** OptionError for a matrix that is not positive definite.
    """
    try:
        lower = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        raise OptionError(
            f"the correlations {listed} cannot occur together: no positive definite matrix has them. Give values "
            "nearer to zero, or leave them at their starting values."
        ) from None
    n = len(matrix)
    remainder = np.sqrt(np.maximum(1.0 - np.cumsum(lower**2, axis=1), 0.0))
    before = np.concatenate([np.ones((n, 1)), remainder[:, :-1]], axis=1)
    return np.array([np.arctanh(lower[k, j] / before[k, j]) for j in range(n) for k in range(j + 1, n)])


def autoregression(partial: list[Any]) -> list[Any]:
    """Coefficients of a stationary autoregression from its partial autocorrelations: Durbin and Levinson's recursion.

    **Source:** Barndorff-Nielsen and Schou (1973), Journal of Multivariate Analysis 3, 408-419; Monahan (1984),
    Biometrika 71, 403-404.
    """
    out: list[Any] = []
    for r in partial:
        out = [a - r * b for a, b in zip(out, reversed(out), strict=True)] + [r]
    return out


def partial_autocorrelations(coefficients: list[float], kind: str) -> list[float]:
    """The inverse of `autoregression`, on the host.

    **Raises:** OptionError for coefficients of an autoregression that is not stationary; `kind`: their name.
    """
    current, out = list(coefficients), []
    while current:
        r = current[-1]
        if not -1.0 < r < 1.0:
            raise OptionError(
                f"the {kind} coefficients {', '.join(f'{c:g}' for c in coefficients)} are outside the region of "
                f"{'stationary' if kind == 'ar' else 'invertible'} processes."
            )
        out.append(r)
        rest = current[:-1]
        current = [(a + r * b) / (1.0 - r * r) for a, b in zip(rest, reversed(rest), strict=True)]
    return out[::-1]
