"""One group in its parameters u on the transformed scale: prediction, log-density, and products of derivatives by row.

What `one_pass.py` adds up over all rows of a group, and `nested.py` over the rows of each unit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.model.density import Density, Group
from jaxnlme.model.individual_parameters import LinearIndividual, as_record
from jaxnlme.model.params import Params
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.jets import Jet
from jaxnlme.numerics.tracing import depends
from jaxnlme.typing import PyTree, Scalar, Vector


class TransformedGroup:
    """One group at given Params. Used within one trace.

    **Fields:** `method`: a likelihood method, None where only modes or a tangent are needed; `density`; `individual`:
    its linear individual parameters; `params`; `group`; `n`: number of parameters.
    """

    def __init__(self, method: Any, density: Density, params: Params, group: Group):
        assert isinstance(density.individual, LinearIndividual)
        self.method, self.density, self.params, self.group = method, density, params, group
        self.individual = density.individual
        self.n = len(self.individual.names)

    def predict(self, *u: Any) -> Any:
        """The prediction of the structural model at `u`, a value () or (obs,) for each parameter."""
        individual = self.individual
        values = tuple(t.to_natural(value) for t, value in zip(individual.transforms, u, strict=True))
        phi = as_record(individual.names, values, individual.level_names, self.group)
        return self.density.structural(self.params.free, phi, self.group.x, self.group.v)

    def rows(self, f: Any, g: Any, theta: Vector) -> Scalar:
        """log p(y) at the predictions `f`, with the residual scale at the predictions `g` (None: at f) and error
        parameters `theta`."""
        return self.density.error.log_density(f, f if g is None else g, theta, self.group)

    def curvature_products(self, prediction: Jet, u: Any, g: Any, theta: Vector) -> list[list[PyTree]]:
        """The lower triangle of M, the curvature in u, before it is added up over rows: trees of products (obs, ...),
        differentiable functions of `u`, `g` and `theta` at the point of the jet.

        Gauss-Newton: J' R^-1 J (+ (1/2) tr(R^-1 R_k R^-1 R_l) where the scale depends on z), as in
        `curvature.gauss_newton`; exact: minus the second derivatives of l.

        **Arguments:** `prediction`: the jet of the prediction at u; `g`, `theta`: as for `rows`.
        """
        f, first = prediction(*u), [prediction.differentiable_partial((k,), *u) for k in range(self.n)]
        if self.method.curvature == "exact":
            slope, push = jax.linearize(jax.grad(lambda f: self.rows(f, g, theta)), f)
            second = [push(slope_u) for slope_u in first]

            def minus_products(j: int, k: int) -> PyTree:
                both = products((second[j], first[k]), (slope, prediction.differentiable_partial((k, j), *u)))
                return jax.tree.map(jnp.negative, both)

            return [[minus_products(j, k) for k in range(j + 1)] for j in range(self.n)]

        def moments(f):
            residual, scale, _ = self.density.error.moments(f, f if g is None else g, theta, self.group)
            return residual, jnp.log(scale)

        (_, log_scale), push = jax.linearize(moments, f)
        of_scale = g is None and depends(lambda f: moments(f)[1], f)
        log_scale, pushed = barrier((log_scale, [push(slope_u)[: 1 + of_scale] for slope_u in first]))
        precision = jnp.exp(-log_scale)
        factor = self.density.error.factor(theta, self.group)
        left = right = [(factor.whiten(residual * precision),) for residual, *_ in pushed]
        if of_scale:
            sides = [factor.interaction(scale) for _, scale in pushed]
            left = [(*row, *side) for row, (side, _) in zip(left, sides, strict=True)]
            right = [(*row, *side) for row, (_, side) in zip(right, sides, strict=True)]
        return [
            [sum(a * b for a, b in zip(left[j], right[k], strict=True)) for k in range(j + 1)] for j in range(self.n)
        ]


def products(*pairs: tuple[PyTree, PyTree]) -> PyTree:
    """The sum over pairs of the products of two trees of arrays (obs, ...)."""
    each = [jax.tree.map(jnp.multiply, left, right) for left, right in pairs]
    return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *each)


def total(tree: PyTree) -> Scalar:
    """The sum over the rows and entries of a tree of arrays (obs, ...)."""
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(tree)), jnp.zeros(()))


def by_row(tree: PyTree) -> Vector:
    """The sums (obs,) over the entries of each row of a tree of arrays (obs, ...)."""
    leaves = jax.tree.leaves(tree)
    return sum(jnp.sum(leaf, axis=tuple(range(1, leaf.ndim))) if leaf.ndim > 1 else leaf for leaf in leaves)
