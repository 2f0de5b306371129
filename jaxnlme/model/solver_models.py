"""Model functions that call a solver of differential equations, or contain another loop whose number of steps depends
on values: how they are found, and how they are evaluated."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

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


class _Known(NamedTuple):
    """A model function traced for arguments of one kind: its `program`, None for a function without a solver; whether
    it `solves_equations`; `reads_traced`: it reads traced values that are no arguments, and is traced every time."""

    program: SolverProgram | None
    solves_equations: bool
    reads_traced: bool


# By model function and kind of arguments.
_KNOWN: weakref.WeakKeyDictionary[Any, dict[Any, _Known]] = weakref.WeakKeyDictionary()


def solver_program(call: Callable[..., Any], fn: Any, arguments: tuple[Any, ...]) -> SolverProgram | None:
    """The program of a model function with a solver in it; None for functions without one.

    A function is traced once for arguments of one kind.

    **Arguments:** `call(*arguments)`: calls the model function; `fn`: the function, by which what is known is kept.
    """
    known = _known(call, fn, arguments)
    return None if known is None else known.program


def solves_differential_equations(call: Callable[..., Any], fn: Any, arguments: tuple[Any, ...]) -> bool:
    """True for a model function that computes with a loop whose number of steps depends on values, by a solver that it
    calls or inside `jn.pkpd.ode`; false where it cannot be traced, which the first evaluation reports.

    **Arguments:** as of `solver_program`.
    """
    known = _known(call, fn, arguments)
    return known is not None and known.solves_equations


def _known(call: Callable[..., Any], fn: Any, arguments: tuple[Any, ...]) -> _Known | None:
    """The record of a model function, traced where it was not before; None where it cannot be traced."""
    leaves, tree = jax.tree.flatten(arguments)
    try:
        of_function = _KNOWN.setdefault(fn, {})
    except TypeError:  # a callable that cannot be referred to weakly: known for as long as it is called
        of_function = {}
    key = (tree, tuple(map(jax.typeof, leaves)), str(jax.numpy.result_type(float)))
    if key in of_function and not of_function[key].reads_traced:
        return of_function[key]
    try:
        program, outputs = jax.make_jaxpr(call, return_shape=True)(*arguments)
    except Exception:  # raised again where the function itself is called, and traced again the next time
        return None
    solver = SolverProgram(program, outputs) if calls_solver(program.jaxpr) else None
    reads_traced = solver is not None and any(isinstance(c, Tracer) for c in program.consts)
    found = _Known(solver, solves_equations(program.jaxpr), reads_traced)
    # A program that reads traced values is not kept beyond their trace.
    of_function[key] = found._replace(program=None) if reads_traced else found
    return found
