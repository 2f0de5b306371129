"""Reported values as coordinates of the packed vector: which entry, on which scale, after which reordering of psi."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.reordered import leading
from jaxnlme.model.covariance.structures import (
    AbstractCovariance,
    Blocks,
    CompoundSymmetry,
    Diagonal,
    LogCholesky,
    MultipleOfIdentity,
)

REFUSED = (
    "its covariance family has no coordinate for it; use 'diagonal', 'full', blocks, 'identity' or 'compound symmetry'"
)


@dataclasses.dataclass(frozen=True)
class Coordinate:
    """One reported value as an entry of the packed vector.

    `name`; `index`, the entry; `to_real`, `to_natural`: the value to the entry and back, increasing; `limits` of the
    value; `places` (random, random), the reordering of the effects that makes it an entry, None where psi plays no part
    or needs none.
    """

    name: str
    index: int
    to_real: Callable[[Any], Any]
    to_natural: Callable[[Any], Any]
    limits: tuple[float, float]
    places: np.ndarray | None = None


def coordinate(binding: Binding, name: str) -> Coordinate:
    """The coordinate of a reported value.

    **Errors:** OptionError where it is fixed, or its covariance family has none for it."""
    density = binding.density
    p, n_theta = len(density.beta_names), density.covariance.n_unconstrained
    if name in density.beta_names:
        k = density.beta_names.index(name)
        if binding.fixed[k]:
            raise OptionError(f"{name!r} is fixed: there is no profile of it.")
        transform = binding.transforms[k]
        if transform is None:
            return Coordinate(name, k, _same, _same, (-np.inf, np.inf))
        return Coordinate(name, k, transform.to_real, transform.to_natural, transform.domain)
    if name in density.error_names:
        k = density.error_names.index(name)
        if binding.fixed[p + n_theta + k]:
            raise OptionError(f"{name!r} is fixed: there is no profile of it.")
        transform = density.error.parameters[k].transform
        return Coordinate(name, p + n_theta + k, transform.to_real, transform.to_natural, transform.domain)
    if binding.fixed[p : p + n_theta].all():
        raise OptionError(f"{name!r} is fixed: there is no profile of it.")
    effects = density.effect_names
    sds = [f"sd({effect})" for effect in effects]
    q = len(effects)
    if name in sds:
        found = _sd(density.covariance, sds.index(name), q)
        scales = (np.log, np.exp, (0.0, np.inf))
    else:
        pair = next(pair for pair in density.covariance.related if name == _corr(effects, pair))
        found = _correlation(density.covariance, pair, q)
        scales = (np.arctanh, np.tanh, (-1.0, 1.0))
        if found is not None and isinstance(_part(density.covariance, pair[0]), CompoundSymmetry):
            low = -1.0 / (_part(density.covariance, pair[0]).size - 1)
            scales = (
                lambda r: np.log((r - low) / (1.0 - r)),
                lambda t: low + (1.0 - low) / (1.0 + np.exp(-np.asarray(t, float))),
                (low, 1.0),
            )
    if found is None:
        raise OptionError(f"{name!r} cannot be profiled: {REFUSED}.")
    index, places = found
    return Coordinate(name, p + index, *scales, places)


def _same(value: Any) -> Any:
    return value


def _corr(effects: tuple[str, ...], pair: tuple[int, int]) -> str:
    return f"corr({effects[pair[0]]}, {effects[pair[1]]})"


def _part(family: AbstractCovariance, effect: int) -> Any:
    if isinstance(family, Blocks):
        return next(part for effects, part in family.parts if effect in effects)
    return family


def _block(family: AbstractCovariance, effect: int, q: int) -> tuple[int, tuple[int, ...], Any]:
    """Where in theta the part with this effect begins, the part's effects, and the part."""
    if not isinstance(family, Blocks):
        return 0, tuple(range(q)), family
    start = 0
    for effects, part in family.parts:
        if effect in effects:
            return start, tuple(effects), part
        start += part.n_unconstrained
    raise AssertionError


def _sd(family: AbstractCovariance, effect: int, q: int) -> tuple[int, np.ndarray | None] | None:
    start, effects, part = _block(family, effect, q)
    if isinstance(part, Diagonal):
        return start + effects.index(effect), None
    if isinstance(part, (MultipleOfIdentity, CompoundSymmetry)):
        return start, None
    if isinstance(part, LogCholesky):
        return start, leading(q, effects, (effect,))
    return None


def _correlation(family: AbstractCovariance, pair: tuple[int, int], q: int) -> tuple[int, np.ndarray | None] | None:
    start, effects, part = _block(family, pair[0], q)
    if isinstance(part, CompoundSymmetry):
        return start + 1, None
    if isinstance(part, LogCholesky):
        return start + part.size, leading(q, effects, pair)
    return None
