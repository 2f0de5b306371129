"""Checks of the arguments of public functions: each ends in one sentence with the argument, what it takes, and what was
received. Traced values (inside a user's jit, vmap or grad) pass where functions accept them."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxnlme.errors import OptionError, check_whole_number, near_matches


def is_traced(value: Any) -> bool:
    """True for a tracer, the value of an argument of a function that JAX transforms."""
    return isinstance(value, Tracer)


def plain_number(value: Any) -> Any:
    """The entry of an array of shape () that is not traced; other values unchanged."""
    if isinstance(value, (np.ndarray, jax.Array)) and not is_traced(value) and value.shape == ():
        return value.item()
    return value


def check_number(name: str, value: Any, least: float, most: float = math.inf, *, above: bool = False) -> Any:
    """`value` as a float; a traced one unchanged.

    **Arguments:** `name` of the option; `least`, `most`: its bounds; `above`: `least` itself is not allowed.
    **Raises:** OptionError where it is not a finite number within the bounds.
    """
    if is_traced(value):
        return value
    real = real_number(value)
    if real is None or not (least < real if above else least <= real) or real > most:
        bounds = f"{'>' if above else '>='} {least:g}" + ("" if math.isinf(most) else f" and <= {most:g}")
        raise OptionError(f"{name} must be a finite number {bounds}; received {plain_number(value)!r}.")
    return real


def real_number(value: Any) -> float | None:
    """`value` as a float, also from an array of shape (); None for what is no finite real number."""
    plain: Any = plain_number(value)
    if isinstance(plain, (bool, np.bool_)) or not isinstance(plain, numbers.Real):
        return None
    return float(plain) if math.isfinite(plain) else None


def positive_number(value: Any) -> bool:
    """True for a finite real number above zero, also as an array of shape ()."""
    real = real_number(value)
    return real is not None and real > 0.0


def number_or_given(value: Any) -> Any:
    """`value` as an array of floats; unchanged where it is none, so that the check of the object it belongs to can name
    it (the converter of a field does not know the object)."""
    if isinstance(value, (bool, np.bool_, str)):
        return value
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError):
        return value


def check_keywords(cls: type, options: Mapping[str, Any]) -> None:
    """Check the names of the `options` of a public dataclass. **Raises:** OptionError for one that is no field of
    `cls`."""
    names = [field.name for field in dataclasses.fields(cls)]
    for name in options:
        if name not in names:
            raise OptionError(
                f"jn.{cls.__name__} has no option {name!r}; {near_matches(name, names)} It takes {', '.join(names)}."
            )


def check_count(name: str, value: Any, least: int) -> Any:
    """`value` if it is a whole number >= `least`, also as an array of shape (), or traced.

    **Raises:** OptionError for others.
    """
    if not is_traced(value):
        check_whole_number(name, plain_number(value), least)
    return value


def check_flag(name: str, value: Any, *, none: str = "") -> Any:
    """`value` as a bool. **Arguments:** `none`: what None means, where it is accepted. **Raises:** OptionError for
    anything but True and False."""
    if none and value is None:
        return None
    if not isinstance(value, (bool, np.bool_)):
        also = f", or None ({none})" if none else ""
        raise OptionError(f"{name} must be True or False{also}; received {value!r}.")
    return bool(value)


def check_progress(value: Any) -> bool | None:
    """The option `progress`. **Raises:** OptionError for anything but True, False and None."""
    return check_flag("progress", value, none="shown in a terminal or notebook after two seconds")


def check_choice(name: str, value: Any, choices: Sequence[str | None]) -> Any:
    """`value` if it is one of `choices`. **Raises:** OptionError with the choices, and those of similar spelling."""
    if (value is None or isinstance(value, str)) and value in choices:
        return value
    *others, last = (repr(choice) for choice in choices)
    near = near_matches(value, [choice for choice in choices if choice]) if isinstance(value, str) else ""
    advice = f"; {near}" if near.startswith("did") else "."
    raise OptionError(f"{name} must be {', '.join(others)} or {last}; received {value!r}{advice}")


def check_callables(name: str, value: Any) -> tuple[Callable, ...]:
    """`value`, a list of functions, as a tuple. **Raises:** OptionError for a single function, for anything else that
    is no list, and for entries that cannot be called."""
    if callable(value):
        raise OptionError(f"{name} must be a list of functions; received one function: write {name}=[f].")
    if not isinstance(value, (list, tuple)):
        raise OptionError(f"{name} must be a list of functions; received {value!r}.")
    for entry in value:
        if not callable(entry):
            raise OptionError(f"{name} must be a list of functions; it holds {entry!r}, which cannot be called.")
    return tuple(value)


def check_names(name: str, value: Any, meaning: str) -> list[str]:
    """`value`, one name or a list of names, as a list. **Arguments:** `meaning`: what is named, for the message.
    **Raises:** OptionError for anything else."""
    if isinstance(value, str):
        return [value]
    listed = list(value) if isinstance(value, (list, tuple, np.ndarray)) or _is_index(value) else None
    if listed is None or not all(isinstance(entry, str) for entry in listed):
        raise OptionError(f"{name} must be one name or a list of names of {meaning}; received {value!r}.")
    return [str(entry) for entry in listed]


def _is_index(value: Any) -> bool:
    """True for sets, keys of a dictionary, and a pandas Index or Series, which list names as well as a list does."""
    return isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes)) and not is_traced(value)


def check_path(name: str, value: Any) -> Path:
    """`value` as a Path. **Raises:** OptionError where it is not the path of a file."""
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise OptionError(f"{name} must be the path of a file; received {value!r}.")
    return Path(value)


def require_host(caller: str, *values: Any) -> None:
    """Check that a function that works outside compiled programs is not called inside one.

    **Arguments:** `caller`: name of the function, for the message; `values`: its arguments, those that may be traced.
    **Raises:** OptionError inside `jax.jit`, and where a value or an array in it is traced by vmap or grad.
    """
    # Inside jit every operation is traced, also that of constants; a transfer compiles no program outside.
    if is_traced(jax.device_put(np.float32(0.0))) or any(map(is_traced, _leaves(values))):
        raise OptionError(
            f"{caller} runs on the host, in Python, and cannot be called inside jax.jit, jax.vmap or jax.grad, nor "
            "with values that they trace. Inside JAX programs use jn.estimate to fit and jn.log_likelihood for the "
            "likelihood, both pure functions; jn.fit_many fits many sets of responses."
        )


def _leaves(value: Any) -> Iterator[Any]:
    """The leaves of a pytree, of the fields of a dataclass, and of the variables that a function encloses."""
    for leaf in jax.tree.leaves(value):
        if is_traced(leaf):
            yield leaf
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            for field in dataclasses.fields(leaf):
                yield from _leaves(getattr(leaf, field.name, None))
        else:
            for cell in getattr(leaf, "__closure__", None) or ():
                try:
                    yield from jax.tree.leaves(cell.cell_contents)
                except ValueError:  # a variable that has no value yet
                    continue
