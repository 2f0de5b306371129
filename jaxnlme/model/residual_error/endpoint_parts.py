"""Parts of residual models by endpoint: data of each endpoint, names of parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx

from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.residual_error.correlation_base import SeriesLayout
from jaxnlme.model.residual_error.error_parameter import ErrorParameter


class EndpointRows(eqx.Module):
    """Data of a group (or, stacked, of all groups) for the residual model of one endpoint.

    **Fields:** `strata`, `layout`, `codes`: as in `Group`, of this residual model; `fill` (): a response that stands in
    rows of other endpoints, where nothing is computed from it but numbers that are then left out.
    """

    strata: Any
    layout: SeriesLayout | None
    codes: tuple[Any, ...]
    fill: Any


def no_joint_correlation(member: AbstractError) -> str | None:
    """A clause on why the residuals of an endpoint cannot be correlated with those of others; None where they can."""
    if not isinstance(member, GaussianError):
        return "has no Gaussian residual model"
    if member.is_limited:
        return f"has censored rows (censoring={member.censoring!r})"
    return None if member.correlation is None else "has a correlation of its own"


def parameter_name(name: str, label: str) -> str:
    """The name of a parameter of an endpoint: "b" is "b[cp]", "a[F]" is "a[cp, F]"."""
    stem, bracket, rest = name.rpartition("[")
    return f"{stem}[{label}, {rest}" if bracket and name.endswith("]") else f"{name}[{label}]"


def renamed(p: ErrorParameter, name: str) -> ErrorParameter:
    """The parameter with another name; its start may be traced, and is not checked again."""
    out = object.__new__(ErrorParameter)
    values = {field.name: getattr(p, field.name) for field in dataclasses.fields(p)}
    for field, value in (values | {"name": name}).items():
        object.__setattr__(out, field, value)
    return out


def part_sizes(member: AbstractError) -> tuple[int, int, int]:
    """Numbers of parameters of a member: of the residual scale, of transforms, and of a correlation."""
    return member.n_scale, len(member.parameters) - member.n_scale - member.n_correlation, member.n_correlation


def is_plain(member: AbstractError) -> bool:
    """True if the log-density of a member is that of its standardised residuals."""
    return isinstance(member, GaussianError)
