"""A random intercept with a curve that a network learns: everything about it is known in closed form."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import jaxnlme as jn

GROUPS, ROWS = 24, 4


class Curve(eqx.Module):
    """y = level + slope tanh(rate t), the level of each group's own."""

    weight: jax.Array

    def __call__(self, phi, x):
        return phi.level + self.weight[0] * jnp.tanh(self.weight[1] * x.t)


def curve(*weight: float) -> Curve:
    """The module with the weights (0.5, 0.5), or others."""
    with jax.enable_x64(True):
        return Curve(jnp.asarray(weight or (0.5, 0.5)))


def model(module: eqx.Module | None = None, **options) -> jn.NLMEModel:
    return jn.NLMEModel(curve() if module is None else module, [jn.Parameter("level", 1.0, random=True)], **options)


@functools.cache
def data() -> jn.GroupedData:
    rng = np.random.default_rng(11)
    group, t = np.repeat(np.arange(GROUPS), ROWS), np.tile(np.linspace(-1.0, 1.0, ROWS), GROUPS)
    noise = 0.3 * rng.normal(size=len(t))
    return jn.GroupedData.from_arrays(
        2.0 + 0.7 * rng.normal(size=GROUPS)[group] + np.tanh(2.0 * t) + noise, group, {"t": t}
    )


def log_likelihoods(level: float, sd: float, a: float, weight: np.ndarray) -> np.ndarray:
    """log p(y) of each group: a multivariate Gaussian with compound symmetry."""
    y, t = np.asarray(data().y), np.asarray(data().x["t"])
    covariance = sd**2 * np.ones((ROWS, ROWS)) + a**2 * np.eye(ROWS)
    mean = level + weight[0] * np.tanh(weight[1] * t)
    return np.array([stats.multivariate_normal.logpdf(y[k], mean[k], covariance) for k in range(len(y))])
