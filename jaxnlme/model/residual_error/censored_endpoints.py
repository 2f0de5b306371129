"""The method for censored rows of a residual model of one or of several endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxnlme.data._endpoints import endpoint_label
from jaxnlme.errors import OptionError, shown, some
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.censoring import AbstractLimitedError, check_method
from jaxnlme.model.residual_error.censoring import with_censoring as of_one
from jaxnlme.model.residual_error.endpoints import EndpointErrors


def with_censoring(error: AbstractError, method: Any) -> AbstractError:
    """The residual model with a method for censored rows.

    **Arguments:** `method`: "M1" to "M4", for all Gaussian endpoints; a dictionary of those by endpoint; None.
    **Raises:** OptionError for another method or endpoint, an outcome that is not Gaussian, and correlated residuals.
    """
    if method is None:
        return error
    if not isinstance(error, EndpointErrors):
        if isinstance(method, Mapping):
            raise OptionError(
                f"censoring is a dictionary by endpoint ({shown(method)}), and the model has one residual model: give "
                "a method such as 'M3', or error= as a dictionary by endpoint."
            )
        return of_one(error, method)
    methods = _by_label(error, method)
    members = []
    for label, member in zip(error.labels, error.members, strict=True):
        try:
            members.append(of_one(member, methods.get(label)))
        except OptionError as problem:
            raise OptionError(f"endpoint {label!r}: {problem}") from None
    return error.with_members(members)


def _by_label(error: EndpointErrors, method: Any) -> dict[str, str]:
    """The method of each endpoint that has one."""
    if not isinstance(method, Mapping):
        check_method(method)
        pairs = zip(error.labels, error.members, strict=True)
        gaussian = [label for label, member in pairs if isinstance(member, AbstractLimitedError)]
        if not gaussian:
            of_one(error.members[0], method)  # says why not
        return {label: str(method) for label in gaussian}
    out: dict[str, str] = {}
    for key, value in method.items():
        label = endpoint_label(key)
        if label is None or label not in error.labels:
            raise OptionError(
                f"censoring has the endpoint {shown(key)}, which error= has not; its endpoints are "
                f"{some(error.labels, len(error.labels))}."
            )
        if value is not None:
            out[label] = check_method(value)
    return out
