"""Functions whose partial derivatives of any order are computed together, in one forward evaluation.

An adaptive solver is a loop of unknown length, which reverse differentiation refuses and nested forward differentiation
runs once for each direction and order. Here a function comes with a routine that computes its value and all its partial
derivatives up to an order in one loop. Its derivative rule asks for one order more and is linear in the tangent, so that
forward and reverse differentiation, nested as deeply as one likes, end in a single loop of the highest order.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxnlme.numerics.jets import Index, Jet, jet
from jaxnlme.numerics.tracing import depends
from jaxnlme.typing import PyTree


def multi_indices(n: int, order: int) -> tuple[Index, ...]:
    """The sorted multi-indices of `n` scalars up to `order`, in the order of the partials of a Jet."""
    return tuple(ix for k in range(order + 1) for ix in itertools.combinations_with_replacement(range(n), k))


Partials = tuple[PyTree, ...]


class Expansion:
    """The point at which partial derivatives are taken. The partials of a quantity are a tuple with one tree for each
    multi-index, or with a single one where it does not depend on the point.

    **Arguments:** `leaves`: arrays; `variables`: positions of those in whose entries derivatives are taken, to `order`.
    """

    def __init__(self, leaves: Sequence[Any], variables: tuple[int, ...], order: int):
        self.leaves, self.order = tuple(leaves), order
        self.variables = variables if order else ()
        self.point = tuple(self.leaves[k].reshape(-1)[i] for k in self.variables for i in range(self.leaves[k].size))
        self.indices = multi_indices(len(self.point), order)

    def at(self, *point: Any) -> tuple[Any, ...]:
        """The leaves with the entries of the variables replaced by the scalars `point`."""
        leaves, start = list(self.leaves), 0
        for k in self.variables:
            shape, size = leaves[k].shape, leaves[k].size
            leaves[k] = point[start] if shape == () else jnp.stack(point[start : start + size]).reshape(shape)
            start += size
        return tuple(leaves)

    def expand(self, fn: Callable[..., PyTree]) -> Partials:
        """The partials of `fn(*point)`, all of them."""
        return jet(fn, self.point, self.order).partials if self.order else (fn(*self.point),)

    def expand_sparse(self, fn: Callable[..., dict[str, Any]]) -> dict[str, Partials]:
        """The partials of each entry of the dict `fn(*point)`, a single one for those that do not depend on the
        point."""
        values = fn(*self.point)
        moving = [name for name in values if self.order and depends(lambda p, name=name: fn(*p)[name], self.point)]
        partials = self.expand(lambda *p: {name: fn(*p)[name] for name in moving}) if moving else ()
        return {
            name: tuple(part[name] for part in partials) if name in moving else (value,)
            for name, value in values.items()
        }

    def function(self, partials: Partials) -> Callable[..., PyTree]:
        """The function of the point that has these partials."""
        return Jet(partials, self.indices) if len(partials) > 1 else lambda *point: partials[0]

    def dense(self, partials: Partials) -> Partials:
        """`partials` for every multi-index, trees of zeros where there was one only."""
        zeros = jax.tree.map(jnp.zeros_like, partials[0])
        return partials + (zeros,) * (len(self.indices) - len(partials))


Evaluate = Callable[[Expansion], Partials]


def differentiable(evaluate: Evaluate, leaves: Sequence[Any]) -> PyTree:
    """The value of a function of `leaves`, arrays, differentiable to any order in both directions.

    **Arguments:** `evaluate(expansion)`: the partials of the function at an Expansion, for every multi-index; a function
    of the leaves of the expansion only, closing over no traced value.
    """
    return _partials(evaluate, (), 0, tuple(jnp.asarray(leaf) for leaf in leaves))[0]


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
    first = dict(zip(union, itertools.accumulate([0, *sizes[:-1]]), strict=True))
    scalars = [first[k] + i for k in variables for i in range(math.prod(leaves[k].shape))]  # old to new numbers
    position = {index: k for k, index in enumerate(multi_indices(sum(sizes), order + 1))}
    kept = [tuple(scalars[i] for i in index) for index in multi_indices(len(scalars), order)]
    entries = [(first[k] + i, dots[k].reshape(-1)[i]) for k in moving for i in range(math.prod(leaves[k].shape))]

    def along(index: Index) -> PyTree:
        slopes = [(higher[position[tuple(sorted((*index, j)))]], dot) for j, dot in entries]
        terms = [jax.tree.map(lambda leaf, dot=dot: leaf * dot, slope) for slope, dot in slopes]
        return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), terms)

    return tuple(higher[position[index]] for index in kept), tuple(map(along, kept))
