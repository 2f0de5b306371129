"""Programs of JAX that call a solver of differential equations, made differentiable in forward mode and free of
exceptions.

A solver is a loop whose number of steps depends on values. Forward mode goes through such a loop; the rules that
`jax.experimental.ode.odeint` and diffrax's adjoints put around it, for reverse mode, forbid it. `carry_out` runs the
program without these rules, and with these further changes:

- a check of equinox (`equinox.error_if`: a solver that used up its steps, times in disorder) gives NaN for its group
  instead of an exception;
- in odeint, steps are chosen without derivatives (as in diffrax: the rule for the size of a step has none where the
  error is zero), a solver that stops before the time asked for gives NaN, and equal times give equal states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from jaxnlme.numerics.settings import SOLVERS
from jaxnlme.numerics.solvers.odeint import odeint, odeint_arguments

_LIBRARIES = ("equinox.", "diffrax.", "optimistix.", "lineax.")
_ODEINT = "jax.experimental.ode"
# Operations of odeint that are changed. Positions in the state of its loop over steps: i, y, f, t, dt, last_t,
# interp_coeff; the loop over times carries the same without i.
_CHANGED_IN_ODEINT = {"solver": ("scan",), "loop over times": ("while", "div")}
_STATE, _Y, _T, _DT, _COEFFICIENTS = 7, 1, 3, 4, 6


def calls_solver(jaxpr: Jaxpr) -> bool:
    """True if a program has a loop over real numbers whose number of steps depends on values, outside functions with
    derivative rules of their own, or a check that raises an exception."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if _is_check(equation):
            return True
        if name == "while" and any(map(_is_real, equation.outvars)):
            return True
        if name == "custom_jvp_call" or (name == "custom_vjp_call" and not _rule_of_solver(equation)):
            continue
        if any(calls_solver(inner.jaxpr) for inner in _programs(equation)):
            return True
    return False


def solves_equations(jaxpr: Jaxpr) -> bool:
    """True if a program has a loop over real numbers whose number of steps depends on values, anywhere in it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while" and any(map(_is_real, equation.outvars)):
            return True
        if any(solves_equations(inner.jaxpr) for inner in _programs(equation)):
            return True
    return False


def carry_out(program: ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    """The outputs of a program that calls a solver; see the head of this module."""
    failures: list[Any] = []
    outputs = _run(program, arguments, _Place(failures))
    if not failures:
        return outputs
    failed = jnp.any(jnp.stack(failures))
    return [_nan_where(failed, value) for value in outputs]


class _Place(NamedTuple):
    """The surroundings of a program: `failures`, to which checks of whole numbers append (None inside loops); `odeint`:
    inside odeint "solver", in its loop over times "loop over times"."""

    failures: list[Any] | None
    odeint: str = ""


def _run(program: ClosedJaxpr, arguments: Sequence[Any], place: _Place) -> list[Any]:
    jaxpr = program.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))
    of_one_group: dict[Any, Any] = {}  # for a condition over all groups, that of this group

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else values[var]

    for part in _parts(jaxpr.eqns, place):
        if isinstance(part, list):
            values |= _unchanged(jaxpr, part, values)
            continue
        inputs = [read(var) for var in part.invars]
        if part.primitive.name == "unvmap_any":
            of_one_group[part.outvars[0]] = jnp.any(inputs[0])
            values |= _unchanged(jaxpr, [part], values)
        elif part.primitive.name == "div":  # of odeint: (time - last time) / step, 0 / 0 for the first two if equal
            outputs = [jnp.where(inputs[1] == 0, 0.0, inputs[0] / jnp.where(inputs[1] == 0, 1.0, inputs[1]))]
            values |= dict(zip(part.outvars, outputs, strict=True))
        elif _is_check(part):
            condition = part.invars[_condition_of(part)]
            failed = of_one_group[condition] if condition in of_one_group else read(condition)
            values |= dict(zip(part.outvars, _checked(part, inputs, failed, place), strict=True))
        else:
            values |= dict(zip(part.outvars, _changed(part, inputs, place), strict=True))
    return [read(var) for var in jaxpr.outvars]


def _parts(equations: Sequence[JaxprEqn], place: _Place) -> Iterator[JaxprEqn | list[JaxprEqn]]:
    """The equations that are changed, one by one, and in between lists of those that are not."""
    unchanged: list[JaxprEqn] = []
    for equation in equations:
        name = equation.primitive.name
        of_odeint = name in _CHANGED_IN_ODEINT.get(place.odeint, ())
        if of_odeint or name == "unvmap_any" or _is_changed(equation):
            if unchanged:
                yield unchanged
            unchanged = []
            yield equation
        else:
            unchanged.append(equation)
    if unchanged:
        yield unchanged


def _is_changed(equation: JaxprEqn) -> bool:
    if _is_check(equation) or _rule_of_solver(equation) or _is_small_product(equation):
        return True
    if equation.primitive.name in ("custom_jvp_call", "custom_vjp_call"):
        return False  # derivative rules of others
    return any(_is_changed(inner) for program in _programs(equation) for inner in program.jaxpr.eqns)


def _unchanged(jaxpr: Jaxpr, equations: list[JaxprEqn], values: dict[Any, Any]) -> dict[Any, Any]:
    """The results of equations as they are."""
    made = list(dict.fromkeys(var for equation in equations for var in equation.outvars))
    inside = set(made)
    needed = dict.fromkeys(
        var for e in equations for var in e.invars if not isinstance(var, Literal) and var not in inside
    )
    part = jaxpr.replace(constvars=[], invars=list(needed), outvars=made, eqns=equations)
    outputs = jaxpr_as_fun(ClosedJaxpr(part, []))(*(values[var] for var in needed))
    return dict(zip(made, outputs, strict=True))


def _changed(equation: JaxprEqn, inputs: list[Any], place: _Place) -> list[Any]:
    """The results of a call, a loop or a conditional with changed parts."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return [_product(params, *inputs)]
    if name == "while":
        return _while(params, inputs, place)
    if name == "scan":
        return _scan(params, inputs, place)
    if name == "cond":
        inside = place._replace(failures=None)
        branches = [lambda *a, program=program: _run(program, a, inside) for program in params["branches"]]
        return jax.lax.switch(inputs[0], branches, *inputs[1:])
    (program,) = _programs(equation)
    if name == "custom_vjp_call" and _rule_of_solver(equation) == _ODEINT:
        arguments = odeint_arguments(equation, inputs)
        if arguments is not None:
            return [odeint(*arguments)]
        place = place._replace(odeint="solver")
    return _run(program, inputs, place)


def _is_small_product(equation: JaxprEqn) -> bool:
    """True for a product of matrices whose entries have few terms: XLA computes batches of sums faster."""
    if equation.primitive.name != "dot_general":
        return False
    (left, _), (batch, _) = equation.params["dimension_numbers"]
    first: Any = equation.invars[0].aval
    terms = math.prod(first.shape[k] for k in left)
    return not batch and terms <= SOLVERS.most_terms


def _product(params: dict[str, Any], left: Any, right: Any) -> Any:
    """A product of matrices as a sum of outer products."""
    (of_left, of_right), _ = params["dimension_numbers"]
    n = len(of_left)
    left, right = jnp.moveaxis(left, of_left, range(n)), jnp.moveaxis(right, of_right, range(n))
    beside = (1,) * (right.ndim - n), (1,) * (left.ndim - n)
    left = left.reshape(-1, *left.shape[n:], *beside[0])
    right = right.reshape(-1, *beside[1], *right.shape[n:])
    terms = [left[k] * right[k] for k in range(left.shape[0])]
    dtype = params.get("preferred_element_type") or jnp.result_type(left, right)
    return jnp.asarray(sum(terms[1:], terms[0])).astype(dtype)


def _while(params: dict[str, Any], inputs: list[Any], place: _Place) -> list[Any]:
    n, m = params["cond_nconsts"], params["body_nconsts"]
    of_condition, of_body, start = inputs[:n], inputs[n : n + m], inputs[n + m :]
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    inside = place._replace(failures=None, odeint="")
    target = _target(condition, n) if place.odeint == "loop over times" and len(start) == _STATE else None
    if target is None:
        return jax.lax.while_loop(
            lambda state: _run(condition, [*of_condition, *state], inside)[0],
            lambda state: _run(body, [*of_body, *state], inside),
            start,
        )

    def goes_on(state):
        return _run(condition, [*of_condition, *state], inside)[0] & (state[0] < SOLVERS.most_steps)

    def step(state):
        state = _run(body, [*of_body, *state], inside)
        state[_DT] = jax.lax.stop_gradient(state[_DT])
        return state

    end = list(jax.lax.while_loop(goes_on, step, start))
    failed = ~(end[_T] >= of_condition[target])
    for position in (_Y, _COEFFICIENTS):  # with a state that is NaN, the loops to later times end at once
        end[position] = _nan_where(failed, end[position])
    return end


def _scan(params: dict[str, Any], inputs: list[Any], place: _Place) -> list[Any]:
    n, m, program = params["num_consts"], params["num_carry"], params["jaxpr"]
    constants, start, rows = inputs[:n], inputs[n : n + m], inputs[n + m :]
    of_odeint = place.odeint == "solver" and m == _STATE - 1
    inside = place._replace(failures=None, odeint="loop over times" if of_odeint else "")
    if of_odeint:
        start[_DT - 1] = jax.lax.stop_gradient(start[_DT - 1])

    def step(carry, row):
        outputs = _run(program, [*constants, *carry, *row], inside)
        return outputs[:m], outputs[m:]

    carry, out = jax.lax.scan(step, start, rows, params["length"], params["reverse"], params["unroll"])
    return [*carry, *out]


def _target(condition: ClosedJaxpr, constants: int) -> int | None:
    """The position among the constants of odeint's condition of the time up to which it takes steps: of the comparison
    t < time; None if there is none."""
    invars = condition.jaxpr.invars
    for equation in condition.jaxpr.eqns:
        if equation.primitive.name == "lt" and equation.invars[0] is invars[constants + _T]:
            return invars[:constants].index(equation.invars[1]) if equation.invars[1] in invars[:constants] else None
    return None


# --- checks of equinox ---


def _is_check(equation: JaxprEqn) -> bool:
    """True for `equinox.error_if` where it raises an exception."""
    return equation.primitive.name == "custom_jvp_call" and _conditional(equation) is not None


def _conditional(equation: JaxprEqn) -> JaxprEqn | None:
    for inner in equation.params["call_jaxpr"].jaxpr.eqns:
        if inner.primitive.name == "cond" and any(map(_raises, inner.params["branches"])):
            return inner
    return None


def _raises(branch: ClosedJaxpr) -> bool:
    for equation in branch.jaxpr.eqns:
        function = getattr(equation.params.get("callback"), "callback_func", None)
        if equation.primitive.name == "pure_callback" and getattr(function, "__module__", "") == "equinox._errors":
            return True
    return False


def _condition_of(equation: JaxprEqn) -> int:
    """The position of its condition among the inputs of a check."""
    jaxpr, conditional = equation.params["call_jaxpr"].jaxpr, _conditional(equation)
    assert conditional is not None
    var = conditional.invars[0]
    for inner in reversed(jaxpr.eqns):
        if var in inner.outvars:
            var = inner.invars[0]
    return jaxpr.invars.index(var)


def _checked(equation: JaxprEqn, inputs: list[Any], failed: Any, place: _Place) -> list[Any]:
    """The values that a check hands on, real numbers as NaN where it failed."""
    jaxpr, conditional = equation.params["call_jaxpr"].jaxpr, _conditional(equation)
    assert conditional is not None
    given = dict(zip(jaxpr.invars, inputs, strict=True))
    passed = next(branch for branch in conditional.params["branches"] if not _raises(branch)).jaxpr
    operands = dict(zip(passed.invars, conditional.invars[1:], strict=True))
    results = dict(zip(conditional.outvars, (operands[var] for var in passed.outvars), strict=True))
    values = [given[results.get(var, var)] for var in jaxpr.outvars]
    failed = jnp.asarray(failed)
    if place.failures is not None and not any(jnp.issubdtype(jnp.result_type(v), jnp.inexact) for v in values):
        place.failures.append(failed)
    return [_nan_where(failed, value) for value in values]


def _is_real(var: Any) -> bool:
    return jnp.issubdtype(var.aval.dtype, jnp.inexact)


def _nan_where(failed: Any, value: Any) -> Any:
    return jnp.where(failed, jnp.nan, value) if jnp.issubdtype(jnp.result_type(value), jnp.inexact) else value


# --- parts of programs ---


def _programs(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """The programs inside an equation."""
    out = []
    for entry in equation.params.values():
        for inner in entry if isinstance(entry, (tuple, list)) else [entry]:
            if isinstance(inner, ClosedJaxpr):
                out.append(inner)
            elif isinstance(inner, Jaxpr) and not inner.constvars:
                out.append(ClosedJaxpr(inner, ()))
    return out


def _rule_of_solver(equation: JaxprEqn) -> str:
    """The module of a derivative rule for reverse mode that belongs to a library of solvers; empty for others."""
    if equation.primitive.name != "custom_vjp_call":
        return ""
    rule: Any = equation.params.get("bwd")
    rule = getattr(rule, "f", rule)
    wrappers = [cell.cell_contents for cell in getattr(rule, "__closure__", None) or ()]
    functions = [wrapper.fn for wrapper in wrappers if isinstance(wrapper, eqx.filter_custom_vjp)] or [rule]
    module = getattr(functions[0], "__module__", None) or ""
    return module if module == _ODEINT or module.startswith(_LIBRARIES) else ""
