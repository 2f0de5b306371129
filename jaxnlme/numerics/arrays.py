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
