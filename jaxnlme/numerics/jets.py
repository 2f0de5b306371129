"""Jets: a function of a few scalars known by its value and partial derivatives at one point.

What needs a function's derivatives at one point only (value, gradient, curvature, and the gradient of the curvature)
can read them from one shared pass, instead of differentiating the function again for each.
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
    """How many partial derivatives of order 0 to `order` a function of `n` scalars has."""
    return math.comb(n + order, order)


class Jet(eqx.Module):
    """Partial derivatives of a function of n scalars at one point: called like the function, it gives the function's
    value at that point, and has its derivatives there, whatever the values it is called with.

    `partials`: one output of the function for every sorted multi-index of `indices`.
    """

    partials: tuple[PyTree, ...]
    indices: tuple[Index, ...] = eqx.field(static=True)

    def __call__(self, *point: Any) -> PyTree:
        """The value. **Errors:** NotImplementedError where a derivative is asked for that the jet does not hold."""
        return self.slope((), *point)

    def slope(self, index: Index, *point: Any) -> PyTree:
        """The partial derivative of a sorted multi-index, with derivatives of its own."""
        return _partial(self.indices, index, self.partials, point)

    def partial(self, *index: int) -> PyTree:
        """The partial derivative of a multi-index as it was computed, without further derivatives."""
        return self.partials[self.indices.index(tuple(sorted(index)))]


def jet(fn: Callable[..., PyTree], point: Sequence[Any], order: int) -> Jet:
    """The jet of `fn(*point)` at `point`, n scalars, up to `order`: forward over forward differentiation, in which the
    function is traced once and a mixed partial derivative is computed once."""
    n = len(point)
    dtype = jnp.result_type(*point)
    indices = [index for k in range(order + 1) for index in itertools.combinations_with_replacement(range(n), k)]

    def up_to(order: int) -> Callable[..., dict[Index, PyTree]]:
        """The function that gives all partial derivatives up to `order`."""
        if order == 0:
            return lambda *at: {(): fn(*at)}
        lower = up_to(order - 1)

        def more(*at):
            known, push = jax.linearize(lower, *at)
            sparse = SparsePush(push, n, dtype)
            found = dict(known)
            for k in range(n):
                new = {index for index in known if len(index) == order - 1 and (not index or index[-1] <= k)}
                wanted = {index: jax.tree.map(lambda _, w=index in new: w, known[index]) for index in known}
                along = sparse.along(k, wanted)
                found |= {(*index, k): along[index] for index in new}
            return found

        return more

    found = up_to(order)(*point)
    return Jet(barrier(tuple(found[index] for index in indices)), tuple(indices))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _partial(indices: tuple[Index, ...], index: Index, partials: Any, point: Any) -> PyTree:
    """The partial derivative of multi-index `index`, whose own derivatives are the partials one order up."""
    return partials[indices.index(index)]


@functools.partial(_partial.defjvp, symbolic_zeros=True)
def _partial_rule(indices, index, primals, tangents):
    partials, point = primals
    out = _partial(indices, index, partials, point)
    if not all(isinstance(dot, SymbolicZero) for dot in jax.tree.leaves(tangents[0])):
        raise NotImplementedError("a jet is not differentiated in what its point depends on.")
    dots = []
    for k, dot in enumerate(tangents[1]):
        if isinstance(dot, SymbolicZero):
            continue
        longer = tuple(sorted((*index, k)))
        if longer not in indices:
            raise NotImplementedError(f"this jet does not hold the partial derivative {longer}.")
        slope = _partial(indices, longer, partials, point)
        dots.append(jax.tree.map(lambda leaf, dot=dot: leaf * dot, slope))
    if not dots:
        return out, jax.tree.map(jnp.zeros_like, out)
    return out, functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), dots)
