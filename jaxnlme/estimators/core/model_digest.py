"""Digest of a model: equal in two processes if declaration, code and constants are equal."""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.model.parameters import Covariate, Parameter
from jaxnlme.model.residual_error.base import ErrorParameter

# Types of globals of a user's function that enter its values; others (such as tables) only serve to define it.
_ENTERS_VALUES = (bool, int, float, complex, str, tuple, list, dict, np.ndarray, np.generic, jax.Array)
_ENTERS_VALUES += (types.FunctionType, functools.partial)
# Types whose field `start` is a starting value, which the digest leaves out.
_WITH_START = (Parameter, Covariate, ErrorParameter)
# Packages, besides Python itself, whose code is identified by its name.
_LIBRARIES = {"jax", "jaxlib", "numpy", "jaxnlme", "equinox", "jaxtyping", "scipy", "pandas"} | sys.stdlib_module_names

# Instructions that may read a variable of the module.
_READS_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}

# Flag of code objects from Python 3.13 on, before which the first constant was reserved for the docstring.
_CODE_HAS_DOCSTRING = 0x4000000


def digest(thing: Any) -> str:
    """SHA-256 (hex) of a model's parts.

    Included are numbers, names, and the code of functions with the user's functions and constants that they read;
    starting values are left out.

    **Arguments:** `thing`: any object, such as a list of a density and of settings.
    """
    state = hashlib.sha256()
    for piece in _pieces(thing, {}):
        state.update(piece.encode() + b"\x1f")
    return state.hexdigest()


def binding_digest(binding: Binding) -> str:
    """The `digest` of a model met with data: its density, the names and fixed entries of its packed parameters, and the
    values that it holds fixed."""
    held = [dict(binding.held)] if binding.held else []
    return digest([binding.density, binding.packed_names, binding.fixed.tolist(), *held])


def _pieces(thing: Any, visited: dict[int, Any]) -> Iterator[str]:
    """The parts of a thing as text, depth first; `visited`: objects visited already, by id."""
    if isinstance(thing, (np.ndarray, np.generic, jax.Array)):
        values = np.asarray(thing)
        yield f"{values.dtype}{values.shape}{hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()}"
    elif thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
        yield repr(thing)
    elif isinstance(thing, (tuple, list)):
        yield f"{len(thing)} of"
        for entry in thing:
            yield from _pieces(entry, visited)
    elif isinstance(thing, (set, frozenset)):
        yield from sorted(map(repr, thing))
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield repr(key)
            yield from _pieces(value, visited)
    elif isinstance(thing, types.CodeType):
        yield thing.co_code.hex()
        constants = thing.co_consts[1:] if _has_docstring(thing) else thing.co_consts
        yield from _pieces([thing.co_names, thing.co_varnames, constants], visited)
    elif id(thing) in visited:
        yield "again"
    elif isinstance(thing, types.ModuleType) or (isinstance(thing, type) and not _is_users(thing)):
        yield thing.__name__
    else:
        visited[id(thing)] = thing  # kept alive: the id of a thing that is gone may be another's
        yield from _parts(thing, visited)


def _parts(thing: Any, visited: dict[int, Any]) -> Iterator[str]:
    """The pieces of functions and objects."""
    if isinstance(thing, types.MethodType):
        yield from _pieces([thing.__func__, thing.__self__], visited)
    elif isinstance(thing, functools.partial):
        yield from _pieces([thing.func, thing.args, thing.keywords], visited)
    elif isinstance(thing, types.FunctionType):
        if (thing.__module__ or "").partition(".")[0] in ("jax", "numpy", "jaxnlme", "equinox"):
            yield f"{thing.__module__}.{thing.__qualname__}"
            return
        cells = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        yield from _pieces([thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells], visited)
        for name in _globals(thing.__code__):
            value = thing.__globals__.get(name)
            enters_values = (
                isinstance(value, _ENTERS_VALUES) or dataclasses.is_dataclass(value) or hasattr(value, "__wrapped__")
            )
            if enters_values or _is_users(value if isinstance(value, type) else type(value)):
                yield name
                yield from _pieces(value, visited)
    elif isinstance(thing, type):
        yield thing.__qualname__
        yield from _pieces(_members(thing), visited)
        yield from _pieces([base for base in thing.__bases__ if base is not object], visited)
    elif isinstance(thing, property):
        yield from _pieces([thing.fget], visited)
    elif dataclasses.is_dataclass(thing):
        yield type(thing).__qualname__
        yield from _users_class(thing, visited)
        for field in dataclasses.fields(thing):
            if field.name != "start" or not isinstance(thing, _WITH_START):
                yield field.name
                yield from _pieces(getattr(thing, field.name, None), visited)
    elif hasattr(thing, "__wrapped__"):
        yield from _pieces(thing.__wrapped__, visited)
    else:
        yield type(thing).__qualname__
        yield from _users_class(thing, visited)
        if hasattr(thing, "__dict__") and not isinstance(thing, types.BuiltinFunctionType):
            yield from _pieces({k: v for k, v in vars(thing).items() if not _is_cached(type(thing), k)}, visited)
        else:
            yield getattr(thing, "__qualname__", "")


def _users_class(thing: Any, visited: dict[int, Any]) -> Iterator[str]:
    """The pieces of an object's class if it is the user's: its methods, and the constants that they read."""
    if _is_users(type(thing)):
        yield from _pieces(type(thing), visited)


def _is_users(kind: type) -> bool:
    """True if a class is the user's, not a library's."""
    return (kind.__module__ or "").partition(".")[0] not in _LIBRARIES


def _members(kind: type) -> dict[str, Any]:
    """Members that a class itself defines and computes with: constants and methods; of the names with two underscores,
    the methods that are written out."""
    members = {}
    for name, value in vars(kind).items():
        special = name.startswith("__") and name.endswith("__")
        generated = isinstance(value, types.FunctionType) and value.__code__.co_filename == "<string>"
        written = isinstance(value, types.FunctionType) and (name == "__call__" or not generated)
        if written or not (special or name == "_abc_impl"):
            members[name] = value
    return members


def _is_cached(kind: type, name: str) -> bool:
    """True if an object's entry is the stored value of a cached property."""
    return any(isinstance(vars(base).get(name), functools.cached_property) for base in kind.__mro__)


def _has_docstring(code: types.CodeType) -> bool:
    """True if the first constant of a function's code is its docstring, or stands in its place."""
    if code.co_name.startswith("<"):
        return False
    return sys.version_info < (3, 13) or bool(code.co_flags & _CODE_HAS_DOCSTRING)


def _globals(code: types.CodeType) -> list[str]:
    """Names that a function, and functions inside it, may read from their module; names of attributes are none."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    own = {step.argval for step in dis.get_instructions(code) if step.opname in _READS_GLOBALS}
    return sorted({*own, *(name for c in inner for name in _globals(c))})


def _filled(cell: Any) -> bool:
    """True if a closure cell holds a value."""
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
