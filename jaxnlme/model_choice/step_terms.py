"""The subject of a stepwise search: one model in the search, a change of it, and the choices of the scope."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import equinox as eqx
import numpy as np

from jaxnlme.errors import OptionError, near_matches, shown
from jaxnlme.formulas.update import FixedTerm
from jaxnlme.model.residual_error.variance_scale import VarianceScale

# A model in the search, as a tuple of parts that can be compared.
Structure = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of a model.

    **Fields:** `label`: "+ Sex", "- ka", "error: combined"; `structure` after the change; `direction`: 1 for more
    parameters, -1 for fewer, 0 where only the fit shows it; `fixed_effects`: it is one of them, which restricted
    likelihoods do not compare; `term`: for screening, the parameter ("" in linear models) and the covariate that is
    added.
    """

    label: str
    structure: Structure
    direction: int
    fixed_effects: bool = False
    term: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Screened:
    """A regression of conditional modes, or residuals, on a covariate. **Fields:** `p` of its F test; `on`: what was
    regressed; `shrinkage` of the modes in percent, NaN for residuals."""

    p: float
    on: str
    shrinkage: float


class Search(Protocol):
    """The models of a scope, for one kind of fit."""

    @property
    def start(self) -> Structure:
        """The structure of the first fit."""
        ...

    def changes(self, structure: Structure, fit: Any) -> list[Change]:
        """The changes of a model that the scope allows; `fit` is a fit of it."""
        ...

    def exchanges(self, structure: Structure, wanted: set[str]) -> list[Change]:
        """Changes that put one of the terms with the labels `wanted` in the place of one that the scope has."""
        ...

    def refit(self, structure: Structure, source: Any, source_structure: Structure, ml: bool, again: bool) -> Any:
        """A fit of `structure` from the estimates of `source`; `ml`: not restricted; `again`: from several starts.
        None where `again` has no meaning."""
        ...

    def difference(self, structure: Structure, other: Structure) -> str:
        """The parts of `other` that differ from those of `structure`, in words."""
        ...

    def describe(self, structure: Structure) -> list[str]:
        """The parts of a model that may change, in words."""
        ...

    def fixed_part(self, structure: Structure) -> Any:
        """The part of a structure that restricted likelihoods do not compare."""
        ...

    def screened(self, fit: Any, change: Change) -> Screened | None:
        """The regression of what a fit leaves unexplained on the covariate of a change; None where there is none."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Choices:
    """Alternatives for one part of a model. **Fields:** `labels`; `values`; `start`: the position of what the
    fit has; `free`: False where the scope does not name the part."""

    labels: tuple[str, ...]
    values: tuple[Any, ...]
    start: int
    free: bool = True

    def others(self, k: int) -> list[int]:
        """The positions of the other alternatives."""
        return [j for j in range(len(self.values)) if j != k] if self.free else []


def choices(part: str, scope: Mapping[str, Any], own: Any, own_label: str = "", same: Any = None) -> Choices:
    """The Choices for `part` in a scope, what the fit has (`own`) among them.

    **Arguments:** `own_label`: what to call it where the scope does not name it; `same`: a function of two values.
    **Raises:** OptionError where the entry is no list or dictionary of alternatives.
    """
    same = same or same_value
    if part not in scope:
        return Choices((own_label or label_of(own),), (own,), 0, False)
    entry = scope[part]
    if isinstance(entry, Mapping):
        labels, values = [str(name) for name in entry], list(entry.values())
    elif isinstance(entry, (list, tuple)) and entry:
        labels, values = [label_of(value) for value in entry], list(entry)
    else:
        raise OptionError(
            f"scope[{part!r}] must be a list of alternatives, or a dictionary of them by name; received {shown(entry)}."
        )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise OptionError(f"scope[{part!r}] has {twice!r} twice; give the alternatives names, in a dictionary.")
    found = [k for k, value in enumerate(values) if same(value, own)]
    if not found:
        # What the fit has stays possible, as the model to leave.
        own_label = own_label or label_of(own)
        labels, values = (
            [own_label if own_label not in labels else f"{own_label} (of the fit)", *labels],
            [own, *values],
        )
        found = [0]
    return Choices(tuple(labels), tuple(values), found[0])


def label_of(value: Any) -> str:
    """A short text for an alternative."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    name = getattr(value, "name", None)
    if isinstance(name, str) and name:
        by = getattr(value, "by", None)
        return f"{name} by {by}" if isinstance(by, str) else name
    if isinstance(value, (list, tuple)) and all(isinstance(part, (list, tuple)) for part in value):
        return " | ".join(", ".join(map(str, part)) for part in value)
    if isinstance(value, VarianceScale):
        parts = [f"{term.kind}({', '.join(str(x) for x in (term.of, term.by) if x)})" for term in value.terms]
        return " * ".join(part.removesuffix("()") for part in parts)
    text = repr(value)
    return text if len(text) <= 40 else type(value).__name__


def same_value(first: Any, second: Any) -> bool:
    """True for equal specifications."""
    if first is second:
        return True
    if isinstance(first, (str, type(None))) or isinstance(second, (str, type(None))):
        return isinstance(first, str) and first == second
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.array_equal(np.asarray(first, object), np.asarray(second, object))
    if isinstance(first, eqx.Module) and isinstance(second, eqx.Module):
        return bool(eqx.tree_equal(first, second))
    return type(first) is type(second) and repr(first) == repr(second)


def check_scope(scope: Any, parts: Sequence[str]) -> Mapping[str, Any]:
    """The scope. **Raises:** OptionError for what is no dictionary, unknown parts and an empty one."""
    if not isinstance(scope, Mapping) or not scope:
        raise OptionError(
            f"scope must be a dictionary of what may change, with keys among {', '.join(map(repr, parts))}; received "
            f"{shown(scope)}."
        )
    for name in scope:
        if name not in parts:
            raise OptionError(f"scope has no part {name!r} for this kind of fit; {near_matches(str(name), parts)}")
    return scope


def may_add(term: Sequence[FixedTerm], present: Sequence[FixedTerm], known: Sequence[FixedTerm]) -> bool:
    """True where no margin of a term, among the `known` terms, is absent."""
    have = {t.factors for t in present}
    missing = [k for k in known if k.factors not in have and any(t.contains(k) for t in term)]
    return not [k for k in missing if k.factors not in {t.factors for t in term}]


def may_drop(term: Sequence[FixedTerm], present: Sequence[FixedTerm]) -> bool:
    """True where no other term has one of these as a margin."""
    own = {t.factors for t in term}
    return not any(other.contains(t) for other in present if other.factors not in own for t in term)


def check_margins(terms: Sequence[FixedTerm], known: Sequence[FixedTerm], where: str) -> None:
    """**Raises:** OptionError for a product without its factors among the `known` terms."""
    have = {t.factors for t in known}
    for term in terms:
        missing = sorted(factor for factor in term.factors if frozenset([factor]) not in have)
        if len(term.factors) > 1 and missing:
            raise OptionError(
                f"{where}: {term.text} is a product, and {missing[0]} is neither in the model nor in the scope; add "
                f"{missing[0]!r} to the scope, so that the product can follow it."
            )
