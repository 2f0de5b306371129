"""Model functions that call a solver of differential equations, or contain another loop whose number of steps depends
on values: how they are found, and how they are evaluated."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from jaxnlme.model.derivatives import from_forward_mode
from jaxnlme.numerics.solver_calls import calls_solver, carry_out, solves_equations
from jaxnlme.typing import PyTree


class SolverProgram:
    """A model function as a traced program with a solver in it. It is called as the function is, with arguments of the
    same shapes; derivatives are taken in forward mode, and a solver that fails gives NaN for its group."""

    def __init__(self, program: ClosedJaxpr, outputs: Any):
        self.program, self.outputs = program, jax.tree.structure(outputs)

    def __call__(self, *arguments: Any) -> PyTree:
        values = from_forward_mode(self._run, [*self.program.consts, *jax.tree.leaves(arguments)])
        return jax.tree.unflatten(self.outputs, values)

    def _run(self, values: list[Any]) -> list[Any]:
        n = len(self.program.consts)
        return carry_out(ClosedJaxpr(self.program.jaxpr, values[:n]), values[n:])


# By model function: for each kind of arguments its program, None for a function without a solver, or _NEW_EVERY_TIME
# where it reads traced values that are no arguments.
_KNOWN: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
_NEW_EVERY_TIME = object()


def solver_program(call: Callable[..., Any], fn: Any, arguments: tuple[Any, ...]) -> SolverProgram | None:
    """The program of a model function with a solver in it; None for functions without one.

    A function is traced once for arguments of one kind.

    **Arguments:** `call(*arguments)`: calls the model function; `fn`: the function, by which what is known is kept.
    """
    leaves, tree = jax.tree.flatten(arguments)
    try:
        known = _KNOWN.setdefault(fn, {})
    except TypeError:  # a callable that cannot be referred to weakly: known for as long as it is called
        known = {}
    key = (tree, tuple(map(jax.typeof, leaves)), str(jax.numpy.result_type(float)))
    if key not in known:
        try:
            program = _traced(call, arguments)
        except Exception:  # raised again where the function itself is called, and traced again the next time
            return None
        reads_traced = program is not None and any(isinstance(c, Tracer) for c in program.program.consts)
        known[key] = _NEW_EVERY_TIME if reads_traced else program
        return program
    return _traced(call, arguments) if known[key] is _NEW_EVERY_TIME else known[key]


def _traced(call: Callable[..., Any], arguments: tuple[Any, ...]) -> SolverProgram | None:
    program, outputs = jax.make_jaxpr(call, return_shape=True)(*arguments)
    return SolverProgram(program, outputs) if calls_solver(program.jaxpr) else None


def solves_differential_equations(call: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """True for a model function that computes with a loop whose number of steps depends on values, by a solver that it
    calls or inside `jn.pkpd.ode`; false where it cannot be traced, which the first evaluation reports."""
    try:
        return solves_equations(jax.make_jaxpr(call)(*arguments).jaxpr)
    except Exception:  # raised again where the function is evaluated, with the advice of the dry run
        return False
