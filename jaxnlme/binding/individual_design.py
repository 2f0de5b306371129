"""From a declared model to individual parameters of a data set: the designs of fixed and random effects."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.binding.random_effects import random_effects
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError
from jaxnlme.model.covariates import CovariateColumns
from jaxnlme.model.declaration import ModelDeclaration
from jaxnlme.model.design import Design, Term, from_array, selection
from jaxnlme.model.effects import TransformedEffects
from jaxnlme.model.fixed import Fixed, number_of
from jaxnlme.model.individual_parameters import AbstractIndividual, FunctionIndividual, LinearIndividual
from jaxnlme.model.parameters import Covariate, Parameter
from jaxnlme.model.transforms import Identity


def individual_design(model: ModelDeclaration, data: GroupedData, like: Any) -> tuple[Any, ...]:
    """Individual parameters: the object, the varying columns of the designs, for beta starting values, which are
    fixed, names, transforms and covariate columns, and the RandomEffects."""
    parameters = model.parameters
    p = len(parameters)
    names = tuple(entry.name for entry in parameters)
    transforms = tuple(entry.transform for entry in parameters)
    nested = data.level_names[1:]
    starts = [entry.beta_start for entry in parameters]
    fixed = [entry.fix for entry in parameters]
    if model.individual is not None:
        random = random_effects(model, data, None, None if like is None else like.random)
        individual: AbstractIndividual = FunctionIndividual(
            model._individual, names, transforms, random.names, model.zero_effects, nested
        )
        return individual, [], np.array(starts), np.array(fixed), names, transforms, {}, random

    shape = data.y.shape
    formulas: dict[str, CovariateColumns] = {}
    if model.fixed_design is not None:
        fixed_design, columns = from_array(model.fixed_design, "fixed_design", p, shape, 0)
        beta = np.asarray(model.beta, float)
        if beta.shape != (fixed_design.columns,):
            raise ModelError(
                f"beta must have shape ({fixed_design.columns},), one start a column; received {beta.shape}."
            )
        beta_names = tuple(f"beta{k}" for k in range(len(beta)))
        starts, fixed, scales = list(beta), [False] * len(beta), (None,) * len(beta)
    else:
        if like:
            formulas = {entry.name: like.covariates[entry.name] for entry in parameters if entry.covariates}
        else:
            formulas = {e.name: CovariateColumns(e.name, e.covariates, data) for e in parameters if e.covariates}
        fixed_design, columns, beta_names, slopes = formula_design(parameters, formulas, data)
        starts += [float(slope.start) for slope in slopes]
        fixed += [slope.fix for slope in slopes]
        scales = (*transforms, *(None for _ in slopes))
    if model.random_design is not None:
        random_design, random_columns = from_array(model.random_design, "random_design", p, shape, len(columns))
        columns = columns + random_columns
        random = random_effects(model, data, random_design)
    else:
        random = random_effects(model, data, None, None if like is None else like.random)
        random_design = selection(p, list(random.parameters or ()))
        for k, indicator in enumerate(random.indicators):
            if indicator is not None:
                random_design = random_design.times_column(k, len(columns))
                columns = [*columns, indicator]
    individual = LinearIndividual(names, transforms, fixed_design, random_design, nested)
    if any(entry.distribution is not None for entry in parameters):
        individual, more = with_distributions(individual, parameters, random)
        beta_names = (*beta_names, *(name for name, _, _ in more))
        starts += [float(transform.to_real(float(number_of(start)))) for _, start, transform in more]
        fixed += [isinstance(start, Fixed) for _, start, _ in more]
        scales = (*scales, *(None if isinstance(t, Identity) else t for _, _, t in more))
    return individual, columns, np.array(starts, float), np.array(fixed, bool), beta_names, scales, formulas, random


def with_distributions(
    linear: LinearIndividual, parameters: tuple[Parameter, ...], random: Any
) -> tuple[TransformedEffects, list[tuple[str, Any, Any]]]:
    """The individual parameters with the distributions of the random effects that parameters declare, and for each
    shape parameter its name, its start and its transform; they follow the other entries of beta.

    **Raises:** ModelError for an effect of nested levels, or whose variance differs by a factor, and with
    random_design.
    """
    owners = random.parameters
    if owners is None:
        raise ModelError("distribution= belongs to Parameter(random=True), and random_design gives the random effects.")
    more: list[tuple[str, Any, Any]] = []
    distributions, positions = [], []
    for k, owner in enumerate(owners):
        entry = parameters[owner]
        distribution = entry.distribution
        distributions.append(distribution)
        if distribution is None:
            positions.append(())
            continue
        if random.depths[k] or random.indicators[k] is not None:
            raise ModelError(
                f"parameter {entry.name!r}: distribution= is of one random effect of the groups; those of nested "
                "levels, or whose variance differs by a factor, are Gaussian."
            )
        first = linear.fixed.columns + len(more)
        positions.append(tuple(range(first, first + len(distribution.shapes))))
        more += [(f"{name}({entry.name})", start, transform) for name, start, transform in distribution.shapes]
    longer = dataclasses.replace(linear, fixed=Design(linear.fixed.terms, linear.fixed.columns + len(more)))
    return TransformedEffects(longer, tuple(distributions), tuple(positions)), more


def formula_design(
    parameters: tuple[Parameter, ...], formulas: dict[str, CovariateColumns], data: GroupedData
) -> tuple[Design, list[np.ndarray], tuple[str, ...], list[Covariate]]:
    """The fixed-effects design of covariate formulas: the typical value of each parameter, then the coefficients.

    **Returns:** the Design, its varying columns, the names of beta, and the declaration of each coefficient.
    """
    terms: list[list[Term]] = [[(k, 1.0, None)] for k in range(len(parameters))]
    columns: list[np.ndarray] = []
    names, slopes = [entry.name for entry in parameters], []
    for k, entry in enumerate(parameters):
        if entry.name not in formulas:
            continue
        covariates = formulas[entry.name]
        for name, owner, column in zip(covariates.names, covariates.owners, covariates.columns(data), strict=True):
            terms[k].append((len(names), None, len(columns)))
            columns.append(column)
            names.append(f"{entry.name} ~ {name}")
            slopes.append(entry.covariates[owner])
    return Design(tuple(tuple(row) for row in terms), len(names)), columns, tuple(names), slopes
