"""Transformations between a natural scale and the real line, for parameters and for responses.

`to_real` maps natural to real, `to_natural` back. A parameter has phi = to_natural(xb), DESIGN's h; a response that is
transformed on both sides has to_real(y) = to_real(f) + error, with `log_slope` = log |d to_real / dy| in its density.
"""

from __future__ import annotations

import abc
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError, near_matches
from jaxnlme.numerics.arrays import xp


def _normal(value: Any) -> Any:
    """The module with ndtr and ndtri for `value`."""
    if xp(value) is np:
        import scipy.special as special
    else:
        import jax.scipy.special as special
    return special


@jax.custom_jvp
def _traced_ndtri(p):
    return jax.scipy.special.ndtri(p)


@_traced_ndtri.defjvp
def _ndtri_rule(primals, tangents):
    # One over the density at the quantile: exact, and a far smaller program than the derivative of the quantile code.
    u = _traced_ndtri(primals[0])
    return u, tangents[0] * jnp.exp(0.5 * u**2) * np.sqrt(2.0 * np.pi)


def _ndtri(p: Any) -> Any:
    return _normal(p).ndtri(p) if xp(p) is np else _traced_ndtri(p)


def sigmoid(value: Any) -> Any:
    """1 / (1 + exp(-value)), whose exponential never overflows: values and derivatives are finite everywhere."""
    return np.exp(-np.logaddexp(0.0, -value)) if xp(value) is np else jax.nn.sigmoid(value)


class AbstractTransform(eqx.Module):
    """A smooth increasing map of an interval `domain` onto the real line (or part of it); works elementwise.

    `shape` is the exponent of the families that have one (`has_shape`), ignored by the others.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The word users write."""

    @property
    def domain(self) -> tuple[float, float]:
        """The open interval of natural values."""
        return (-np.inf, np.inf)

    @property
    def has_shape(self) -> bool:
        """Whether `shape` is used."""
        return False

    @abc.abstractmethod
    def to_real(self, value: Any, shape: Any = None) -> Any:
        """Natural to real."""

    @abc.abstractmethod
    def to_natural(self, real: Any, shape: Any = None) -> Any:
        """Real to natural."""

    @abc.abstractmethod
    def log_slope(self, value: Any, shape: Any = None) -> Any:
        """log |d to_real / d value|."""


class Identity(AbstractTransform):
    """to_real(y) = y."""

    @property
    def name(self) -> str:
        return "identity"

    def to_real(self, value: Any, shape: Any = None) -> Any:
        return value

    def to_natural(self, real: Any, shape: Any = None) -> Any:
        return real

    def log_slope(self, value: Any, shape: Any = None) -> Any:
        return xp(value).zeros_like(value)


class Log(AbstractTransform):
    """to_real(y) = log y, for y > 0."""

    @property
    def name(self) -> str:
        return "log"

    @property
    def domain(self) -> tuple[float, float]:
        return (0.0, np.inf)

    def to_real(self, value: Any, shape: Any = None) -> Any:
        return xp(value).log(value)

    def to_natural(self, real: Any, shape: Any = None) -> Any:
        return xp(real).exp(real)

    def log_slope(self, value: Any, shape: Any = None) -> Any:
        return -xp(value).log(value)


class _Interval(AbstractTransform):
    lower: float = 0.0
    upper: float = 1.0

    def __check_init__(self):
        if not self.lower < self.upper:
            raise OptionError(f"{self.name}: expected lower < upper, received {self.lower} and {self.upper}.")

    @property
    def domain(self) -> tuple[float, float]:
        return (self.lower, self.upper)

    def _unit(self, value):
        return (value - self.lower) / (self.upper - self.lower)


class Logit(_Interval):
    """to_real(y) = log(p / (1 - p)), p = (y - lower) / (upper - lower)."""

    @property
    def name(self) -> str:
        return "logit" if (self.lower, self.upper) == (0.0, 1.0) else f"logit({self.lower:g}, {self.upper:g})"

    def to_real(self, value: Any, shape: Any = None) -> Any:
        return xp(value).log(value - self.lower) - xp(value).log(self.upper - value)

    def to_natural(self, real: Any, shape: Any = None) -> Any:
        return self.lower + (self.upper - self.lower) * sigmoid(real)

    def log_slope(self, value: Any, shape: Any = None) -> Any:
        return np.log(self.upper - self.lower) - xp(value).log(value - self.lower) - xp(value).log(self.upper - value)


class Probit(_Interval):
    """to_real(y) = Phi^-1(p), p = (y - lower) / (upper - lower), Phi the standard normal distribution function."""

    @property
    def name(self) -> str:
        return "probit" if (self.lower, self.upper) == (0.0, 1.0) else f"probit({self.lower:g}, {self.upper:g})"

    def to_real(self, value: Any, shape: Any = None) -> Any:
        return _ndtri(self._unit(value))

    def to_natural(self, real: Any, shape: Any = None) -> Any:
        return self.lower + (self.upper - self.lower) * _normal(real).ndtr(real)

    def log_slope(self, value: Any, shape: Any = None) -> Any:
        u = _ndtri(self._unit(value))
        return 0.5 * u**2 + 0.5 * np.log(2.0 * np.pi) - np.log(self.upper - self.lower)


class BoxCox(AbstractTransform):
    """to_real(y) = (y^shape - 1) / shape, log y at shape 0, for y > 0.

    **Source:** Box and Cox (1964), Journal of the Royal Statistical Society B 26, equation (1).
    """

    @property
    def name(self) -> str:
        return "box-cox"

    @property
    def domain(self) -> tuple[float, float]:
        return (0.0, np.inf)

    @property
    def has_shape(self) -> bool:
        return True

    def to_real(self, value: Any, shape: Any = None) -> Any:
        return _power_integral(xp(value).log(value), shape)

    def to_natural(self, real: Any, shape: Any = None) -> Any:
        return xp(real).exp(_log_of_power_integral(real, shape))

    def log_slope(self, value: Any, shape: Any = None) -> Any:
        return (shape - 1.0) * xp(value).log(value)


class YeoJohnson(AbstractTransform):
    """to_real(y) = ((1 + y)^shape - 1) / shape for y >= 0, -((1 - y)^(2 - shape) - 1) / (2 - shape) for y < 0.

    **Source:** Yeo and Johnson (2000), Biometrika 87, equation (2.1).
    """

    @property
    def name(self) -> str:
        return "yeo-johnson"

    @property
    def has_shape(self) -> bool:
        return True

    def to_real(self, value: Any, shape: Any = None) -> Any:
        size = jnp.log1p(jnp.abs(value))
        return jnp.where(value >= 0, _power_integral(size, shape), -_power_integral(size, 2.0 - shape))

    def to_natural(self, real: Any, shape: Any = None) -> Any:
        positive = real >= 0
        up = jnp.expm1(_log_of_power_integral(jnp.where(positive, real, 0.0), shape))
        down = -jnp.expm1(_log_of_power_integral(jnp.where(positive, 0.0, -real), 2.0 - shape))
        return jnp.where(positive, up, down)

    def log_slope(self, value: Any, shape: Any = None) -> Any:
        return jnp.where(value >= 0, shape - 1.0, 1.0 - shape) * jnp.log1p(jnp.abs(value))


class Then(AbstractTransform):
    """Two transforms, one after the other: to_real(y) = second(first(y)), the shape being the second's."""

    first: AbstractTransform
    second: AbstractTransform

    @property
    def name(self) -> str:
        return f"{self.first.name} then {self.second.name}"

    @property
    def domain(self) -> tuple[float, float]:
        return self.first.domain

    @property
    def has_shape(self) -> bool:
        return self.second.has_shape

    def to_real(self, value: Any, shape: Any = None) -> Any:
        return self.second.to_real(self.first.to_real(value), shape)

    def to_natural(self, real: Any, shape: Any = None) -> Any:
        return self.first.to_natural(self.second.to_natural(real, shape))

    def log_slope(self, value: Any, shape: Any = None) -> Any:
        return self.first.log_slope(value) + self.second.log_slope(self.first.to_real(value), shape)


def _power_integral(u, shape):
    """(exp(shape u) - 1) / shape, u at shape 0, with derivatives that are smooth in the shape through zero."""
    small = jnp.abs(shape) < 1e-5
    safe = jnp.where(small, 1.0, shape)
    series = u * (1.0 + shape * u / 2.0 * (1.0 + shape * u / 3.0))
    return jnp.where(small, series, jnp.expm1(safe * u) / safe)


def _log_of_power_integral(t, shape):
    """The inverse of `_power_integral` in u: log(1 + shape t) / shape."""
    small = jnp.abs(shape) < 1e-5
    safe = jnp.where(small, 1.0, shape)
    series = t * (1.0 - shape * t / 2.0 * (1.0 - 2.0 * shape * t / 3.0))
    return jnp.where(small, series, jnp.log1p(safe * t) / safe)


_NAMED = {
    "identity": Identity,
    "log": Log,
    "logit": Logit,
    "probit": Probit,
    "box-cox": BoxCox,
    "yeo-johnson": YeoJohnson,
}


def transform(spec: str | AbstractTransform) -> AbstractTransform:
    """A transform from its name ("log", "logit(0, 12)", ...) or the object itself.

    **Errors:** OptionError for an unknown name, with the near matches.
    """
    if isinstance(spec, AbstractTransform):
        return spec
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\(([^)]*)\))?\s*", str(spec))
    if match is None or match[1] not in _NAMED:
        raise OptionError(f"unknown transform {spec!r}; {near_matches(str(spec), _NAMED)}")
    if match[2] is None:
        return _NAMED[match[1]]()
    kind = _NAMED[match[1]]
    try:
        bounds = [float(part) for part in match[2].split(",")]
    except ValueError:
        bounds = []
    if not issubclass(kind, _Interval) or len(bounds) != 2:
        raise OptionError(f"transform {spec!r}: only logit(lower, upper) and probit(lower, upper) take two bounds.")
    return kind(*bounds)
