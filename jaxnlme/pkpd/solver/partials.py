"""Functions whose partial derivatives of any order are computed together, in one forward evaluation.

An adaptive solver is a loop of unknown length, which reverse differentiation refuses and nested forward differentiation
runs once for each direction and order. Here a function comes with a routine that computes its value and all its partial
derivatives up to an order in one loop. Its derivative rule asks for one order more and is linear in the tangent, so
that forward and reverse differentiation, nested as deeply as one likes, end in a single loop of the highest order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jaxnlme.numerics.tracing import depends
from jaxnlme.typing import PyTree

Partials = tuple[PyTree, ...]


class Expansion:
    """The point at which partial derivatives are taken, and their computation.

    The partials of a quantity are a tuple of trees: its value, its first derivatives on a first axis of its arrays, one
    for each variable, its second derivatives on two first axes, and so on to the order of the expansion; or its value
    only, where it does not depend on the point.

    **Arguments:** `leaves`: arrays; `variables`: positions of those in whose entries derivatives are taken, to `order`.
    """

    def __init__(self, leaves: Sequence[Any], variables: tuple[int, ...], order: int):
        self.leaves, self.order = tuple(leaves), order
        self.variables = variables if order else ()
        self.point = tuple(self.leaves[k].reshape(-1)[i] for k in self.variables for i in range(self.leaves[k].size))
        self._read: dict[Quantity, PyTree] | None = None
        self._met: list[Quantity] = []
        self._probing = False

    def at(self, *point: Any) -> tuple[Any, ...]:
        """The leaves with the entries of the variables replaced by the scalars `point`."""
        leaves, start = list(self.leaves), 0
        for k in self.variables:
            shape, size = leaves[k].shape, leaves[k].size
            leaves[k] = point[start] if shape == () else jnp.stack(point[start : start + size]).reshape(shape)
            start += size
        return tuple(leaves)

    def function(self, partials: Partials) -> Callable[..., PyTree]:
        """The function of the point that has these partials, to be called inside a function that is expanded."""
        value = partials[0]
        return Quantity(self, partials) if len(partials) > 1 else lambda *point: value

    def expand(self, fn: Callable[..., PyTree]) -> Partials:
        """The partials of `fn(*point)`, by forward differentiation along the variables."""
        if not self.order:
            return (fn(*self.point),)
        self._met = []
        jax.eval_shape(lambda point: fn(*point), self.point)  # which quantities it reads
        quantities = list(dict.fromkeys(self._met))
        return self._levels(fn, quantities, self.order, [q.partials for q in quantities], self.point)

    def _levels(self, fn: Callable[..., PyTree], quantities: list, order: int, partials: Any, point: Any) -> Partials:
        """The partials up to `order`: those of one order more are the tangents of the highest, along each variable.

        Along variable j the derivatives of the partials of order 0, 1, ... of a quantity are the entries j of its
        partials of order 1, 2, ...
        """
        if not order:
            self._read = {q: values[0] for q, values in zip(quantities, partials, strict=True)}
            try:
                return (fn(*point),)
            finally:
                self._read = None

        def lower(partials: Any, point: Any) -> Partials:
            return self._levels(fn, quantities, order - 1, partials, point)

        def along(higher: Any, direction: Any) -> tuple[Partials, Partials]:
            return jax.jvp(lower, ([values[:order] for values in partials], point), (higher, tuple(direction)))

        higher = [values[1 : order + 1] for values in partials]
        directions = jnp.eye(len(point), dtype=point[0].dtype)
        values, tangents = jax.vmap(along, out_axes=(None, 0))(higher, directions)
        return (*values, tangents[-1])

    def expand_sparse(self, fn: Callable[..., dict[Any, Any]]) -> dict[Any, Partials]:
        """The partials of each entry of the dict `fn(*point)`, the value only for those that do not depend on the
        point."""
        values = fn(*self.point)
        self._probing = True
        moving = [name for name in values if self.order and depends(lambda p, name=name: fn(*p)[name], self.point)]
        self._probing = False
        partials = self.expand(lambda *p: {name: fn(*p)[name] for name in moving}) if moving else ()
        return {
            name: tuple(part[name] for part in partials) if name in moving else (value,)
            for name, value in values.items()
        }

    def dense(self, partials: Partials) -> Partials:
        """`partials` of all orders, trees of zeros where there was the value only."""
        n, missing = len(self.point), range(len(partials), self.order + 1)
        value = partials[0]
        return partials + tuple(
            jax.tree.map(lambda v, m=m: jnp.zeros((n,) * m + jnp.shape(v), v.dtype), value) for m in missing
        )


class Quantity:
    """A function of the point of an Expansion, given by its partials."""

    def __init__(self, expansion: Expansion, partials: Partials):
        self.expansion, self.partials = expansion, partials

    def __call__(self, *point: Any) -> PyTree:
        read = self.expansion._read
        if read is not None:
            return read[self]
        self.expansion._met.append(self)
        if self.expansion._probing:  # a program that depends on the point
            return jax.tree.map(lambda leaf: leaf + 0.0 * sum(point), self.partials[0])
        return self.partials[0]


Evaluate = Callable[[Expansion], Partials]


def differentiable(evaluate: Evaluate, leaves: Sequence[Any]) -> PyTree:
    """The value of a function of `leaves`, arrays, differentiable to any order in both directions.

    **Arguments:** `evaluate(expansion)`: the partials of the function at an Expansion, of all orders; a function
    of the leaves of the expansion only, closing over no traced value.
    """
    # A copy, since NumPy arrays in a batch of groups are no arguments of a custom derivative.
    return _partials(evaluate, (), 0, tuple(jnp.array(leaf, copy=True) for leaf in leaves))[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _partials(evaluate: Evaluate, variables: tuple[int, ...], order: int, leaves: tuple[Any, ...]) -> Partials:
    return evaluate(Expansion(leaves, variables, order))


@functools.partial(_partials.defjvp, symbolic_zeros=True)
def _partials_rule(evaluate, variables, order, primals, tangents):
    (leaves,), (dots,) = primals, tangents
    moving = [k for k, dot in enumerate(dots) if not isinstance(dot, SymbolicZero)]
    if not moving:
        out = _partials(evaluate, variables, order, leaves)
        return out, jax.tree.map(jnp.zeros_like, out)
    union = tuple(sorted({*variables, *moving}))
    higher = _partials(evaluate, union, order + 1, leaves)
    sizes = [math.prod(leaves[k].shape) for k in union]
    first = dict(zip(union, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    kept = [first[k] + i for k in variables for i in range(math.prod(leaves[k].shape))]
    entries = [(first[k] + i, dots[k].reshape(-1)[i]) for k in moving for i in range(math.prod(leaves[k].shape))]

    def of_kept(leaf: Any, axes: int) -> Any:
        """The derivatives along the variables of the lower order, on the first `axes` axes."""
        for axis in range(axes if len(kept) < sum(sizes) else 0):
            leaf = jnp.take(leaf, np.array(kept, int), axis=axis)
        return leaf

    def along(leaf: Any, axes: int) -> Any:
        return functools.reduce(jnp.add, [of_kept(leaf[j], axes) * dot for j, dot in entries])

    out = tuple(jax.tree.map(lambda leaf, m=m: of_kept(leaf, m), higher[m]) for m in range(order + 1))
    return out, tuple(jax.tree.map(lambda leaf, m=m: along(leaf, m), higher[m + 1]) for m in range(order + 1))
