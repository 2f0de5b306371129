"""The mode around which a group's proposals are made, where there are two."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.sampling.samplers import laplace_approximation, whitening_at
from tests.problems import cheap

TIMES = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0])
TYPICAL = np.log([1.0, 0.1, 20.0])
SDS = np.array([1.5, 1.5, 1.5])


def oral(phi, x):
    """A first-order absorption, which is the same curve where ka and ke, and the volume with them, change places."""
    ka, ke, volume = phi
    same = jnp.abs(ka - ke) < 1e-6
    apart = jnp.where(same, 1.0, ka - ke)
    curve = ka / apart * (jnp.exp(-ke * x.t) - jnp.exp(-ka * x.t))
    return 100.0 / volume * jnp.where(same, ka * x.t * jnp.exp(-ka * x.t), curve)


@cheap
def mode_from(density, params, group, centre):
    whitening = whitening_at(density, params)
    again = jnp.asarray(True)
    mode, _, _, found = laplace_approximation(density, params, whitening, group, jnp.asarray(TYPICAL), centre, again)
    return mode, density.log_joint(params, whitening.solve(mode - TYPICAL), group), found


@pytest.mark.parametrize("start", ["typical", "changed places"])
def test_the_higher_mode_is_taken_whatever_the_last_one(start):
    """Changed places: ka 0.1, ke 1.0 and a tenth of the volume give the same curve and residuals, 4 units lower in the
    density of the effects."""
    t = np.asarray(TIMES)
    y = 5.0 * 1.0 / 0.9 * (np.exp(-0.1 * t) - np.exp(-t)) * (1.0 + 0.05 * np.cos(7.0 * np.arange(8)))
    data = jn.GroupedData.from_arrays(y, np.zeros(8, int), {"t": t})
    names = [
        jn.Parameter(n, float(np.exp(v)), "log", random=True)
        for n, v in zip(("ka", "ke", "volume"), TYPICAL, strict=True)
    ]
    binding = bind(jn.NLMEModel(oral, names, error=jn.error.proportional(0.1), psi=np.diag(SDS**2)), data)
    group = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], binding.problem.buckets[0])
    params = jax.tree.map(jnp.asarray, binding.start)
    swapped = TYPICAL[[1, 0, 2]] + np.array([0.0, 0.0, np.log(0.1)])
    centre = jnp.asarray(TYPICAL if start == "typical" else swapped)
    mode, value, found = mode_from(binding.density, params, group, centre)
    assert found
    np.testing.assert_allclose(mode, TYPICAL, atol=0.2)
    low = binding.density.log_joint(params, jnp.asarray((swapped - TYPICAL) / SDS), group)
    assert value > low + 2.0
