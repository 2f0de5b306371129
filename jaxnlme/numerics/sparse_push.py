"""Tangent maps applied to unit vectors, without computing what is zero by structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from jaxnlme.typing import PyTree


class _Zero:
    """A tangent that is identically zero."""


ZERO = _Zero()


class SparsePush:
    """A linear map of n scalars, from `jax.linearize`, applied to unit vectors.

    Terms that are zero because the other scalars are zero are not computed (XLA does compute 0 * x, since x may be
    infinite), nor are outputs that are not requested.

    **Arguments:** `push`: the linear map; `n`: its number of scalar arguments; `dtype`: theirs.
    """

    def __init__(self, push: Any, n: int, dtype: Any):
        scalar = jax.ShapeDtypeStruct((), dtype)
        self.linear: ClosedJaxpr
        self.linear, shape = jax.make_jaxpr(push, return_shape=True)(*(scalar,) * n)
        self.shapes, self.tree = jax.tree.flatten(shape)
        self.n, self.dtype = n, dtype

    def along(self, k: int, wanted: PyTree) -> PyTree:
        """push(e_k), with the tree structure of the output of `push`.

        **Arguments:** `k`: index of the unit vector; `wanted`: one bool for each output leaf; None is returned for
        leaves where it is false.
        """
        tangents = [jnp.ones((), self.dtype) if j == k else ZERO for j in range(self.n)]
        flags = self.tree.flatten_up_to(wanted)
        out = _apply(self.linear.jaxpr, self.linear.consts, tangents, [True] * self.n, flags)
        leaves = [
            None if not flag else jnp.zeros(shape.shape, shape.dtype) if leaf is ZERO else leaf
            for leaf, flag, shape in zip(out, flags, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.tree, leaves)


def _apply(
    jaxpr: Jaxpr, consts: Sequence[Any], arguments: list[Any], is_tangent: list[bool], wanted: list[bool]
) -> list[Any]:
    """The outputs of a jaxpr that is linear in the arguments marked by `is_tangent`, some of which are ZERO; None for
    outputs that are not `wanted`."""
    needed = {var for var, flag in zip(jaxpr.outvars, wanted, strict=True) if flag and not isinstance(var, Literal)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if any(var in needed for var in eqn.outvars):
            live.append(eqn)
            needed.update(var for var in eqn.invars if not isinstance(var, Literal))
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))
    linear = {var for var, flag in zip(jaxpr.invars, is_tangent, strict=True) if flag}

    def read(var):
        return var.val if isinstance(var, Literal) else values[var]

    for eqn in reversed(live):
        inputs = [read(var) for var in eqn.invars]
        depends = [not isinstance(var, Literal) and var in linear for var in eqn.invars]
        if any(depends):
            linear.update(eqn.outvars)
        if any(depends) and all(value is ZERO for value, flag in zip(inputs, depends, strict=True) if flag):
            values |= dict.fromkeys(eqn.outvars, ZERO)
            continue
        inner = eqn.params.get("jaxpr")
        if eqn.primitive.name in ("add", "add_any") and any(value is ZERO for value in inputs):
            out = [jnp.broadcast_to(inputs[1] if inputs[0] is ZERO else inputs[0], _shape(eqn.outvars[0]))]
        elif eqn.primitive.name in ("jit", "pjit") and isinstance(inner, ClosedJaxpr):
            out = _apply(inner.jaxpr, inner.consts, inputs, depends, [var in needed for var in eqn.outvars])
        else:
            out = _evaluated(jaxpr, eqn, inputs)
        values |= dict(zip(eqn.outvars, out, strict=True))
    return [read(var) if flag else None for var, flag in zip(jaxpr.outvars, wanted, strict=True)]


def _evaluated(jaxpr: Jaxpr, eqn: JaxprEqn, inputs: list[Any]) -> list[Any]:
    """The outputs of one equation of `jaxpr`, with arrays of zeros for ZERO."""
    arguments = {
        var: jnp.zeros(_shape(var), _dtype(var)) if value is ZERO else value
        for var, value in zip(eqn.invars, inputs, strict=True)
        if not isinstance(var, Literal)
    }
    equation = jaxpr.replace(constvars=[], invars=list(arguments), outvars=eqn.outvars, eqns=[eqn])
    return jaxpr_as_fun(ClosedJaxpr(equation, []))(*arguments.values())


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape


def _dtype(var: Any) -> Any:
    return var.aval.dtype
