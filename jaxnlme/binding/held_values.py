"""Values that a model holds fixed, by reported name: where they come from, and the model and residual error with them.

A random effect whose standard deviation is held at zero is none: the model is bound without it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.random_effects import (
    RandomEffects,
    covariance_of,
    declared_depths,
    effect_name,
    parameter_without,
    psi_matrix,
    sd_name,
)
from jaxnlme.errors import ModelError
from jaxnlme.model.covariance.base import Element, element_name, elements_by_name
from jaxnlme.model.covariance.specification import without_effects
from jaxnlme.model.declaration import ModelDeclaration
from jaxnlme.model.fixed import Fixed
from jaxnlme.model.individual_parameters import check_names
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.residual_error.parts import held_at_zero
from jaxnlme.model.residual_error.scale_parameters import held_parameter


def held_values(model: ModelDeclaration, random: RandomEffects) -> dict[str, float]:
    """The values that a model holds fixed, by reported name: those of `fixed=` and of `Parameter(sd=...)`.

    **Arguments:** `random`: the random effects.
    **Raises:** ModelError where two values are given for one name, or where psi is fixed as a whole.
    """
    held: dict[str, float] = {}
    effects = random.names
    reported = {element_name(e[::-1], effects): name for name, e in elements_by_name(effects).items()}
    for given, value in model.fixed.items():
        name = reported.get(given, given)
        if held.setdefault(name, value) != value:
            raise ModelError(f"{name} is held at {held[name]:g} and at {value:g}: it is named twice.")
    for p in model.parameters:
        depths = [0] if model.random_design is not None else declared_depths(p, random.level_names)
        for depth in depths:
            sd, name = p.sd_of(random.level_names[depth]), sd_name(p, random.level_names[depth], depth)
            if not isinstance(sd, Fixed):
                continue
            copies = f"{effect_name(p.name, random.level_names[depth], depth)}["
            if by_factor := [name for name in effects if name.startswith(copies)]:
                held |= dict.fromkeys((element_name((0,), [name]) for name in by_factor), sd.value)
                continue
            if not depth and p.name not in effects:
                raise ModelError(
                    f"parameter {p.name!r}: sd={sd!r} holds no single random effect of random_design; hold it by its "
                    f"name among {', '.join(effects)}, as in fixed={{'sd({effects[0]})': 0.3}}."
                )
            if held.setdefault(name, sd.value) != sd.value:
                raise ModelError(f"{name} is held at {sd.value:g} by the parameter and at {held[name]:g} by fixed=.")
    if model.fix_psi and any(name.startswith(("sd(", "corr(")) for name in held):
        raise ModelError("fix_psi=True holds all of psi at psi=; single SDs and correlations need fix_psi=False.")
    return held


def without_zero_effects(model: ModelDeclaration, random: RandomEffects, zero: Sequence[str]) -> ModelDeclaration:
    """The model without the random effects whose standard deviation is held at zero.

    **Arguments:** `random`: the random effects; `zero`: names of those to leave out.
    **Raises:** ModelError where psi= gives one of them a variance; OptionError where one of them shares its standard
    deviation with an effect that stays.
    """
    if not zero:
        return model
    effects, levels = random.names, random.level_names
    copies = [name for k, name in enumerate(effects) if name in zero and random.factors.get(random.depths[k])]
    if copies:
        raise ModelError(
            f"sd({copies[0]}) cannot be held at zero: the covariance differs by a factor, and the copies of an effect "
            "are kept together. Leave the effect out (random=), or hold a small positive value."
        )
    kept = [k for k, name in enumerate(effects) if name not in zero]
    out = copy.copy(model)
    out.covariance = without_effects(covariance_of(model.covariance, random), kept, effects)
    matrix = psi_matrix(model.psi, random)
    if matrix is not None and np.shape(matrix) == (len(effects),) * 2:
        psi = np.asarray(matrix, float)
        for name in zero:
            if psi[effects.index(name), effects.index(name)] != 0:
                raise ModelError(f"sd({name}) is held at zero, and psi= gives it a variance.")
        out.psi = psi[np.ix_(kept, kept)]
    if model.random_design is not None:
        out.random_design = np.asarray(model.random_design, float)[..., kept]
        out.effect_names = tuple(effects[k] for k in kept)
    else:
        out.zero_effects = tuple(zero)
        out.parameters = tuple(parameter_without(p, zero, levels) for p in model.parameters)
    return out


def elements(held: Mapping[str, float], effects: Sequence[str]) -> dict[Element, float]:
    """The standard deviations and correlations among the values `held`, by positions of the random effects.

    **Raises:** ModelError for a standard deviation that is not positive, or a correlation not between -1 and 1.
    """
    names = elements_by_name(effects)
    out: dict[Element, float] = {}
    for name, value in held.items():
        element = names.get(name)
        if element is None:
            continue
        if len(element) == 1 and not value > 0:
            raise ModelError(f"{name} must be held at a standard deviation >= 0; received {value:g}.")
        if len(element) == 2 and not abs(value) < 1:
            raise ModelError(f"{name} must be held at a correlation between -1 and 1; received {value:g}.")
        out[element] = value
    return out


def check_held_names(held: Mapping[str, float], reported: Sequence[str], effects: Sequence[str]) -> None:
    """Check that every value `held` belongs to the model.

    **Arguments:** `reported`: names of the values that a fit reports; `effects`: names of all random effects, those
    whose standard deviation is held at zero among them.
    **Raises:** ModelError naming the first that does not, with names of similar spelling.
    """
    names = elements_by_name(effects)
    for name in held:
        element = names.get(name, ())
        if len(element) == 2 and any(held.get(element_name((k,), effects)) == 0 for k in element):
            raise ModelError(f"{name} is held fixed, and the standard deviation of one of its effects at zero.")
    check_names("fixed value of", tuple(held), (*reported, *(name for name in names if name not in reported)))


def check_residual_scale(error: AbstractError) -> None:
    """**Raises:** ModelError where all parts of a residual scale are held at zero."""
    if names := held_at_zero(error):
        raise ModelError(
            f"the residual standard deviation is held at zero ({' and '.join(names)}), where responses have no "
            "density: hold it at a positive value, or have it estimated."
        )


def held_error(error: AbstractError, held: Mapping[str, float], beta_names: Sequence[str]) -> AbstractError:
    """The residual model with the parameters among the values `held` fixed there; unchanged where there is none."""
    names = [f"error.{p.name}" if p.name in beta_names else p.name for p in error.parameters]
    if not any(name in held for name in names):
        return error
    correlations = {entry: of_rows for of_rows, entries, _ in error.correlations() for entry in entries}
    parameters = []
    for k, (name, p) in enumerate(zip(names, error.parameters, strict=True)):
        if name in held and p.fix and not np.isclose(float(p.start), held[name], rtol=1e-12):
            raise ModelError(f"{name} is fixed at {float(p.start):g} by the residual model and at {held[name]:g} here.")
        if name in held and k in correlations:
            _check_held_correlation(correlations[k], name, p, held[name])
        parameters.append(held_parameter(p, held[name]) if name in held else p)
    return error.with_parameters(tuple(parameters))


def _check_held_correlation(correlation: Any, name: str, p: ErrorParameter, value: float) -> None:
    """**Raises:** ModelError for a parameter of a residual correlation that cannot be held at `value`."""
    low, high = p.transform.domain
    if correlation.is_joint:
        raise ModelError(f"{name} cannot be held fixed: the values of {correlation.formula} depend on each other.")
    if not low < value < high:
        raise ModelError(f"{name} must be held inside ({low:g}, {high:g}); received {value:g}.")
