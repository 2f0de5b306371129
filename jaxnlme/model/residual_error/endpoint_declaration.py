"""The declaration of residual models by endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxnlme.data._endpoints import endpoint_label
from jaxnlme.errors import OptionError, shown
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.between_endpoints import BetweenEndpoints
from jaxnlme.model.residual_error.correlation_base import AbstractCorrelation
from jaxnlme.model.residual_error.endpoint_parts import no_joint_correlation
from jaxnlme.model.residual_error.endpoints import EndpointErrors


def endpoint_errors(
    members: Any, correlation: AbstractCorrelation | None, error_model: Callable[[Any], AbstractError]
) -> EndpointErrors:
    """`jn.error.endpoints`; `error_model(spec)` makes the residual model of one endpoint."""
    if not isinstance(members, Mapping) or not members:
        raise OptionError(
            "endpoints must be a dictionary from the labels of endpoints to residual models, such as "
            f"{{'cp': 'proportional', 'pca': 'constant'}}; received {shown(members)}."
        )
    labels: list[str] = []
    for key in members:
        label = endpoint_label(key)
        if label is None:
            raise OptionError(f"the label of an endpoint must be text or a number; received {shown(key)}.")
        if label in labels:
            raise OptionError(f"endpoint {label!r} has two residual models; give one (1, 1.0 and '1' are one label).")
        labels.append(label)
    models = []
    for label, spec in zip(labels, members.values(), strict=True):
        try:
            model = error_model(spec)
        except OptionError as problem:
            raise OptionError(f"endpoint {label!r}: {problem}") from None
        if isinstance(model, EndpointErrors):
            raise OptionError(f"endpoint {label!r} has residual models of endpoints; expected one residual model.")
        if getattr(model, "is_module", False):
            raise OptionError(
                f"endpoint {label!r}: a scale that is an Equinox module is for models of one response; write a "
                "function of f, x and parameters."
            )
        models.append(model)
    out = EndpointErrors(tuple(models), tuple(labels))
    if correlation is None:
        return out
    if not isinstance(correlation, BetweenEndpoints):
        raise OptionError(
            "the correlation of endpoints must be jn.correlation.Endpoints('TIME'), of residuals at one time; received "
            f"{shown(correlation)}. A serial correlation belongs to the residual model of one endpoint, as in "
            "jn.error.gaussian(scale, correlation)."
        )
    every = [label for label, model in zip(labels, models, strict=True) if no_joint_correlation(model) is None]
    return out.with_correlation(correlation.of_labels(every))
