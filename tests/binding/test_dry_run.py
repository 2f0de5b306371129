"""The dry run: padding of rows and of further tables."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.binding.dry_run import dry_run
from tests.problems import boluses


def without_mask(phi, x, v):
    """Sums over all doses, including those in padding."""
    since = x.time[:, None] - v.doses.time[None, :]
    fraction = jnp.where(since >= 0, jnp.exp(-phi.cl / phi.v * jnp.where(since >= 0, since, 0.0)), 0.0)
    return jnp.sum(v.doses.amount[None, :] * fraction, axis=1) / phi.v


def averaged(phi, x):
    """Uses a mean over all rows, including padded ones."""
    return phi.cl * jnp.mean(x.time) + phi.v * x.time


def data(unit: float = 1.0) -> jn.GroupedData:
    """Groups of three and two rows; one dose for the first, three for the second, none for the third."""
    group = np.array([0, 0, 0, 1, 1, 2])
    time = np.array([1.0, 2.0, 4.0, 1.0, 5.0, 3.0])
    rows = jn.GroupedData.from_arrays(unit * np.ones(6), group, {"time": time})
    doses = {"id": [0, 1, 1, 1], "time": [0.0, 0.0, 2.0, 4.0], "amount": [5.0, 5.0, 3.0, 3.0]}
    return rows.with_table("doses", doses, "id", ["time", "amount"])


def model(structure, volume: float = 10.0) -> jn.NLMEModel:
    return jn.NLMEModel(structure, [jn.Parameter("cl", 0.1 * volume, "log"), jn.Parameter("v", volume, "log")])


@pytest.mark.parametrize("volume", [10.0, 1e12])
def test_padding_of_a_table_must_be_masked(volume: float) -> None:
    binding = bind(model(without_mask, volume), data(1.0 / volume))
    with pytest.raises(jn.ModelError, match=r"padding of a further table \(group 0 and 2\).*v\.doses.*mask"):
        dry_run(binding, binding.start)
    binding = bind(model(boluses, volume), data(1.0 / volume))
    assert dry_run(binding, binding.start).finite.all()


def test_check_of_padding_does_not_depend_on_units() -> None:
    binding = bind(model(averaged, 1e-12), data(1e-12))
    with pytest.raises(jn.ModelError, match=r"padding of short groups \(group 1"):
        dry_run(binding, binding.start)
