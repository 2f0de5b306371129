"""Priors on parameters: log-densities added to the objective (maximum a posteriori estimation).

A prior is a density of the value that the fit reports under that name (beta on its transformed scale, standard
deviations, correlations, error parameters on their natural scale), added without the Jacobian of any internal
parametrisation: the estimate is the maximum of likelihood times prior over the reported values.
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
    """A log-density of one reported value."""

    @abc.abstractmethod
    def log_density(self, value: Any) -> Any:
        """The log-density at a scalar `value`; -inf outside the support."""


class Normal(AbstractPrior):
    """Normal(mean, sd)."""

    mean: Any = eqx.field(converter=_number)
    sd: Any = eqx.field(converter=_number)

    def log_density(self, value):
        return -0.5 * ((value - self.mean) / self.sd) ** 2 - jnp.log(self.sd) - HALF_LOG_2PI


class LogNormal(AbstractPrior):
    """Log-normal with the given `median`, `sd` the standard deviation of the log: for positive values."""

    median: Any = eqx.field(converter=_number)
    sd: Any = eqx.field(converter=_number)

    def log_density(self, value):
        positive = value > 0
        log_value = jnp.log(jnp.where(positive, value, 1.0))
        density = -0.5 * ((log_value - jnp.log(self.median)) / self.sd) ** 2 - log_value - jnp.log(self.sd)
        return jnp.where(positive, density - HALF_LOG_2PI, -jnp.inf)


class HalfNormal(AbstractPrior):
    """The positive half of Normal(0, scale): for standard deviations."""

    scale: Any = eqx.field(converter=_number)

    def log_density(self, value):
        density = jnp.log(2.0) - 0.5 * (value / self.scale) ** 2 - jnp.log(self.scale) - HALF_LOG_2PI
        return jnp.where(value >= 0, density, -jnp.inf)


class Gamma(AbstractPrior):
    """Gamma(shape, rate): for positive values; shape 2 keeps a standard deviation off zero (Chung et al. 2013,
    Psychometrika 78, 685-709)."""

    shape: Any = eqx.field(converter=_number)
    rate: Any = eqx.field(converter=_number)

    def log_density(self, value):
        from jax.scipy.special import gammaln

        positive = value > 0
        safe = jnp.where(positive, value, 1.0)
        density = self.shape * jnp.log(self.rate) - gammaln(self.shape)
        density = density + (self.shape - 1.0) * jnp.log(safe) - self.rate * safe
        return jnp.where(positive, density, -jnp.inf)
