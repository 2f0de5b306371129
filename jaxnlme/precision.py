"""64-bit floats: entry points open a scoped context; pure functions check, and name the line to add."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import jax

from jaxnlme.arguments import check_not_forked
from jaxnlme.errors import PrecisionError


def x64() -> AbstractContextManager:
    """The scoped 64-bit context in which entry points (`fit`, the command line) compute, with
    jax_debug_nans and jax_debug_infs off; no global setting changes."""
    config: Any = jax.config  # JAX adds its settings at run time
    if config.jax_debug_nans or config.jax_debug_infs:
        return _without_debugging()
    return jax.enable_x64(True)


@contextmanager
def _without_debugging() -> Iterator[None]:
    with jax.enable_x64(True), jax.debug_nans(False), jax.debug_infs(False):
        yield


def require_x64(caller: str) -> None:
    """Check that 64-bit floats are on, for pure functions that run inside a user's own jit.

    **Arguments:** `caller`: name of the function, for the message.
    **Raises:** PrecisionError with the line to add: without 64-bit floats JAX converts float64 input to float32 without
    a warning.
    """
    check_not_forked(caller)
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise PrecisionError(
            f"{caller} needs 64-bit floats, and they are off in this session. Add\n"
            '    jax.config.update("jax_enable_x64", True)\n'
            "before the first JAX computation, or call it inside `with jax.enable_x64(True):`."
        )
