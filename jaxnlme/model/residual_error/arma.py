"""ARMA(p, q) correlation over whole-number positions, with a matrix for each group.

**Source:** Box, Jenkins and Reinsel (1994), Time Series Analysis, section 3.4, for the autocovariances; Monahan (1984),
Biometrika 71, 403-404, for the parametrisation by partial autocorrelations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.model.residual_error.correlation_base import Bound, Series
from jaxnlme.model.residual_error.correlation_matrices import AbstractMatrix
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.residual_error.partial_correlations import autoregression, partial_autocorrelations
from jaxnlme.model.settings import MODEL
from jaxnlme.typing import Vector


class ARMA(AbstractMatrix):
    """r_t = sum_i ar_i r_(t-i) + e_t + sum_j ma_j e_(t-j); `jn.correlation.ARMA` makes it.

    theta are partial autocorrelations on the logit scale, so that every process is stationary and invertible; reported
    are the coefficients.
    """

    parameters: tuple[ErrorParameter, ...]
    p: int = eqx.field(static=True)
    q: int = eqx.field(static=True)
    time: str | None = eqx.field(static=True, default=None)
    within: str | None = eqx.field(static=True, default=None)

    @property
    def formula(self) -> str:
        return f"ARMA({self.p}, {self.q})"

    @property
    def whole_numbers(self) -> bool:
        return True

    @property
    def is_joint(self) -> bool:
        return max(self.p, self.q) > 1

    def natural(self, theta):
        partial = [jnp.tanh(0.5 * theta[k]) for k in range(self.p + self.q)]
        ma = autoregression([-r for r in partial[self.p :]])
        return (*autoregression(partial[: self.p]), *(-c for c in ma))

    def at_bounds(self, theta, series):
        at = np.abs(theta) > MODEL.bound_logit
        names = [p.name for p in self.parameters]
        return [Bound(name, False) for name, is_at in zip(names, at, strict=True) if is_at]

    def unconstrained(self, values: Sequence[float]) -> np.ndarray:
        ar = partial_autocorrelations([float(v) for v in values[: self.p]], "ar")
        ma = partial_autocorrelations([-float(v) for v in values[self.p :]], "ma")
        return 2.0 * np.arctanh(np.array([*ar, *(-r for r in ma)]))

    def entries(self, theta, layout):
        values = self.natural(theta)
        acf = autocorrelations(values[: self.p], values[self.p :], layout.extent)
        lag = jnp.abs(layout.time[:, None] - layout.time[None, :]).astype(int)
        return acf[jnp.minimum(lag, layout.extent)]

    def resolve(self, series: Series):
        if series.extent > MODEL.most_lags:
            raise OptionError(
                f"ARMA: the positions of a series are up to {series.extent} apart, more than {MODEL.most_lags:,}; "
                "count them in larger units, or use jn.correlation.AR1 or CAR1."
            )
        self.unconstrained([float(p.start) for p in self.parameters])
        return self


def autocorrelations(ar: Sequence[Any], ma: Sequence[Any], lags: int) -> Vector:
    """The autocorrelations (lags + 1,) of an ARMA process, from lag 0."""
    p, m = len(ar), max(len(ar), len(ma))
    theta = [jnp.ones(()), *ma]
    psi: list[Any] = []
    for j in range(len(theta)):
        psi.append(theta[j] + sum((ar[i] * psi[j - 1 - i] for i in range(min(p, j))), jnp.zeros(())))
    # gamma_k - sum_i ar_i gamma_|k - i| = sum_j>=k ma_j psi_(j - k), k = 0 ... m
    matrix = jnp.eye(m + 1)
    for k in range(m + 1):
        for i in range(p):
            matrix = matrix.at[k, abs(k - 1 - i)].add(-ar[i])
    right = jnp.stack([sum((theta[j] * psi[j - k] for j in range(k, len(theta))), jnp.zeros(())) for k in range(m + 1)])
    first = jnp.linalg.solve(matrix, right)
    first = first / first[0]
    if lags <= m:
        return first[: lags + 1]
    if not p:
        return jnp.concatenate([first, jnp.zeros((lags - m,))])
    coefficients = jnp.stack(list(ar))

    def next_lag(last, _):
        new = jnp.sum(coefficients * last)
        return jnp.concatenate([new[None], last[:-1]]), new

    _, later = jax.lax.scan(next_lag, first[m - p + 1 :][::-1], None, length=lags - m)
    return jnp.concatenate([first, later])
