"""What can be read off a function before it is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr


def depends(fn: Callable[..., Any], argument: Any) -> bool:
    """Whether any output of `fn(argument)` depends on the values of `argument`, as far as its program says."""
    jaxpr = jax.make_jaxpr(fn)(argument).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return any(used)
