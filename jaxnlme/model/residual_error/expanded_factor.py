"""The factor of a correlation with one parameter, expanded to first order in it.

Value and score of a group use the factor and its derivative in several places; here both are computed once, and a sum
over rows is all that each further derivative costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from jaxnlme.model.derivatives import partial_derivatives
from jaxnlme.model.residual_error.correlation_base import AbstractFactor, Vectors
from jaxnlme.numerics.jets import with_slope
from jaxnlme.typing import PyTree, Scalar, Vector


class ExpandedFactor(AbstractFactor):
    """A factor as a function of the parameter of its correlation, differentiable once at the point of expansion.

    **Fields:** `factor`: at that point; `slopes`: the derivatives of its floating-point arrays; `at`: the parameter.
    """

    factor: AbstractFactor
    slopes: PyTree
    at: Any

    @property
    def half_logdet(self) -> Scalar:
        return self._expand(lambda factor: factor.half_logdet)

    def whiten(self, residual: Vector) -> Vector:
        return self._expand(lambda factor: factor.whiten(residual))

    def interaction(self, slopes: Vector) -> tuple[Vectors, Vectors]:
        return self._expand(lambda factor: factor.interaction(slopes))

    def as_function_of(self, value: Scalar) -> ExpandedFactor:
        """The factor as a function of the parameter `value` (), at the point of expansion."""
        return ExpandedFactor(self.factor, self.slopes, value)

    def _expand(self, operation: Callable[[AbstractFactor], PyTree]) -> PyTree:
        arrays, static = eqx.partition(self.factor, eqx.is_inexact_array)
        value, slope = jax.jvp(lambda arrays: operation(eqx.combine(arrays, static)), (arrays,), (self.slopes,))
        return jax.tree.map(lambda value, slope: with_slope(value, slope, self.at), value, slope)


def expand_factor(factor: Callable[[Scalar], AbstractFactor], at: Scalar) -> ExpandedFactor:
    """The expansion at `at` () of `factor(value)`, the factor of a correlation as a function of its parameter."""
    jet = partial_derivatives(lambda value: eqx.filter(factor(value), eqx.is_inexact_array), [at], 1)
    others = eqx.filter(factor(at), eqx.is_inexact_array, inverse=True)
    return ExpandedFactor(eqx.combine(jet.partial(), others), jet.partial(0), at)
