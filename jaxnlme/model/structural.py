"""The user's structural model: f(phi, x, v) of one group, split into a function and its array leaves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx

from jaxnlme.errors import ModelError
from jaxnlme.records import Record


class Structural(eqx.Module):
    """Calls the user's function with the arguments it takes; array leaves of a callable Equinox module live outside,
    in the free block of Params.

    `fn`: the function (or a module without its arrays); `arity`: 3 for f(phi, x, v), 2 for f(phi, x).
    """

    fn: Any = eqx.field(static=True)
    arity: int = eqx.field(static=True)

    def __call__(self, free: Any, phi: Record, x: Record, v: Record) -> Any:
        """Predictions (obs,), or whatever the residual model reads."""
        fn = self.fn if free is None else eqx.combine(free, self.fn)
        return fn(phi, x, v) if self.arity == 3 else fn(phi, x)


def structural(fn: Callable) -> tuple[Structural, Any]:
    """The structural part of a user's callable and its free block (None for a plain function).

    **Errors:** ModelError where `fn` is not callable or does not take (phi, x, v) or (phi, x).
    """
    if not callable(fn):
        raise ModelError(f"the structural model must be a function f(phi, x, v); received {type(fn).__name__}.")
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        signature = None
    arity = 3
    if signature is not None:
        for candidate in (3, 2):
            try:
                signature.bind(*(None,) * candidate)
            except TypeError:
                continue
            arity = candidate
            break
        else:
            raise ModelError(
                f"the structural model must take (phi, x, v), or (phi, x); {getattr(fn, '__name__', 'it')} takes "
                f"{signature}."
            )
    if isinstance(fn, eqx.Module):
        arrays, rest = eqx.partition(fn, eqx.is_inexact_array)
        return Structural(rest, arity), arrays
    return Structural(fn, arity), None
