"""The prediction of a model from its states: a function, or an expression such as "central / V"."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxnlme.errors import ModelError, OptionError, near_matches, shown, some
from jaxnlme.pkpd.phi_names import values_by_name
from jaxnlme.records import Record

_OPERATIONS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}
_FUNCTIONS = {"exp": jnp.exp, "log": jnp.log, "sqrt": jnp.sqrt}


@dataclass(frozen=True)
class Output:
    """The prediction. **Fields:** `fn`: a function of (y, phi, x), or None; `expression`: of states and parameters."""

    fn: Callable[..., Any] | None
    expression: str

    def __str__(self) -> str:
        return self.expression or f"the function {getattr(self.fn, '__name__', type(self.fn).__name__)}"

    def check(self, states: Sequence[str], phi: Any) -> None:
        """Check the names of an expression before anything is solved. **Raises:** ModelError for one that is neither a
        state nor in phi."""
        values = values_by_name(phi)
        for node in ast.walk(ast.parse(self.expression, mode="eval")) if self.fn is None else ():
            if isinstance(node, ast.Name) and node.id not in (*states, *_FUNCTIONS) and node.id.upper() not in values:
                raise ModelError(
                    f"output={self.expression!r} of jn.pkpd.ode: {node.id!r} is neither a state "
                    f"({some(list(states))}) nor a parameter; {near_matches(node.id.upper(), list(values))}"
                )

    def __call__(self, y: Record, phi: Any, x: Any) -> Any:
        """The prediction at states `y`, each (obs,)."""
        if self.fn is not None:
            return self.fn(y, phi, x)
        values = values_by_name(phi)

        def evaluate(node: Any) -> Any:
            if isinstance(node, ast.BinOp):
                return _OPERATIONS[type(node.op)](evaluate(node.left), evaluate(node.right))
            if isinstance(node, ast.UnaryOp):
                return -evaluate(node.operand)
            if isinstance(node, ast.Call):
                return _FUNCTIONS[node.func.id](evaluate(node.args[0]))  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(node, ast.Constant):
                return node.value
            if node.id in y.names:
                return y[node.id]
            return values[node.id.upper()]

        return evaluate(ast.parse(self.expression, mode="eval").body)


def output_of(output: Any, states: Sequence[str]) -> Output:
    """The Output of a model with these `states`. **Raises:** OptionError where `output` is neither a function nor an
    expression."""
    if callable(output):
        return Output(output, "")
    if output is None:
        if "central" in states or len(states) == 1:
            return Output(None, "central" if "central" in states else states[0])
        raise OptionError(
            f"jn.pkpd.ode: output= says which prediction is made of the states {some(list(states))}: an expression "
            f"such as '{states[0]} / V', or a function of (y, phi, x)."
        )
    if not isinstance(output, str):
        raise OptionError(
            "jn.pkpd.ode: output is an expression of states and parameters, such as 'central / V', or a function of "
            f"(y, phi, x); received {shown(output)}."
        )
    try:
        tree = ast.parse(output.strip(), mode="eval").body
    except SyntaxError:
        tree = None
    if tree is None or not all(map(_known, ast.walk(tree))):
        raise OptionError(
            f"jn.pkpd.ode: output={output!r} is no expression of names and numbers with + - * / **, exp, log and sqrt; "
            "write a function of (y, phi, x) for others."
        )
    return Output(None, output.strip())


def _known(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and len(node.args) == 1
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
    allowed = (ast.BinOp, ast.UnaryOp, ast.Name, ast.Load, ast.USub, *_OPERATIONS)
    return isinstance(node, allowed)
