"""Changes that `Fit.update` makes to a model: parameters, random effects, covariates, covariance, residual model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.arguments import check_names
from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.random_effects import (
    declared_depths,
    effect_name,
    parameter_without,
    sd_name,
)
from jaxnlme.errors import OptionError, near_matches, some
from jaxnlme.fitting.covariance_changes import remaining_covariance, remaining_psi, removed_elements
from jaxnlme.model.covariance.base import elements_by_name
from jaxnlme.model.fixed import Fixed, check_fixed
from jaxnlme.model.networks import part_of, trained
from jaxnlme.model.parameters import Parameter
from jaxnlme.model.residual_error.base import ErrorParameter
from jaxnlme.model.residual_error.families import residual_model
from jaxnlme.model.settings import MODEL
from jaxnlme.model.transforms import Log
from jaxnlme.results.record import FitRecord


class ModelChange:
    """A model in the course of an update: its parameters, its random design and the effects that remain.

    **Arguments:** `fit`: the fit whose model is changed.
    """

    def __init__(self, fit: FitRecord):
        self.fit = fit
        # A random effect whose standard deviation is held at zero is none, also from now on.
        self.old_model = fit.binding.bound_model
        self.error = self.old_model.error
        self.held = {k: v for k, v in self.old_model.fixed.items() if v != 0 or k in fit.binding.density.reported_names}
        self.parameters = list(self.old_model.parameters)
        self.names = [p.name for p in self.parameters]
        self.effects = list(fit.binding.density.effect_names)
        # Positions among the effects of the fit, -1 for a new effect.
        self.kept_effects = list(range(len(self.effects)))
        self.levels = fit.data.level_names
        self.design = None if self.old_model.random_design is None else np.asarray(self.old_model.random_design, float)

    def drop(self, names: list[str]) -> None:
        """Remove random effects or covariates by the names in `fit.estimates`.  **Raises:** OptionError for other
        names."""
        for name in names:
            if name in self.effects:
                self._refuse_individual_function(f"drop={name!r}")
                position = self.effects.index(name)
                if position in self.kept_effects:
                    self.kept_effects.remove(position)
            elif " ~ " in name and self.old_model.fixed_design is None:
                self._drop_covariate(name)
            else:
                raise OptionError(f"drop={name!r}: {self._no_effect(name)}")
        self._clear_random_flags()

    def random(self, names: list[str]) -> None:
        """Give random effects to the parameters `names` only.  **Raises:** OptionError for unknown names."""
        if self.design is not None:
            unknown = [name for name in names if name not in self.effects]
            if unknown:
                raise OptionError(
                    f"random={names!r}: the effects of this model are the columns of its random_design, "
                    f"{some(self.effects)}; {unknown[0]!r} is none of them. Declare a model with another design."
                )
            self.kept_effects = [k for k, name in enumerate(self.effects) if name in names]
            return
        self._refuse_individual_function("random=")
        self._refuse_heterogeneous("random=")
        possible = {effect_name(p, level, d): (d, p) for d, level in enumerate(self.levels) for p in self.names}
        for name in names:
            if name not in possible:
                what = "parameter" if len(self.levels) == 1 else "parameter or parameter|level"
                raise OptionError(f"random={name!r} is no {what} of this model; {near_matches(name, possible)}")
        ordered_names = [name for name in possible if name in names]
        self.kept_effects = [self.effects.index(name) if name in self.effects else -1 for name in ordered_names]
        for k, p in enumerate(self.parameters):
            levels = [self.levels[possible[name][0]] for name in ordered_names if possible[name][1] == p.name]
            sds = p.sd
            if isinstance(sds, Mapping):
                sds = {level: sd for level, sd in sds.items() if level in levels} or None
            random = levels == [self.levels[0]] or levels
            self.parameters[k] = _replace(p, random=random, sd=sds if levels else None)

    def covariates(self, covariates_by_parameter: Mapping[str, Any]) -> None:
        """Replace the covariates of some parameters.

        **Arguments:** `covariates_by_parameter`: parameter name to its covariates from now on.
        **Raises:** OptionError for unknown parameters, and for models with a fixed_design or an individual function.
        """
        if self.old_model.fixed_design is not None or self.old_model.individual is not None:
            raise OptionError(
                "covariates=: this model has a fixed_design or an individual-parameter function in their place; "
                "declare a model with another one."
            )
        for name, terms in covariates_by_parameter.items():
            if name not in self.names:
                raise OptionError(f"covariates of {name!r}: no such parameter; {near_matches(name, self.names)}")
            k = self.names.index(name)
            self.parameters[k] = _replace(self.parameters[k], covariates=terms)

    def hold(self, changes: Mapping[str, float | None] | Sequence[str] | str) -> None:
        """Hold values fixed, or estimate them from now on.

        **Arguments:** `changes`: by reported name the value to hold, or None for a value that is estimated from now on;
        or names only, which are held at their estimates.
        **Raises:** OptionError for names that the fit does not have, or values that are not numbers.
        """
        values = self.fit.values
        if not isinstance(changes, Mapping):
            changes = {name: values.get(name) for name in check_names("fixed", changes, "values of the fit")}
        held = self.fit.binding.held.items()
        # Standard deviations held at zero, by the effect that the model is fitted without.
        at_zero = {n: n[3:-1] for n, value in held if value == 0 and n.startswith("sd(") and n not in values}
        if released := [effect for name, effect in at_zero.items() if name in changes and changes[name] != 0]:
            self.random([*self.effects_now(), *(effect for effect in released if effect not in self.effects_now())])
        new_effects = [f"sd({name})" for name in self.effects_now() if name not in self.effects]
        for name, value in changes.items():
            if name in at_zero and value == 0:
                continue  # as before
            if name not in values and name not in new_effects:
                raise OptionError(f"fixed: {name!r} is not a value of this fit; {near_matches(name, values)}")
            self.held.pop(name, None)
            self._release(name)
            if value is not None:
                self.held |= check_fixed({name: value})

    def _release(self, name: str) -> None:
        """Remove what the parameters and the residual model themselves say of holding the value `name`."""
        for k, p in enumerate(self.parameters):
            depths = declared_depths(p, self.levels) if p.random else []
            held = next((d for d in depths if name == sd_name(p, self.levels[d], d)), None)
            if held is not None and isinstance(sd := p.sd_of(self.levels[held]), Fixed):
                sds = {self.levels[d]: p.sd_of(self.levels[d]) for d in depths} | {self.levels[held]: sd.value or None}
                self.parameters[k] = _replace(p, sd=sds if len(sds) > 1 else sd.value or None)
            elif name == p.name and p.fix:
                self.parameters[k] = _replace(p, fix=False)
        density = self.fit.binding.density
        if name in density.error_names:
            entry = density.error.parameters[density.error_names.index(name)]
            if entry.fix and name not in self.fit.binding.held:
                self._release_error(name, entry)

    def _release_error(self, name: str, entry: ErrorParameter) -> None:
        """Estimate the parameter `entry` of the residual model, which is fixed there."""
        if not any(entry.name == p.name and p.fix for p in self.error.parameters):
            raise OptionError(f"fixed: {name!r} is fixed by the residual model for all levels; give another error=.")
        start = float(entry.start) or MODEL.error_start
        released = ErrorParameter(entry.name, start, entry.transform if float(entry.start) else Log())
        self.error = self.error.with_parameters(
            tuple(released if p.name == entry.name else p for p in self.error.parameters)
        )

    def _held_after(self, error: Any) -> dict[str, float]:
        """The values to hold, without those of quantities that were removed."""
        elements = elements_by_name(self.effects)
        out = {}
        for name, value in self.held.items():
            of_old_effect = not set(elements.get(name, ())) <= set(self.kept_effects)
            of_old_error = error is not None and name in self.fit.binding.density.error_names
            of_old_term = " ~ " in name and name.split(" ~ ")[1] not in self._terms(name.split(" ~ ")[0])
            if not (of_old_effect or of_old_error or of_old_term):
                out[name] = value
        return out

    def _terms(self, owner: str) -> list[str]:
        """Names of the covariate columns of the parameter `owner` whose formulas remain."""
        built = self.fit.binding.covariates.get(owner)
        if built is None or owner not in self.names:
            return []
        before = self.old_model.parameters[self.names.index(owner)].covariates
        formulas = {c.formula for c in self.parameters[self.names.index(owner)].covariates}
        return [n for n, o in zip(built.names, built.owners, strict=True) if before[o].formula in formulas]

    def model(self, covariance: Any, error: Any) -> NLMEModel:
        """The changed model.

        **Arguments:** `covariance`, `error`: as in NLMEModel; None keeps those of the model.
        **Raises:** OptionError where psi is fixed and a new effect has no value in it.
        """
        old = self.old_model
        free = self.fit.params.free  # estimated weights of modules
        structure = trained(old.structure, part_of(free, "structure"))
        effects_unchanged = -1 not in self.kept_effects and len(self.kept_effects) == len(self.effects)
        design = self.design if self.design is None or effects_unchanged else self.design[..., self.kept_effects]
        if design is not None and not design.shape[-1]:
            design = None
            self.parameters = [_replace(p, sd=None) for p in self.parameters]
        psi = old.psi
        if psi is not None and not effects_unchanged:
            psi = None if -1 in self.kept_effects else remaining_psi(self)
        if old.fix_psi and psi is None and not effects_unchanged:
            raise OptionError("psi is fixed, and a new random effect has no value there; declare a model with its psi.")
        if covariance is not None and not old.fix_psi:
            psi = None  # another family may not contain it
        if covariance is not None:
            spec = covariance
        else:
            spec = old.covariance if effects_unchanged else remaining_covariance(self)
        model = NLMEModel(
            structure,
            self.parameters,
            spec,
            self.error.with_arrays(part_of(free, "error")) if error is None else residual_model(error),
            individual=trained(old.individual, part_of(free, "individual")),
            fixed_design=old.fixed_design,
            random_design=design,
            beta=old.beta,
            psi=psi if self.kept_effects else None,
            fix_psi=old.fix_psi,
            priors={},
            fixed=self._held_after(error),
            effects=None if old.effects is None else old.effects.starting_at(part_of(free, "effects")),
        )
        model.priors = self._priors(model, error)
        model.zero_effects = old.zero_effects
        if old.effect_names is not None and design is not None:
            model.effect_names = tuple(old.effect_names[k] for k in self.kept_effects)
        return model

    def _clear_random_flags(self) -> None:
        """Set random=False and remove the starting SD of parameters whose effect was removed."""
        if self.design is not None:
            return
        if len(self.kept_effects) == len(self.effects):
            return
        self._refuse_heterogeneous("drop=")
        remaining = {self.effects[k] for k in self.kept_effects}
        dropped = [name for name in self.effects_now() if name not in remaining]
        self.parameters = [parameter_without(p, dropped, self.levels) for p in self.parameters]

    def _refuse_heterogeneous(self, option: str) -> None:
        """**Raises:** OptionError where the covariance differs by a factor, so that effects have copies."""
        if self.fit.binding.random.factors:
            raise OptionError(
                f"{option}: the covariance of this model differs by a factor, and its random effects have a copy for "
                "each level; declare a model with other random effects."
            )

    def effects_now(self) -> list[str]:
        """Names of the random effects that the parameters declare, those of the outermost level first."""
        declared = [(d, p.name) for p in self.parameters for d in declared_depths(p, self.levels)]
        return [effect_name(name, self.levels[d], d) for d, name in sorted(declared, key=lambda entry: entry[0])]

    def _drop_covariate(self, name: str) -> None:
        owner, term = name.split(" ~ ", 1)
        if owner not in self.names:
            raise OptionError(f"drop={name!r}: {owner!r} is no parameter; {near_matches(owner, self.names)}")
        k = self.names.index(owner)
        entry, built = self.parameters[k], self.fit.binding.covariates.get(owner)
        formulas = [c.formula for c in entry.covariates]
        if term in formulas:
            removed_term = formulas.index(term)
        elif built is not None and term in built.names:
            formula = self.old_model.parameters[k].covariates[built.owners[built.names.index(term)]].formula
            if formula not in formulas:
                return  # another column of a term that is removed already
            removed_term = formulas.index(formula)
            columns_of_term = [n for n, o in zip(built.names, built.owners, strict=True) if o == removed_term]
            if len(columns_of_term) > 1:
                raise OptionError(
                    f"drop={name!r}: it is one of {len(columns_of_term)} coefficients of the covariate {formula!r}; "
                    f"drop all of them by drop='{owner} ~ {formula}', or give covariates={{{owner!r}: [...]}}."
                )
        else:
            candidates = formulas + ([] if built is None else list(built.names))
            raise OptionError(f"drop={name!r}: {owner} has no such covariate; {near_matches(term, candidates)}")
        remaining = [c for j, c in enumerate(entry.covariates) if j != removed_term]
        self.parameters[k] = _replace(entry, covariates=remaining)

    def _no_effect(self, name: str) -> str:
        """The reason, for a message, that `name` cannot be dropped."""
        if self.design is not None and name in self.names:
            entries = self.design[..., self.names.index(name), :].reshape(-1, self.design.shape[-1])
            shared = [self.effects[k] for k in np.flatnonzero(entries.any(axis=0))]
            if shared:
                return (
                    f"its random effect is {some(shared)} of random_design, which may enter other parameters too; drop "
                    "effects by these names."
                )
        if name in self.fit.binding.density.beta_names and self.old_model.fixed_design is not None:
            return "it is a column of fixed_design; declare a model with another design."
        if name in self.names:
            return f"it has no random effect; those of this model: {some(self.effects) or 'none'}."
        coefficients = [n for n in self.fit.binding.density.beta_names if " ~ " in n]
        return f"no random effect or covariate has this name; {near_matches(name, [*self.effects, *coefficients])}"

    def _refuse_individual_function(self, option: str) -> None:
        if self.old_model.individual is not None:
            raise OptionError(
                f"{option}: the individual-parameter function of this model reads its random effects by name; declare "
                "a model with another function."
            )

    def _priors(self, model: NLMEModel, error: Any) -> dict[str, Any]:
        """The old model's priors, without those on quantities that the new `model` lacks."""
        density = self.fit.binding.density
        dropped = removed_elements(self, model)
        formulas = {p.name: {c.formula for c in p.covariates} for p in self.parameters}
        for owner, built in self.fit.binding.covariates.items():
            old = next(p for p in self.old_model.parameters if p.name == owner).covariates
            remaining = formulas[owner]
            dropped |= {
                f"{owner} ~ {n}"
                for n, o in zip(built.names, built.owners, strict=True)
                if old[o].formula not in remaining
            }
        if error is not None:
            names = {p.name for p in residual_model(error).parameters}
            dropped |= {name for name in density.error_names if name.removeprefix("error.") not in names}
        return {name: prior for name, prior in self.old_model.priors.items() if name not in dropped}


def _replace(parameter: Parameter, **changes: Any) -> Parameter:
    """The parameter with some fields replaced."""
    return dataclasses.replace(parameter, **changes)
