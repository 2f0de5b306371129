"""Checks of the arguments of public functions: each ends in one sentence with the argument, what it takes, and what was
received. Traced values (inside a user's jit, vmap or grad) pass where functions accept them."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src.xla_bridge import backends_are_initialized
from jax.core import Tracer

from jaxnlme.errors import OptionError, check_whole_number, near_matches, shown


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
        raise OptionError(f"{name} must be a finite number {bounds}; received {shown(plain_number(value))}.")
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
        raise OptionError(f"{name} must be True or False{also}; received {shown(value)}.")
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
    raise OptionError(f"{name} must be {', '.join(others)} or {last}; received {shown(value)}{advice}")


def check_callables(name: str, value: Any) -> tuple[Callable, ...]:
    """`value`, a list of functions, as a tuple. **Raises:** OptionError for a single function, for anything else that
    is no list, and for entries that cannot be called."""
    if callable(value):
        raise OptionError(f"{name} must be a list of functions; received one function: write {name}=[f].")
    if not isinstance(value, (list, tuple)):
        raise OptionError(f"{name} must be a list of functions; received {shown(value)}.")
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
        raise OptionError(f"{name} must be one name or a list of names of {meaning}; received {shown(value)}.")
    return [str(entry) for entry in listed]


def _is_index(value: Any) -> bool:
    """True for sets, keys of a dictionary, and a pandas Index or Series, which list names as well as a list does."""
    return isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes)) and not is_traced(value)


def check_path(name: str, value: Any) -> Path:
    """`value` as a Path. **Raises:** OptionError where it is not the path of a file."""
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        received = repr(value) if isinstance(value, (str, Path)) else shown(value)
        raise OptionError(f"{name} must be the path of a file; received {received}.")
    return Path(value)


def check_checkpoint(value: Any) -> Path | None:
    """The option `checkpoint` as a Path, None for none. **Raises:** OptionError where there can be no such file."""
    if value is None:
        return None
    path = check_path("checkpoint", value)
    if path.is_dir():
        raise OptionError(f"checkpoint must be the path of a file; {path} is a folder.")
    if not path.parent.is_dir():
        raise OptionError(f"checkpoint: the folder {path.parent} does not exist.")
    return path


class _ThisProcess:
    """Facts on this process: `forked`, it is the fork of one in which JAX had started."""

    forked = False


def _note_fork() -> None:
    _ThisProcess.forked = _ThisProcess.forked or backends_are_initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def check_not_forked(caller: str) -> None:
    """Check that JAX can compute in this process: the threads that it computes with do not survive a fork, and the
    first computation would wait for them forever.

    **Arguments:** `caller`: name of the function, for the message.
    **Raises:** OptionError in the fork of a process in which JAX had started.
    """
    if _ThisProcess.forked:
        raise OptionError(
            f"{caller} cannot run here: this process was forked from one in which JAX had computed, and would wait "
            'forever. Start processes afresh, with multiprocessing.get_context("spawn"), which '
            'ProcessPoolExecutor takes as mp_context, or joblib\'s backend "loky"; or use threads.'
        )


def require_host(caller: str, *values: Any) -> None:
    """Check that a function that works outside compiled programs is not called inside one.

    **Arguments:** `caller`: name of the function, for the message; `values`: its arguments, those that may be traced.
    **Raises:** OptionError inside `jax.jit`, and where a value or an array in it is traced by vmap or grad.
    """
    check_not_forked(caller)
    config: Any = jax.config  # JAX adds its settings at run time
    if config.jax_debug_nans or config.jax_debug_infs:
        warnings.warn(
            f"{caller} switches jax_debug_nans and jax_debug_infs off while it runs: it tries points where a model "
            "need not be finite, and steps back from them. Rows where the model is not finite at the start are named.",
            stacklevel=4,
        )
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
