"""Priors on parameters: log-densities added to the objective (maximum a posteriori estimation).

A prior is a density of the value that a fit reports under its name (beta on the transformed scale; standard
deviations, correlations; residual-error parameters on their natural scale). The Jacobian of the internal
parametrisation is not included: the estimate maximises likelihood times prior over the reported values.

**Example:**

```python
jn.NLMEModel(oral, [ka, cl, vol], priors={"sd(cl)": jn.priors.Gamma(2.0, 5.0)})
```
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Self

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.arguments import number_or_given, plain_number, real_number
from jaxnlme.errors import OptionError, shown
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.signatures import check_call


class AbstractPrior(eqx.Module):
    """A prior density of one reported value. A subclass defines `log_density`."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """A new object. **Raises:** ArgumentError for arguments that `__init__` does not take."""
        check_call(cls, args, options)
        return super().__new__(cls)

    @abc.abstractmethod
    def log_density(self, value: Any) -> Any:
        """The normalised log-density at a scalar `value`; -inf outside the support."""


def _check_numbers(prior: AbstractPrior, *positive: str) -> None:
    """**Raises:** OptionError where a field of `prior` is not a finite number, or one of `positive` is not positive."""
    for field in dataclasses.fields(prior):
        value, above_zero = getattr(prior, field.name), field.name in positive
        real = real_number(value)
        if real is None or (above_zero and not real > 0.0):
            raise OptionError(
                f"jn.priors.{type(prior).__name__}: {field.name} must be a {'positive' if above_zero else 'finite'} "
                f"number; received {shown(plain_number(value))}."
            )


class Normal(AbstractPrior):
    """Normal distribution.

    **Arguments:** `mean`; `sd`: standard deviation, positive; both in the unit of the reported value.

    **Example:**

    ```python
    jn.Parameter("cl", 2.8, "log", prior=jn.priors.Normal(1.0, 0.5))
    ```
    """

    mean: Any = eqx.field(converter=number_or_given)
    sd: Any = eqx.field(converter=number_or_given)

    def __check_init__(self):
        _check_numbers(self, "sd")

    def log_density(self, value):
        return -0.5 * ((value - self.mean) / self.sd) ** 2 - jnp.log(self.sd) - HALF_LOG_2PI


class LogNormal(AbstractPrior):
    """Log-normal distribution, for positive values.

    **Arguments:** `median`: in the unit of the reported value, positive; `sd`: standard deviation of the logarithm,
    positive.

    **Example:**

    ```python
    jn.Parameter("cl", 2.8, "log", prior=jn.priors.LogNormal(2.8, 0.5))
    ```
    """

    median: Any = eqx.field(converter=number_or_given)
    sd: Any = eqx.field(converter=number_or_given)

    def __check_init__(self):
        _check_numbers(self, "median", "sd")

    def log_density(self, value):
        positive = value > 0
        log_value = jnp.log(jnp.where(positive, value, 1.0))
        density = -0.5 * ((log_value - jnp.log(self.median)) / self.sd) ** 2 - log_value - jnp.log(self.sd)
        return jnp.where(positive, density - HALF_LOG_2PI, -jnp.inf)


class HalfNormal(AbstractPrior):
    """Half-normal distribution: |u|, u ~ Normal(0, scale), for standard deviations.

    **Arguments:** `scale`: standard deviation of u, in the unit of the reported value, positive.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], priors={"sd(ka)": jn.priors.HalfNormal(1.0)})
    ```
    """

    scale: Any = eqx.field(converter=number_or_given)

    def __check_init__(self):
        _check_numbers(self, "scale")

    def log_density(self, value):
        density = jnp.log(2.0) - 0.5 * (value / self.scale) ** 2 - jnp.log(self.scale) - HALF_LOG_2PI
        return jnp.where(value >= 0, density, -jnp.inf)


class Gamma(AbstractPrior):
    """Gamma distribution, for positive values; with shape 2 the estimate of a standard deviation is not zero.

    **Arguments:** `shape`: positive, without unit; `rate`: inverse scale, positive, in the inverse unit of the reported
    value.
    **Source:** Chung et al. (2013), Psychometrika 78, 685-709, for shape 2 and a small rate.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], priors={"sd(cl)": jn.priors.Gamma(2.0, 5.0)})
    ```
    """

    shape: Any = eqx.field(converter=number_or_given)
    rate: Any = eqx.field(converter=number_or_given)

    def __check_init__(self):
        _check_numbers(self, "shape", "rate")

    def log_density(self, value):
        from jax.scipy.special import gammaln

        positive = value > 0
        safe = jnp.where(positive, value, 1.0)
        density = self.shape * jnp.log(self.rate) - gammaln(self.shape)
        density = density + (self.shape - 1.0) * jnp.log(safe) - self.rate * safe
        return jnp.where(positive, density, -jnp.inf)
