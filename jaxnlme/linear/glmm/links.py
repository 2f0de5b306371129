"""Link functions of generalised linear mixed models: g(mean) = linear predictor, as in the families of R's glm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxnlme.linear.glmm.settings import GLMM
from jaxnlme.numerics.normal_tails import log_ndtr


@dataclasses.dataclass(frozen=True)
class Link:
    """A link function g, on the host and inside compiled programs.

    **Fields:** `name`; `forward(mu)`: g; `inverse(eta)`: the mean; `slope(eta)`: its derivative, these by numpy;
    `log_mean(eta)`: the logarithm of the mean, by JAX; `log_rest(eta)`: the logarithm of one minus the mean, None for
    links of positive means; `bounds`: the open interval in which the linear predictor gives a mean.
    """

    name: str
    forward: Callable[[Any], Any]
    inverse: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    log_mean: Callable[[Any], Any]
    log_rest: Callable[[Any], Any] | None = None
    bounds: tuple[float, float] = (-np.inf, np.inf)

    def within(self, eta: Any) -> Any:
        """True where the linear predictor gives a mean, for arrays of numpy and of JAX."""
        low, high = self.bounds
        return (eta > low) & (eta < high)

    def safe(self, eta: Any) -> tuple[Any, Any]:
        """The linear predictor with values outside the bounds replaced, and True where it is inside, by JAX."""
        if self.bounds == (-np.inf, np.inf):
            return eta, None
        inside = self.within(eta)
        return jnp.where(inside, eta, 1.0 if self.bounds[0] == 0.0 else -1.0), inside


def _log_of_1_minus_exp(a: Any) -> Any:
    """log(1 - exp(a)) for a < 0. **Source:** Maechler (2012), vignette of the R package Rmpfr."""
    large = a < -np.log(2.0)
    near = jnp.where(large, -1.0, a)
    return jnp.where(large, jnp.log1p(-jnp.exp(a)), jnp.log(-jnp.expm1(near)))


def _cloglog_exponent(eta: Any) -> Any:
    """exp(eta), kept finite."""
    return jnp.exp(jnp.minimum(eta, GLMM.largest_exponent))


_PROBABILITY = {
    "logit": Link(
        "logit", special.logit, special.expit, lambda eta: special.expit(eta) * special.expit(-eta),
        jax.nn.log_sigmoid, lambda eta: jax.nn.log_sigmoid(-eta),
    ),
    "probit": Link(
        "probit", special.ndtri, special.ndtr, lambda eta: np.exp(-0.5 * eta**2) / np.sqrt(2.0 * np.pi),
        log_ndtr, lambda eta: log_ndtr(-eta),
    ),
    "cloglog": Link(
        "cloglog", lambda mu: np.log(-np.log1p(-mu)),
        lambda eta: -np.expm1(-np.exp(np.minimum(eta, GLMM.largest_exponent))),
        lambda eta: np.exp(np.minimum(eta, GLMM.largest_exponent) - np.exp(np.minimum(eta, GLMM.largest_exponent))),
        lambda eta: _log_of_1_minus_exp(-_cloglog_exponent(eta)), lambda eta: -_cloglog_exponent(eta),
    ),
    "cauchit": Link(
        "cauchit", lambda mu: np.tan(np.pi * (mu - 0.5)), lambda eta: np.arctan2(1.0, -eta) / np.pi,
        lambda eta: 1.0 / (np.pi * (1.0 + eta**2)),
        lambda eta: jnp.log(jnp.arctan2(1.0, -eta) / np.pi), lambda eta: jnp.log(jnp.arctan2(1.0, eta) / np.pi),
    ),
}  # fmt: skip
_POSITIVE = {
    "log": Link("log", np.log, np.exp, np.exp, lambda eta: eta),
    "identity": Link(
        "identity", lambda mu: mu, lambda eta: eta, np.ones_like, jnp.log, bounds=(0.0, np.inf)
    ),
    "inverse": Link(
        "inverse", lambda mu: 1.0 / mu, lambda eta: 1.0 / eta, lambda eta: -1.0 / eta**2, lambda eta: -jnp.log(eta),
        bounds=(0.0, np.inf),
    ),
    "sqrt": Link(
        "sqrt", np.sqrt, np.square, lambda eta: 2.0 * eta, lambda eta: 2.0 * jnp.log(eta), bounds=(0.0, np.inf)
    ),
}  # fmt: skip
_LOG_OF_PROBABILITY = dataclasses.replace(_POSITIVE["log"], log_rest=_log_of_1_minus_exp, bounds=(-np.inf, 0.0))


def link_of(name: str, probability: bool) -> Link:
    """The link of a name; `probability`: of means between 0 and 1."""
    if not probability:
        return _POSITIVE[name]
    return _LOG_OF_PROBABILITY if name == "log" else _PROBABILITY[name]


def log_interval(name: str, low: Any, high: Any) -> Any:
    """log(F(high) - F(low)) with F the inverse of a link of probabilities, without cancellation in the tails; NaN
    unless low < high.

    **Arguments:** `name`: "logit", "probit", "cloglog" or "cauchit"; `low`, `high`: arrays of JAX.
    """
    link = _PROBABILITY[name]
    if name == "logit":
        return jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + jnp.log(-jnp.expm1(low - high))
    if name == "cloglog":
        # exp(-e^low) - exp(-e^high)
        a, b = _cloglog_exponent(low), _cloglog_exponent(high)
        return -a + jnp.log(-jnp.expm1(a - b))
    # Both are symmetric: take the tail in which probabilities are small.
    upper = low + high > 0
    a, b = jnp.where(upper, -high, low), jnp.where(upper, -low, high)
    log_a, log_b = link.log_mean(a), link.log_mean(b)
    return log_b + jnp.log(-jnp.expm1(log_a - log_b))
