"""Responses below or above limits of quantification: the density of a row whose value is known to lie in an interval.

With m = h(f) and s the mean and scale of h(y), F(u) = Phi((h(u) - m) / s), the term of a row in the log-density is

| method | censored row, lower < y < upper | observed row: log N(h(y); m, s^2) + log h'(y) |
|---|---|---|
| M1 | left out | as it is |
| M2 | left out | - log(F(uloq) - F(lloq)) |
| M3 | log(F(upper) - F(lower)) | as it is |
| M4 | log(F(upper) - F(max(lower, 0))) - log(1 - F(0)) | - log(1 - F(0)) |

with lower = -inf (upper = inf) where only the other is known; F(0) = 0 for transforms of positive responses such as
log. Left-out rows count as rows without a response.

FOCE and FOCEI give the terms e(f) with F the curvature -e''(f) f_k f_l: the exact second derivative in the prediction
(for FOCEI including the scale's dependence on f), without the second derivatives of f itself, which a Gauss-Newton
curvature leaves out of every row.

**Source:** Beal (2001), Journal of Pharmacokinetics and Pharmacodynamics 28, 481-504, methods M1 to M4.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.arguments import check_choice
from jaxnlme.errors import OptionError
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.transforms import AbstractTransform
from jaxnlme.numerics.normal_tails import OPEN, log_normal_probability
from jaxnlme.typing import Vector

METHODS = ("M1", "M2", "M3", "M4")


class GroupLimits(eqx.Module):
    """Limits of the rows of one group, each (obs,).

    **Fields:** `kind`: 0 observed, 1 left-censored, 2 right-censored, 3 in an interval; `lower`, `upper`: of a censored
    row, -inf and inf where there is none; `lloq`, `uloq`: limits of quantification that a row has whether or not it is
    censored, -inf and inf where there are none.
    """

    kind: Any
    lower: Any
    upper: Any
    lloq: Any
    uloq: Any


def uncensored(group: Any) -> Any:
    """True in rows (obs,) with a response whose value is known."""
    observed = group.x.observed
    return observed if group.limits is None else observed & (group.limits.kind == 0)


class AbstractLimitedError(AbstractError):
    """A Gaussian residual model of h(y) whose rows may be censored: the terms that follow from limits.

    A subclass has the fields `censoring` (None or one of METHODS) and `response` (the transform h), and defines
    `standardise`.
    """

    if TYPE_CHECKING:

        @property
        def response(self) -> AbstractTransform:
            """The transform h, a field of every final class."""
            ...

        @property
        def censoring(self) -> str | None:
            """One of METHODS or None, a field of every final class."""
            ...

        def standardise(
            self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any, usable: Any
        ) -> tuple[Any, Any, Any]:
            """Mean and scale of h(y) (obs,) with predictions replaced by responses where they are not `usable` (obs,),
            and the exponent of h."""
            ...

    @property
    def is_limited(self) -> bool:
        return self.censoring in ("M2", "M3", "M4")

    @property
    def drops_censored(self) -> bool:
        """True if censored rows count as rows without a response."""
        return self.censoring in ("M1", "M2")

    def limit_terms(self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any) -> Vector:
        """The terms (obs,) of the log-density that follow from limits, zero in rows that have none; arguments as for
        `log_density`."""
        low, high = self.response.domain
        limits, observed, known = group.limits, group.x.observed, uncensored(group)
        # A prediction of 0 with a proportional or log-normal residual: all probability is at one point.
        outside = jnp.isfinite(prediction) & ((prediction <= low) | (prediction >= high))
        mean, scale, shape = self.standardise(prediction, scale_prediction, theta, group, observed & ~outside)
        is_point = observed & jnp.isfinite(prediction) & (outside | (scale == 0))
        regular = observed & ~is_point
        mean, scale = jnp.where(regular, mean, 0.0), jnp.where(regular, scale, 1.0)

        def bound(limit: Any) -> Vector:
            """(h(limit) - m) / s, -OPEN and OPEN where h(limit) is infinite."""
            inside = (limit > low) & (limit < high)
            value = self.response.to_real(jnp.where(inside, limit, _inner_point(low, high)), shape)
            standardised = jnp.clip((value - mean) / scale, -OPEN, OPEN)
            standardised = jnp.where(is_point, jnp.where(limit > prediction, OPEN, -OPEN), standardised)
            return jnp.where(inside, standardised, jnp.where(limit >= high, OPEN, -OPEN))

        def log_probability(rows: Any, lower: Any, upper: Any) -> Vector:
            a, b = bound(lower), bound(upper)
            none = rows & (a >= b)  # both are on one side of the point
            usable = rows & ~none
            value = log_normal_probability(jnp.where(usable, a, -1.0), jnp.where(usable, b, 1.0))
            return jnp.where(usable, value, jnp.where(none, -jnp.inf, 0.0))

        positive = self.censoring == "M4" and not low >= 0.0
        terms = jnp.zeros_like(prediction)
        if limits is not None and not self.drops_censored:
            lower = jnp.maximum(limits.lower, 0.0) if positive else limits.lower
            terms = terms + log_probability(observed & ~known, lower, limits.upper)
        if limits is not None and self.censoring == "M2":
            bounded = known & ((limits.lloq > low) | (limits.uloq < high))
            terms = terms - log_probability(bounded, limits.lloq, limits.uloq)
        if positive:
            terms = terms - log_probability(observed, jnp.zeros_like(prediction), jnp.full_like(prediction, jnp.inf))
        return terms

    def limit_curvature(self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any) -> Vector:
        ones = jnp.ones_like(prediction)

        def terms(f: Any) -> Vector:
            return self.limit_terms(f, f if scale_prediction is None else scale_prediction, theta, group)

        def slope(f: Any) -> Vector:
            return jax.jvp(terms, (f,), (ones,))[1]

        return -jax.jvp(slope, (prediction,), (ones,))[1]


def check_method(method: Any) -> str:
    """One of METHODS. **Raises:** OptionError for anything else."""
    check_choice("censoring", method, METHODS)
    return method


def with_censoring(error: AbstractError, method: str | None) -> AbstractError:
    """The residual model with a method for censored rows; None leaves it as it is.

    **Arguments:** `error`: of one endpoint; `method`: one of METHODS, or None.
    **Raises:** OptionError for an outcome that is not Gaussian, and for correlated residuals with other methods than
    M1.
    """
    if method is None:
        return error
    check_method(method)
    if not isinstance(error, AbstractLimitedError):
        raise OptionError(
            f"censoring={method!r} needs a Gaussian residual model (a mean and a scale), and this outcome has none: "
            "write the probability of a censored row into its log-density, and leave censoring= out."
            if not error.has_location_and_scale
            else f"censoring={method!r} needs Gaussian residuals, and the residual model is {error.formula}; use "
            "jn.error.gaussian(scale), or jn.GroupLogLikelihood with the probability of a censored row."
        )
    correlation: Any = getattr(error, "correlation", None)
    if correlation is not None and method != "M1":
        raise OptionError(
            f"censoring={method!r} is not possible with residuals that are correlated ({correlation.formula}): the "
            "probability of censored rows is an integral over all of them. Use independent residuals, or "
            "censoring='M1', which leaves censored rows out."
        )
    changed: Any = error
    return dataclasses.replace(changed, censoring=method)


def _inner_point(low: float, high: float) -> float:
    """A number inside an interval that may be unbounded."""
    if np.isfinite(low) and np.isfinite(high):
        return 0.5 * (low + high)
    return low + 1.0 if np.isfinite(low) else high - 1.0 if np.isfinite(high) else 0.0
