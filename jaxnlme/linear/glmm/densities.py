"""Log-densities and random draws of the outcomes of generalised linear mixed models, by the linear predictor.

Densities have all their constants, so that log-likelihoods of different families and programs can be compared.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from jaxnlme.linear.glmm.links import Link, link_of, log_interval
from jaxnlme.linear.glmm.settings import GLMM

# Families whose mean lies between 0 and 1.
PROBABILITIES = ("binomial", "bernoulli", "ordinal")


@dataclasses.dataclass(frozen=True)
class OutcomeDensity:
    """The log-density of each row of an outcome, as `jn.GroupLogLikelihood` takes it.

    **Fields:** `family`; `link`: names; `trials`: the column of x with the number of trials of a binomial outcome, None
    for one trial a row.
    """

    family: str
    link: str
    trials: str | None = None

    @property
    def __name__(self) -> str:
        return f"{self.family.replace(' ', '_')}_{self.link}"

    def __call__(self, y: Any, f: Any, p: Any, x: Any, v: Any) -> Any:
        """log p(y | f) (obs,), minus infinity where the linear predictor `f` gives no mean.

        **Arguments:** `y` (obs,); `f` (obs,): linear predictor; `p`: parameters of the outcome; `x`: predictors; `v`:
        not used.
        """
        if self.family == "ordinal":
            return ordinal(self.link, y, f, list(p))
        link = link_of(self.link, self.family in PROBABILITIES)
        eta, inside = link.safe(f)
        if self.family in PROBABILITIES:
            value = binomial(link, y, eta, None if self.trials is None else x[self.trials])
        else:
            value = {"poisson": poisson, "negative binomial": negative_binomial, "gamma": gamma}[self.family](
                link, y, eta, *p
            )
        return value if inside is None else jnp.where(inside, value, -jnp.inf)


def binomial(link: Link, y: Any, eta: Any, trials: Any) -> Any:
    """log p(y) of y successes among `trials` (None: one)."""
    n = 1.0 if trials is None else trials
    if link.name == "logit":
        value = y * eta - n * jax.nn.softplus(eta)
    else:
        assert link.log_rest is not None
        value = y * link.log_mean(eta) + (n - y) * link.log_rest(eta)
    return value if trials is None else value + gammaln(n + 1.0) - gammaln(y + 1.0) - gammaln(n - y + 1.0)


def poisson(link: Link, y: Any, eta: Any) -> Any:
    """y log(mu) - mu - log(y!)."""
    log_mean = link.log_mean(eta)
    return y * log_mean - jnp.exp(log_mean) - gammaln(y + 1.0)


def negative_binomial(link: Link, y: Any, eta: Any, size: Any) -> Any:
    """Variance mu + mu^2 / size (R's nbinom2); a Poisson distribution as size grows.

    **Source:** Abramowitz and Stegun (1964), 6.1.41, for the series of lgamma(y + size) - lgamma(size) at large sizes.
    """
    odds = link.log_mean(eta) - jnp.log(size)  # log(mu / size)
    shape = -size * jax.nn.softplus(odds) - y * jax.nn.softplus(-odds)
    large = size > GLMM.stirling_from
    small_size, large_size = jnp.where(large, 1.0, size), jnp.where(large, size, GLMM.stirling_from)
    direct = gammaln(y + small_size) - gammaln(small_size)
    total = y + large_size
    series = (
        (total - 0.5) * jnp.log1p(y / large_size)
        + y * (jnp.log(large_size) - 1.0)
        + (1.0 / total - 1.0 / large_size) / 12.0
        - (1.0 / total**3 - 1.0 / large_size**3) / 360.0
    )
    return jnp.where(large, series, direct) - gammaln(y + 1.0) + shape


def gamma(link: Link, y: Any, eta: Any, shape: Any) -> Any:
    """Mean mu and variance mu^2 / shape."""
    log_ratio = jnp.log(y) - link.log_mean(eta)
    return shape * (jnp.log(shape) + log_ratio - jnp.exp(log_ratio)) - jnp.log(y) - gammaln(shape)


def ordinal(link: str, y: Any, eta: Any, thresholds: list[Any]) -> Any:
    """P(y <= j) = F(threshold_j - eta); `y`: positions of the categories, from 0 on."""
    inner = jnp.stack([jnp.asarray(t, eta.dtype) for t in thresholds])
    last = len(thresholds)
    category = jnp.asarray(y, int)
    low = inner[jnp.clip(category - 1, 0, last - 1)] - eta
    high = inner[jnp.clip(category, 0, last - 1)] - eta
    one = link_of(link, True)
    assert one.log_rest is not None
    between = (category > 0) & (category < last)
    # Rows of the first and last category have one threshold; the other would make NaN.
    safe_high = jnp.where(between, high, low + 1.0)
    value = jnp.where(category == 0, one.log_mean(high), one.log_rest(low))
    value = jnp.where(between, log_interval(link, low, safe_high), value)
    ordered = jnp.all(inner[1:] > inner[:-1])
    return jnp.where(ordered, value, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class OutcomeSampler:
    """Random responses (obs,) of an outcome, as `jn.GroupLogLikelihood` takes them; each row has a key of its own, so
    that padding changes nothing.

    **Fields:** as of OutcomeDensity.
    """

    family: str
    link: str
    trials: str | None = None

    def __call__(self, key: Any, f: Any, p: Any, x: Any, v: Any) -> Any:
        """Responses (obs,), NaN where the linear predictor `f` (obs,) gives no mean.

        **Arguments:** `key`: a JAX key; others as of OutcomeDensity.
        """
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(f.shape[0]))
        parameters = [jnp.asarray(value, f.dtype) for value in p]
        if self.family == "ordinal":
            uniform = jax.vmap(lambda k: jax.random.uniform(k, (), f.dtype))(keys)
            below = jnp.stack([jnp.exp(link_of(self.link, True).log_mean(t - f)) for t in parameters])
            return jnp.sum(uniform[None, :] > below, axis=0).astype(f.dtype)
        link = link_of(self.link, self.family in PROBABILITIES)
        eta, inside = link.safe(f)
        mean = jnp.exp(link.log_mean(eta))
        trials = jnp.ones_like(f) if self.trials is None else x[self.trials]
        draws = jax.vmap(lambda k, mu, n: self._draw(k, mu, n, parameters))(keys, mean, trials)
        return draws if inside is None else jnp.where(inside, draws, jnp.nan)

    def _draw(self, key: Any, mean: Any, trials: Any, parameters: list[Any]) -> Any:
        """One response."""
        if self.family in PROBABILITIES:
            return jax.random.binomial(key, trials, mean, dtype=mean.dtype)
        if self.family == "poisson":
            return jax.random.poisson(key, mean).astype(mean.dtype)
        first, second = jax.random.split(key)
        drawn = jax.random.gamma(first, parameters[0], dtype=mean.dtype) * mean / parameters[0]
        return drawn if self.family == "gamma" else jax.random.poisson(second, drawn).astype(mean.dtype)
