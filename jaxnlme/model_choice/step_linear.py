"""The models of a stepwise search among linear mixed models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.errors import DataError, OptionError, some
from jaxnlme.formulas.design import design_matrix
from jaxnlme.formulas.frames import complete_rows
from jaxnlme.formulas.mixed import parse_lme, parse_mixed, used_columns
from jaxnlme.formulas.update import FixedTerm, fixed_terms, random_texts, right_side
from jaxnlme.linear.parameter_units import shifted_effect
from jaxnlme.linear.record import LinearFit
from jaxnlme.linear.residual_model import columns_of, residual_error
from jaxnlme.model_choice.step_screen import regression_p_value
from jaxnlme.model_choice.step_terms import (
    Change,
    Choices,
    Screened,
    Structure,
    check_margins,
    check_scope,
    choices,
    may_add,
    may_drop,
    same_value,
)

PARTS = ("fixed", "random", "covariance", "weights", "correlation")
OTHERS = PARTS[1:]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearSearch:
    """The models of a scope. A Structure is the fixed terms (frozenset of positions in `terms`) and the positions of
    the alternatives of `OTHERS`.

    **Fields:** `fit`: the first; `intercept`; `terms`: those of the model and the scope; `free`: which of them the
    scope names; `choices` by part; `start`.
    """

    fit: LinearFit
    intercept: bool
    terms: tuple[FixedTerm, ...]
    free: tuple[bool, ...]
    choices: Mapping[str, Choices]
    start: Structure

    def changes(self, structure: Structure, fit: LinearFit) -> list[Change]:
        """The changes of a model that the scope and the margins allow."""
        present = [self.terms[k] for k in sorted(structure[0])]
        out = []
        for k, term in enumerate(self.terms):
            if not self.free[k]:
                continue
            if k in structure[0] and may_drop([term], present):
                out.append(Change(f"- {term.text}", (structure[0] - {k}, *structure[1:]), -1, True))
            elif k not in structure[0] and may_add([term], present, self.terms):
                changed = (structure[0] | {k}, *structure[1:])
                out.append(Change(f"+ {term.text}", changed, 1, True, ("", term.text)))
        for j, part in enumerate(OTHERS, start=1):
            if part == "covariance" and self._covariance_is_moot(fit):
                continue
            for k in self.choices[part].others(structure[j]):
                changed = (*structure[:j], k, *structure[j + 1 :])
                out.append(Change(f"{part}: {self.choices[part].labels[k]}", changed, 0))
        return out

    def exchanges(self, structure: Structure, wanted: set[str]) -> list[Change]:
        """Exchanges of one fixed term for another one."""
        out = []
        for j in sorted(structure[0]):
            rest = [self.terms[k] for k in sorted(structure[0] - {j})]
            for k, term in enumerate(self.terms):
                if not (self.free[j] and self.free[k] and k not in structure[0] and f"+ {term.text}" in wanted):
                    continue
                if may_drop([self.terms[j]], [*rest, term]) and may_add([term], rest, self.terms):
                    label = f"+ {term.text}, - {self.terms[j].text}"
                    out.append(Change(label, (structure[0] - {j} | {k}, *structure[1:]), 0, True))
        return out

    def _covariance_is_moot(self, fit: LinearFit) -> bool:
        """True where every factor has one effect at most, so that all named covariances are the same."""
        words = all(value is None or isinstance(value, str) for value in self.choices["covariance"].values)
        return words and all(len(grouping.effects) == 1 for grouping in fit.model.groupings)

    def refit(
        self, structure: Structure, source: LinearFit, source_structure: Structure, ml: bool, again: bool
    ) -> LinearFit | None:
        """A fit of `structure`; the search of linear models has several starts by itself."""
        if again:
            return None
        right = right_side(self.intercept, [self.terms[k].text for k in sorted(structure[0])])
        changed = {
            part: self.choices[part].values[k]
            for part, k, first in zip(OTHERS, structure[1:], self.start[1:], strict=True)
            if k != first
        }
        method = "REML" if self.fit.restricted and not ml else "ML"
        right = " + ".join([right, *([] if "random" in changed else random_texts(self.fit.call["formula"]))])
        return self.fit.update(f". ~ {right}", data=self.fit.model.frame, method=method, **changed)

    def difference(self, structure: Structure, other: Structure) -> str:
        """The parts of `other` that differ from those of `structure`, in words."""
        words = [f"+ {self.terms[k].text}" for k in sorted(other[0] - structure[0])]
        words += [f"- {self.terms[k].text}" for k in sorted(structure[0] - other[0])]
        parts = zip(OTHERS, structure[1:], other[1:], strict=True)
        words += [f"{part}: {self.choices[part].labels[k]}" for part, j, k in parts if j != k]
        return ", ".join(words)

    def describe(self, structure: Structure) -> list[str]:
        """Formula and the other parts of the scope, in words."""
        right = right_side(self.intercept, [self.terms[k].text for k in sorted(structure[0])])
        words = [f"{self.fit.model.formula.response} ~ {right}"]
        named = zip(OTHERS, structure[1:], strict=True)
        return words + [f"{part} {self.choices[part].labels[k]}" for part, k in named if self.choices[part].free]

    def fixed_part(self, structure: Structure) -> Any:
        """The fixed terms."""
        return structure[0]

    def screened(self, fit: LinearFit, change: Change) -> Screened | None:
        """The F test of the columns of a new term: in a regression of the modes of the random effect that they shift,
        else of the residuals."""
        if change.term is None:
            return None
        right = right_side(self.intercept, [self.terms[k].text for k in sorted(change.structure[0])])
        design = design_matrix(right, fit.model.frame)
        before = design_matrix(fit.model.formula.fixed, fit.model.frame)
        known = {before.matrix[:, k].tobytes() for k in range(before.matrix.shape[1])}
        new = [c for c in design.matrix.T if np.ascontiguousarray(c).tobytes() not in known]
        shifted = [shifted_effect(fit, column) for column in new]
        first = shifted[0] if shifted else None
        if first is not None and all(s is not None and s[0] == first[0] for s in shifted):
            grouping, psi = fit.model.groupings[first[0]], fit.outcome.psi[first[0]]
            shifts = np.column_stack([s[2] for s in shifted if s is not None])
            modes, sds = fit.random_effects[grouping.label].to_numpy(), np.sqrt(np.diag(psi))
            effects = [j for j in range(len(sds)) if sds[j] > 0]
            # A level is extrapolated where its column is far from centred, so all effects of the factor are tried.
            tests = [
                min(len(effects) * regression_p_value(modes[:, j], shifts, np.ptp(shifts) > 0), 1.0) for j in effects
            ]
            if tests:
                j = effects[int(np.argmin(tests))]
                shrinkage = 100.0 * (1.0 - float(np.std(modes[:, j], ddof=1)) / float(sds[j]))
                return Screened(min(tests), f"modes of {grouping.effects[j]} | {grouping.label}", shrinkage)
        return Screened(regression_p_value(fit.residuals(), np.column_stack(new)), "residuals", np.nan) if new else None


def linear_search(fit: LinearFit, scope: Any) -> LinearSearch:
    """The LinearSearch of a fit and a scope.

    **Raises:** OptionError, DataError for a scope that does not fit the model or its data.
    """
    scope = check_scope(scope, PARTS)
    intercept, own = fixed_terms(fit.model.formula.fixed)
    if not intercept:
        _, own = fixed_terms(f"0 + {fit.model.formula.fixed.removeprefix('0 + ')}")
    named = _named_terms(scope.get("fixed", ()))
    terms = list(own)
    for term in named:
        if term.factors not in {t.factors for t in terms}:
            terms.append(term)
    free = tuple(term.factors in {t.factors for t in named} for term in terms)
    check_margins(named, terms, "scope['fixed']")
    call = fit.call
    random = _random_of(fit) if "random" in scope else None
    by_part = {
        "random": choices("random", scope, random, same=_same_random),
        "covariance": choices("covariance", scope, call.get("covariance"), same=_same_covariance(fit)),
        **{part: choices(part, scope, call.get(part)) for part in OTHERS[2:]},
    }
    _check_columns(fit, terms, by_part)
    start = (frozenset(range(len(own))), *(by_part[part].start for part in OTHERS))
    return LinearSearch(fit, intercept, tuple(terms), free, by_part, start)


def _named_terms(entry: Any) -> list[FixedTerm]:
    """The terms that scope["fixed"] names. **Raises:** OptionError for what is no list of terms."""
    entry = [entry] if isinstance(entry, str) else entry
    if not isinstance(entry, (list, tuple)) or not all(isinstance(text, str) for text in entry):
        raise OptionError("scope['fixed'] must be a list of terms that may be in the model, ['age', 'Sex', 'age:Sex'].")
    return [term for text in entry for term in fixed_terms(text.strip().removeprefix("~"))[1]]


def _random_of(fit: LinearFit) -> Any:
    """The random effects of a fit as of `jn.lme`, those in parentheses of a formula as its text."""
    if fit.call.get("random") is not None:
        return fit.call["random"]
    random = fit.model.formula.random
    if not random:
        return None
    by_group = [f"~ {term.formula} | {':'.join(map(_in_backticks, term.group))}" for term in random]
    if len(random) > 1:
        raise OptionError(
            "the formula has several random terms in parentheses; for a stepwise search write the model with random=, "
            "'~ age | Subject', '~ age || Subject' or a dictionary by column."
        )
    return by_group[0]


def _in_backticks(name: str) -> str:
    return name if name.isidentifier() else f"`{name}`"


def _same_random(first: Any, second: Any) -> bool:
    """True for the same random effects in other words."""
    if first is None or second is None:
        return first is second
    parsed = [parse_lme("y ~ 1", value).random for value in (first, second)]
    terms = [[(term.group, frozenset(map(str, _effects(term.formula)))) for term in random] for random in parsed]
    return terms[0] == terms[1]


def _same_covariance(fit: LinearFit) -> Any:
    """A function of two covariances: of a factor with one term, None is "full"."""
    factors = [term.group for term in fit.model.formula.random]
    if len(set(factors)) < len(factors):
        return None
    return lambda *values: same_value(*("full" if value is None else value for value in values))


def _effects(formula: str) -> Sequence[Any]:
    intercept, terms = fixed_terms(formula)
    return [intercept, *sorted(sorted(term.factors) for term in terms)]


def _check_columns(fit: LinearFit, terms: Sequence[FixedTerm], by_part: Mapping[str, Choices]) -> None:
    """**Raises:** DataError for columns of the scope that are unknown or have missing values: all models are fitted to
    the same rows."""
    columns = [*used_columns(parse_mixed(f"y ~ {right_side(True, [term.text for term in terms])}"))[1:]]
    for value in by_part["random"].values:
        columns += [] if value is None else used_columns(parse_lme("y ~ 1", value))[1:]
    for part in ("weights", "correlation"):
        for value in by_part[part].values:
            pair = (value, None) if part == "weights" else (None, value)
            columns += columns_of(residual_error(*pair))
    incomplete = [c for c in dict.fromkeys(columns) if not complete_rows(fit.model.frame, [c]).all()]
    if incomplete:
        count = int((~complete_rows(fit.model.frame, incomplete)).sum())
        raise DataError(
            f"{some(incomplete)} of the scope {'is' if len(incomplete) == 1 else 'are'} missing in {count} rows of the "
            "fit, and models are compared on the same rows: leave these rows out first, fit.update(data=...)."
        )
