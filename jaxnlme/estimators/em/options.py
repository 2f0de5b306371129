"""The options that methods which draw the random effects share, checked."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxnlme.errors import OptionError

LIKELIHOODS = ("is", "gq", "lin", "none")
INFORMATIONS = ("louis", "linearised")
M_STEPS = ("auto", "gradient")


def whole(owner: str, name: str, value: Any, least: int) -> int:
    """A whole number. **Errors:** OptionError where it is none, or below `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise OptionError(f"{owner}: {name} is a whole number, at least {least}; received {value!r}.")
    return int(value)


def common(owner: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that stochastic methods share, checked. **Errors:** OptionError naming the option."""
    words = {"m_step": M_STEPS, "likelihood": LIKELIHOODS, "information": INFORMATIONS}
    for name, known in words.items():
        if given[name] not in known:
            raise OptionError(f"{owner}: {name} must be one of {', '.join(map(repr, known))}; got {given[name]!r}.")
    if not 0 < given["tolerance"] <= 1:
        raise OptionError(
            f"{owner}: tolerance is a share of the standard errors, above 0 and at most 1; got {given['tolerance']!r}."
        )
    out = {name: given[name] for name in words} | {"tolerance": float(given["tolerance"])}
    out["seed"] = seed_of(owner, given["seed"])
    least = {"burn_in": 0, "replicates": 1, "draws": 2, "max_iterations": 1}
    out |= {name: whole(owner, name, given[name], low) for name, low in least.items()}
    out["nodes"] = None if given["nodes"] is None else whole(owner, "nodes", given["nodes"], 1)
    return out


def seed_of(owner: str, seed: Any) -> int | tuple[int, ...]:
    """A seed, or a JAX key as the numbers that it is made of.

    **Errors:** OptionError.
    """
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        return int(seed)
    if isinstance(seed, (jax.Array, np.ndarray)):
        typed = isinstance(seed, jax.Array) and jax.numpy.issubdtype(seed.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(seed) if typed else seed)
        if data.shape == (2,) and data.dtype == np.uint32:
            return tuple(int(part) for part in data)
    raise OptionError(f"{owner}: seed is a whole number or a JAX key; received {seed!r}.")
