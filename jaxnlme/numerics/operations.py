"""The operations of a JAX function one by one, to find the one that makes a result not finite, or has a kink.

A function is traced once and its operations are carried out in order, outside any compiled program; loops and
conditionals count as one operation.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxnlme.numerics.tracing import is_users_file
from jaxnlme.typing import PyTree

# Operations that consist of others, which are carried out in their place.
_CALLS = ("pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")


@final
class Operation:
    """An operation that was carried out: its `name` in JAX, its `inputs` and `outputs` (numpy arrays), the operations
    that computed the inputs as `sources` (None for inputs of the function, constants and numbers), and its `number`."""

    def __init__(self, equation: Any, inputs: list[_Value], number: int):
        self.name: str = equation.primitive.name
        self.inputs = [value.array for value in inputs]
        self.sources = [value.operation for value in inputs]
        self.number = number
        self.outputs: list[np.ndarray] = []
        self._equation = equation

    @property
    def where(self) -> str:
        """The line of the user's code that calls for this operation, as 'file, line n: "code"'; empty if unknown."""
        traceback = self._equation.source_info.traceback
        frames = [] if traceback is None else [(frame.file_name, frame.line_num) for frame in traceback.frames]
        for file, line in frames:
            if is_users_file(file):
                code = linecache.getline(file, line).strip()
                return f"{file}, line {line}" + (f': "{code}"' if code else "")
        return ""


@final
class _Value:
    """An array with the operation that computed it, None for inputs."""

    def __init__(self, array: Any, operation: Operation | None = None):
        self.array, self.operation = np.asarray(array), operation


@final
class Operations:
    """The operations of a function, traced once for arguments of given shapes.

    **Arguments:** `fn`; `arguments`: examples.
    """

    def __init__(self, fn: Callable[..., PyTree], *arguments: Any):
        self._jaxpr = jax.make_jaxpr(fn)(*arguments)

    def run(self, *arguments: Any) -> tuple[list[Operation], list[tuple[np.ndarray, Operation | None]]]:
        """Carry out the operations at `arguments`.

        **Returns:** the operations in order, and the results, each with the operation that computed it.
        """
        done: list[Operation] = []
        values = [_Value(leaf) for leaf in jax.tree.leaves(arguments)]
        with np.errstate(all="ignore"):
            results = _carry_out(self._jaxpr.jaxpr, self._jaxpr.consts, values, done)
        return done, [(value.array, value.operation) for value in results]


def _carry_out(jaxpr: Jaxpr, constants: Sequence[Any], arguments: list[_Value], done: list[Operation]) -> list[_Value]:
    """The results of `jaxpr`; the operations carried out are appended to `done`."""
    known = dict(zip(jaxpr.constvars, map(_Value, constants), strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> _Value:
        return _Value(variable.val) if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        inner = _inner(equation)
        if inner is not None:
            results = _carry_out(inner.jaxpr, inner.consts, inputs, done)
        else:
            operation = Operation(equation, inputs, len(done))
            operation.outputs = _outputs(equation, operation.inputs)
            done.append(operation)
            results = [_Value(o, operation) for o in operation.outputs]
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _outputs(equation: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of one equation."""
    primitive = equation.primitive
    out = primitive.bind(*map(jnp.asarray, inputs), **primitive.get_bind_params(equation.params))
    return [np.asarray(value) for value in (out if primitive.multiple_results else [out])]


def _inner(equation: Any) -> ClosedJaxpr | None:
    """The operations that an equation consists of; None for an operation of its own."""
    if equation.primitive.name not in _CALLS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(key)
        if isinstance(inner, ClosedJaxpr):
            return inner
        if isinstance(inner, Jaxpr) and not inner.constvars:
            return ClosedJaxpr(inner, ())
    return None


def source_of_non_finite(bad: np.ndarray, operation: Operation | None) -> Operation | None:
    """The operation that made entries of an array not finite from finite inputs; None if an input of the function was
    not finite.

    **Arguments:** `bad`: the entries; `operation`, which computed the array.
    """
    while operation is not None:
        found = _non_finite_input(operation, bad)
        if found is None:
            return operation
        operation, bad = found
    return None


def _non_finite_input(operation: Operation, bad: np.ndarray) -> tuple[Operation | None, np.ndarray] | None:
    """The first input of `operation` that is not finite where its outputs are not (`bad`): the operation that computed
    it, and its entries concerned; None if all inputs are finite."""
    for k, (values, source) in enumerate(zip(operation.inputs, operation.sources, strict=True)):
        if not np.issubdtype(values.dtype, np.inexact):
            continue
        wrong = ~np.isfinite(values)
        if wrong.shape == bad.shape:
            wrong = wrong & bad
            if operation.name == "select_n":
                wrong = wrong & (operation.inputs[0].astype(int) == k - 1)
        if wrong.any():
            return source, wrong
    return None


def switches(operation: Operation) -> list[np.ndarray]:
    """The branch that an operation takes, in each entry, where its derivative jumps from one branch to another; no
    arrays for a smooth operation."""
    name, inputs = operation.name, operation.inputs
    if name in ("max", "min"):
        return [inputs[0] > inputs[1]]
    if name == "clamp":
        return [inputs[1] > inputs[0], inputs[1] < inputs[2]]
    if name in ("abs", "sign"):
        return [np.sign(inputs[0])]
    if name in ("floor", "ceil", "round", "eq", "ne", "lt", "le", "gt", "ge"):
        return [operation.outputs[0]]
    return []
