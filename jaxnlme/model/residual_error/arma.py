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
        names = [p.name for p in self.parameters]
        out = [Bound(n, False) for n, t in zip(names[: self.p], theta, strict=False) if abs(t) > MODEL.bound_logit]
        # Moving averages with the coefficients m and 1 / m are one process: beside the bound the log-likelihood is even
        # in 1 - |r|, and changes by less than (responses) (longest series) (1 - |r|)^2.
        rows = int(series.observed.sum()) * series.largest
        distance = 2.0 / (1.0 + np.exp(np.abs(theta[self.p :])))
        flat = rows * distance**2 < MODEL.bound_change
        inside = MODEL.inner_logits
        free = [not p.fix for p in self.parameters[self.p :]]
        at = zip(names[self.p :], flat & np.array(free, bool), strict=True)
        return out + [Bound(name, False, inside, True) for name, is_at in at if is_at]

    def unconstrained(self, values: Sequence[float]) -> np.ndarray:
        ar = partial_autocorrelations([float(v) for v in values[: self.p]], "ar")
        ma = partial_autocorrelations([-float(v) for v in values[self.p :]], "ma")
        return 2.0 * np.arctanh(np.array([*ar, *(-r for r in ma)]))

    def entries(self, theta, layout):
        partial = [jnp.tanh(0.5 * theta[k]) for k in range(self.p)]
        acf = autocorrelations(partial, self.natural(theta)[self.p :], layout.extent)
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


def autocorrelations(partial: Sequence[Any], ma: Sequence[Any], lags: int) -> Vector:
    """The autocorrelations (lags + 1,) of an ARMA process, from lag 0, from partial autocorrelations and the
    coefficients of the moving average: those of the autoregression by Durbin and Levinson's recursion, summed over
    pairs of coefficients."""
    p, q = len(partial), len(ma)
    needed = lags + q
    first, ar, variance = [jnp.ones(())], [], jnp.ones(())
    for k, r in enumerate(partial):
        first.append(r * variance + sum((ar[j] * first[k - j] for j in range(k)), jnp.zeros(())))
        ar = [a - r * b for a, b in zip(ar, reversed(ar), strict=True)] + [r]
        variance = variance * (1.0 - r) * (1.0 + r)
    of_ar = jnp.stack(first)
    if needed > p and p:
        coefficients = jnp.stack(ar)

        def next_lag(last, _):
            new = jnp.sum(coefficients * last)
            return jnp.concatenate([new[None], last[:-1]]), new

        _, later = jax.lax.scan(next_lag, of_ar[1:][::-1], None, length=needed - p)
        of_ar = jnp.concatenate([of_ar, later])
    elif needed > p:
        of_ar = jnp.concatenate([of_ar, jnp.zeros((needed,))])
    theta, lag = [jnp.ones(()), *ma], np.arange(lags + 1)
    total = sum(
        (theta[i] * theta[j] * of_ar[np.abs(lag + i - j)] for i in range(q + 1) for j in range(q + 1)),
        jnp.zeros((lags + 1,)),
    )
    return total / total[0]
