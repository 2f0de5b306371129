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
from jaxnlme.model.residual_error.correlation_base import AbstractFactor, Independent
from jaxnlme.model.residual_error.expanded_factor import ExpandedFactor, expand_factor
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.jets import Jet
from jaxnlme.numerics.tracing import depends
from jaxnlme.typing import PyTree, Scalar, Vector


class TransformedGroup:
    """One group at given Params. Used within one trace.

    **Fields:** `method`: a likelihood method, None where only modes or a tangent are needed; `density`; `individual`:
    its linear individual parameters; `params`; `group`; `n`: number of parameters; `residual_factor`: that of the
    residuals at `params`, computed once for all points z; None for independent ones.
    """

    def __init__(self, method: Any, density: Density, params: Params, group: Group):
        assert isinstance(density.individual, LinearIndividual)
        self.method, self.density, self.params, self.group = method, density, params, group
        self.individual = density.individual
        self.n = len(self.individual.names)
        self.error = density.error_at(params)
        factor = self.error.factor(params.error, group)
        self.residual_factor = None if isinstance(factor, Independent) else barrier(factor)
        self._expanded: ExpandedFactor | None = None

    def predict(self, *u: Any) -> Any:
        """The prediction of the structural model at `u`, a value () or (obs,) for each parameter."""
        individual = self.individual
        values = tuple(t.to_natural(value) for t, value in zip(individual.transforms, u, strict=True))
        phi = as_record(individual.names, values, individual.level_names, self.group)
        return self.density.structural(self.params.free, phi, self.group.x, self.group.v)

    def expand_factor(self) -> None:
        """Compute the factor of the correlation of the residuals with its derivative in a single parameter, once for
        all uses of `factor_at`."""
        error, last = self.error, self.params.error.shape[0] - 1
        if error.n_correlation == 1:

            def factor(value: Scalar) -> AbstractFactor:
                return error.factor(jnp.concatenate([self.params.error[:last], value[None]]), self.group)

            self._expanded = expand_factor(factor, self.params.error[last])
            self.residual_factor = self._expanded.factor

    def factor_at(self, theta: Vector) -> AbstractFactor:
        """The factor of the correlation of the residuals as a function of the error parameters `theta`; after
        `expand_factor` only at those of `params`, and differentiable once."""
        if self._expanded is None:
            return self.error.factor(theta, self.group)
        return self._expanded.as_function_of(theta[-1])

    def rows(self, f: Any, g: Any, theta: Vector, factor: AbstractFactor | None = None) -> Scalar:
        """log p(y) at the predictions `f`, with the residual scale at the predictions `g` (None: at f) and error
        parameters `theta`; `factor`: of the correlation at `theta`, None: computed here."""
        return self.error.log_density(f, f if g is None else g, theta, self.group, factor)

    def second_order(self, jet: Jet, g: Any) -> tuple[Scalar, list[PyTree], list[list[PyTree]]]:
        """log p(y), and trees of products (obs, ...) whose sums over rows are its gradient in u and the lower triangle
        of its Hessian there.

        With h its gradient in the prediction f and H its Hessian there, l_j = h f_j and l_jk = f_j H f_k + h f_jk.

        **Arguments:** `jet`: of the prediction at u, of order 2; `g`: as for `rows`.
        """
        f, first = jet.partial(), [jet.partial(k) for k in range(self.n)]
        if self.residual_factor is not None:
            return self._second_order_correlated(self.residual_factor, jet, g)
        (value, gradient), push = jax.linearize(jax.value_and_grad(lambda f: self.rows(f, g, self.params.error)), f)
        gradient, second = barrier((gradient, [push(f_u)[1] for f_u in first]))
        in_u = [products((gradient, f_u)) for f_u in first]
        return (
            value,
            in_u,
            [
                [products((second[j], first[k]), (gradient, jet.partial(k, j))) for k in range(j + 1)]
                for j in range(self.n)
            ],
        )

    def _second_order_correlated(
        self, factor: AbstractFactor, jet: Jet, g: Any
    ) -> tuple[Scalar, list[PyTree], list[list[PyTree]]]:
        """`second_order` for residuals with a correlation.

        With r the standardised residuals and T the factor, l = terms - |T r|^2 / 2, whose Hessian is that of
        terms - (T' T r) . r with T' T r held constant, a sum over rows, less the products of T r_j and T r_k: each
        vector is multiplied by T only, not by T' T.
        """
        f, first = jet.partial(), [jet.partial(k) for k in range(self.n)]

        def standardised(f: Any) -> tuple[Vector, Vector]:
            return self.error.standardised(f, f if g is None else g, self.params.error, self.group)

        (r, terms), push_r = jax.linearize(standardised, f)
        whitened, pull = jax.vjp(factor.whiten, r)
        value = jnp.sum(terms - 0.5 * whitened**2) - factor.half_logdet
        (outer,) = barrier(pull(whitened))

        def of_rows(f: Any) -> Scalar:
            r, terms = standardised(f)
            return jnp.sum(terms - outer * r)

        slope = jax.grad(of_rows)
        gradient, push = jax.linearize(slope, f)
        curved = depends(slope, f)
        gradient, second, whitened = barrier(
            (gradient, [push(f_u) for f_u in first] if curved else [], [factor.whiten(push_r(f_u)[0]) for f_u in first])
        )

        def in_uu(j: int, k: int) -> PyTree:
            pairs = [(second[j], first[k])] if curved else []
            own, both = products(*pairs, (gradient, jet.partial(k, j))), whitened[j] * whitened[k]
            # Predictions by endpoint may be several arrays, of which the residuals are no part.
            return own - both if getattr(own, "shape", None) == both.shape else (own, -both)

        return (
            value,
            [products((gradient, f_u)) for f_u in first],
            [[in_uu(j, k) for k in range(j + 1)] for j in range(self.n)],
        )

    def curvature_products(self, prediction: Jet, u: Any, g: Any, theta: Vector) -> list[list[PyTree]]:
        """The lower triangle of M, the curvature in u, before it is added up over rows: trees of products (obs, ...),
        differentiable functions of `u`, `g` and `theta` at the point of the jet.

        Gauss-Newton: J' R^-1 J (+ (1/2) tr(R^-1 R_k R^-1 R_l) where the scale depends on z), as in
        `curvature.gauss_newton`, with the curvature of terms that follow from limits; exact: minus the second
        derivatives of l.

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
            residual, scale, _ = self.error.moments(f, f if g is None else g, theta, self.group)
            return residual, jnp.log(scale)

        (_, log_scale), push = jax.linearize(moments, f)
        of_scale = g is None and depends(lambda f: moments(f)[1], f)
        log_scale, pushed = barrier((log_scale, [push(slope_u)[: 1 + of_scale] for slope_u in first]))
        precision = jnp.exp(-log_scale)
        factor = self.factor_at(theta)
        left = right = [(factor.whiten(residual * precision),) for residual, *_ in pushed]
        if of_scale:
            sides = [factor.interaction(scale) for _, scale in pushed]
            left = [(*row, *side) for row, (side, _) in zip(left, sides, strict=True)]
            right = [(*row, *side) for row, (_, side) in zip(right, sides, strict=True)]
        if self.error.is_limited:
            weight = self.error.limit_curvature(f, g, theta, self.group)
            left = [(*row, weight * slope_u) for row, slope_u in zip(left, first, strict=True)]
            right = [(*row, slope_u) for row, slope_u in zip(right, first, strict=True)]
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
