"""Covariances with single standard deviations or correlations held fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.base import AbstractCovariance, Element, element_name
from jaxnlme.model.settings import MODEL


class HeldFixed(AbstractCovariance):
    """The covariance family `inner` with some standard deviations or correlations held at given values.

    theta is that of `inner`, in which each of these elements is an entry (`AbstractCovariance.with_elements`);
    `from_matrix` gives these entries their values whatever the matrix, and estimators leave `fixed_entries` as they
    are. The other entries are estimated numerically. `held_fixed` makes these objects.

    **Arguments:** `size`: the number of random effects; `inner`; `elements`: what is held; `index`: the entries of
    theta that are these; `values` (held,): their values (an array, so that other values need no other program).
    """

    size: int = eqx.field(static=True)
    inner: AbstractCovariance
    elements: tuple[Element, ...] = eqx.field(static=True)
    index: tuple[int, ...] = eqx.field(static=True)
    values: Any

    @property
    def n_unconstrained(self) -> int:
        return self.inner.n_unconstrained

    def factor(self, theta):
        return self.inner.factor(theta)

    def apply(self, theta, z):
        return self.inner.apply(theta, z)

    def from_matrix(self, psi):
        theta = np.array(self.inner.from_matrix(psi), float)
        theta[list(self.index)] = np.asarray(self.values, float)
        return theta

    @property
    def log_scales(self):
        return self.inner.log_scales

    @property
    def correlated_pairs(self):
        return self.inner.correlated_pairs

    @property
    def fixed_entries(self):
        return tuple(sorted({*self.index, *self.inner.fixed_entries}))

    @property
    def unwrapped(self):
        return self.inner.unwrapped

    def with_elements(self, sds, pairs):
        return with_entries(self, sds, pairs, [str(k) for k in range(self.size)])


def held_fixed(
    family: AbstractCovariance, values: Mapping[Element, float], effects: Sequence[str]
) -> AbstractCovariance:
    """The covariance `family` with elements held fixed; `family` itself where nothing is to be held.

    **Arguments:** `values`: standard deviations (> 0) by (j,), and correlations by (j, k) with j < k; `effects`: names
    of the random effects, for messages.
    **Raises:** OptionError for values that are impossible in this family, together or singly, and for elements that are
    no entry of its theta.
    """
    by_structure = [e for e in values if len(e) == 2 and e not in family.correlated_pairs]
    for element in by_structure:
        if values[element] != 0:
            raise OptionError(
                f"{element_name(element, effects)} cannot be held at {values[element]:g}: it is zero in this "
                "covariance structure. Choose covariance='full', or a block with both effects."
            )
    values = {element: float(value) for element, value in values.items() if element not in by_structure}
    if not values:
        return family
    sds = [e[0] for e in values if len(e) == 1]
    pairs = [(e[0], e[1]) for e in values if len(e) == 2]
    inner = family.with_elements(sds, pairs)
    entries: dict[int, float] = {}
    named: dict[int, Element] = {}
    for element, value in values.items():
        name = element_name(element, effects)
        index = _only_entry(inner, element, name)
        entry = _entry_value(inner, element, index, value, name)
        named.setdefault(index, element)
        if abs(entries.setdefault(index, entry) - entry) > MODEL.held_tolerance * max(1.0, abs(entry)):
            raise OptionError(
                f"{name} cannot be held at {value:g}: another element that is the same parameter in this covariance "
                "structure is held at another value."
            )
    index = tuple(sorted(entries))
    values_of_entries = np.array([entries[k] for k in index])
    out = HeldFixed(family.size, inner, tuple(named[k] for k in index), index, values_of_entries)
    theta = out.from_matrix(np.eye(family.size))
    with np.errstate(invalid="ignore"):
        differences = [abs(_value(inner, theta, element) - value) for element, value in values.items()]
    if not max(differences) <= MODEL.held_tolerance * max(1.0, *map(abs, values.values())):
        listed = ", ".join(f"{element_name(e, effects)} = {v:g}" for e, v in values.items() if len(e) == 2)
        raise OptionError(
            f"the correlations held fixed cannot occur together: no positive definite matrix has {listed}."
        )
    return out


def with_entries(
    family: HeldFixed, sds: Sequence[int], pairs: Sequence[tuple[int, int]], effects: Sequence[str]
) -> HeldFixed:
    """The same family with further elements as entries of theta, which are estimated.

    **Arguments:** `sds`, `pairs`: as for `AbstractCovariance.with_elements`; `effects`: names of the random effects.
    **Raises:** OptionError where the structure has no such entries.
    """
    inner = family.inner.with_elements(sds, pairs)
    places = [_only_entry(inner, element, element_name(element, effects)) for element in family.elements]
    order = np.argsort(places)
    return HeldFixed(
        family.size,
        inner,
        tuple(family.elements[k] for k in order),
        tuple(places[k] for k in order),
        np.asarray(family.values, float)[order],
    )


def element_entry(family: AbstractCovariance, element: Element, effects: Sequence[str]) -> int:
    """The entry of theta that is the standard deviation or correlation `element`.

    **Raises:** OptionError where the family has no such entry.
    """
    return _only_entry(family, element, element_name(element, effects))


def fixed_elements(family: AbstractCovariance) -> tuple[list[bool], list[bool]]:
    """For each standard deviation, and each pair of `correlated_pairs`, True if it does not depend on the entries of
    theta that are estimated."""
    held = list(family.fixed_entries)
    if not held:
        return [False] * family.size, [False] * len(family.correlated_pairs)
    low, high = MODEL.pattern_range
    theta = np.linspace(low, high, family.n_unconstrained)
    moved = theta + MODEL.held_step * (1.0 + theta[::-1])
    moved[held] = theta[held] = family.from_matrix(np.eye(family.size))[held]

    def unmoved(element: Element) -> bool:
        before, after = (_value(family, x, element) for x in (theta, moved))
        return bool(abs(after - before) <= MODEL.held_tolerance * max(1.0, abs(before)))

    return [unmoved((k,)) for k in range(family.size)], [unmoved(pair) for pair in family.correlated_pairs]


def _value(family: AbstractCovariance, theta: np.ndarray, element: Element) -> float:
    """The standard deviation or correlation `element` at `theta` (unconstrained,), on the host; NaN where psi is not
    positive definite to rounding."""
    try:
        lower = np.asarray(family.factor(np.asarray(theta, float)), float)
    except np.linalg.LinAlgError:
        return float("nan")
    rows = [lower[k] for k in element]
    norms = [float(np.linalg.norm(row)) for row in rows]
    if len(element) == 1:
        return norms[0]
    return float(rows[0] @ rows[1]) / (norms[0] * norms[1]) if norms[0] * norms[1] > 0 else 0.0


def _only_entry(family: AbstractCovariance, element: Element, name: str) -> int:
    """The one entry of theta on which the element depends.

    **Raises:** OptionError where it depends on several.
    """
    theta = np.linspace(*MODEL.pattern_range, family.n_unconstrained)
    before = _value(family, theta, element)
    moving = []
    for k in range(len(theta)):
        moved = theta.copy()
        moved[k] += MODEL.held_step
        if abs(_value(family, moved, element) - before) > MODEL.held_tolerance:
            moving.append(k)
    if len(moving) != 1:
        raise OptionError(
            f"{name} cannot be held at a value: in the covariance structure {type(family).__name__} it is no parameter "
            "of its own. Choose 'diagonal', 'full', blocks, 'identity' or 'compound symmetry', or define "
            "with_elements for the structure."
        )
    return moving[0]


def _entry_value(family: AbstractCovariance, element: Element, index: int, value: float, name: str) -> float:
    """The entry number `index` of theta at which the element has the given `value`.

    **Raises:** OptionError where no entry gives it.
    """
    from scipy.optimize import brentq

    theta = family.from_matrix(np.eye(family.size))  # correlations of zero, which every value of one can join

    def difference(entry: float) -> float:
        theta[index] = entry
        return _value(family, theta, element) - value

    usual = float(np.log(value) if len(element) == 1 else np.arctanh(value))
    if abs(difference(usual)) <= MODEL.held_rounding * abs(value):
        return usual
    low = high = usual
    for reach in MODEL.held_reach:
        # Further out the factor may no longer be positive definite to rounding.
        low, high = (e if np.isfinite(difference(e)) else last for e, last in ((-reach, low), (reach, high)))
        if difference(low) * difference(high) < 0:
            break
    else:
        ends = sorted((difference(low) + value, difference(high) + value))
        raise OptionError(
            f"{name} cannot be held at {value:g}: in this covariance structure it lies between {ends[0]:.4g} and "
            f"{ends[1]:.4g}."
        )
    return float(brentq(difference, low, high, xtol=MODEL.held_rounding))  # pyright: ignore[reportArgumentType]
