"""The user's structural model: f(phi, x, v) of one group, split into a function and its array leaves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.errors import ModelError
from jaxnlme.numerics.jets import Jet, count_partials, jet
from jaxnlme.records import Record

# Where a jet has more partial derivatives than this, differentiating the model itself is cheaper.
MOST_PARTIALS = 36


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

    def around(self, free: Any, phi: Record, x: Record, v: Record, order: int) -> LocalStructural | None:
        """The model's jet at `phi`, up to `order`; None where an entry of phi is no scalar (a parameter that varies
        within the group moves predictions in more ways than one) or where there are too many entries."""
        scalars = all(jnp.ndim(value) == 0 and jnp.issubdtype(jnp.result_type(value), jnp.inexact) for value in phi)
        if not scalars or count_partials(len(phi), order) > MOST_PARTIALS:
            return None
        return LocalStructural(
            jet(lambda *values: self(free, Record(phi.names, values, phi.what), x, v), phi.values, order)
        )


class LocalStructural(eqx.Module):
    """A structural model known by its derivatives at one phi: what it says there, and nowhere else, is the model's."""

    jet: Jet

    def __call__(self, free: Any, phi: Record, x: Record, v: Record) -> Any:
        return self.jet(*phi.values)


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
