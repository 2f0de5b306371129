"""What a single group tells by itself: its own parameters on the transformed scale, without random effects."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import ModelError
from jaxnlme.model.density import Density, Group
from jaxnlme.model.design import Design, Term
from jaxnlme.model.individual_parameters import FunctionIndividual, LinearIndividual
from jaxnlme.model.params import Params
from jaxnlme.records import Record
from jaxnlme.typing import Vector


class SingleGroup(eqx.Module):
    """The parameters of one group fitted on its own: `own` (own,), on the transformed scale.

    Of xb_i = A_i beta + B_i b_i, a row without anything that varies within the group is one number of the group, xb_i
    itself: typical value, group-level covariates and random effect cannot be told apart there, and are not. The
    coefficient of a column that varies within groups is an own parameter too. A row without a random effect whose
    coefficients are all fixed stays at its start. Where an individual-parameter function replaces the design, the own
    parameters are its beta, with b = 0.

    **Fields:** `names` of the own parameters; `chosen`, for a function the beta they stand for; `held`, `own`: the
    parts of xb (phi rows) from beta and from the own parameters; `begin`, the own parameters (rows) from beta;
    `effects`, the same rows of B.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    transforms: tuple[Any, ...] = eqx.field(static=True)
    chosen: tuple[int, ...] = eqx.field(static=True)
    held: Design
    own: Design
    begin: Design
    effects: Design

    def start(self, params: Params, group: Group) -> Vector:
        """The own parameters (own,) that `params` imply with random effects zero."""
        return jnp.stack(self.begin.apply(params.beta, group.covariates))

    def predict(self, density: Density, params: Params, own: Vector, group: Group) -> Any:
        """f(phi, x, v) of one group with parameters `own` (own,); what is held comes from `params`."""
        individual = density.individual
        if isinstance(individual, LinearIndividual):
            parts = zip(
                individual.transforms,
                self.held.apply(params.beta, group.covariates),
                self.own.apply(own, group.covariates),
                strict=True,
            )
            phi = Record(individual.names, tuple(t.to_natural(a + b) for t, a, b in parts), "parameter")
        else:
            beta = params.beta.at[np.array(self.chosen)].set(own)
            phi = individual.phi(beta, jnp.zeros(density.n_effects), group)
        return density.structural(params.free, phi, group.x, group.v)


def single_group(binding: Binding) -> SingleGroup:
    """What single groups of a binding estimate.

    **Errors:** ModelError where a random design varies within groups, or nothing is left to estimate.
    """
    density = binding.density
    fixed = binding.fixed[: len(density.beta_names)]
    individual = density.individual
    if isinstance(individual, LinearIndividual):
        found = _linear(binding, individual, fixed)
    else:
        assert isinstance(individual, FunctionIndividual)
        found = _function(binding, individual, fixed)
    if not found.names:
        raise ModelError("every parameter is fixed and none has a random effect: single groups have nothing to fit.")
    return found


def _linear(binding: Binding, individual: LinearIndividual, fixed: np.ndarray) -> SingleGroup:
    within = {c for c, column in enumerate(binding.problem.buckets[0].covariates) if np.ndim(column) == 2}
    names: list[str] = []
    transforms: list[Any] = []
    held: list[tuple[Term, ...]] = []
    own: list[list[Term]] = []
    begin: list[tuple[Term, ...]] = []
    effects: list[tuple[Term, ...]] = []
    rows = zip(individual.names, individual.transforms, individual.fixed.terms, individual.random.terms, strict=True)
    for name, transform, terms, random in rows:
        if any(column in within for _, _, column in random):
            raise ModelError(
                f"parameter {name!r}: random_design varies within groups, and a group by itself cannot tell effects of "
                "its rows from its parameters. Fit the groups of a model without it."
            )
        level = tuple(term for term in terms if term[2] not in within)
        estimated = bool(random) or not all(fixed[index] for index, _, _ in level)
        held.append(tuple(term for term in terms if fixed[term[0]] and (term[2] in within or not estimated)))
        own.append([(len(names), 1.0, None)] if estimated else [])
        if estimated:
            names.append(name)
            transforms.append(transform)
            begin.append(level)
            effects.append(random)
    coefficients: dict[int, int] = {}
    for row, terms in enumerate(individual.fixed.terms):
        for index, constant, column in terms:
            if column not in within or fixed[index]:
                continue
            if index not in coefficients:
                coefficients[index] = len(names)
                names.append(binding.density.beta_names[index])
                transforms.append(None)
                begin.append(((index, 1.0, None),))
                effects.append(())
            own[row].append((coefficients[index], constant, column))
    beta, p = individual.fixed.columns, len(names)
    return SingleGroup(
        tuple(names),
        tuple(transforms),
        (),
        Design(tuple(held), beta),
        Design(tuple(tuple(terms) for terms in own), p),
        Design(tuple(begin), beta),
        Design(tuple(effects), individual.random.columns),
    )


def _function(binding: Binding, individual: FunctionIndividual, fixed: np.ndarray) -> SingleGroup:
    names = binding.density.beta_names
    chosen = tuple(k for k, name in enumerate(names) if not fixed[k] or name in individual.effects)
    at = {name: k for k, name in enumerate(individual.effects)}
    none = Design((), 0)
    begin: tuple[tuple[Term, ...], ...] = tuple(((k, 1.0, None),) for k in chosen)
    effects: tuple[tuple[Term, ...], ...] = tuple(
        ((at[names[k]], 1.0, None),) if names[k] in at else () for k in chosen
    )
    own = tuple(names[k] for k in chosen)
    transforms = tuple(individual.transforms[k] for k in chosen)
    return SingleGroup(
        own, transforms, chosen, none, none, Design(begin, len(names)), Design(effects, len(individual.effects))
    )


def matrices(design: Design, binding: Binding) -> np.ndarray:
    """A design without columns that vary within groups, written out: (groups, rows, columns), on the host."""
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
