"""The user's structural model: f(phi, x, v) of one group, split into a function and its array leaves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from jaxnlme.errors import ModelError, UnknownNameError
from jaxnlme.records import Record


class Structural(eqx.Module):
    """The structural model. The array leaves of a callable Equinox module are not part of it, but the free block of
    Params.

    **Fields:** `fn`: the user's function (or a module without its arrays); `arity`: 3 for f(phi, x, v), 2 for f(phi,
    x).
    """

    fn: Any = eqx.field(static=True)
    arity: int = eqx.field(static=True)

    def __call__(self, free: Any, phi: Record, x: Record, v: Record) -> Any:
        """Predictions (obs,), or another value that the residual model takes.

        **Arguments:** `free`: array leaves of a module, else None; `phi`: individual parameters on the natural scale;
        `x`: predictors (obs,); `v`: group-level predictors.
        """
        fn = self.fn if free is None else eqx.combine(free, self.fn)
        try:
            return fn(phi, x, v) if self.arity == 3 else fn(phi, x)
        except UnknownNameError as error:
            where = _record_of(error, {"phi": phi, "x": x, "v": v})
            if not where:
                raise
            order = "f(phi, x, v)" if self.arity == 3 else "f(phi, x)"
            raise UnknownNameError(
                f"{error} It is in {where}: the arguments of the model function come in the order {order}.",
                *error.args[1:],
            ) from error


def _record_of(error: UnknownNameError, records: dict[str, Record]) -> str:
    """The argument that has the name which `error` did not find in another one; empty if none has it."""
    return next((label for label, record in records.items() if {*error.args[1:]} & {*record.names}), "")


def structural(fn: Callable) -> tuple[Structural, Any]:
    """The Structural of a user's callable `fn`, and its free block (None for a function, or a module without arrays).

    **Raises:** ModelError where `fn` is not callable or does not take (phi, x, v) or (phi, x).
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
        if jax.tree.leaves(arrays):
            return Structural(rest, arity), arrays
    return Structural(fn, arity), None
