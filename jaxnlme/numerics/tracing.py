"""Properties of a function that follow from its traced program, and lines of the user's code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr

# Stack frames of this package are recognised by the full path of its folder: users may have folders called jaxnlme.
_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
_LIBRARIES = ("/jax/", "/equinox/", "/numpy/", "/diffrax/", "<frozen", _PACKAGE)


def depends(fn: Callable[..., Any], argument: Any) -> bool:
    """True if an output of `fn(argument)` depends on the values of `argument` according to its traced program."""
    jaxpr = jax.make_jaxpr(fn)(argument).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return any(used)


def is_users_file(name: str) -> bool:
    """True if a stack frame in the file `name` is of the user's code, not of JAX, its libraries or this package."""
    return not any(part in name for part in _LIBRARIES)
