"""Jets: the value and partial derivatives at one point of a function of a few scalars.

Value, gradient, curvature and the gradient of the curvature at one point are all read from one jet, instead of
differentiating the function again for each.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.sparse_push import SparsePush
from jaxnlme.typing import PyTree

Index = tuple[int, ...]


def count_partials(n: int, order: int) -> int:
    """Number of partial derivatives of order 0 to `order` of a function of `n` scalars."""
    return math.comb(n + order, order)


class Jet(eqx.Module):
    """Partial derivatives at one point of a function of n scalars.

    Called like the function, it returns the function's value at that point and has the function's derivatives there;
    the numerical values of its arguments are ignored. They are scalars, or (rows,) for outputs (rows, ...) whose rows
    depend on the entries of their own row. Where the partial derivatives themselves depend on a variable, by the point
    of the jet or else, their derivatives in it are added: such a variable must not be in the arguments as well.

    **Fields:** `partials`: the partial derivative (an output of the function) for each sorted multi-index of `indices`.
    """

    partials: tuple[PyTree, ...]
    indices: tuple[Index, ...] = eqx.field(static=True)

    def __call__(self, *point: Any) -> PyTree:
        """The value. **Raises:** NotImplementedError if it is differentiated to a higher order than the jet has."""
        return self.differentiable_partial((), *point)

    def differentiable_partial(self, index: Index, *point: Any) -> PyTree:
        """The partial derivative for a sorted multi-index `index`, as a differentiable function of `point`."""
        return _partial(self.indices, index, self.partials, point)

    def partial(self, *index: int) -> PyTree:
        """The partial derivative for a multi-index `index`, not a function of the arguments."""
        return self.partials[self.indices.index(tuple(sorted(index)))]


def jet(
    fn: Callable[..., PyTree],
    point: Sequence[Any],
    order: int,
    active: Sequence[int] | None = None,
    repeated: Sequence[int] | None = None,
) -> Jet:
    """The jet of `fn(*point)` at `point`, a sequence of n scalars, up to derivatives of order `order`.

    Nested forward differentiation; the function is traced once, and each mixed partial derivative is computed once.

    **Arguments:** `active`: positions of the scalars to differentiate in, None for all; `repeated`: those to
    differentiate in together with others or more than once, None for all. Partial derivatives in scalars that are not
    active, or more than once in those that are not repeated, are zero in the jet.
    """
    n = len(point)
    every = range(n) if active is None else sorted(active)
    inner = [k for k in every if repeated is None or k in repeated]
    dtype = jnp.result_type(*point)

    def up_to(level: int) -> Callable[..., dict[Index, PyTree]]:
        """The function that returns the partial derivatives up to the order `level`, by multi-index."""
        if level == 0:
            return lambda *at: {(): fn(*at)}
        lower, variables = up_to(level - 1), every if level == order else inner
        if not variables:
            return lower

        def one_order_more(*at):
            def of_variables(*values):
                full = list(at)
                for k, value in zip(variables, values, strict=True):
                    full[k] = value
                return lower(*full)

            lower_partials, push = jax.linearize(of_variables, *(at[k] for k in variables))
            sparse = SparsePush(push, len(variables), dtype)
            partials = dict(lower_partials)
            for position, k in enumerate(variables):
                highest = {i for i in lower_partials if len(i) == level - 1 and (not i or i[-1] <= k)}
                new = highest if k in inner else set(lower_partials)
                wanted = {i: jax.tree.map(lambda _, w=i in new: w, lower_partials[i]) for i in lower_partials}
                along = sparse.along(position, wanted)
                partials |= {tuple(sorted((*index, k))): along[index] for index in new}
            return partials

        return one_order_more

    partials = up_to(order)(*point)
    indices = [index for k in range(order + 1) for index in itertools.combinations_with_replacement(range(n), k)]
    zero = jax.tree.map(jnp.zeros_like, partials[()]) if len(partials) < len(indices) else None
    return Jet(barrier(tuple(partials.get(index, zero) for index in indices)), tuple(indices))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _partial(indices: tuple[Index, ...], index: Index, partials: Any, point: Any) -> PyTree:
    """The partial derivative for `index`; its derivatives are the partial derivatives one order higher."""
    return partials[indices.index(index)]


@functools.partial(_partial.defjvp, symbolic_zeros=True)
def _partial_rule(indices, index, primals, tangents):
    partials, point = primals
    out = _partial(indices, index, partials, point)
    of_partial = tangents[0][indices.index(index)]
    dots = []
    if not all(isinstance(dot, SymbolicZero) for dot in jax.tree.leaves(of_partial)):
        zeros = jax.tree.map(jnp.zeros_like, partials[indices.index(index)])
        dots.append(jax.tree.map(lambda z, d: z if isinstance(d, SymbolicZero) else d, zeros, of_partial))
    for k, dot in enumerate(tangents[1]):
        if isinstance(dot, SymbolicZero):
            continue
        longer = tuple(sorted((*index, k)))
        if longer not in indices:
            raise NotImplementedError(f"this jet has no partial derivative {longer}: it was computed to a lower order.")
        slope = _partial(indices, longer, partials, point)
        dots.append(jax.tree.map(lambda leaf, dot=dot: leaf * _beside(dot, leaf), slope))
    if not dots:
        return out, jax.tree.map(jnp.zeros_like, out)
    return out, functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), dots)


@jax.custom_jvp
def with_slope(value: Any, slope: Any, at: Any) -> Any:
    """`value`, as a function of the scalar `at` with the derivative `slope` there, besides what `value` itself depends
    on; not differentiable twice in `at`.

    **Arguments:** `value`, `slope`: arrays of the same shape; `at` ().
    """
    return value


@with_slope.defjvp
def _with_slope_rule(primals, tangents):
    value, slope, at = primals
    value_dot, _, at_dot = tangents
    return with_slope(value, slope, at), value_dot + slope * at_dot


def _beside(dot: Any, leaf: Any) -> Any:
    """A tangent () or (rows,) in the shape in which it multiplies `leaf` (rows, ...) row by row."""
    return dot.reshape(dot.shape + (1,) * (leaf.ndim - dot.ndim)) if dot.ndim else dot
