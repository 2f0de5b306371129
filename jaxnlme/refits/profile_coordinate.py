"""Reported values as coordinates of the packed vector: the entry, its scale, and the permutation of the effects that
makes a standard deviation or correlation an entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.base import Element, element_name
from jaxnlme.model.covariance.held import HeldFixed, element_entry, fixed_elements, with_entries
from jaxnlme.model.covariance.reordered import permutation_to_front
from jaxnlme.model.covariance.structures import (
    AbstractCovariance,
    Blocks,
    CompoundSymmetry,
    Diagonal,
    LogCholesky,
    MultipleOfIdentity,
)
from jaxnlme.model.density import Density

# End of the message for a standard deviation or correlation without a coordinate.
NO_COORDINATE = (
    "its covariance family has no coordinate for it; use 'diagonal', 'full', blocks, 'identity' or 'compound symmetry'"
)


@dataclasses.dataclass(frozen=True)
class Coordinate:
    """One reported value as an entry of the packed vector.

    **Fields:** `name`; `index` of the entry; `to_natural`: the increasing function from the entry to the value;
    `limits` of the value; `permutation` (random, random): the permutation matrix of the effects after which the value
    is an entry, None where none is needed; `family`: the covariance family in which it is an entry, where the model
    holds elements of psi fixed and its own family does not have that entry.
    """

    name: str
    index: int
    to_natural: Callable[[Any], Any]
    limits: tuple[float, float]
    permutation: np.ndarray | None = None
    family: AbstractCovariance | None = None


def coordinate(binding: Binding, name: str, family: AbstractCovariance | None = None) -> Coordinate:
    """The Coordinate of the reported value `name`.

    **Arguments:** `family`: the covariance family to use where the model holds elements of psi fixed (`held_families`).

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
        for correlation, entries, _ in density.error.correlations():
            if correlation.is_joint and k in entries:
                raise OptionError(
                    f"{name!r} cannot be profiled: the values of {correlation.formula} are functions of several "
                    "parameters."
                )
        transform = density.error.parameters[k].transform
        return Coordinate(name, p + n_theta + k, transform.to_natural, transform.domain)
    if binding.fixed[p : p + n_theta].all():
        raise OptionError(f"{name!r} is fixed, so it has no profile.")
    effects = density.effect_names
    sds = [f"sd({effect})" for effect in effects]
    q = len(effects)
    held = density.covariance if isinstance(density.covariance, HeldFixed) else None
    if held is not None and name not in _free_elements(density):
        raise OptionError(f"{name!r} is fixed, so it has no profile.")
    if name in sds:
        element: Element = (sds.index(name),)
        entry = None if held is not None else _sd(density.covariance, sds.index(name), q)
        to_natural, limits = np.exp, (0.0, np.inf)
    else:
        pair = next(pair for pair in density.covariance.correlated_pairs if name == element_name(pair, effects))
        element = pair
        entry = None if held is not None else _correlation(density.covariance, pair, q)
        to_natural, limits = np.tanh, (-1.0, 1.0)
        part = _part(density.covariance.unwrapped, pair[0])
        if isinstance(part, CompoundSymmetry):
            low = -1.0 / (part.size - 1)
            to_natural, limits = _logistic_above(low), (low, 1.0)
    if held is not None:
        family = held if family is None else family
        return Coordinate(name, p + element_entry(family, element, effects), to_natural, limits, None, family)
    if entry is None:
        raise OptionError(f"{name!r} cannot be profiled: {NO_COORDINATE}.")
    index, permutation = entry
    return Coordinate(name, p + index, to_natural, limits, permutation)


def _free_elements(density: Density) -> dict[str, Element]:
    """The standard deviations and correlations that are estimated, by reported name."""
    effects, family = density.effect_names, density.covariance
    sds, correlations = fixed_elements(family)
    out: dict[str, Element] = {f"sd({effects[k]})": (k,) for k in range(len(effects)) if not sds[k]}
    pairs = zip(family.correlated_pairs, correlations, strict=True)
    return out | {element_name(pair, effects): pair for pair, is_fixed in pairs if not is_fixed}


def held_families(binding: Binding, names: list[str]) -> dict[str, AbstractCovariance]:
    """For a model that holds elements of psi fixed, a family in which each standard deviation or correlation among
    `names` is an entry of theta, by name.

    Any standard deviations may be entries together, and one correlation beside those that are held.
    """
    density = binding.density
    held, elements = density.covariance, _free_elements(density)
    wanted = [elements[name] for name in names if name in elements]
    if not isinstance(held, HeldFixed) or not wanted:
        return {}
    sds = [e[0] for e in wanted if len(e) == 1]
    pairs = [(e[0], e[1]) for e in wanted if len(e) == 2]
    families = {pair: with_entries(held, sds, [pair], density.effect_names) for pair in pairs}
    of_sds = next(iter(families.values())) if pairs else with_entries(held, sds, [], density.effect_names)
    return {name: families.get(e, of_sds) for name, e in elements.items() if name in names}  # pyright: ignore[reportArgumentType, reportCallIssue]


def _same(value: Any) -> Any:
    """The identity transform."""
    return value


def _logistic_above(low: float) -> Callable[[Any], Any]:
    """The logistic function from the real line to (`low`, 1)."""
    return lambda t: low + (1.0 - low) / (1.0 + np.exp(-np.asarray(t, float)))


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
