"""Priors on parameters: log-densities added to the objective (maximum a posteriori estimation).

A prior is a density of the value that a fit reports under its name (beta on the transformed scale; standard
deviations, correlations; residual-error parameters on their natural scale). The Jacobian of the internal
parametrisation is not included: the estimate maximises likelihood times prior over the reported values.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.numerics.constants import HALF_LOG_2PI


def _number(value: Any) -> np.ndarray:
    return np.asarray(value, float)


class AbstractPrior(eqx.Module):
    """A prior density of one reported value. A subclass defines `log_density`."""

    @abc.abstractmethod
    def log_density(self, value: Any) -> Any:
        """The normalised log-density at a scalar `value`; -inf outside the support."""


class Normal(AbstractPrior):
    """Normal distribution.

    **Arguments:** `mean`; `sd`: standard deviation, positive; both in the unit of the reported value.
    """

    mean: Any = eqx.field(converter=_number)
    sd: Any = eqx.field(converter=_number)

    def log_density(self, value):
        return -0.5 * ((value - self.mean) / self.sd) ** 2 - jnp.log(self.sd) - HALF_LOG_2PI


class LogNormal(AbstractPrior):
    """Log-normal distribution, for positive values.

    **Arguments:** `median`: in the unit of the reported value, positive; `sd`: standard deviation of the logarithm,
    positive.
    """

    median: Any = eqx.field(converter=_number)
    sd: Any = eqx.field(converter=_number)

    def log_density(self, value):
        positive = value > 0
        log_value = jnp.log(jnp.where(positive, value, 1.0))
        density = -0.5 * ((log_value - jnp.log(self.median)) / self.sd) ** 2 - log_value - jnp.log(self.sd)
        return jnp.where(positive, density - HALF_LOG_2PI, -jnp.inf)


class HalfNormal(AbstractPrior):
    """Half-normal distribution: |u|, u ~ Normal(0, scale), for standard deviations.

    **Arguments:** `scale`: standard deviation of u, in the unit of the reported value, positive.
    """

    scale: Any = eqx.field(converter=_number)

    def log_density(self, value):
        density = jnp.log(2.0) - 0.5 * (value / self.scale) ** 2 - jnp.log(self.scale) - HALF_LOG_2PI
        return jnp.where(value >= 0, density, -jnp.inf)


class Gamma(AbstractPrior):
    """Gamma distribution, for positive values; with shape 2 the estimate of a standard deviation is not zero.

    **Arguments:** `shape`: positive, without unit; `rate`: inverse scale, positive, in the inverse unit of the reported
    value.
    **Source:** Chung et al. (2013), Psychometrika 78, 685-709, for shape 2 and a small rate.
    """

    shape: Any = eqx.field(converter=_number)
    rate: Any = eqx.field(converter=_number)

    def log_density(self, value):
        from jax.scipy.special import gammaln

        positive = value > 0
        safe = jnp.where(positive, value, 1.0)
        density = self.shape * jnp.log(self.rate) - gammaln(self.shape)
        density = density + (self.shape - 1.0) * jnp.log(safe) - self.rate * safe
        return jnp.where(positive, density, -jnp.inf)
