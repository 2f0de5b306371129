"""The models of a stepwise search among nonlinear mixed-effects models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.arguments import check_names
from jaxnlme.errors import OptionError, near_matches, shown
from jaxnlme.estimators.marginal.method import REML, MaximumLikelihood
from jaxnlme.fitting.fit import Fit
from jaxnlme.formulas.update import FixedTerm, fixed_terms
from jaxnlme.model.covariates import CovariateColumns
from jaxnlme.model.parameters import Covariate
from jaxnlme.model.residual_error.endpoints import EndpointErrors
from jaxnlme.model.residual_error.families import residual_model
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
)

PARTS = ("random", "covariates", "covariance", "error")


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """A covariate of a parameter. **Fields:** `owner`; `covariate`; `terms` of its formula; `free`: in the scope."""

    owner: str
    covariate: Covariate
    terms: tuple[FixedTerm, ...]
    free: bool

    @property
    def key(self) -> tuple[str, frozenset[frozenset[str]]]:
        """The terms without their spelling."""
        return self.owner, frozenset(term.factors for term in self.terms)

    @property
    def text(self) -> str:
        """The covariate as in a table of estimates."""
        return f"{self.owner} ~ {self.covariate.formula}"


@dataclasses.dataclass(frozen=True, eq=False)
class NonlinearSearch:
    """The models of a scope. A Structure is the random effects, the positions of the covariates in `terms`, and the
    positions of the alternatives of covariance and residual model.

    **Fields:** `fit`: the first; `effects`: those of the model and the scope; `free_effects`: of the scope; `terms`;
    `choices` by part; `start`.
    """

    fit: Fit
    effects: tuple[str, ...]
    free_effects: tuple[str, ...]
    terms: tuple[Term, ...]
    choices: Mapping[str, Choices]
    start: Structure

    def changes(self, structure: Structure, fit: Fit) -> list[Change]:
        """The changes of a model that the scope and the margins allow."""
        random, covariates, covariance, error = structure
        out = []
        for name in self.free_effects:
            if name in random:
                out.append(Change(f"- random {name}", (random - {name}, *structure[1:]), -1))
            else:
                out.append(Change(f"+ random {name}", (random | {name}, *structure[1:]), 1))
        for k, term in enumerate(self.terms):
            if not term.free:
                continue
            present = [t for j in covariates if self.terms[j].owner == term.owner for t in self.terms[j].terms]
            known = [t for other in self.terms if other.owner == term.owner for t in other.terms]
            if k in covariates and may_drop(term.terms, present):
                out.append(Change(f"- {term.text}", (random, covariates - {k}, covariance, error), -1, True))
            elif k not in covariates and may_add(term.terms, present, known):
                changed = (random, covariates | {k}, covariance, error)
                out.append(Change(f"+ {term.text}", changed, 1, True, (term.owner, term.covariate.formula)))
        own = self._blocks(covariance, random)
        for k in self.choices["covariance"].others(covariance):
            if self._blocks(k, random) != own:
                label = f"covariance: {self.choices['covariance'].labels[k]}"
                out.append(Change(label, (random, covariates, k, error), 0))
        for k in self.choices["error"].others(error):
            label = f"error: {self.choices['error'].labels[k]}"
            out.append(Change(label, (random, covariates, covariance, k), 0))
        return out

    def exchanges(self, structure: Structure, wanted: set[str]) -> list[Change]:
        """Exchanges of one covariate of a parameter for another one."""
        out = []
        for j in sorted(structure[1]):
            for k, term in enumerate(self.terms):
                old = self.terms[j]
                free = old.free and term.free and k not in structure[1] and f"+ {term.text}" in wanted
                if not free or old.owner != term.owner:
                    continue
                rest = [t for i in structure[1] - {j} if self.terms[i].owner == old.owner for t in self.terms[i].terms]
                known = [t for other in self.terms if other.owner == old.owner for t in other.terms]
                if may_drop(old.terms, [*rest, *term.terms]) and may_add(term.terms, rest, known):
                    changed = (structure[0], structure[1] - {j} | {k}, *structure[2:])
                    out.append(Change(f"+ {term.text}, - {old.text}", changed, 0, True))
        return out

    def _blocks(self, k: int, random: frozenset[str]) -> Any:
        """The blocks of effects that an alternative of the covariance correlates, where it is named or given by names;
        otherwise its position."""
        value = self.choices["covariance"].values[k]
        if isinstance(value, str):
            blocks = {"full": [random], "diagonal": [frozenset([name]) for name in random]}.get(value)
        elif _by_names(value):
            blocks = [frozenset(part) & random for part in value]
            blocks += [frozenset([name]) for name in random if not any(name in block for block in blocks)]
        else:
            blocks = None
        return k if blocks is None or len(random) == 0 else frozenset(block for block in blocks if block)

    def _covariance(self, k: int, random: frozenset[str]) -> Any:
        """The alternative for these random effects; None leaves it to the update."""
        value = self.choices["covariance"].values[k]
        if not random:
            return None
        if not _by_names(value):
            return value
        blocks = [[name for name in part if name in random] for part in value]
        named = {name for block in blocks for name in block}
        return [block for block in blocks if block] + [[name] for name in self.effects if name in random - named]

    def refit(
        self, structure: Structure, source: Fit, source_structure: Structure, ml: bool, again: bool
    ) -> Fit | None:
        """A fit of `structure` from the estimates of `source`, a fit of `source_structure`."""
        random, covariates, covariance, error = structure
        changed: dict[str, Any] = {"progress": False}
        if again:
            if not isinstance(self.fit.estimator, MaximumLikelihood):
                return None
            changed["starts"] = "multi"
        if random != source_structure[0]:
            changed["random"] = [name for name in self.effects if name in random]
        if covariates != source_structure[1]:
            owners = dict.fromkeys(term.owner for term in self.terms)
            changed["covariates"] = {
                owner: [t.covariate for k, t in enumerate(self.terms) if k in covariates and t.owner == owner]
                for owner in owners
            }
        other_effects = random != source_structure[0] and self.choices["covariance"].free
        if covariance != source_structure[2] or other_effects:
            changed["covariance"] = self._covariance(covariance, random)
        if error != source_structure[3]:
            changed["error"] = self.choices["error"].values[error]
        if self.fit.restricted:
            changed |= self._method(source, ml)
        return source.update(**changed)

    def _method(self, source: Fit, ml: bool) -> dict[str, Any]:
        """Options that make an update of `source` restricted as the first fit is, or not."""
        if ml == (not source.restricted):
            return {}
        if isinstance(self.fit.estimator, REML):
            return {"restricted": not ml, "method": self.fit.estimator.method}
        return {"method": "lme" if ml else self.fit.estimator}

    def difference(self, structure: Structure, other: Structure) -> str:
        """The parts of `other` that differ from those of `structure`, in words."""
        words = [f"+ random {name}" for name in self.effects if name in other[0] - structure[0]]
        words += [f"- random {name}" for name in self.effects if name in structure[0] - other[0]]
        words += [f"+ {self.terms[k].text}" for k in sorted(other[1] - structure[1])]
        words += [f"- {self.terms[k].text}" for k in sorted(structure[1] - other[1])]
        for part, j, k in zip(("covariance", "error"), structure[2:], other[2:], strict=True):
            words += [f"{part}: {self.choices[part].labels[k]}"] if j != k else []
        return ", ".join(words)

    def describe(self, structure: Structure) -> list[str]:
        """Random effects, covariates and the other parts of the scope, in words."""
        words = [f"random effects of {', '.join(name for name in self.effects if name in structure[0]) or 'none'}"]
        words += [self.terms[k].text for k in sorted(structure[1])]
        for part, k in zip(("covariance", "error"), structure[2:], strict=True):
            words += [f"{part} {self.choices[part].labels[k]}"] if self.choices[part].free else []
        return words

    def fixed_part(self, structure: Structure) -> Any:
        """The covariates."""
        return structure[1]

    def screened(self, fit: Fit, change: Change) -> Screened | None:
        """The F test of a covariate in a regression of the modes of its parameter's random effect; means over the rows
        of a group for columns that vary within it. None for a parameter without random effect."""
        if change.term is None or change.term[0] not in fit.binding.density.effect_names:
            return None
        owner, formula = change.term
        table = fit.random_effects
        table = table[fit.data.level_names[0]] if isinstance(table, Mapping) else table
        modes = table[owner].to_numpy(float)
        seen = np.asarray(fit.data.observed).any(axis=1) & (np.asarray(fit.data.weights) > 0)
        columns = CovariateColumns(owner, [Covariate(formula)], fit.data).columns(fit.data)
        means = [_group_means(np.asarray(column, float), np.asarray(fit.data.observed)) for column in columns]
        p = regression_p_value(modes[seen], np.column_stack(means)[seen])
        return Screened(p, f"modes of {owner}", float(fit.shrinkage[owner]))


def _by_names(value: Any) -> bool:
    """True for a covariance given by blocks of names."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(part, (list, tuple)) and all(isinstance(name, str) for name in part) for part in value
    )


def _group_means(column: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """A column (groups,) or (groups, obs) by group: means over rows with a response."""
    if column.ndim == 1:
        return column
    counts = np.maximum(observed.sum(axis=1), 1)
    return np.where(observed, column, 0.0).sum(axis=1) / counts


def nonlinear_search(fit: Fit, scope: Any) -> NonlinearSearch:
    """The NonlinearSearch of a fit and a scope.  **Raises:** OptionError for a scope that does not fit the model."""
    scope = check_scope(scope, PARTS)
    model, density = fit.model, fit.binding.density
    if model.individual is not None and ("random" in scope or "covariates" in scope):
        raise OptionError(
            "the scope names random effects or covariates, which the individual-parameter function of this model "
            "defines; fit other functions and compare them with jn.compare."
        )
    effects = tuple(density.effect_names)
    named = tuple(check_names("scope['random']", scope["random"], "parameters")) if "random" in scope else ()
    names = [p.name for p in model.parameters]
    for name in named:
        if name not in effects and name.split("|")[0] not in names:
            raise OptionError(f"scope['random']: {name!r} is no parameter of the model; {near_matches(name, names)}")
    terms = _terms(fit, scope.get("covariates", {}), names)
    by_part = {
        "covariance": choices("covariance", scope, model.covariance),
        "error": choices("error", scope, model.error, same=_same_error),
    }
    of_model = {id(covariate) for p in model.parameters for covariate in p.covariates}
    own = frozenset(k for k, term in enumerate(terms) if id(term.covariate) in of_model)
    start = (frozenset(effects), own, by_part["covariance"].start, by_part["error"].start)
    return NonlinearSearch(fit, tuple(dict.fromkeys([*effects, *named])), named, tuple(terms), by_part, start)


def _terms(fit: Fit, entry: Any, names: Sequence[str]) -> list[Term]:
    """The covariates of the model, then those that only the scope has.

    **Raises:** OptionError for an unknown parameter, or what is no list of formulas.
    """
    if not isinstance(entry, Mapping):
        raise OptionError(
            "scope['covariates'] must be a dictionary from parameters to covariates, {'cl': ['log(Wt / 70)', 'Sex']}; "
            f"received {shown(entry)}."
        )
    named: list[Term] = []
    for owner, formulas in entry.items():
        if owner not in names:
            raise OptionError(f"scope['covariates']: {owner!r} is no parameter; {near_matches(str(owner), names)}")
        listed = [formulas] if isinstance(formulas, (str, Covariate)) else list(formulas)
        for formula in listed:
            covariate = formula if isinstance(formula, Covariate) else Covariate(formula)
            named.append(Term(owner, covariate, fixed_terms(covariate.formula)[1], True))
    in_scope = {term.key for term in named}
    own = [Term(p.name, c, fixed_terms(c.formula)[1], False) for p in fit.model.parameters for c in p.covariates]
    out = [dataclasses.replace(term, free=term.key in in_scope) for term in own]
    out += [term for k, term in enumerate(named) if term.key not in {t.key for t in [*own, *named[:k]]}]
    for owner in entry:
        of_owner = [t for term in out if term.owner == owner for t in term.terms]
        scoped = [t for term in out if term.owner == owner and term.free for t in term.terms]
        check_margins(scoped, of_owner, f"scope['covariates'][{owner!r}]")
        if of_owner:  # names and values of the columns, before any fit
            every = Covariate(" + ".join(dict.fromkeys(t.text for t in of_owner)))
            CovariateColumns(owner, [every], fit.data).columns(fit.data)
    return out


def _same_error(first: Any, second: Any) -> bool:
    """True for residual models of one name, with the same parameters and strata."""
    models: list[Any] = [residual_model(value) for value in (first, second)]
    a, b = models
    if type(a) is not type(b):
        return False
    if isinstance(a, EndpointErrors):
        same = a.labels == b.labels and repr(a.correlation) == repr(b.correlation)
        return same and all(_same_error(x, y) for x, y in zip(a.members, b.members, strict=True))
    keys = [
        (e.name, getattr(e, "by", None), repr(getattr(e, "correlation", None)), [(p.name, p.fix) for p in e.parameters])
        for e in (a, b)
    ]
    return keys[0] == keys[1]
