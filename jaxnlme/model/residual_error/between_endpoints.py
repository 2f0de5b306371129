"""Correlation of the residuals of different endpoints at one time; the factor of several correlations of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.data._endpoints import endpoint_label
from jaxnlme.errors import OptionError, shown, some
from jaxnlme.model.fixed import Fixed
from jaxnlme.model.residual_error.correlation_base import (
    AbstractCorrelation,
    AbstractFactor,
    Bound,
    Independent,
    Series,
)
from jaxnlme.model.residual_error.correlation_matrices import AbstractMatrix, pairs
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.residual_error.partial_correlations import correlation_factor, from_correlations
from jaxnlme.model.settings import MODEL
from jaxnlme.model.transforms import Logit
from jaxnlme.signatures import public
from jaxnlme.typing import Scalar, Vector


class BetweenEndpoints(AbstractMatrix):
    """A correlation for every pair of endpoints, of residuals at one time; `jn.correlation.Endpoints` makes it.

    One pair has its correlation on the logit scale of (-1, 1); with more, theta are partial correlations on Fisher's
    scale, as in `Unstructured`.

    **Fields:** `within`: the column of times; `labels`: of the endpoints, in the order of the model; empty until that
    is known; `start`: of every correlation; `holds`: it is not estimated.
    """

    within: str | None = eqx.field(static=True)
    labels: tuple[str, ...] = eqx.field(static=True, default=())
    start: float = eqx.field(static=True, default=0.0)
    holds: bool = eqx.field(static=True, default=False)
    parameters: tuple[ErrorParameter, ...] = ()
    time: str | None = eqx.field(static=True, default=None)

    @property
    def formula(self) -> str:
        return "one for each pair of endpoints"

    @property
    def description(self) -> str:
        return f"one for each pair of {some(self.labels, len(self.labels))} at one {self.within}"

    @property
    def is_joint(self) -> bool:
        return len(self.labels) > 2

    def of_labels(self, known: Sequence[str]) -> BetweenEndpoints:
        """The correlation with its endpoints: those that it names, or `known`, all that can be correlated.

        **Raises:** OptionError for fewer than two.
        """
        labels = self.labels or tuple(known)
        if len(labels) < 2:
            raise OptionError(
                "a correlation between endpoints needs two of them with a Gaussian residual model; "
                f"{'there is only ' + labels[0] if labels else 'there is none'}. Leave correlation= out."
            )
        names = [f"corr({labels[j]}, {labels[k]})" for j, k in pairs(len(labels))]
        parameters = tuple(ErrorParameter(name, self.start, Logit(-1.0, 1.0), self.holds) for name in names)
        if self.holds and len(labels) > 2:
            raise OptionError("correlations of more than two endpoints depend on each other, so that none can be held.")
        return BetweenEndpoints(self.within, labels, self.start, self.holds, parameters)

    def at_bounds(self, theta, series):
        bound = MODEL.bound_logit * (0.5 if self.is_joint else 1.0)  # Fisher's z is half the logit
        singular = np.abs(theta) > bound
        return [Bound(p.name, False) for p, at in zip(self.parameters, singular, strict=True) if at and not p.fix]

    def natural(self, theta):
        if not self.is_joint:
            return super().natural(theta)
        lower = correlation_factor(theta, len(self.labels))
        return tuple((lower[j] * lower[k]).sum() for j, k in pairs(len(self.labels)))

    def unconstrained(self, values: Sequence[float]) -> np.ndarray:
        if not self.is_joint:
            return super().unconstrained(values)
        n = len(self.labels)
        matrix = np.eye(n)
        for (j, k), value in zip(pairs(n), values, strict=True):
            matrix[j, k] = matrix[k, j] = value
        named = [f"{p.name} = {value:g}" for p, value in zip(self.parameters, values, strict=True)]
        return from_correlations(matrix, some(named, len(named)))

    def entries(self, theta, layout):
        index = layout.time.astype(int)
        if self.is_joint:
            lower = correlation_factor(theta, len(self.labels))
            return (lower @ lower.T)[index[:, None], index[None, :]]
        (rho,) = self.natural(theta)
        return jnp.full((layout.code.shape[0],) * 2, rho)

    def resolve(self, series: Series) -> AbstractCorrelation:
        together = series.together(range(len(self.labels)))
        apart = [f"{self.labels[j]} and {self.labels[k]}" for j, k in pairs(len(self.labels)) if not together[j, k]]
        if apart:
            raise OptionError(
                f"the correlation between endpoints needs times at which both of a pair are observed; there are none "
                f"of {some(apart)} (column {self.within!r}): leave one of them out of the correlation (of=[...])."
            )
        return self


class ProductFactor(AbstractFactor):
    """The factor of correlations of different rows: T is the product of theirs.

    **Fields:** `factors`; `rows`: for each of them the rows (obs,) that it correlates; the others are independent.
    """

    factors: tuple[AbstractFactor, ...]
    rows: tuple[Any, ...]

    @property
    def half_logdet(self) -> Scalar:
        return sum((factor.half_logdet for factor in self.factors), jnp.zeros(()))

    def whiten(self, residual: Vector) -> Vector:
        for factor in self.factors:
            residual = factor.whiten(residual)
        return residual

    def interaction(self, slopes):
        left: tuple[Vector, ...] = ()
        right: tuple[Vector, ...] = ()
        others = jnp.ones(slopes.shape, bool)
        for factor, rows in zip(self.factors, self.rows, strict=True):
            others = others & ~rows
            sides = factor.interaction(jnp.where(rows, slopes, 0.0))
            left, right = (*left, *sides[0]), (*right, *sides[1])
        part = 2.0**0.5 * jnp.where(others, slopes, 0.0)
        return (*left, part), (*right, part)


def combined_factor(factors: Sequence[AbstractFactor], rows: Sequence[Any]) -> AbstractFactor:
    """One factor of those of different rows."""
    if not factors:
        return Independent()
    return factors[0] if len(factors) == 1 else ProductFactor(tuple(factors), tuple(rows))


@public("jn.correlation.Endpoints")
def Endpoints(time: str, *, of: Sequence[Any] | None = None, rho: float | Fixed | None = None) -> AbstractCorrelation:
    """A correlation for every pair of endpoints, of standardised residuals of a group at one time, reported as
    corr(cp, pca), ... A row at whose time no other endpoint is observed is independent of all others.

    **Arguments:** `time`: a column of x; rows of a group (of a unit of the innermost level) with equal values belong
    together; `of`: labels of the endpoints that are correlated, None: all that have a Gaussian residual model without
    a correlation of its own; `rho`: starting value of all correlations, 0 where None, or with two endpoints
    `jn.fixed(value)`.
    **Returns:** a correlation for `jn.error.endpoints`.
    **Raises:** OptionError for what is not the name of a column or a list of labels, and for rho outside (-1, 1).
    """
    if not isinstance(time, str):
        raise OptionError(
            f"a correlation between endpoints needs the name of the column of times; received {shown(time)}."
        )
    if of is not None and (not isinstance(of, (list, tuple)) or None in (labels := [endpoint_label(e) for e in of])):
        raise OptionError(f"of must be a list of labels of endpoints; received {shown(of)}.")
    labels = () if of is None else tuple(str(endpoint_label(e)) for e in of)
    if len(set(labels)) < len(labels):
        raise OptionError(f"of lists an endpoint twice: {some(labels)}.")
    value = rho.value if isinstance(rho, Fixed) else 0.0 if rho is None else rho
    checked = ErrorParameter("rho", value, Logit(-1.0, 1.0))
    out = BetweenEndpoints(time, labels, float(checked.start), isinstance(rho, Fixed))
    return out.of_labels(labels) if labels else out
