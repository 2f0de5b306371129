"""A digest of a model as it computes: the same for the same declaration and code in another process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxnlme.model.parameters import Covariate, Parameter
from jaxnlme.model.residual_error.base import ErrorParameter

# Globals of a user's function that take part in what it computes; tables and the like only make it.
_COMPUTES = (bool, int, float, complex, str, tuple, list, dict, np.ndarray, np.generic, jax.Array)
_COMPUTES += (types.FunctionType, functools.partial)
# What these hold as `start` is where a fit begins.
_STARTING = (Parameter, Covariate, ErrorParameter)
# Code that is known by its name: of these packages, and of Python itself.
_KNOWN = {"jax", "jaxlib", "numpy", "jaxnlme", "equinox", "jaxtyping", "scipy", "pandas"} | sys.stdlib_module_names


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
    elif isinstance(thing, types.ModuleType) or (isinstance(thing, type) and not _users(thing)):
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
        if (thing.__module__ or "").partition(".")[0] in ("jax", "numpy", "jaxnlme", "equinox"):
            yield f"{thing.__module__}.{thing.__qualname__}"
            return
        cells = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        yield from _pieces([thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells], seen)
        for name in _globals(thing.__code__):
            value = thing.__globals__.get(name)
            computes = isinstance(value, _COMPUTES) or dataclasses.is_dataclass(value) or hasattr(value, "__wrapped__")
            if computes or _users(value if isinstance(value, type) else type(value)):
                yield name
                yield from _pieces(value, seen)
    elif isinstance(thing, type):
        yield thing.__qualname__
        yield from _pieces(_members(thing), seen)
        yield from _pieces([base for base in thing.__bases__ if base is not object], seen)
    elif isinstance(thing, property):
        yield from _pieces([thing.fget], seen)
    elif dataclasses.is_dataclass(thing):
        yield type(thing).__qualname__
        yield from _own_class(thing, seen)
        for field in dataclasses.fields(thing):
            if field.name != "start" or not isinstance(thing, _STARTING):
                yield field.name
                yield from _pieces(getattr(thing, field.name, None), seen)
    elif hasattr(thing, "__wrapped__"):
        yield from _pieces(thing.__wrapped__, seen)
    else:
        yield type(thing).__qualname__
        yield from _own_class(thing, seen)
        if hasattr(thing, "__dict__") and not isinstance(thing, types.BuiltinFunctionType):
            yield from _pieces({k: v for k, v in vars(thing).items() if not _kept(type(thing), k)}, seen)
        else:
            yield getattr(thing, "__qualname__", "")


def _own_class(thing: Any, seen: dict[int, Any]) -> Iterator[str]:
    """The pieces of an object's class where it is the user's: its methods, and the constants that they read."""
    if _users(type(thing)):
        yield from _pieces(type(thing), seen)


def _users(kind: type) -> bool:
    """Whether a class is the user's own."""
    return (kind.__module__ or "").partition(".")[0] not in _KNOWN


def _members(kind: type) -> dict[str, Any]:
    """What a class holds itself and computes with: constants, methods, and of the names with two underscores the
    methods that are written out."""
    out = {}
    for name, value in vars(kind).items():
        special = name.startswith("__") and name.endswith("__")
        generated = isinstance(value, types.FunctionType) and value.__code__.co_filename == "<string>"
        written = isinstance(value, types.FunctionType) and (name == "__call__" or not generated)
        if written or not (special or name == "_abc_impl"):
            out[name] = value
    return out


def _kept(kind: type, name: str) -> bool:
    """Whether an object's entry is a value that a cached property has kept."""
    return any(isinstance(vars(base).get(name), functools.cached_property) for base in kind.__mro__)


def _globals(code: types.CodeType) -> list[str]:
    """Names that a function and those inside it may read from its module."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return sorted({*code.co_names, *(name for c in inner for name in _globals(c))})


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
