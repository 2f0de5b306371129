"""The user's structural model: f(phi, x, v) of one group, split into a function and its array leaves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.data._endpoints import endpoint_label
from jaxnlme.errors import ModelError, UnknownNameError, near_matches, some
from jaxnlme.model.networks import part_of, split_module, with_arrays
from jaxnlme.model.solver_models import solver_program, solves_differential_equations
from jaxnlme.records import Record


class Structural(eqx.Module):
    """The structural model. The array leaves of a callable Equinox module are not part of it, but the free block of
    Params.

    **Fields:** `fn`: the user's function (or a module without its arrays); `arity`: 3 for f(phi, x, v), 2 for f(phi,
    x); `endpoints`: labels of the endpoints of a model with a residual model for each.
    """

    fn: Any = eqx.field(static=True)
    arity: int = eqx.field(static=True)
    endpoints: tuple[str, ...] = eqx.field(static=True, default=())

    def __call__(self, free: Any, phi: Record, x: Record, v: Record) -> Any:
        """Predictions (obs,), or another value that the residual model takes.

        **Arguments:** `free`: the free block of Params; `phi`: individual parameters on the natural scale;
        `x`: predictors (obs,); `v`: group-level predictors.
        """
        try:
            program = solver_program(self._call, self.fn, (free, phi, x, v))
            f = self._call(free, phi, x, v) if program is None else program(free, phi, x, v)
        except UnknownNameError as error:
            where = _record_of(error, {"phi": phi, "x": x, "v": v})
            if not where:
                raise
            order = "f(phi, x, v)" if self.arity == 3 else "f(phi, x)"
            raise UnknownNameError(
                f"{error} It is in {where}: the arguments of the model function come in the order {order}.",
                *error.args[1:],
            ) from error
        return by_row(f, self.endpoints, x) if self.endpoints and isinstance(f, Mapping) else f

    def calls_solver(self, free: Any, phi: Record, x: Record, v: Record) -> bool:
        """True if the function calls a solver of differential equations (`solver_models.py`)."""
        return solver_program(self._call, self.fn, (free, phi, x, v)) is not None

    def solves_equations(self, free: Any, phi: Record, x: Record, v: Record) -> bool:
        """True if a row of predictions is the end of hundreds of steps: the function solves differential equations."""
        return solves_differential_equations(self._call, self.fn, (free, phi, x, v))

    def _call(self, free: Any, phi: Record, x: Record, v: Record) -> Any:
        fn = with_arrays(self.fn, part_of(free, "structure"))
        return fn(phi, x, v) if self.arity == 3 else fn(phi, x)


def _record_of(error: UnknownNameError, records: dict[str, Record]) -> str:
    """The argument that has the name which `error` did not find in another one; empty if none has it."""
    return next((label for label, record in records.items() if {*error.args[1:]} & {*record.names}), "")


def structural(fn: Callable) -> tuple[Structural, Any]:
    """The Structural of a user's callable `fn`, and its arrays (None for a function, or a module without arrays).

    **Raises:** ModelError where `fn` is not callable, does not take (phi, x, v) or (phi, x), or has arrays that cannot
    be trained.
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
    rest, arrays = split_module(fn, "structure")
    return Structural(rest, arity), arrays


def by_row(predictions: Mapping[Any, Any], labels: tuple[str, ...], x: Any) -> Any:
    """Predictions (obs,) in which each row has that of its endpoint, from a dictionary by endpoint; where one of them
    is no (obs,) array (a hazard with its integral, say), a dictionary by label.

    **Raises:** ModelError where an endpoint is missing, or a label is not one.
    """
    given = {endpoint_label(key): value for key, value in predictions.items()}
    if missing := [label for label in labels if label not in given]:
        raise ModelError(
            f"the structural model returned a dictionary without {some([repr(m) for m in missing])}; expected a "
            f"prediction for each endpoint of error=: {some(labels, len(labels))}."
        )
    if unknown := [str(key) for key in predictions if endpoint_label(key) not in labels]:
        raise ModelError(
            f"the structural model returned a prediction for {unknown[0]!r}, which is no endpoint of error=; "
            f"{near_matches(unknown[0], labels)}"
        )
    shape = x.mask.shape
    values = [given[label] for label in labels]
    if any(
        not isinstance(value, (int, float)) and getattr(value, "shape", None) not in (shape, ()) for value in values
    ):
        return dict(zip(labels, values, strict=True))
    out = jnp.broadcast_to(values[0], shape)
    for k, value in enumerate(values[1:], 1):
        out = jnp.where(x.endpoints == k, value, out)
    return out
