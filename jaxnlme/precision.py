"""64-bit floats: doors open a scoped context, pure functions check and say which line to add."""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax

from jaxnlme.errors import PrecisionError


def x64() -> AbstractContextManager:
    """The scoped 64-bit context that the doors (`fit`, the command line) compute in; nothing global changes."""
    return jax.enable_x64(True)


def require_x64(what: str) -> None:
    """Checks that 64-bit floats are on, for pure functions that run inside a user's own jit.

    **Errors:** PrecisionError with the line to add: without it JAX turns float64 input into float32 silently.
    """
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise PrecisionError(
            f"{what} needs 64-bit floats, and they are off in this session. Add\n"
            '    jax.config.update("jax_enable_x64", True)\n'
            "before the first JAX computation, or call it inside `with jax.enable_x64(True):`."
        )
