"""Limits of quantification met with a residual model: what the two must say of each other, and rows left out."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.binding.stacking import column_of, distinct
from jaxnlme.data._limits import Limits, censor
from jaxnlme.data._rows import name_rows
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError, OptionError
from jaxnlme.model.density import Group
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.censoring import GroupLimits
from jaxnlme.numerics.arrays import xp


def censoring_of(error: AbstractError) -> str | None:
    """The method for censored rows of a residual model, None without one."""
    return getattr(error, "censoring", None)


def resolve_censoring(error: AbstractError, data: GroupedData, like: AbstractError | None = None) -> AbstractError:
    """The residual model, without its method for censored rows where no row needs it: it is then the Gaussian one, with
    all methods of estimation.

    **Arguments:** `error`: as declared; `like`: as bound to earlier data, whose method is kept.
    **Raises:** ModelError where data have censored rows and the model no method for them, or the reverse, and for
    limits that the method or the response cannot have.
    """
    method, limits = censoring_of(error), data.limits
    if like is not None:
        bound: Any = like
        needed = censoring_of(like) is None and method is not None and _needs(method, data)
        return dataclasses.replace(bound, censoring=method) if needed else like
    if method is None:
        if limits is not None and limits.censored.any():
            raise ModelError(
                f"the data have {int(limits.censored.sum())} censored responses ({_rows(data, limits.censored)}), and "
                "the model does not say what becomes of them: declare it with censoring='M3' (their probability; also "
                "'M1', 'M2', 'M4'), as in jn.NLMEModel(..., censoring='M3')."
            )
        return error
    if limits is None:
        raise ModelError(
            f"the model has censoring={method!r}, and the data have no limits: name them in "
            "jn.GroupedData.from_frame(..., censoring='CENS') or lloq=0.5, or leave censoring= out."
        )
    _check_limits(method, error, data)
    changed: Any = error
    return error if _needs(method, data) else dataclasses.replace(changed, censoring=None)


def _needs(method: str, data: GroupedData) -> bool:
    """True if the density of a row depends on limits."""
    limits = data.limits
    if limits is None:
        return False
    of_rows = (limits.lloq > -np.inf) | (limits.uloq < np.inf)
    return bool(method == "M4" or limits.censored.any() or (method == "M2" and (of_rows & data.observed).any()))


def _check_limits(method: str, error: Any, data: GroupedData) -> None:
    """**Raises:** ModelError for a limit that leaves a row no probability, and for rows without the limit that M2
    needs."""
    limits = data.limits
    assert limits is not None
    low, high = error.response.domain
    if method == "M4":
        low = max(low, 0.0)
    if method in ("M3", "M4"):
        bad = limits.censored & ((limits.upper <= low) | (limits.lower >= high))
        if bad.any():
            what = f"above {low:g}" if low > -np.inf else f"below {high:g}"
            raise ModelError(
                f"a response in {_rows(data, bad)} is known to lie {_interval(limits, bad)}, and responses of this "
                f"model lie {what} ({error.formula}): correct the limit, or use another residual model."
            )
    bad = data.observed & ~limits.censored & (data.y <= 0)
    if method == "M4" and bad.any():
        raise ModelError(
            f"censoring='M4' conditions on responses above 0, and the response in {_rows(data, bad)} is "
            f"{data.y[bad][0]:g}: use 'M3', or leave the row out."
        )
    if method != "M2":
        return
    known = data.observed & ~limits.censored
    for kind, has, name in ((1, limits.lloq > -np.inf, "lloq"), (2, limits.uloq < np.inf, "uloq")):
        if (limits.kind == kind).any() and (known & ~has).any():
            raise ModelError(
                "censoring='M2' divides the density of every observed response by the probability that it can be "
                f"quantified, and {_rows(data, known & ~has)} has no limit: give {name}= to "
                "jn.GroupedData.from_frame, a number or a column."
            )


def _interval(limits: Any, rows: np.ndarray) -> str:
    lower, upper = limits.lower[rows][0], limits.upper[rows][0]
    if not np.isfinite(lower):
        return f"below {upper:g}"
    return f"above {lower:g}" if not np.isfinite(upper) else f"between {lower:g} and {upper:g}"


def _rows(data: GroupedData, rows: np.ndarray) -> str:
    """The `rows` (groups, obs) by their number in the table."""
    return name_rows(np.sort(data.row_index[rows]))


def without_dropped(error: AbstractError, data: GroupedData) -> GroupedData:
    """The data with the rows that a method leaves out as rows without a response."""
    if data.limits is None or not error.drops_censored:
        return data
    return dataclasses.replace(data, observed=data.observed & ~data.limits.censored)


def group_limits(error: AbstractError, data: GroupedData) -> GroupLimits | None:
    """The limits of the rows of all groups, None where no row has one or the model has no method for them."""
    if data.limits is None or censoring_of(error) is None:
        return None
    return GroupLimits(**data.limits.arrays)


def check_limits_known(data: GroupedData, purpose: str) -> Limits:
    """The limits of the data, checked: every observed row of an endpoint with censored rows has its limit of
    quantification, which simulated responses may be beyond.

    **Arguments:** `purpose`: what needs them, for the message.
    **Raises:** OptionError naming the rows without one.
    """
    limits = data.limits
    if limits is None:
        raise OptionError(f"{purpose}: the data have no limits of quantification.")
    low, high = limits.lloq > -np.inf, limits.uloq < np.inf
    at_upper = np.isfinite(limits.upper) & (limits.lower == -np.inf) | (limits.kind == 3)
    endpoints = np.zeros(data.y.shape, int)
    if data.endpoint is not None:
        endpoints = distinct(column_of(data, data.endpoint, purpose))[1]
    missing = np.zeros(data.y.shape, bool)
    for code in np.unique(endpoints[data.observed]):
        rows = data.observed & (endpoints == code)
        missing |= rows & (((at_upper & rows).any() & ~low) | (((limits.kind == 2) & rows).any() & ~high))
    if missing.any():
        raise OptionError(
            f"{purpose}: the limits of quantification are known in censored rows only, and {_rows(data, missing)} "
            f"{'has' if missing.sum() == 1 else 'have'} none; give lloq= (uloq=) to jn.GroupedData.from_frame, a "
            "number or a column."
        )
    return limits


def response_leaves(problem: Problem) -> list[Any]:
    """Responses, limits and rows with a response of the buckets of a problem, in the order of what
    `with_limited_responses` returns."""
    return [entry for bucket in problem.buckets for entry in (bucket.y, bucket.limits, bucket.x.observed)]


def with_limited_responses(error: AbstractError, bucket: Group, y: Any) -> tuple[Any, GroupLimits | None, Any]:
    """Other responses `y` of stacked groups with the limits of their rows applied: the responses, the limits, and the
    rows with a response; see `Limits.of_responses`. A pure function of arrays.

    **Arguments:** `bucket`: groups with the responses and limits before; `y` (..., groups, obs).
    """
    limits, observed = bucket.limits, bucket.x.observed
    xnp = xp(y)
    if limits is None:
        return xnp.where(observed, y, bucket.y), None, observed
    drops = error.drops_rows(bucket)
    given = observed | ((limits.kind > 0) & drops)
    y, kind, lower, upper = censor(y, bucket.y, limits, xnp)
    y, kind = xnp.where(given, y, bucket.y), xnp.where(given, kind, 0)
    lloq, uloq = (xnp.broadcast_to(limit, y.shape) for limit in (limits.lloq, limits.uloq))
    observed = xnp.broadcast_to(given, y.shape)
    return y, GroupLimits(kind, lower, upper, lloq, uloq), observed & ((kind == 0) | ~xnp.asarray(drops))
