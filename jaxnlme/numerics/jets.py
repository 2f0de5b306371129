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

from jaxnlme.numerics.implicit import settle
from jaxnlme.typing import PyTree

Index = tuple[int, ...]


def count_partials(n: int, order: int) -> int:
    """How many partial derivatives of order 0 to `order` a function of `n` scalars has."""
    return math.comb(n + order, order)


class Jet(eqx.Module):
    """The partial derivatives of a function of n scalars at one point, up to an order: called like the function, it
    gives the function's value at that point, and has its derivatives there, whatever the values it is called with.

    `partials`: one output of the function for every sorted multi-index, in the order of `indices`.
    """

    partials: tuple[PyTree, ...]
    indices: tuple[Index, ...] = eqx.field(static=True)
    order: int = eqx.field(static=True)

    def __call__(self, *point: Any) -> PyTree:
        """The value; derivatives of more than `order` in all are refused."""
        return _partial(self.indices, self.order, (), self.partials, point)


def jet(fn: Callable[..., PyTree], point: Sequence[Any], order: int) -> Jet:
    """The jet of `fn(*point)` at `point`, n scalars, up to `order`: forward over forward differentiation, in which the
    function is traced once and a mixed partial derivative is computed once."""
    n = len(point)
    indices = [index for k in range(order + 1) for index in itertools.combinations_with_replacement(range(n), k)]
    axes = [tuple(jnp.ones_like(p) if j == k else jnp.zeros_like(p) for j, p in enumerate(point)) for k in range(n)]

    def up_to(order: int) -> Callable[..., dict[Index, PyTree]]:
        """The function that gives all partial derivatives up to `order`."""
        if order == 0:
            return lambda *at: {(): fn(*at)}
        lower = up_to(order - 1)

        def more(*at):
            known, push = jax.linearize(lower, *at)
            found = dict(known)
            for k, axis in enumerate(axes):
                along = push(*axis)
                for index, value in along.items():
                    if len(index) == order - 1 and (not index or index[-1] <= k):
                        found[(*index, k)] = value
            return found

        return more

    found = up_to(order)(*point)
    return Jet(settle(tuple(found[index] for index in indices)), tuple(indices), order)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _partial(indices: tuple[Index, ...], order: int, index: Index, partials: Any, point: Any) -> PyTree:
    """The partial derivative of multi-index `index`, whose own derivatives are the partials one order up."""
    return partials[indices.index(index)]


@_partial.defjvp
def _partial_rule(indices, order, index, primals, tangents):
    partials, point = primals
    if len(index) == order:
        raise NotImplementedError(f"this jet holds derivatives up to order {order}; more were asked for.")
    out = _partial(indices, order, index, partials, point)
    dots = [
        jax.tree.map(
            lambda leaf, dot=dot: leaf * dot,
            _partial(indices, order, tuple(sorted((*index, k))), partials, point),
        )
        for k, dot in enumerate(tangents[1])
    ]
    return out, functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), dots)
