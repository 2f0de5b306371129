"""The user's functions of parameters: their arguments, calls, and the names of what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.explanations import TRACER_ERRORS, explained_user_code
from jaxnlme.errors import ModelError, OptionError, shown
from jaxnlme.records import Record
from jaxnlme.results.derived_inputs import Values


def named_functions(fn: Any, with_rows: bool) -> dict[str, Callable[[Values, Record], Any]]:
    """The functions of (p, x) by the names of what they derive, from one function or a dictionary of functions.

    **Arguments:** `with_rows`: there is a table `at`, whose columns a function with two arguments receives.
    **Raises:** OptionError for what is no function, and for one that takes other arguments.
    """
    if isinstance(fn, Mapping):
        if not fn:
            raise OptionError("fn is an empty dictionary; give a function for each name.")
        functions = {str(name): entry for name, entry in fn.items()}
    else:
        name = getattr(fn, "__name__", "value")
        functions = {"value" if name == "<lambda>" else name: fn}
    return {name: _of_two(name, entry, with_rows) for name, entry in functions.items()}


def _of_two(name: str, fn: Any, with_rows: bool) -> Callable[[Values, Record], Any]:
    """`fn` as a function of (p, x)."""
    if not callable(fn):
        raise OptionError(
            f"fn must be a function of p, the record of parameter values, or a dictionary of such functions; received "
            f"{shown(fn)} for {name!r}."
        )
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return lambda p, x: fn(p)
    for count in (2, 1) if with_rows else (1, 2):
        try:
            signature.bind(*(None,) * count)
        except TypeError:
            continue
        if count == 2 and not with_rows:
            raise OptionError(
                f"the function of {name!r} takes two arguments, p and a row of `at`: give at=, a table of covariates."
            )
        return fn if count == 2 else lambda p, x: fn(p)
    raise OptionError(f"the function of {name!r} must take p, or (p, x) with at=; it takes {signature}.")


def flat_outputs(name: str, output: Any) -> list[tuple[str, Any]]:
    """The numbers that a user's function returned, as pairs of label and scalar: `name` for a number, "name[k]" for the
    entries of an array, keys for a dictionary or record ("name: key" beside other functions).

    **Raises:** ModelError for what holds no real numbers.
    """
    if isinstance(output, (Mapping, Record)):
        listed = [(str(key), output[key]) for key in output.keys()]  # noqa: SIM118
        return [pair for key, value in listed for pair in flat_outputs(f"{name}: {key}" if name else key, value)]
    if isinstance(output, (list, tuple)) and any(isinstance(entry, (Mapping, Record, list, tuple)) for entry in output):
        return [pair for k, entry in enumerate(output) for pair in flat_outputs(f"{name}[{k}]", entry)]
    try:
        array = jnp.asarray(output)
    except TRACER_ERRORS:
        raise
    except (TypeError, ValueError):
        array = None
    if array is None or not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise ModelError(
            f"the function of {name or 'the derived value'!r} must return a number, an array, or a dictionary of them; "
            f"it returned {shown(output) if array is None else f'an array of {array.dtype}'}."
        )
    array = array.astype(float)
    if not array.ndim:
        return [(name, array)]
    cells = list(np.ndindex(*array.shape))
    return [(f"{name}[{', '.join(map(str, cell))}]", array[cell]) for cell in cells]


def call_user(subject: str, fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(*args)`, in which errors of JAX that the user's code causes become a ModelError with the line and the remedy;
    `subject`: what the code is, for the message."""
    try:
        with explained_user_code(subject):
            return fn(*args)
    except (TypeError, ModelError) as error:
        if "string indexing" not in f"{error}{error.__cause__}":
            raise
        raise ModelError(
            f"{subject} reads an array by a name. p.psi is the matrix of all random effects, in the order of fit.psi: "
            "read p.psi[0, 1], or a standard deviation or correlation by its name, p['sd(cl|Occasion)']."
        ) from error
