"""modelfun(phi, xfun, vfun) as in MATLAB's calls, wrapped as the structural model f(phi, x, v) of one group."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError
from jaxnlme.frontends.matlab.data import TABLE, VALUE


@dataclasses.dataclass(frozen=True)
class ModelFunction:
    """The structural model f(phi, x, v) of one group that calls `fn`, the user's modelfun.

    `by_row`: True to call it once for every observation, xfun (1, H) and phi (P,) ('SinglePhi'); False to call it once
    with the rows of the group, xfun (n, H) and phi (P,), or (n, P) where a design varies by observation. `shapes`: the
    shapes of vfun. Instances with equal fields are equal, so that their fits share compiled programs.
    """

    fn: Callable
    by_row: bool
    shapes: tuple[tuple[int, ...], ...]

    @property
    def __name__(self) -> str:
        """The name shown in summaries."""
        return getattr(self.fn, "__name__", type(self.fn).__name__)

    def __call__(self, phi: Any, x: Any, v: Any) -> Any:
        """Predictions (obs,)."""
        xfun = jnp.stack(tuple(x.values), axis=-1)
        entries, rows = tuple(phi.values), xfun.shape[0]
        varying = any(jnp.ndim(entry) for entry in entries)
        if varying:
            entries = tuple(jnp.broadcast_to(entry, (rows,)) for entry in entries)
        vector = jnp.stack(entries, axis=-1)
        call = self._each_row if self.by_row else self._rows
        if not self.shapes:
            return call(vector, xfun, varying, ())
        shape_number, offset, out = v[TABLE][VALUE][0], 1, None
        for number, shape in enumerate(self.shapes):
            size = int(np.prod(shape))
            vfun = v[TABLE][VALUE][offset : offset + size].reshape(shape)
            offset += size
            predictions = call(vector, xfun, varying, (vfun,))
            out = predictions if out is None else jnp.where(shape_number == number, predictions, out)
        return out

    def _each_row(self, phi: Any, xfun: Any, varying: bool, vfun: tuple[Any, ...]) -> Any:
        def per_row(phi, row):
            out = self._evaluate(phi, row[None, :], vfun)
            if out.size != 1:
                raise ModelError(
                    f"modelfun returned shape {out.shape} for one observation (Vectorization 'SinglePhi': phi "
                    f"({phi.shape[0]},), xfun (1, {row.shape[0]})); expected one number."
                )
            return out.reshape(())

        return jax.vmap(per_row, in_axes=(0 if varying else None, 0))(phi, xfun)

    def _evaluate(self, phi: Any, xfun: Any, vfun: tuple[Any, ...]) -> Any:
        try:
            out = self.fn(phi, xfun, *vfun)
        except IndexError as error:
            if phi.ndim != 1 or "many indices" not in str(error):
                raise
            shapes = "".join(f", vfun {entry.shape}" for entry in vfun)
            raise ModelError(
                f"modelfun indexes an array by more axes than it has ({str(error).rstrip('.')}): phi is "
                f"({phi.shape[0]},) in each call here, so write phi[0], or phi[..., 0], not phi[:, 0]; xfun is "
                f"{xfun.shape}{shapes}."
            ) from error
        except AttributeError as error:
            if "Tracer has no attribute" not in str(error):
                raise
            name = str(error).split()[-1].strip("'.")
            raise ModelError(
                f"modelfun reads an attribute {name!r}, and phi, xfun and vfun are arrays without names here: write "
                f"phi[0] for the first parameter and xfun[:, 0] for the first predictor (jn.fit has phi.{name})."
            ) from error
        if out is None:
            raise ModelError("modelfun returned None; expected numbers: it may lack a `return`.")
        return jnp.asarray(out)

    def _rows(self, phi: Any, xfun: Any, varying: bool, vfun: tuple[Any, ...]) -> Any:
        out, rows = self._evaluate(phi, xfun, vfun), xfun.shape[0]
        if out.size == 1:
            return jnp.broadcast_to(out.reshape(()), (rows,))
        if out.shape not in ((rows,), (rows, 1)):
            raise ModelError(
                f"modelfun returned shape {out.shape} for the {rows} rows of a group (phi {phi.shape}, xfun "
                f"{xfun.shape}); expected ({rows},)."
            )
        return out.reshape(rows)


def model_function(fn: Any, vectorization: str, shapes: tuple[tuple[int, ...], ...]) -> ModelFunction:
    """The structural model that calls `fn` as Vectorization asks.

    **Arguments:** `fn`: modelfun; `vectorization`: "SinglePhi", "SingleGroup" or "Full"; `shapes`: the distinct shapes
    of the groups' arrays in V, () without V.
    **Returns:** a ModelFunction.
    **Raises:** ModelError where `fn` is not a function of (phi, xfun), or of (phi, xfun, vfun) with V.
    """
    arguments = "(phi, xfun, vfun)" if shapes else "(phi, xfun)"
    reason = "" if shapes else ", because V is empty"
    if not callable(fn):
        raise ModelError(f"modelfun must be a function of {arguments}; received {type(fn).__name__}.")
    try:
        hash(fn)
        signature = inspect.signature(fn)
    except TypeError:
        raise ModelError("modelfun must be hashable, a plain function; for a module with weights use jn.fit.") from None
    except ValueError:
        signature = None
    if signature is not None:
        try:
            signature.bind(*(None,) * (3 if shapes else 2))
        except TypeError:
            name = getattr(fn, "__name__", "it")
            raise ModelError(f"modelfun must take {arguments}{reason}; {name} takes {signature}.") from None
    return ModelFunction(fn, vectorization == "SinglePhi", shapes)
