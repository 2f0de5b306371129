"""Functions that JAX differentiates in forward mode only, made differentiable in both modes and to every order.

The derivative of order k comes from one run of the function with all derivatives up to that order: k nested Jacobians
in forward mode. What is handed to JAX, as the rule of the derivative, is then a product with a matrix, which works in
both modes. Forward mode costs one more run for each variable, inside the same loop over steps; so the variables are
those that a derivative is taken in, no others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

Values = list[Any]
Levels = tuple[tuple[int, ...], ...]


def forward_derivatives(fn: Callable[[Values], Values], arguments: Sequence[Any]) -> Values:
    """The outputs of `fn(arguments)`, lists of arrays, with derivatives in both modes and to every order.

    **Arguments:** `fn`, differentiable in forward mode to every order, traced once as long as calls hand in the same
    object (or an equal one); `arguments`, of which real numbers may be differentiated in.
    """
    arguments = [jnp.asarray(value) for value in arguments]
    return _expanded(fn, (), arguments)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _expanded(fn: Callable[[Values], Values], levels: Levels, arguments: Values) -> Values:
    """The outputs of `fn`, then their Jacobians in the arguments `levels[0]`, then the Jacobians of all these in
    `levels[1]`, and so on; each has a last axis for the variables."""
    return _run(fn, levels, arguments)


@functools.partial(_expanded.defjvp, symbolic_zeros=True)
def _expanded_rule(fn, levels, primals, tangents):
    (arguments,), (dots,) = primals, tangents
    active = tuple(k for k, dot in enumerate(dots) if not isinstance(dot, SymbolicZero))
    if not active:
        outputs = _expanded(fn, levels, arguments)
        return outputs, [_zero(value) for value in outputs]
    values = _expanded(fn, (*levels, active), arguments)
    half = len(values) // 2
    outputs, jacobians = values[:half], values[half:]
    dots = [dots[k] for k in active]
    ends = np.cumsum([0, *(dot.size for dot in dots)])

    def product(value, jacobian):
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            return _zero(value)
        parts = [
            jacobian[..., begin] * dot if dot.ndim == 0 else jacobian[..., begin:end] @ dot.ravel()
            for begin, end, dot in zip(ends[:-1], ends[1:], dots, strict=True)
        ]
        return functools.reduce(jnp.add, parts)

    return outputs, [product(*pair) for pair in zip(outputs, jacobians, strict=True)]


@functools.partial(jax.jit, static_argnums=(0, 1))  # traced once, though a fit evaluates fn in several places
def _run(fn: Callable[[Values], Values], levels: Levels, arguments: Values) -> Values:
    for active in levels:
        fn = _with_jacobian(fn, active)
    return fn(arguments)


def _with_jacobian(fn: Callable[[Values], Values], active: tuple[int, ...]) -> Callable[[Values], Values]:
    """The function that returns the outputs of `fn`, and then their Jacobians in the arguments `active`; for outputs
    that are no real numbers, the outputs again."""

    def both(arguments: Values) -> Values:
        chosen = [arguments[k] for k in active]
        ends = np.cumsum([value.size for value in chosen])[:-1]

        def at(chosen: Values) -> tuple[Values, Values]:
            full = list(arguments)
            for k, value in zip(active, chosen, strict=True):
                full[k] = value
            outputs = fn(full)
            real = [jnp.issubdtype(value.dtype, jnp.inexact) for value in outputs]
            return [value for value, flag in zip(outputs, real, strict=True) if flag], outputs

        def push(direction):
            parts = jnp.split(direction, ends)
            dots = [p.reshape(v.shape).astype(v.dtype) for p, v in zip(parts, chosen, strict=True)]
            _, slopes, outputs = jax.jvp(at, (chosen,), (dots,), has_aux=True)
            return outputs, slopes

        n = sum(value.size for value in chosen)
        outputs, slopes = jax.vmap(push, out_axes=(None, -1))(jnp.eye(n, dtype=chosen[0].dtype))
        slopes = iter(slopes)
        jacobians = [next(slopes) if jnp.issubdtype(v.dtype, jnp.inexact) else v for v in outputs]
        return [*outputs, *jacobians]

    return both


def _zero(value: Any) -> Any:
    """The tangent of a constant."""
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return jnp.zeros_like(value)
    return np.zeros(value.shape, jax.dtypes.float0)
