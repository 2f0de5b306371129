"""Endpoints of a data set: to which residual model each row belongs, and what each of them has of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.limits import censoring_of, resolve_censoring, without_dropped
from jaxnlme.binding.series import layouts, linked_series, resolve_correlation, series_of
from jaxnlme.binding.stacking import column_of, distinct, levels, strata_of, variance_codes
from jaxnlme.data._endpoints import endpoint_label
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError, some
from jaxnlme.model.density import Group
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.between_endpoints import BetweenEndpoints
from jaxnlme.model.residual_error.correlation_base import AbstractCorrelation, Series, SeriesLayout
from jaxnlme.model.residual_error.endpoint_parts import EndpointRows, parameter_name
from jaxnlme.model.residual_error.endpoints import EndpointErrors
from jaxnlme.model.structural import Structural


def without_dropped_rows(error: AbstractError, data: GroupedData) -> GroupedData:
    """The data with the rows that the method for censored rows of their endpoint leaves out as rows without a
    response."""
    if not isinstance(error, EndpointErrors) or data.limits is None:
        return without_dropped(error, data)
    codes = endpoint_codes(data, error.labels)
    observed = data.observed.copy()
    for number, member in enumerate(error.members):
        if member.drops_censored:
            observed &= ~((codes == number) & data.limits.censored)
    return dataclasses.replace(data, observed=observed)


def resolve_like(error: AbstractError, data: GroupedData, like: AbstractError) -> AbstractError:
    """The residual model `like` as bound to earlier data, with the methods for censored rows of `error` that other
    data need."""
    if not isinstance(error, EndpointErrors) or not isinstance(like, EndpointErrors):
        return resolve_censoring(error, data, like)
    if data.limits is None or data.endpoint is None:
        return like
    codes = endpoint_codes(data, error.labels)
    pairs = zip(error.members, like.members, strict=True)
    return like.with_members(
        [resolve_censoring(member, of_endpoint(data, codes, k), bound) for k, (member, bound) in enumerate(pairs)]
    )


def endpoint_codes(data: GroupedData, labels: Sequence[str]) -> np.ndarray:
    """The number (groups, obs) of each row's endpoint among `labels`, -1 for a row of another one.

    **Raises:** ModelError where the data have no column of endpoints, or a row with a response has another endpoint.
    """
    if data.endpoint is None:
        raise ModelError(
            f"the model has a residual model for each of the endpoints {some(labels, len(labels))}, and the data do "
            "not say which row belongs to which: name the column of labels, endpoint='DVID' of GroupedData.from_frame "
            "or from_nonmem."
        )
    values, codes = distinct(column_of(data, data.endpoint, "the endpoints"))
    index = [labels.index(label) if (label := endpoint_label(value)) in labels else -1 for value in values]
    out = np.array(index)[codes]
    unknown = (out < 0) & data.observed
    if unknown.any():
        rows = some([str(k) for k in sorted((data.row_index[unknown] + 1).tolist())])
        names = [repr(endpoint_label(values[k]) or values[k]) for k in sorted(set(codes[unknown].tolist()))]
        raise ModelError(
            f"column {data.endpoint!r} has the endpoint {some(names)} in row {rows}, for which error= has no residual "
            f"model; it has {some(labels, len(labels))}. Add one, or leave the responses of these rows empty."
        )
    return out


def rows_of_no_endpoint(data: GroupedData, error: AbstractError) -> np.ndarray:
    """True (groups, obs) for rows without a response whose label is no endpoint of the model, and so without a
    prediction."""
    if not isinstance(error, EndpointErrors):
        return np.zeros(data.rows.shape, bool)
    return (endpoint_codes(data, error.labels) < 0) & data.rows


def check_rows_to_predict(data: GroupedData, error: AbstractError) -> None:
    """Check that the rows of a table to predict, but for records of doses and resets, have labels of endpoints.

    **Raises:** ModelError with the rows.
    """
    unknown = rows_of_no_endpoint(data, error)
    if data.events is not None:
        rows = data.events.columns["row"].astype(int)
        unknown[data.events.group[rows >= 0], rows[rows >= 0]] = False
    if unknown.any():
        label = column_of(data, str(data.endpoint), "the endpoints")[unknown][0]
        numbers = sorted((data.row_index[unknown] + 1).tolist())
        rows = f"row{'s' * (len(numbers) > 1)} {some([str(k) for k in numbers])}"
        assert isinstance(error, EndpointErrors)
        raise ModelError(
            f"column {data.endpoint!r} has the endpoint {endpoint_label(label) or label!r} in {rows} of the table "
            f"to predict, and the model has {some(error.labels, len(error.labels))}: correct the label, or leave the "
            "row out."
        )


def with_endpoints(structural: Structural, error: AbstractError) -> Structural:
    """The structural model, which may return a dictionary by endpoint where the residual model has endpoints."""
    return dataclasses.replace(structural, endpoints=error.labels) if isinstance(error, EndpointErrors) else structural


def of_endpoint(data: GroupedData, codes: np.ndarray, number: int) -> GroupedData:
    """The data in which only the rows of one endpoint have a response; `codes` (groups, obs)."""
    own = codes == number
    limits = None if data.limits is None else data.limits.of_rows(own)
    return dataclasses.replace(data, observed=data.observed & own, limits=limits)


def resolved_error(error: AbstractError, data: GroupedData, named: Collection[str] = ()) -> AbstractError:
    """The residual model with its strata and series from the data; with endpoints, that of each from its own rows.

    **Arguments:** `named`: names of values that the model holds fixed or gives a prior.
    **Raises:** ModelError for an endpoint without a response, and as the residual models do.
    """
    if not isinstance(error, EndpointErrors):
        declared = resolve_censoring(error, data)
        used = without_dropped(declared, data)
        return resolve_correlation(declared.resolve(lambda name: levels(used, name)), used, named)
    codes = endpoint_codes(data, error.labels)
    error = censored_members(error, data, codes)
    members = []
    for number, (label, member) in enumerate(zip(error.labels, error.members, strict=True)):
        own = of_endpoint(data, codes, number)
        if not own.observed.any():
            raise ModelError(
                f"endpoint {label!r} of error= has no row with a response (column {data.endpoint!r}): correct its "
                "label, or leave it out."
            )
        of_member = {p.name for p in member.parameters if parameter_name(p.name, label) in named}
        try:
            members.append(resolved_error(member, own, of_member))
        except ModelError as problem:
            raise type(problem)(f"endpoint {label!r}: {problem}") from None
    out = error.with_members(members)
    correlation = out.correlation
    if correlation is None:
        return out
    series = endpoint_series(data, out)
    return out.with_correlation(correlation.reportable(series, named).resolve(series))


def censored_members(error: EndpointErrors, data: GroupedData, codes: np.ndarray) -> EndpointErrors:
    """The residual models without a method for censored rows for endpoints that have no limits.

    **Raises:** ModelError where no endpoint has limits and the model has a method for censored rows.
    """
    has_limits = [of_endpoint(data, codes, k).limits is not None for k in range(len(error.members))]
    methods = [censoring_of(member) for member in error.members]
    if any(methods) and not any(has and method for has, method in zip(has_limits, methods, strict=True)):
        first = [m is not None for m in methods].index(True)
        if any(has_limits):
            limited = [label for label, has in zip(error.labels, has_limits, strict=True) if has]
            raise ModelError(
                f"the model has censoring={methods[first]!r} for endpoint {error.labels[first]!r}, and the data have "
                f"limits of endpoint {some(limited)} only: name that one, as in "
                f"censoring={{{limited[0]!r}: {methods[first]!r}}}, or give lloq= for the other."
            )
        resolve_censoring(error.members[first], dataclasses.replace(data, limits=None))
    changed: Any = error.members
    return error.with_members(
        [
            member if has or method is None else dataclasses.replace(member, censoring=None)
            for member, has, method in zip(changed, has_limits, methods, strict=True)
        ]
    )


def endpoint_series(data: GroupedData, error: EndpointErrors) -> Series:
    """The series of responses at one time, with the number of the endpoint among those of the correlation for a time.

    **Raises:** ModelError where one endpoint is observed twice at one time, with the rows.
    """
    correlation = error.correlation
    assert isinstance(correlation, BetweenEndpoints)
    of_model = endpoint_codes(data, error.labels)
    numbers = np.array([correlation.labels.index(e) if e in correlation.labels else -1 for e in error.labels])
    number = np.where(of_model >= 0, numbers[np.maximum(of_model, 0)], -1)
    code = distinct(column_of(data, str(correlation.within), "the correlation between endpoints"))[1]
    if data.nested:
        code = code * (1 + data.nested[-1].unit.max()) + data.nested[-1].unit
    code = np.where(number >= 0, code, -1)
    observed, rows = data.observed & (number >= 0), data.rows & (number >= 0)
    series = linked_series(number.astype(float), code, observed, rows, data.endpoint)
    tied = series.linked & (series.lag == 0)
    if tied.any():
        raise ModelError(
            f"endpoint {error.labels[of_model[tied][0]]!r} has two responses of one group at one {correlation.within} "
            f"(row {some([str(k) for k in sorted((data.row_index[tied] + 1).tolist())])}): which of them is correlated "
            "with those of other endpoints is not known. Leave one out, or give replicates times of their own."
        )
    return series


def series_of_endpoint(
    data: GroupedData, error: AbstractError, correlation: AbstractCorrelation, endpoint: int | None
) -> Series:
    """The series of a correlation of the residual model `error`, as its `correlations` list it."""
    if not isinstance(error, EndpointErrors):
        return series_of(data, correlation)
    if endpoint is None:
        return endpoint_series(data, error)
    return series_of(of_endpoint(data, endpoint_codes(data, error.labels), endpoint), correlation)


def series_layout(data: GroupedData, error: AbstractError) -> SeriesLayout | None:
    """The SeriesLayout of all groups (leading axis groups), of a correlation of rows or between endpoints; None without
    one."""
    if not isinstance(error, EndpointErrors):
        return layouts(data, error)
    if error.correlation is None:
        return None
    series = endpoint_series(data, error)
    zero = np.zeros(series.time.shape, int)
    number = np.maximum(series.time, 0.0)
    code, row_code = (np.where(which, series.code, -1) for which in (series.observed, series.rows))
    return SeriesLayout(number, code, row_code, zero, np.ones(zero.shape), (), ())


def member_rows(data: GroupedData, error: AbstractError) -> tuple[np.ndarray | None, tuple[EndpointRows, ...]]:
    """The number (groups, obs) of each row's endpoint (rows of no endpoint are computed as the first), and the
    EndpointRows of each endpoint for all groups (leading axis groups); None and () without endpoints.

    **Raises:** ModelError as `endpoint_codes`, and for columns that a residual model cannot use.
    """
    if not isinstance(error, EndpointErrors):
        return None, ()
    codes = endpoint_codes(data, error.labels)
    out = []
    for number, member in enumerate(error.members):
        own = of_endpoint(data, codes, number)
        use = own if own.observed.any() else dataclasses.replace(own, rows=data.rows & (codes == number))
        layout = layouts(own, member)
        out.append(EndpointRows(strata_of(use, member), layout, variance_codes(use, member), _fill(own)))
    return np.maximum(codes, 0), tuple(out)


def rows_of_part(binding: Any, endpoint: int | None) -> np.ndarray:
    """True (groups, obs) for the rows of an endpoint of a Binding, for all rows where it is None."""
    if endpoint is None:
        return np.ones(binding.data.rows.shape, bool)
    return endpoint_codes(binding.data, binding.density.error.labels) == endpoint


def rows_of_stratum(bucket: Group, part: Any, endpoint: int | None, level: int) -> np.ndarray:
    """True (groups, obs) for the rows with a response of a stratum of stacked groups.

    **Arguments:** `part`: a GaussianError; `endpoint`: its number (None: all rows are its own); `level`: of `part.by`.
    """
    observed, strata = np.asarray(bucket.x.observed), bucket.strata
    if endpoint is not None:
        observed = observed & (np.asarray(bucket.endpoints) == endpoint)
        strata = bucket.members[endpoint].strata
    return observed if part.by is None else observed & (np.asarray(strata) == level)


def _fill(data: GroupedData) -> np.ndarray:
    """The first observed response (groups,) of each group; that of the first group that has one where a group has
    none, 1 without any."""
    first = np.take_along_axis(data.y, data.observed.argmax(axis=1)[:, None], axis=1)[:, 0]
    has = data.observed.any(axis=1)
    other = first[np.argmax(has)] if has.any() else 1.0
    return np.where(has, first, other)
