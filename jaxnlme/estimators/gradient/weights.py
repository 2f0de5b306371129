"""The weights that are trained: filters of the user on the free block."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.model.networks import Networks


def frozen_weights(free: Networks | None, freeze: Any) -> np.ndarray:
    """Entries (weights,) bool of the raveled free block that keep their value.

    **Arguments:** `freeze`: a function of an array, or a pytree of bools that matches the module (Networks, where there
    are several); None: none.
    **Raises:** OptionError where it fits neither, or where the model has no modules.
    """
    if freeze is None:
        return np.zeros(0 if free is None else sum(np.size(leaf) for leaf in jax.tree.leaves(free)), bool)
    if free is None:
        raise OptionError(
            "Gradient: freeze holds weights of Equinox modules, and this model has none; hold a parameter by "
            "jn.Parameter(fix=True) or fixed=."
        )
    function: Any = freeze
    whole = callable(freeze) and not isinstance(freeze, eqx.Module)
    parts = free.parts
    single = len(parts) == 1 and not isinstance(freeze, Networks)
    tree = next(iter(parts.values())) if single and not whole else free
    spec = (lambda leaf: bool(function(leaf))) if whole else freeze
    try:
        held = eqx.partition(tree, spec)[0]
    except (TypeError, ValueError) as error:
        raise OptionError(
            "Gradient: freeze must be a function of an array that returns True or False, or a pytree of True and False "
            f"with the structure of the module (of jn.Networks with {', '.join(parts)} here); {error}"
        ) from error
    leaves, structure = jax.tree.flatten(tree)
    marks = [
        np.full(np.shape(leaf), frozen is not None)
        for leaf, frozen in zip(leaves, structure.flatten_up_to(held), strict=True)
    ]
    return np.concatenate([np.ravel(mark) for mark in marks])


def trainable(free: Networks | None, vector: np.ndarray) -> Any:
    """A tree like `free` of bools from the raveled `vector` (weights,) bool."""
    if free is None:
        return None
    numbers = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf)), free)
    tree = ravel_pytree(numbers)[1](vector.astype(float))  # pyright: ignore[reportArgumentType]
    return jax.tree.map(lambda leaf: np.asarray(leaf) > 0.5, tree)


def modules_without_arrays(binding: Binding) -> dict[str, Any]:
    """The modules of a model without their arrays, by place."""
    density = binding.density
    rest = {
        "structure": density.structural.fn,
        "individual": getattr(density.individual, "fn", None),
        "error": getattr(density.error, "scale", None),
        "effects": getattr(density.effect_distribution, "transformation", None),
    }
    free = binding.start.free
    return {} if free is None else {place: rest[place] for place in free.parts}
