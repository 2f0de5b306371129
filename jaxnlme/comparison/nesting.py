"""Nested models: whether one is the other with parameters at fixed values, which these are, and which of them are then
at the boundary of their range."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.comparison.comparable import Candidate
from jaxnlme.comparison.designs import design_terms, different_column, function_digest
from jaxnlme.comparison.psi_nesting import PsiNesting, psi_is_singular, psi_nesting
from jaxnlme.comparison.residual_nesting import ResidualNesting, residual_nesting
from jaxnlme.comparison.settings import NESTING
from jaxnlme.errors import some
from jaxnlme.model.individual_parameters import LinearIndividual
from jaxnlme.results.record import FitRecord


@dataclasses.dataclass(frozen=True)
class Nesting:
    """A model inside a larger one.

    **Fields:** `df`: the difference of the numbers of parameters; `added`: names of what the larger one estimates and
    the smaller one does not; `new_effects`: random effects that only the larger one has; `one_variance`: these are one
    variance at zero, with covariances to the effects of the smaller model or none, which makes the alternative a
    half-space; `at_bound`: residual or other added parameters that the smaller model has at a bound of their range;
    `nuisance_at_zero`: the smaller model's own psi is singular at its estimates; `only_fixed_effects`: what is added
    are fixed effects; `null_values`: for a fit of `jn.fit` the values of added parameters in the smaller model, by
    reported name of the larger one.
    """

    df: int
    added: tuple[str, ...]
    new_effects: tuple[str, ...]
    one_variance: bool
    at_bound: tuple[str, ...]
    nuisance_at_zero: bool
    only_fixed_effects: bool
    null_values: Mapping[str, float]

    @property
    def interior(self) -> bool:
        """True if the chi-square distribution holds: no parameter is at a boundary under the smaller model, or only
        variances of its own, while what is added are fixed effects."""
        return not self.bounded_by_chi_square and (not self.nuisance_at_zero or self.only_fixed_effects)

    @property
    def bounded_by_chi_square(self) -> bool:
        """True if parameters that are added are at their boundary in the smaller model: the p value of the chi-square
        distribution is then too large."""
        return bool(self.new_effects or self.at_bound)

    @property
    def mixture(self) -> bool:
        """True if the closed-form mixture for one variance holds."""
        return self.one_variance and not self.at_bound and not self.nuisance_at_zero


def nesting(smaller: Candidate, larger: Candidate) -> Nesting | str:
    """The Nesting of two comparable fits, or a sentence on why they are not nested or it cannot be verified."""
    df = larger.criteria.n_parameters - smaller.criteria.n_parameters
    if df <= 0:
        return (
            f"{smaller.name} has {smaller.criteria.n_parameters} parameters and {larger.name} "
            f"{larger.criteria.n_parameters}: a nested model has fewer."
        )
    records = [isinstance(each.fit, FitRecord) for each in (smaller, larger)]
    outcomes = [getattr(each.fit, "outcome_model", None) for each in (smaller, larger)]
    # Formulas make another function of other terms; of the same terms the models are compared part by part.
    if None not in outcomes and function_digest(smaller.fit.binding) != function_digest(larger.fit.binding):
        different = outcomes[0] != outcomes[1]
        reason = "their families, links, offsets, or the coefficients that are held at other values than zero, differ."
        return reason if different else _by_name(smaller, larger, df)
    if all(records):
        return _of_records(smaller, larger, df)
    if any(records):
        return (
            "one is a fit of jn.fit and the other of a function for linear models, whose parameters have other names; "
            "fit both in the same way."
        )
    return _by_name(smaller, larger, df)


def _by_name(smaller: Candidate, larger: Candidate, df: int) -> Nesting | str:
    """The Nesting of two results of other kinds, by the names of their parameters and random effects."""
    same = _same_factors(smaller.fit, larger.fit)
    ours_by = _qualified(smaller, same)
    theirs_by = _qualified(larger, {})
    missing = [shown for name, shown in ours_by.items() if name not in theirs_by]
    if missing:
        return f"{larger.name} lacks {some(missing)}, which {smaller.name} estimates."
    column = _other_column(smaller.fit, larger.fit, same)
    if column:
        return f"{smaller.name} and {larger.name} have different values in the column of {column}."
    added = tuple(shown for name, shown in theirs_by.items() if name not in ours_by)
    if len(added) != df:
        return (
            f"the larger model has {df} more parameters, and {len(added)} more names ({some(list(added)) or 'none'}): "
            "parameters are shared, or another structure has the same names, so it cannot be verified by name."
        )
    new: list[str] = []
    effects_of_smaller = {same.get(level, level): names for level, names in smaller.variance_parameters.items()}
    for level in {**effects_of_smaller, **larger.variance_parameters}:
        ours, theirs = (each.get(level, ()) for each in (effects_of_smaller, larger.variance_parameters))
        lost = [effect for effect in ours if effect not in theirs]
        if lost:
            return f"{larger.name} has no random effect of {some(lost)} by {level}, which {smaller.name} has."
        new += [effect for effect in theirs if effect not in ours]
    bounds = getattr(larger.fit, "boundary_parameters", ())
    at_bound = tuple(name for name in bounds if name in added)
    nuisance, fixed_effects = bool(smaller.at_zero), {*getattr(larger.fit, "fixed_effect_names", ())}
    only = not new and {*added} <= fixed_effects
    nulls = {name: 0.0 for name in added if not name.startswith("corr(")}
    return Nesting(df, added, tuple(new), len(new) == 1, at_bound, nuisance, only, nulls)


def _same_factors(smaller: Any, larger: Any) -> dict[str, str]:
    """By grouping factor of the smaller fit the one of the larger fit that divides the rows into the same units,
    whatever the two are called; one of the same name and other units is another factor, "" here."""
    levels, of_larger = (getattr(each, "level_designs", {}) for each in (smaller, larger))
    out = {}
    for level, (codes, _) in levels.items():
        equal = [name for name, (theirs, _) in of_larger.items() if np.array_equal(codes, theirs)]
        out[level] = level if level in equal else equal[0] if equal else ""
    return out


def _qualified(each: Candidate, same: Mapping[str, str]) -> dict[str, str]:
    """The reported names of the parameters by names that always have their grouping factor, that of `same`."""
    qualified = getattr(each.fit, "qualified_names", None)
    keys = each.parameter_names if qualified is None else qualified(same)
    return dict(zip(keys, each.parameter_names, strict=True))


def _other_column(smaller: Any, larger: Any, same: Mapping[str, str]) -> str:
    """The first effect of two linear fits that has other values in the larger one; empty where there is none."""
    ours, theirs = (getattr(each, "fixed_columns", {}) for each in (smaller, larger))
    pairs = [(name, column, theirs[name]) for name, column in ours.items() if name in theirs]
    levels, of_larger = (getattr(each, "level_designs", {}) for each in (smaller, larger))
    for level, (_, columns) in levels.items():
        other = of_larger[same[level]][1] if same[level] else {}
        pairs += [(f"{name} | {level}", column, other[name]) for name, column in columns.items() if name in other]
    for name, a, b in pairs:
        if a.shape != b.shape or np.abs(a - b).max() > NESTING.same_value * np.abs(a).max():
            return name
    return ""


def _of_records(smaller: Candidate, larger: Candidate, df: int) -> Nesting | str:
    """The Nesting of two fits of `jn.fit`, verified part by part."""
    a, b = smaller.fit.binding, larger.fit.binding
    reason = _functions(a, b, larger.name) or _fixed_effects(a, b, smaller.name, larger.name)
    if reason:
        return reason
    psi = psi_nesting(a, b)
    if isinstance(psi, str):
        return psi
    residual = residual_nesting(smaller.fit, larger.fit)
    if isinstance(residual, str):
        return residual
    added = _added(smaller, larger, {*residual.counterparts, *psi.counterparts})
    nuisance, only = psi_is_singular(a, smaller.fit), {*added} <= {*b.density.beta_names}
    nulls = _null_values(a, b, psi, residual)
    return Nesting(df, added, psi.new_effects, psi.one_variance, residual.at_bound, nuisance, only, nulls)


def _functions(a: Binding, b: Binding, larger: str) -> str:
    """The reason why the models differ in more than parameters; empty where they do not."""
    if function_digest(a) != function_digest(b):
        return (
            "their model functions, parameters or transforms differ, so it cannot be verified that one is a special "
            "case of the other. Write both with one function, whose parameters or coefficients the smaller one holds "
            "fixed (jn.Parameter(..., fix=True), fixed={...})."
        )
    same_groups = [label == other for label, other in zip(a.data.labels.tolist(), b.data.labels.tolist(), strict=False)]
    if a.data.n_groups != b.data.n_groups or not all(same_groups):
        return "their data are grouped in different ways at the outermost level."
    column = different_column(a, b)
    return f"their data have different values of {column}, which {larger} may use." if column else ""


def _fixed_effects(a: Binding, b: Binding, smaller: str, larger: str) -> str:
    """The reason why the fixed effects of a model are not among those of a larger one; empty where they are."""
    names, theirs = a.density.beta_names, b.density.beta_names
    missing = [name for name in names if name not in theirs]
    held = [
        name
        for name in missing
        if a.fixed[names.index(name)] and float(np.asarray(a.start.beta)[names.index(name)]) == 0
    ]
    missing = [name for name in missing if name not in held]
    if missing:
        return f"{larger} lacks {some(missing)}, which {smaller} has."
    linear = [isinstance(each.density.individual, LinearIndividual) for each in (a, b)]
    if all(linear):
        ours, of_larger = design_terms(a), design_terms(b)
        differ = [name for name in names if name not in held and sorted(ours[name]) != sorted(of_larger[name])]
        if differ:
            return f"the columns of the data that {some(differ)} multiplies differ between {smaller} and {larger}."
    extra = [name for name in theirs if name not in names]
    for name in [name for name in names if name not in held] + extra:
        k = theirs.index(name)
        if not b.fixed[k]:
            continue
        value = float(np.asarray(b.start.beta)[k])
        j = names.index(name) if name in names else -1
        of_smaller = float(np.asarray(a.start.beta)[j]) if j >= 0 else 0.0
        if j >= 0 and not a.fixed[j]:
            return f"{larger} holds {name} fixed, which {smaller} estimates."
        if abs(value - of_smaller) > NESTING.same_value * max(1.0, abs(value)):
            return f"{larger} holds {name} at {value:g}, and {smaller} has {of_smaller:g} (on the transformed scale)."
    return ""


def _added(smaller: Candidate, larger: Candidate, counterparts: set[str]) -> tuple[str, ...]:
    """Names that the larger model estimates and the smaller one does not.

    **Arguments:** `counterparts`: names of the larger model that the smaller one has by other names."""
    known = {*smaller.parameter_names, *counterparts}
    names = tuple(name for name in larger.parameter_names if name not in known)
    # Another structure of psi may estimate more by the same names ("identity" and "diagonal").
    return names or ("the structure of psi",)


def _null_values(a: Binding, b: Binding, psi: PsiNesting, residual: ResidualNesting) -> dict[str, float]:
    """Values of the larger model, by reported name, that make it the smaller one, as far as they are numbers."""
    beta = {
        name: 0.0 for k, name in enumerate(b.density.beta_names) if name not in a.density.beta_names and not b.fixed[k]
    }
    return beta | {f"sd({name})": 0.0 for name in psi.new_effects} | dict(residual.null_values)
