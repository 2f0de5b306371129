"""Parts of the named residual scales: which parameters a scale such as a + b |f|^c adds up from."""

from __future__ import annotations

from typing import NamedTuple

from jaxnlme.model.residual_error.base import AbstractError, GaussianError
from jaxnlme.model.residual_error.named_scales import (
    combined_scale,
    combined_variance_scale,
    constant_power_scale,
    constant_scale,
    power_scale,
    proportional_scale,
)

_ONE_PART = (constant_scale, proportional_scale, power_scale)
_TWO_PARTS = (combined_scale, combined_variance_scale, constant_power_scale)


class TwoParts(NamedTuple):
    """Indices of `a`, `b` and the exponent `c` (None: it is one) among the parameters of a scale such as a + b |f|^c,
    in one stratum."""

    a: int
    b: int
    c: int | None


def two_parts(error: AbstractError) -> list[TwoParts]:
    """The parts of each stratum of a residual scale that has two; empty for other residual models."""
    if not isinstance(error, GaussianError) or error.scale not in _TWO_PARTS:
        return []
    strata = max(len(error.levels), 1)
    with_power = error.scale is constant_power_scale
    return [TwoParts(k, strata + k, 2 * strata + k if with_power else None) for k in range(strata)]


def held_at_zero(error: AbstractError) -> list[str]:
    """Names of the parameters of a named residual scale that are held at zero in a stratum where all of them are."""
    if not isinstance(error, GaussianError):
        for member, entries, _ in error.gaussian_parts():
            if names := held_at_zero(member):
                position = [p.name for p in member.parameters]
                return [error.parameters[entries[position.index(name)]].name for name in names]
        return []
    strata = max(len(error.levels), 1)
    groups = [[parts.a, parts.b] for parts in two_parts(error)]
    groups = groups or ([[k] for k in range(strata)] if error.scale in _ONE_PART else [])
    for group in groups:
        if all(error.parameters[k].fix and float(error.parameters[k].start) == 0 for k in group):
            return [error.parameters[k].name for k in group]
    return []
