"""The model of one group by itself: parameters on the transformed scale that its data can determine, no random
effects."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import ModelError
from jaxnlme.model.density import Density, Group
from jaxnlme.model.design import Design, Term
from jaxnlme.model.individual_parameters import FunctionIndividual, LinearIndividual, as_record
from jaxnlme.model.params import Params
from jaxnlme.typing import Vector


class SingleGroup(eqx.Module):
    """Model of one group by itself, with parameters `group_params` (params,) on the transformed scale.

    Of xb_i = A_i beta + B_i b_i, a row that is constant within the group is one number, the sum of typical value,
    group-level covariates and random effect, which one group cannot separate: that number is the parameter. The
    coefficient of a column that varies within groups is a parameter too. A row without a random effect whose
    coefficients are all fixed stays at its start. With an individual-parameter function the parameters are its beta,
    with b = 0.

    **Fields:** `names` and `transforms` (params,) of the parameters; `beta_index`: with an individual-parameter
    function, the positions of `group_params` in beta; `held`: design of the part of xb (phi rows) that comes from beta
    and is not estimated; `estimated`: design of the part that comes from `group_params`; `fixed_design` A and
    `random_design` B (params rows) of group_params = A beta + B b.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    transforms: tuple[Any, ...] = eqx.field(static=True)
    beta_index: tuple[int, ...] = eqx.field(static=True)
    held: Design
    estimated: Design
    fixed_design: Design
    random_design: Design

    def start(self, params: Params, group: Group) -> Vector:
        """The group parameters (params,) that `params` imply with random effects zero."""
        return jnp.stack(self.fixed_design.apply(params.beta, group.covariates))

    def predict(self, density: Density, params: Params, group_params: Vector, group: Group) -> Any:
        """f(phi, x, v) of one group at `group_params` (params,); whatever is not estimated comes from `params`."""
        individual = density.individual
        if isinstance(individual, LinearIndividual):
            parts = zip(
                individual.transforms,
                self.held.apply(params.beta, group.covariates),
                self.estimated.apply(group_params, group.covariates),
                strict=True,
            )
            values = tuple(t.to_natural(a + b) for t, a, b in parts)
            phi = as_record(individual.names, values, individual.level_names, group)
        else:
            beta = params.beta.at[np.array(self.beta_index)].set(group_params)
            phi = density.phi_given(beta, jnp.zeros(density.n_effects), group)
        return density.structural(params.free, phi, group.x, group.v)


def single_group(binding: Binding) -> SingleGroup:
    """The SingleGroup of a binding.

    **Raises:** ModelError where a random design varies within groups, or there is nothing to estimate.
    """
    density = binding.density
    fixed = binding.fixed[: len(density.beta_names)]
    individual = density.individual
    if isinstance(individual, LinearIndividual):
        model = _linear(binding, individual, fixed)
    elif not isinstance(individual, FunctionIndividual):
        raise ModelError(
            "fits of single groups say nothing of the shape of a distribution= of random effects; leave distribution= "
            "out of the model for them, or starts='groups' out of the fit."
        )
    else:
        model = _function(binding, individual, fixed)
    if not model.names:
        raise ModelError("every parameter is fixed and none has a random effect: single groups have nothing to fit.")
    return model


def _linear(binding: Binding, individual: LinearIndividual, fixed: np.ndarray) -> SingleGroup:
    """The SingleGroup of xb = A beta + B b; `fixed` (fixed,) bool."""
    within = {c for c, column in enumerate(binding.problem.buckets[0].covariates) if np.ndim(column) == 2}
    names: list[str] = []
    transforms: list[Any] = []
    held: list[tuple[Term, ...]] = []
    estimated: list[list[Term]] = []
    fixed_design: list[tuple[Term, ...]] = []
    random_design: list[tuple[Term, ...]] = []
    rows = zip(individual.names, individual.transforms, individual.fixed.terms, individual.random.terms, strict=True)
    for name, transform, terms, random in rows:
        if any(column in within for _, _, column in random):
            raise ModelError(
                f"parameter {name!r}: random_design varies within groups, and the data of one group cannot separate "
                "such effects from its parameters. Fit the groups of a model without it."
            )
        constant_terms = tuple(term for term in terms if term[2] not in within)
        is_estimated = bool(random) or not all(fixed[index] for index, _, _ in constant_terms)
        held.append(tuple(term for term in terms if fixed[term[0]] and (term[2] in within or not is_estimated)))
        estimated.append([(len(names), 1.0, None)] if is_estimated else [])
        if is_estimated:
            names.append(name)
            transforms.append(transform)
            fixed_design.append(constant_terms)
            random_design.append(random)
    coefficients: dict[int, int] = {}
    for row, terms in enumerate(individual.fixed.terms):
        for index, constant, column in terms:
            if column not in within or fixed[index]:
                continue
            if index not in coefficients:
                coefficients[index] = len(names)
                names.append(binding.density.beta_names[index])
                transforms.append(None)
                fixed_design.append(((index, 1.0, None),))
                random_design.append(())
            estimated[row].append((coefficients[index], constant, column))
    beta, p = individual.fixed.columns, len(names)
    return SingleGroup(
        tuple(names),
        tuple(transforms),
        (),
        Design(tuple(held), beta),
        Design(tuple(tuple(terms) for terms in estimated), p),
        Design(tuple(fixed_design), beta),
        Design(tuple(random_design), individual.random.columns),
    )


def _function(binding: Binding, individual: FunctionIndividual, fixed: np.ndarray) -> SingleGroup:
    """The SingleGroup of an individual-parameter function; `fixed` (fixed,) bool."""
    beta_names = binding.density.beta_names
    beta_index = tuple(k for k, name in enumerate(beta_names) if not fixed[k] or name in individual.effects)
    position = {name: k for k, name in enumerate(individual.effects)}
    none = Design((), 0)
    fixed_design: tuple[tuple[Term, ...], ...] = tuple(((k, 1.0, None),) for k in beta_index)
    random_design: tuple[tuple[Term, ...], ...] = tuple(
        ((position[beta_names[k]], 1.0, None),) if beta_names[k] in position else () for k in beta_index
    )
    return SingleGroup(
        tuple(beta_names[k] for k in beta_index),
        tuple(individual.transforms[k] for k in beta_index),
        beta_index,
        none,
        none,
        Design(fixed_design, len(beta_names)),
        Design(random_design, len(individual.effects)),
    )


def matrices(design: Design, binding: Binding) -> np.ndarray:
    """The matrices (groups, rows, columns) of a design without columns that vary within groups, on the host."""
    problem = binding.problem
    columns = [
        np.concatenate([np.asarray(bucket.covariates[c]) for bucket in problem.buckets])[problem.order]
        if np.ndim(column) == 1
        else None
        for c, column in enumerate(problem.buckets[0].covariates)
    ]
    out = np.zeros((problem.n_groups, len(design.terms), design.columns))
    for row, terms in enumerate(design.terms):
        for index, constant, column in terms:
            value: Any = constant if column is None else columns[column]
            out[:, row, index] += value
    return out
