"""A digest of a model as it computes: the same for the same declaration and code in another process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

# Globals of a user's function that take part in what it computes; tables and the like only make it.
_COMPUTES = (bool, int, float, complex, str, tuple, list, dict, np.ndarray, np.generic, jax.Array)
_COMPUTES += (types.FunctionType, functools.partial)


def digest(thing: Any) -> str:
    """SHA-256 (hex) of a model's parts: numbers, names, and the code of functions with the user's functions and
    constants that they read. Starting values do not count."""
    state = hashlib.sha256()
    for piece in _pieces(thing, {}):
        state.update(piece.encode() + b"\x1f")
    return state.hexdigest()


def _pieces(thing: Any, seen: dict[int, Any]) -> Iterator[str]:
    """What a thing is made of, as text, depth first."""
    if isinstance(thing, (np.ndarray, np.generic, jax.Array)):
        values = np.asarray(thing)
        yield f"{values.dtype}{values.shape}{hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()}"
    elif thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
        yield repr(thing)
    elif isinstance(thing, (tuple, list)):
        yield f"{len(thing)} of"
        for entry in thing:
            yield from _pieces(entry, seen)
    elif isinstance(thing, (set, frozenset)):
        yield from sorted(map(repr, thing))
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield repr(key)
            yield from _pieces(value, seen)
    elif isinstance(thing, types.CodeType):
        yield thing.co_code.hex()
        yield from _pieces([thing.co_names, thing.co_varnames, thing.co_consts], seen)
    elif id(thing) in seen:
        yield "again"
    elif isinstance(thing, (type, types.ModuleType)):
        yield thing.__name__
    else:
        seen[id(thing)] = thing  # kept alive: the id of a thing that is gone may be another's
        yield from _parts(thing, seen)


def _parts(thing: Any, seen: dict[int, Any]) -> Iterator[str]:
    """The pieces of functions and objects."""
    if isinstance(thing, types.MethodType):
        yield from _pieces([thing.__func__, thing.__self__], seen)
    elif isinstance(thing, functools.partial):
        yield from _pieces([thing.func, thing.args, thing.keywords], seen)
    elif isinstance(thing, types.FunctionType):
        module = thing.__module__ or ""
        if module.partition(".")[0] in ("jax", "numpy", "jaxnlme", "equinox"):
            yield f"{module}.{thing.__qualname__}"
            return
        cells = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        yield from _pieces([thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells], seen)
        for name in _globals(thing.__code__):
            value = thing.__globals__.get(name)
            if isinstance(value, _COMPUTES) or dataclasses.is_dataclass(value) or hasattr(value, "__wrapped__"):
                yield name
                yield from _pieces(value, seen)
    elif dataclasses.is_dataclass(thing):
        yield type(thing).__qualname__
        for field in dataclasses.fields(thing):
            if field.name != "start":
                yield field.name
                yield from _pieces(getattr(thing, field.name, None), seen)
    elif hasattr(thing, "__wrapped__"):
        yield from _pieces(thing.__wrapped__, seen)
    else:
        yield type(thing).__qualname__
        if hasattr(thing, "__dict__") and not isinstance(thing, types.BuiltinFunctionType):
            yield from _pieces({k: v for k, v in vars(thing).items() if not k.startswith("_")}, seen)
        else:
            yield getattr(thing, "__qualname__", "")


def _globals(code: types.CodeType) -> list[str]:
    """Names that a function and those inside it may read from its module."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return sorted({*code.co_names, *(name for c in inner for name in _globals(c))})


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
