"""Small SAEM fits shared by tests of results, plots and reports; all have one shape, so that programs are shared."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

import jaxnlme as jn


def decline(phi, x):
    """Exponential decline from a with rate c."""
    return phi.a * jnp.exp(-phi.c * x.t)


MODEL = jn.NLMEModel(
    decline,
    [jn.Parameter("a", 2.0, "log", random=True), jn.Parameter("c", 1.0, "log", random=True)],
    error=jn.error.constant(0.3),
)


@functools.cache
def data() -> jn.GroupedData:
    """Twelve groups of five rows, simulated with random-effect SDs of 0.3 and 0.25."""
    random = np.random.default_rng(1)
    group = np.repeat(np.arange(12), 5)
    t = np.tile(0.4 * np.arange(1.0, 6.0), 12)
    a, c = 3.0 * np.exp(0.3 * random.normal(size=12)), 0.7 * np.exp(0.25 * random.normal(size=12))
    y = a[group] * np.exp(-c[group] * t) + 0.15 * random.normal(size=len(t))
    return jn.GroupedData.from_arrays(y, group, {"t": t})


@functools.cache
def several() -> jn.Fit:
    """A converged fit with two replicates."""
    fit = jn.fit(MODEL, data(), jn.SAEM(chains=8, replicates=2, likelihood="gq", nodes=5))
    assert fit.converged
    return fit


@functools.cache
def unfinished() -> jn.Fit:
    """A fit that did not converge (too few iterations), without a likelihood."""
    method = jn.SAEM((3, 3, 3), chains=8, replicates=2, max_iterations=15, likelihood="none")
    fit = jn.fit(MODEL, data(), method)
    assert not fit.converged
    return fit
