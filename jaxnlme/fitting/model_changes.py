"""What an update may change of a fit's model: its parameters, effects and covariates, covariance and residual model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.errors import OptionError, near_matches, some
from jaxnlme.model.covariance.specification import covariance as family
from jaxnlme.model.covariance.specification import family_name
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.parameters import Parameter
from jaxnlme.model.residual_error.families import error_model
from jaxnlme.results.record import Fit


class Change:
    """The parts of a model that an update may change: its parameters, random design and which effects remain."""

    def __init__(self, fit: Fit):
        self.fit = fit
        self.old = fit.model
        self.parameters = list(self.old.parameters)
        self.names = [p.name for p in self.parameters]
        self.effects = list(fit.binding.density.effect_names)
        self.kept = list(range(len(self.effects)))  # positions among the fit's effects, -1 for a new one
        self.design = None if self.old.random_design is None else np.asarray(self.old.random_design, float)

    def drop(self, names: list[str]) -> None:
        """Leaves out random effects or covariates."""
        for name in names:
            if name in self.effects:
                self._refuse_function(f"drop={name!r}")
                position = self.effects.index(name)
                if position in self.kept:
                    self.kept.remove(position)
            elif " ~ " in name and self.old.fixed_design is None:
                self._drop_covariate(name)
            else:
                raise OptionError(f"drop={name!r}: {self._no_effect(name)}")
        self._flags()

    def random(self, names: list[str]) -> None:
        """Random effects on the parameters `names`, and on no others."""
        if self.design is not None:
            unknown = [name for name in names if name not in self.effects]
            if unknown:
                raise OptionError(
                    f"random={names!r}: the effects of this model are the columns of its random_design, "
                    f"{some(self.effects)}; {unknown[0]!r} is none of them. Declare a model with another design."
                )
            self.kept = [k for k, name in enumerate(self.effects) if name in names]
            return
        self._refuse_function("random=")
        for name in names:
            if name not in self.names:
                raise OptionError(f"random={name!r} is no parameter of this model; {near_matches(name, self.names)}")
        ordered = [name for name in self.names if name in names]
        self.kept = [self.effects.index(name) if name in self.effects else -1 for name in ordered]
        self.parameters = [
            _with(p, random=p.name in names, sd=p.sd if p.name in names else None) for p in self.parameters
        ]

    def covariates(self, wanted: Mapping[str, Any]) -> None:
        """Other covariates of some parameters."""
        if self.old.fixed_design is not None or self.old.individual is not None:
            raise OptionError(
                "covariates=: this model has a fixed_design or an individual-parameter function in their place; "
                "declare a model with another one."
            )
        for name, terms in wanted.items():
            if name not in self.names:
                raise OptionError(f"covariates of {name!r}: no such parameter; {near_matches(name, self.names)}")
            k = self.names.index(name)
            self.parameters[k] = _with(self.parameters[k], covariates=terms)

    def model(self, covariance: Any, error: Any) -> NLMEModel:
        """The changed model."""
        old = self.old
        structure = old.structure
        if self.fit.params.free is not None:  # the weights that were found
            structure = eqx.combine(self.fit.params.free, structure)
        same = -1 not in self.kept and len(self.kept) == len(self.effects)
        design = self.design if self.design is None or same else self.design[..., self.kept]
        if design is not None and not design.shape[-1]:
            design = None
            self.parameters = [_with(p, sd=None) for p in self.parameters]
        psi = old.psi
        if psi is not None and not same:
            psi = np.asarray(psi, float)[np.ix_(self.kept, self.kept)] if -1 not in self.kept else None
        if old.fix_psi and psi is None and not same:
            raise OptionError("psi is fixed, and a new random effect has no value there; declare a model with its psi.")
        if covariance is not None and not old.fix_psi:
            psi = None  # a start that another family may not have
        spec = (old.covariance if same else self._restricted()) if covariance is None else covariance
        return NLMEModel(
            structure,
            self.parameters,
            spec,
            old.error if error is None else error_model(error),
            individual=old.individual,
            fixed_design=old.fixed_design,
            random_design=design,
            beta=old.beta,
            psi=psi if self.kept else None,
            fix_psi=old.fix_psi,
            priors=self._priors(spec, error),
        )

    def _flags(self) -> None:
        """Sets random=False, and drops starting SDs, where the effect is gone."""
        if self.design is not None:
            return
        left = {self.effects[k] for k in self.kept}
        self.parameters = [
            p if p.name in left or not p.random else _with(p, random=False, sd=None) for p in self.parameters
        ]

    def _drop_covariate(self, name: str) -> None:
        owner, term = name.split(" ~ ", 1)
        if owner not in self.names:
            raise OptionError(f"drop={name!r}: {owner!r} is no parameter; {near_matches(owner, self.names)}")
        k = self.names.index(owner)
        entry, made = self.parameters[k], self.fit.binding.covariates.get(owner)
        formulas = [c.formula for c in entry.covariates]
        if term in formulas:
            gone = formulas.index(term)
        elif made is not None and term in made.names:
            formula = self.old.parameters[k].covariates[made.owners[made.names.index(term)]].formula
            if formula not in formulas:
                return  # another column of a term that is gone already
            gone = formulas.index(formula)
            own = [n for n, o in zip(made.names, made.owners, strict=True) if o == gone]
            if len(own) > 1:
                raise OptionError(
                    f"drop={name!r}: it is one of {len(own)} coefficients of the covariate {formula!r}; drop all of "
                    f"them by drop='{owner} ~ {formula}', or say covariates={{{owner!r}: [...]}}."
                )
        else:
            known = formulas + ([] if made is None else list(made.names))
            raise OptionError(f"drop={name!r}: {owner} has no such covariate; {near_matches(term, known)}")
        left = [c for j, c in enumerate(entry.covariates) if j != gone]
        self.parameters[k] = _with(entry, covariates=left)

    def _no_effect(self, name: str) -> str:
        """Why `name` cannot be dropped."""
        if self.design is not None and name in self.names:
            row = self.design[..., self.names.index(name), :].reshape(-1, self.design.shape[-1])
            shared = [self.effects[k] for k in np.flatnonzero(row.any(axis=0))]
            if shared:
                return (
                    f"its random effect is {some(shared)} of random_design, which may serve other parameters too; drop "
                    "effects by these names."
                )
        if name in self.fit.binding.density.beta_names and self.old.fixed_design is not None:
            return "it is a column of fixed_design; declare a model with another design."
        if name in self.names:
            return f"it has no random effect; those of this model: {some(self.effects) or 'none'}."
        coefficients = [n for n in self.fit.binding.density.beta_names if " ~ " in n]
        return f"no random effect or covariate is called so; {near_matches(name, [*self.effects, *coefficients])}"

    def _refuse_function(self, what: str) -> None:
        if self.old.individual is not None:
            raise OptionError(
                f"{what}: the individual-parameter function of this model reads its random effects by name; declare a "
                "model with another function."
            )

    def _restricted(self) -> Any:
        """The covariance for the effects that remain."""
        spec, kept = self.old.covariance, self.kept
        if isinstance(spec, str):
            return spec
        names = [self.effects[k] for k in kept if k >= 0]
        if isinstance(spec, AbstractCovariance):
            word = family_name(spec) if kept else "diagonal"
            if word is None:
                raise OptionError(
                    f"the covariance is an object for {len(self.effects)} effects, and there are {len(kept)} now; say "
                    "covariance=."
                )
            return word
        if any(isinstance(name, str) for part in spec for name in np.ravel(np.asarray(part, object))):
            blocks = [[name for name in np.ravel(np.asarray(part, object)) if name in names] for part in spec]
            if self.design is not None:  # whose effects may have other names in the new model
                block = {name: k for k, part in enumerate(blocks) for name in part}
                own = np.array([block[name] for name in names])
                return (own[:, None] == own[None, :]).astype(int)
            added = [[p.name] for p in self.parameters if p.random and p.name not in self.effects]
            return [block for block in blocks if block] + added or "diagonal"
        pattern = np.eye(len(kept), dtype=int)
        at = [j for j, k in enumerate(kept) if k >= 0]
        pattern[np.ix_(at, at)] = np.asarray(spec)[np.ix_([kept[j] for j in at], [kept[j] for j in at])]
        return pattern if kept else "diagonal"

    def _priors(self, spec: Any, error: Any) -> dict[str, Any]:
        """The model's priors, without those on values that are gone."""
        density = self.fit.binding.density
        effects = [self.effects[k] for k in self.kept]
        if self.design is None:
            effects = [p.name for p in self.parameters if p.random]
        left = [self.effects[k] for k in self.kept if k >= 0]
        lost = {f"sd({name})" for name in self.effects if name not in left}
        lost |= set(_pairs(self.effects, density.covariance)) - set(_pairs(effects, family(spec, effects)))
        formulas = {p.name: {c.formula for c in p.covariates} for p in self.parameters}
        for owner, made in self.fit.binding.covariates.items():
            old = next(p for p in self.old.parameters if p.name == owner).covariates
            left = formulas[owner]
            lost |= {
                f"{owner} ~ {n}" for n, o in zip(made.names, made.owners, strict=True) if old[o].formula not in left
            }
        if error is not None:
            names = {p.name for p in error_model(error).parameters}
            lost |= {name for name in density.error_names if name.removeprefix("error.") not in names}
        return {name: prior for name, prior in self.old.priors.items() if name not in lost}


def _pairs(names: list[str], covariance: AbstractCovariance) -> list[str]:
    """Names of the correlations of a family."""
    return [f"corr({names[j]}, {names[k]})" for j, k in covariance.related]


def _with(parameter: Parameter, **changes: Any) -> Parameter:
    """A parameter with other fields."""
    return dataclasses.replace(parameter, **changes)
