"""Transformations between a natural scale and the real line, for parameters and for responses.

`to_real` maps from the natural scale to the real line, `to_natural` back. A parameter is phi = to_natural(xb). With a
transformed response the residual model is to_real(y) = to_real(f) + error, and its log-density includes the Jacobian
`log_slope` = log |d to_real / dy|.

**Example:**

```python
jn.Parameter("bioavailability", 0.7, transform=jn.transforms.Logit(0.0, 1.0))
```
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
from jaxnlme.model.settings import MODEL
from jaxnlme.numerics.arrays import xp


def _normal(value: Any) -> Any:
    """The module with ndtr and ndtri (normal distribution function and quantile) for the array type of `value`."""
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
    # The derivative is one over the density at the quantile; differentiating the quantile code gives a larger program.
    u = _traced_ndtri(primals[0])
    return u, tangents[0] * jnp.exp(0.5 * u**2) * np.sqrt(2.0 * np.pi)


def _ndtri(p: Any) -> Any:
    return _normal(p).ndtri(p) if xp(p) is np else _traced_ndtri(p)


def sigmoid(value: Any) -> Any:
    """1 / (1 + exp(-value)), elementwise and without overflow: value and derivatives are finite everywhere."""
    return np.exp(-np.logaddexp(0.0, -value)) if xp(value) is np else jax.nn.sigmoid(value)


class AbstractTransform(eqx.Module):
    """A smooth increasing map of an interval `domain` onto the real line or a part of it; elementwise on arrays.

    `shape` is the exponent of the families that have one (`has_shape`); the others ignore it.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name of the transform in a declaration."""

    @property
    def domain(self) -> tuple[float, float]:
        """The open interval of natural values."""
        return (-np.inf, np.inf)

    @property
    def has_shape(self) -> bool:
        """True if the family has an exponent, the argument `shape`."""
        return False

    @abc.abstractmethod
    def to_real(self, value: Any, shape: Any = None) -> Any:
        """`value`, on the natural scale, mapped to the real line."""

    @abc.abstractmethod
    def to_natural(self, real: Any, shape: Any = None) -> Any:
        """`real` mapped back to the natural scale."""

    @abc.abstractmethod
    def log_slope(self, value: Any, shape: Any = None) -> Any:
        """log |d to_real / d value|, the log-Jacobian at `value` on the natural scale."""


class Identity(AbstractTransform):
    """to_real(y) = y, for any real y. Name: "identity".

    **Example:**

    ```python
    jn.Parameter("e0", 10.0, transform=jn.transforms.Identity())
    ```
    """

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
    """to_real(y) = log y, for y > 0. Name: "log".

    **Example:**

    ```python
    jn.Parameter("cl", 2.8, transform=jn.transforms.Log())
    ```
    """

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
    """to_real(y) = log(p / (1 - p)), p = (y - lower) / (upper - lower). Names: "logit", "logit(lower, upper)".

    **Arguments:** `lower` < `upper`: the bounds of y, in its unit (0 and 1).
    **Raises:** OptionError unless lower < upper.

    **Example:**

    ```python
    jn.Parameter("bioavailability", 0.7, transform=jn.transforms.Logit(0.0, 1.0))
    ```
    """

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
    """to_real(y) = Phi^-1(p), p = (y - lower) / (upper - lower), Phi the standard normal distribution function.
    Names: "probit", "probit(lower, upper)".

    **Arguments:** `lower` < `upper`: the bounds of y, in its unit (0 and 1).
    **Raises:** OptionError unless lower < upper.

    **Example:**

    ```python
    jn.Parameter("bioavailability", 0.7, transform=jn.transforms.Probit(0.0, 1.0))
    ```
    """

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
    """to_real(y) = (y^shape - 1) / shape, log y for shape 0, for y > 0. Name: "box-cox".

    **Source:** Box and Cox (1964), Journal of the Royal Statistical Society B 26, equation (1).

    **Example:**

    ```python
    jn.error.transform_both_sides(jn.transforms.BoxCox(), shape=0.5)
    ```
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
    Name: "yeo-johnson".

    **Source:** Yeo and Johnson (2000), Biometrika 87, equation (2.1).

    **Example:**

    ```python
    jn.error.transform_both_sides(jn.transforms.YeoJohnson(), shape=1.0)
    ```
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


class Composition(AbstractTransform):
    """The composition of two transforms: to_real(y) = second.to_real(first.to_real(y)); `shape` is that of `second`.

    **Arguments:** `first`, `second`: transforms; the domain is that of `first`.
    """

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
    """(exp(shape u) - 1) / shape, u for shape 0, with smooth derivatives in the shape around zero."""
    small = jnp.abs(shape) < MODEL.series_below
    safe = jnp.where(small, 1.0, shape)
    series = u * (1.0 + shape * u / 2.0 * (1.0 + shape * u / 3.0))
    return jnp.where(small, series, jnp.expm1(safe * u) / safe)


def _log_of_power_integral(t, shape):
    """The inverse of `_power_integral` in u: log(1 + shape t) / shape."""
    small = jnp.abs(shape) < MODEL.series_below
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

    **Raises:** OptionError for an unknown name, with names of similar spelling.
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
