"""Markov correlations, in linear time: a residual depends on those before it in its series through the last one.

With phi_j the correlation of row j with the row p before it, T r has the entries (r_j - phi_j r_p) / sqrt(1 - phi_j^2),
and |C| is the product of 1 - phi_j^2. C^-1 is tridiagonal in the order of the series, and with w_j = phi_j^2 / (1 -
phi_j^2)

    d' (I + C^-1 o C) e = 2 sum d_j e_j + sum w_j (d_j - d_p) (e_j - e_p).

**Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.3.1.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.residual_error.correlation_base import (
    AbstractCorrelation,
    AbstractFactor,
    Series,
    SeriesLayout,
    Vectors,
    range_bounds,
    with_start,
)
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.settings import MODEL
from jaxnlme.model.transforms import AbstractTransform
from jaxnlme.numerics.arrays import xp
from jaxnlme.numerics.implicit import barrier
from jaxnlme.typing import Scalar, Vector


class RangeOfCorrelation(AbstractTransform):
    """to_real(y) = -log(-log y), for 0 < y < 1: log range, with y = exp(-1 / range) the correlation at distance one."""

    @property
    def name(self) -> str:
        return "log range"

    @property
    def domain(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def to_real(self, value: Any, shape: Any = None) -> Any:
        return -xp(value).log(-xp(value).log(value))

    def to_natural(self, real: Any, shape: Any = None) -> Any:
        limits = np.finfo(float)  # a correlation that underflows to 0, or rounds to 1, has no range to go back to
        return xp(real).clip(xp(real).exp(-xp(real).exp(-real)), float(limits.tiny), float(1.0 - limits.epsneg))

    def log_slope(self, value: Any, shape: Any = None) -> Any:
        return -xp(value).log(value) - xp(value).log(-xp(value).log(value))


class MarkovFactor(AbstractFactor):
    """The factor of a Markov correlation.

    **Fields:** `phi` (obs,): correlation with the row before, 0 without one; `weight` (obs,): 1 / sqrt(1 - phi^2);
    `logdet`: log|C|; `layout`.
    """

    phi: Any
    weight: Any
    logdet: Any
    layout: SeriesLayout

    @property
    def half_logdet(self) -> Scalar:
        return 0.5 * self.logdet

    def whiten(self, residual: Vector) -> Vector:
        return (residual - self.phi * self.previous(residual)) * self.weight

    def interaction(self, slopes: Vector) -> tuple[Vectors, Vectors]:
        step = self.phi * self.weight * (slopes - self.previous(slopes))
        parts = (2.0**0.5 * slopes, step)
        return parts, parts

    def previous(self, values: Vector) -> Vector:
        """The value (obs,) of the row before each row in its series; of rows without one, of any row.

        Where few distances in rows occur the values are shifted, which a compiler fuses with what comes before and
        after; otherwise they are gathered.
        """
        layout = self.layout
        if layout.offsets is None:
            return values[jnp.arange(values.shape[0]) - layout.offset]
        if not layout.offsets:
            return jnp.zeros_like(values)
        zero = jnp.zeros((), values.dtype)
        out = jax.lax.pad(values, zero, [(layout.offsets[0], -layout.offsets[0], 0)])
        for offset in layout.offsets[1:]:
            out = jnp.where(layout.offset == offset, jax.lax.pad(values, zero, [(offset, -offset, 0)]), out)
        return out


class AbstractMarkov(AbstractCorrelation):
    """A Markov correlation, by `link`."""

    @abc.abstractmethod
    def link(self, theta: Vector, lag: Any) -> tuple[Any, Any]:
        """The correlation phi of two rows at a distance `lag` in time, (obs,) or a number, and 1 - phi^2."""

    def factor(self, theta, layout):
        linked = layout.offset != 0
        if layout.lags is None:
            phi, remainder = self.link(theta, layout.lag)
            remainder = jnp.where(linked, remainder, 1.0)
            logdet = jnp.sum(jnp.log(remainder))
            return MarkovFactor(jnp.where(linked, phi, 0.0), 1.0 / jnp.sqrt(remainder), logdet, layout)
        # Few distances: powers, roots and logarithms of scalars.
        phi, weight = jnp.zeros(layout.offset.shape, theta.dtype), jnp.ones(layout.offset.shape, theta.dtype)
        logdet = jnp.zeros((), theta.dtype)
        for lag in layout.lags:
            phi_of_lag, remainder = self.link(theta, lag)
            here = linked & (layout.lag == lag)
            phi, weight = jnp.where(here, phi_of_lag, phi), jnp.where(here, 1.0 / jnp.sqrt(remainder), weight)
            logdet = logdet + jnp.sum(here) * jnp.log(remainder)
        return MarkovFactor(phi, weight, logdet, layout)

    def color(self, noise, theta, layout):
        order = jnp.lexsort((layout.time, layout.row_code))
        code, time = layout.row_code[order], layout.time[order]
        linked = jnp.concatenate([jnp.zeros((1,), bool), (code[1:] == code[:-1]) & (code[1:] >= 0)])
        lag = jnp.concatenate([jnp.ones((1,)), time[1:] - time[:-1]])
        phi, remainder = self.link(theta, jnp.where(linked, lag, 1.0))
        phi = jnp.where(linked, phi, 0.0)
        shock = jnp.where(linked, jnp.sqrt(jnp.maximum(remainder, 0.0)), 1.0) * noise[order]

        def compose(first, second):
            (phi_first, shock_first), (phi_second, shock_second) = first, second
            return phi_second * phi_first, phi_second * shock_first + shock_second

        _, colored = jax.lax.associative_scan(compose, (phi, shock))
        return jnp.zeros_like(noise).at[order].set(colored)


class AutoRegression(AbstractMarkov):
    """AR(1): rho^lag for whole-number lags, -1 < rho < 1; `jn.correlation.AR1` makes it."""

    parameters: tuple[ErrorParameter, ...]
    time: str | None = eqx.field(static=True, default=None)
    within: str | None = eqx.field(static=True, default=None)

    @property
    def formula(self) -> str:
        return "rho^lag"

    @property
    def whole_numbers(self) -> bool:
        return True

    def link(self, theta, lag):
        (rho,) = self.natural(theta)
        if isinstance(lag, float):
            phi = rho ** int(lag)
            return phi, (1.0 - phi) * (1.0 + phi)
        # A power at rho = 0 has no finite second derivative for lag 1 unless that lag is left out.
        first = lag == 1
        phi = jnp.where(first, rho, jnp.power(rho, jnp.where(first, 2.0, lag)))
        return phi, (1.0 - phi) * (1.0 + phi)


class ContinuousAutoRegression(AbstractMarkov):
    """exp(-lag / range) for lags in time; `jn.correlation.CAR1` (which reports rho = exp(-1 / range) where that is far
    enough from 0 and 1) and `Exponential` make it. theta is log range in both, so that nothing depends on the unit of
    time."""

    parameters: tuple[ErrorParameter, ...]
    time: str | None = eqx.field(static=True)
    within: str | None = eqx.field(static=True, default=None)
    automatic: bool = eqx.field(static=True, default=False)
    as_rho: bool = eqx.field(static=True, default=False)

    @property
    def formula(self) -> str:
        if self.parameters[0].name == "rho":
            return "rho^lag"
        return "rho^lag with rho = exp(-1 / range)" if self.as_rho else "exp(-lag / range)"

    def link(self, theta, lag):
        change = barrier(jnp.expm1(-lag * jnp.exp(-theta[0])))  # phi - 1
        return 1.0 + change, -change * (2.0 + change)

    def at_bounds(self, theta, series):
        return [] if self.parameters[0].fix else range_bounds(self.parameters[0], float(theta[0]), series)

    def resolve(self, series: Series) -> AbstractCorrelation:
        if not self.automatic:
            return self
        (parameter,) = self.parameters
        distance = series.median_lag / -np.log(MODEL.start_correlation)
        start = distance if parameter.name == "range" else np.exp(-1.0 / distance)
        if parameter.name == "rho":
            start = np.clip(start, np.finfo(float).tiny, 1.0 - np.finfo(float).eps)
        return dataclasses.replace(self, parameters=(with_start(parameter, float(start)),), automatic=False)

    def reportable(self, series: Series, named: Collection[str]) -> AbstractCorrelation:
        (parameter,) = self.parameters
        shortest, longest = MODEL.rho_lags
        in_range = shortest <= series.median_lag <= longest
        if parameter.name != "rho" or "rho" in named or parameter.fix or in_range:
            return self
        start = series.median_lag / -np.log(MODEL.start_correlation)
        if not self.automatic:
            start = -1.0 / np.log(float(parameter.start))
        return dataclasses.replace(self, parameters=(ErrorParameter("range", start, "log"),), automatic=False)
