"""Calls of public functions: an unknown keyword, a missing argument, or one too many ends in one sentence."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from jaxnlme.errors import ArgumentError, near_matches

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Options of other programs, and those that stand elsewhere here, with what to write.
ELSEWHERE = {
    "seed": "methods that draw take it, as in jn.SAEM(seed=1)",
    "chains": "a method takes it, as in jn.SAEM(chains=4)",
    "nodes": "the method takes it, as in jn.AGQ(nodes=7)",
    "verbose": "progress=True shows a line while it runs",
    "display": "progress=True shows a line while it runs",
    "weights": "weights are part of the data: data.with_weights(...)",
    "reml": "restricted=True maximises the restricted likelihood",
    "bounds": "a transform bounds a parameter, as in jn.Parameter('a', 0.5, 'logit(0, 1)')",
    "random": "jn.Parameter(..., random=True) has a random effect",
    "optimizer": "the minimiser is that of the method; jn.Gradient(optimiser=...) takes one of optax",
}


def public(name: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorator of a public function: a call that does not fit its signature is refused in a sentence.

    **Arguments:** `name`: of the function as users write it, for the message.
    **Raises:** ArgumentError, an OptionError and a TypeError; errors raised inside the function pass unchanged.
    """

    def decorate(fn: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(fn)
        def call(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
            try:
                return fn(*args, **options)
            except TypeError as error:
                # The traceback of an error raised inside the function has further frames.
                if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                    raise
                message = mismatch(name, inspect.signature(fn), args, options)
                if message is None:
                    raise
                raise ArgumentError(message) from None

        return call

    return decorate


def documented_by(name: str) -> Callable[[Result], Result]:
    """Decorator of a method that hands its arguments on: its docstring is that of the function it calls, with the
    method's own example, so that `help` says all there is to say. The function's module is read as text, not imported,
    because methods import what they need when they are called.

    **Arguments:** `name`: of the function, with its module, as in "results.simulate.simulate".
    """

    def decorate(method: Result) -> Result:
        method.__doc__ = documented(method.__doc__ or "", name)
        return method

    return decorate


def documented(own: str, name: str) -> str:
    """The docstring of a method that is `documented_by` the function `name`; `own` is what stands in the method."""
    full = inspect.cleandoc(docstring_in_source(name))
    example = inspect.cleandoc(own).partition("**Example:**")
    if full and example[2] and "**Example:**" not in full:
        full = f"{full}\n\n{example[1]}{example[2]}"
    return full or own


def docstring_in_source(name: str) -> str:
    """The docstring of a function of this package, "" where the source is not there.

    **Arguments:** `name`: as in `documented_by`.
    """
    module, _, function = name.rpartition(".")
    path = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    if not path.exists():
        return ""
    pattern = rf'^def {function}\(.*?^    """(.*?)"""'
    found = re.search(pattern, path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def check_call(cls: type, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Check the arguments of a public class, in its `__new__`; a call without any passes, because copying and reading
    stored objects make such calls.

    **Raises:** ArgumentError for arguments that its `__init__` does not take.
    """
    if args or options:
        message = mismatch(f"jn.{cls.__name__}", _signature(cls), (None, *args), options)
        if message is not None:
            raise ArgumentError(message)


@functools.cache
def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(cls.__init__)


def mismatch(name: str, signature: inspect.Signature, args: Sequence[Any], options: Mapping[str, Any]) -> str | None:
    """The sentence on a call that does not fit a signature; None where it fits.

    **Arguments:** `name` of the function, for the message; `args`, `options`: those of the call, "self" included.
    """
    try:
        signature.bind(*args, **options)
        return None
    except TypeError:
        pass
    parameters = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    names = [p.name for p in parameters if p.name not in ("self", "cls")]
    offset = len(parameters) - len(names)
    by_position = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY][offset:]
    takes = f"It takes {', '.join(names) or 'no arguments'}."
    accepts_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [option for option in options if option not in names and not accepts_all]
    if unknown:
        hint = ELSEWHERE.get(unknown[0].lower())
        near = f"{hint}." if hint else near_matches(unknown[0], names) if names else ""
        near = near if near.endswith("?") or hint else ""
        return f"{name} has no option {unknown[0]!r}{'; ' if near else '.'}{near} {takes}"
    positions = args[offset:]
    if len(positions) > len(by_position):
        rest = [name for name in names if name not in by_position]
        by_name = f": give the others by name, as in {rest[0]}=..." if rest else ""
        allowed = f"only {', '.join(by_position)}" if by_position else "none"
        return f"{name} received {len(positions)} arguments by position and takes {allowed} so{by_name}. {takes}"
    twice = [option for option in by_position[: len(positions)] if option in options]
    if twice:
        return f"{name} received {twice[0]} twice, by position and by name; give it once."
    needed = [p.name for p in parameters[offset:] if p.default is p.empty]
    missing = [need for need in needed if need not in options and need not in by_position[: len(positions)]]
    return f"{name} needs {' and '.join(missing)}, which the call lacks. {takes}"
