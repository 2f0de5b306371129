"""Individual parameters from fixed and random effects: linear designs, or any function of the user."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx

from jaxnlme.errors import ModelError, near_matches
from jaxnlme.model.design import Design
from jaxnlme.model.levels import LevelRecord
from jaxnlme.model.networks import Networks, part_of, with_arrays
from jaxnlme.model.transforms import AbstractTransform
from jaxnlme.records import Record
from jaxnlme.typing import Vector


class AbstractIndividual(eqx.Module):
    """The individual parameters phi of one group, as a function of beta (fixed,), b (random,) and its covariates."""

    @abc.abstractmethod
    def phi(self, beta: Vector, b: Vector, group: Any, free: Networks | None = None) -> Record:
        """A record of parameters, each () or (obs,), on the natural scale.

        **Arguments:** `beta` (fixed,); `b` (random,), or with nested levels the distinct effects on the rows of the
        group, each () or (obs,); `group`: a Group; `free`: the free block of Params.
        """


class LinearIndividual(AbstractIndividual):
    """phi = h(A beta + B b), with h elementwise.

    **Fields:** `names`: of the parameters; `transforms`: h of each; `fixed`, `random`: the design matrices A and B;
    `level_names`: of the nested levels of the data.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    transforms: tuple[AbstractTransform, ...] = eqx.field(static=True)
    fixed: Design
    random: Design
    level_names: tuple[str, ...] = eqx.field(static=True, default=())

    def xb(self, beta: Vector, b: Vector, group: Any) -> list[Any]:
        """A beta + B b, one entry () or (obs,) per parameter, on the transformed scale."""
        fixed = self.fixed.apply(beta, group.covariates)
        random = self.random.apply(b, group.covariates)
        return [f + r for f, r in zip(fixed, random, strict=True)]

    def phi(self, beta, b, group, free=None):
        xb = self.xb(beta, b, group)
        values = tuple(t.to_natural(entry) for t, entry in zip(self.transforms, xb, strict=True))
        return as_record(self.names, values, self.level_names, group)


class FunctionIndividual(AbstractIndividual):
    """phi = fn(beta, b, v), a function of the user, or a module without its arrays, which are in the free block.

    **Arguments:** `fn(beta, b, v)`: called with records of the fixed effects (each on the natural scale of its
    parameter), of the random effects (named after their parameters) and of the group-level predictors; returns a
    dictionary, a Record, or a tuple with one value for each of `names`. `names`: of the fixed effects; `transforms`:
    theirs; `effects`: names of the random effects; `zero_effects`: names of those that are zero in every group;
    `level_names`: of the nested levels of the data.
    **Raises:** ModelError where `fn` returns anything else.
    """

    fn: Callable = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    transforms: tuple[AbstractTransform, ...] = eqx.field(static=True)
    effects: tuple[str, ...] = eqx.field(static=True)
    zero_effects: tuple[str, ...] = eqx.field(static=True, default=())
    level_names: tuple[str, ...] = eqx.field(static=True, default=())

    def phi(self, beta, b, group, free=None):
        natural = tuple(t.to_natural(beta[k]) for k, t in enumerate(self.transforms))
        values = (*(b[k] for k in range(len(self.effects))), *(0.0 * natural[0] for _ in self.zero_effects))
        effects = Record((*self.effects, *self.zero_effects), values, "random effect")
        fn = with_arrays(self.fn, part_of(free, "individual"))
        out = fn(Record(self.names, natural, "parameter"), effects, group.v)
        if hasattr(out, "keys"):
            names = tuple(out.keys())
            return as_record(names, tuple(out[k] for k in names), self.level_names, group)
        if isinstance(out, (tuple, list)):
            if len(out) != len(self.names):
                raise ModelError(
                    f"the individual-parameter function returned {len(out)} values; return a dict with the names "
                    f"that the model uses, or one value for each of {', '.join(self.names)}."
                )
            return as_record(self.names, tuple(out), self.level_names, group)
        raise ModelError(
            f"the individual-parameter function must return a dict or a tuple; it returned {type(out).__name__}."
        )


def as_record(names: tuple[str, ...], values: tuple[Any, ...], level_names: tuple[str, ...], group: Any) -> Record:
    """The individual parameters as a Record, or as a LevelRecord where the data have nested levels."""
    if not level_names:
        return Record(names, values, "parameter")
    return LevelRecord(names, values, "parameter", level_names=level_names, units=group.units)


def check_names(kind: str, names: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    """Check that all `names` are among the `allowed` ones; `kind` is the noun for them in the message.

    **Raises:** ModelError naming the first that is not, with names of similar spelling.
    """
    for name in names:
        if name not in allowed:
            raise ModelError(f"{kind} {name!r} is not a name of this model; {near_matches(name, allowed)}")
