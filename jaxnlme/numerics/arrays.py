"""Arrays on the host and on the device: the host's small sums must not start JAX programs of their own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.typing import PyTree


def xp(value: Any) -> Any:
    """The module to compute with: numpy for host numbers, jax.numpy for JAX arrays (each eager JAX operation would
    trace and compile a program, some 20 ms a kind)."""
    return np if isinstance(value, (int, float, np.ndarray, np.generic)) else jnp


def on_device(tree: PyTree) -> PyTree:
    """The tree with its numpy leaves moved to the device, once, so that calls in a loop do not copy them again."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)


def as_number(value: Any) -> Any:
    """A Python number as a numpy scalar array, which a compiled program takes as an argument rather than as a constant;
    arrays (traced ones too) as they are."""
    return value if isinstance(value, (jax.Array, np.ndarray)) else np.asarray(value)
