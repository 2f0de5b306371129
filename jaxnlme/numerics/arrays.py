"""Arrays on the host and on the device. Small host computations use numpy, so that they compile no JAX program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.typing import PyTree


def xp(value: Any) -> Any:
    """The array module for `value`: numpy for numbers and numpy arrays, jax.numpy for JAX arrays (an eager JAX
    operation on host numbers would trace and compile a program, some 20 ms for each kind of operation)."""
    return np if isinstance(value, (int, float, np.ndarray, np.generic)) else jnp


def on_device(tree: PyTree) -> PyTree:
    """The pytree `tree` with its numpy leaves moved to the device, once, so that calls in a loop do not copy them
    again."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)


def number_to_array(value: Any) -> Any:
    """`value` as an array: a Python number becomes a numpy scalar array, which a compiled program takes as an argument
    (a Python number would be a constant); numpy and JAX arrays, traced ones included, are returned unchanged."""
    return value if isinstance(value, (jax.Array, np.ndarray)) else np.asarray(value)


def map_leading(fn: Callable[..., PyTree], *trees: PyTree) -> PyTree:
    """`fn` over the leading axis of arrays, as `jax.vmap(fn)(*trees)`; an axis of length one is removed and put back
    instead, since each vmap traces all operations once more."""
    if jax.tree.leaves(trees)[0].shape[0] != 1:
        return jax.vmap(fn)(*trees)
    single = fn(*jax.tree.map(lambda leaf: jax.lax.squeeze(leaf, (0,)), trees))
    return jax.tree.map(lambda leaf: jax.lax.expand_dims(leaf, (0,)), single)


def unfused(value: Any) -> Any:
    """`value`, real numbers, computed once in a compiled program; so are their derivatives.

    XLA on a CPU fuses sums and products into every use, with all that they are computed from, and so computes a
    quantity with many uses as often; an optimization barrier does not keep it from that. Divisions are not repeated:
    this is one, by a number that the compiler does not know to be one.
    """
    return value / jax.lax.stop_gradient(jnp.where(value == value, 1.0, jnp.nan))
