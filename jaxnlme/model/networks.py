"""Equinox modules in a model: their arrays, which are trained, apart from the functions that use them."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxnlme.errors import ModelError, some


class Networks(eqx.Module):
    """The free block of Params: the arrays of the Equinox modules of a model, by their place in it.

    **Fields:** each a module with arrays as its only leaves, or None where that place has no module. `structure`: the
    structural model; `individual`: the individual-parameter function; `error`: the scale of the residuals; `effects`:
    the distribution of the random effects.

    **Example:**

    ```python
    networks = jn.Networks(structure={"weight": np.ones(3)})
    networks.parts
    ```
    """

    structure: Any = None
    individual: Any = None
    error: Any = None
    effects: Any = None

    @property
    def parts(self) -> dict[str, Any]:
        """The places that hold a module, with its arrays."""
        return {name: getattr(self, name) for name in PLACES if getattr(self, name) is not None}


# Places of a model that may hold a module, with what a message calls them.
PLACES = {
    "structure": "the structural model",
    "individual": "the individual-parameter function",
    "error": "the scale of the residuals",
    "effects": "the distribution of the random effects",
}


def networks(**parts: Any) -> Networks | None:
    """The Networks of `parts`, None where no place holds a module."""
    return Networks(**parts) if any(part is not None for part in parts.values()) else None


def part_of(free: Networks | None, place: str) -> Any:
    """The arrays of the module at `place`, None where there is none."""
    return None if free is None else getattr(free, place)


def split_module(fn: Any, place: str) -> tuple[Any, Any]:
    """A callable without its arrays, and these (numpy, 64 bits); `fn` itself and None where it is no module, or has
    none.

    **Arguments:** `place`: one of PLACES.
    **Raises:** ModelError for arrays that have no gradient: integers, booleans, complex numbers.
    """
    if not isinstance(fn, eqx.Module):
        return fn, None
    arrays, rest = eqx.partition(fn, eqx.is_array)
    found = jax.tree_util.tree_flatten_with_path(arrays)[0]
    if not found:
        return fn, None
    wrong = [
        f"{jax.tree_util.keystr(path).lstrip('.')} ({leaf.dtype})"
        for path, leaf in found
        if not np.issubdtype(leaf.dtype, np.floating)
    ]
    if wrong:
        raise ModelError(
            f"the Equinox module {type(fn).__name__} in {PLACES[place]} has arrays that cannot be trained: "
            f"{some(wrong)}; only real floating-point arrays have a gradient. Make it a tuple of Python numbers in a "
            "field eqx.field(static=True), or convert it to floats."
        )
    return rest, jax.tree.map(lambda leaf: np.asarray(leaf, float), arrays)


def trained(fn: Any, arrays: Any) -> Any:
    """The user's callable `fn` with other `arrays` in the place of its own (None: `fn` has none)."""
    return fn if arrays is None else eqx.combine(arrays, fn)


def with_arrays(rest: Any, arrays: Any) -> Any:
    """The callable of `split_module` with its arrays again."""
    return rest if arrays is None else eqx.combine(arrays, rest)


def trained_networks(model: Any, density: Any, free: Networks | None) -> Networks | None:
    """The modules of a model with the arrays `free`, by place; None where it has none.

    **Arguments:** `model`: the declaration; `density`: of a group.
    """
    if free is None:
        return None
    modules = {
        "structure": model.structure,
        "individual": model.individual,
        "error": getattr(model.error, "scale", None),
        "effects": getattr(density.effect_distribution, "transformation", None),
    }
    return Networks(**{place: trained(modules[place], arrays) for place, arrays in free.parts.items()})
