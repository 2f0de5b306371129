"""Reported values as coordinates of the packed vector: the entry, its scale, and the permutation of the effects that
makes a standard deviation or correlation an entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.reordered import permutation_to_front
from jaxnlme.model.covariance.structures import (
    AbstractCovariance,
    Blocks,
    CompoundSymmetry,
    Diagonal,
    LogCholesky,
    MultipleOfIdentity,
)

# End of the message for a standard deviation or correlation without a coordinate.
NO_COORDINATE = (
    "its covariance family has no coordinate for it; use 'diagonal', 'full', blocks, 'identity' or 'compound symmetry'"
)


@dataclasses.dataclass(frozen=True)
class Coordinate:
    """One reported value as an entry of the packed vector.

    **Fields:** `name`; `index` of the entry; `to_natural`: the increasing function from the entry to the value;
    `limits` of the value; `permutation` (random, random): the permutation matrix of the effects after which the value
    is an entry, None where none is needed.
    """

    name: str
    index: int
    to_natural: Callable[[Any], Any]
    limits: tuple[float, float]
    permutation: np.ndarray | None = None


def coordinate(binding: Binding, name: str) -> Coordinate:
    """The Coordinate of the reported value `name`.

    **Raises:** OptionError where the value is fixed, or its covariance family has no coordinate for it.
    """
    density = binding.density
    p, n_theta = len(density.beta_names), density.covariance.n_unconstrained
    if name in density.beta_names:
        k = density.beta_names.index(name)
        if binding.fixed[k]:
            raise OptionError(f"{name!r} is fixed, so it has no profile.")
        transform = binding.transforms[k]
        if transform is None:
            return Coordinate(name, k, _same, (-np.inf, np.inf))
        return Coordinate(name, k, transform.to_natural, transform.domain)
    if name in density.error_names:
        k = density.error_names.index(name)
        if binding.fixed[p + n_theta + k]:
            raise OptionError(f"{name!r} is fixed, so it has no profile.")
        transform = density.error.parameters[k].transform
        return Coordinate(name, p + n_theta + k, transform.to_natural, transform.domain)
    if binding.fixed[p : p + n_theta].all():
        raise OptionError(f"{name!r} is fixed, so it has no profile.")
    effects = density.effect_names
    sds = [f"sd({effect})" for effect in effects]
    q = len(effects)
    if name in sds:
        entry = _sd(density.covariance, sds.index(name), q)
        to_natural, limits = np.exp, (0.0, np.inf)
    else:
        pair = next(pair for pair in density.covariance.correlated_pairs if name == _corr(effects, pair))
        entry = _correlation(density.covariance, pair, q)
        to_natural, limits = np.tanh, (-1.0, 1.0)
        if entry is not None and isinstance(_part(density.covariance, pair[0]), CompoundSymmetry):
            low = -1.0 / (_part(density.covariance, pair[0]).size - 1)
            to_natural, limits = _logistic_above(low), (low, 1.0)
    if entry is None:
        raise OptionError(f"{name!r} cannot be profiled: {NO_COORDINATE}.")
    index, permutation = entry
    return Coordinate(name, p + index, to_natural, limits, permutation)


def _same(value: Any) -> Any:
    """The identity transform."""
    return value


def _logistic_above(low: float) -> Callable[[Any], Any]:
    """The logistic function from the real line to (`low`, 1)."""
    return lambda t: low + (1.0 - low) / (1.0 + np.exp(-np.asarray(t, float)))


def _corr(effects: tuple[str, ...], pair: tuple[int, int]) -> str:
    """Reported name of the correlation of a pair of effects."""
    return f"corr({effects[pair[0]]}, {effects[pair[1]]})"


def _part(family: AbstractCovariance, effect: int) -> Any:
    """The family of the block with effect number `effect`."""
    if isinstance(family, Blocks):
        return next(part for effects, part in family.parts if effect in effects)
    return family


def _block(family: AbstractCovariance, effect: int, q: int) -> tuple[int, tuple[int, ...], Any]:
    """First entry in theta of the block with effect number `effect` (of q), the effects of the block, and its
    family."""
    if not isinstance(family, Blocks):
        return 0, tuple(range(q)), family
    start = 0
    for effects, part in family.parts:
        if effect in effects:
            return start, tuple(effects), part
        start += part.n_unconstrained
    raise AssertionError


def _sd(family: AbstractCovariance, effect: int, q: int) -> tuple[int, np.ndarray | None] | None:
    """Entry of theta and permutation for the SD of effect number `effect` (of q); None where there is none."""
    start, effects, part = _block(family, effect, q)
    if isinstance(part, Diagonal):
        return start + effects.index(effect), None
    if isinstance(part, (MultipleOfIdentity, CompoundSymmetry)):
        return start, None
    if isinstance(part, LogCholesky):
        return start, permutation_to_front(q, effects, (effect,))
    return None


def _correlation(family: AbstractCovariance, pair: tuple[int, int], q: int) -> tuple[int, np.ndarray | None] | None:
    """Entry of theta and permutation for the correlation of a pair of the q effects; None where there is none."""
    start, effects, part = _block(family, pair[0], q)
    if isinstance(part, CompoundSymmetry):
        return start + 1, None
    if isinstance(part, LogCholesky):
        return start + part.size, permutation_to_front(q, effects, pair)
    return None
