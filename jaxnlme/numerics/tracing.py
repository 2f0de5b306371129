"""Properties of a function that follow from its traced program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr


def depends(fn: Callable[..., Any], argument: Any) -> bool:
    """True if an output of `fn(argument)` depends on the values of `argument` according to its traced program."""
    jaxpr = jax.make_jaxpr(fn)(argument).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return any(used)
