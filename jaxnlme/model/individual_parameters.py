"""From fixed and random effects to the parameters of one group: linear designs, or any function of the user's."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx

from jaxnlme.errors import ModelError, near_matches
from jaxnlme.model.design import Design
from jaxnlme.model.transforms import AbstractTransform
from jaxnlme.records import Record
from jaxnlme.typing import Vector


class AbstractIndividual(eqx.Module):
    """phi of one group from beta (fixed,), b (random,) and the group's covariates."""

    @abc.abstractmethod
    def phi(self, beta: Vector, b: Vector, group: Any) -> Record:
        """A record of entries () or (obs,), on the natural scale."""


class LinearIndividual(AbstractIndividual):
    """phi = h(A beta + B b), h elementwise."""

    names: tuple[str, ...] = eqx.field(static=True)
    transforms: tuple[AbstractTransform, ...] = eqx.field(static=True)
    fixed: Design
    random: Design

    def xb(self, beta: Vector, b: Vector, group: Any) -> list[Any]:
        """A beta + B b, one entry () or (obs,) per parameter, on the transformed scale."""
        fixed = self.fixed.apply(beta, group.covariates)
        random = self.random.apply(b, group.covariates)
        return [f + r for f, r in zip(fixed, random, strict=True)]

    def phi(self, beta, b, group):
        xb = self.xb(beta, b, group)
        values = tuple(t.to_natural(entry) for t, entry in zip(self.transforms, xb, strict=True))
        return Record(self.names, values, "parameter")


class FunctionIndividual(AbstractIndividual):
    """phi = fn(beta, b, v): beta a record on the natural scale of each parameter's transform, b a record of random
    effects by the parameter they are named after; returns a dict, a record or a tuple."""

    fn: Callable = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    transforms: tuple[AbstractTransform, ...] = eqx.field(static=True)
    effects: tuple[str, ...] = eqx.field(static=True)

    def phi(self, beta, b, group):
        natural = tuple(t.to_natural(beta[k]) for k, t in enumerate(self.transforms))
        effects = Record(self.effects, tuple(b[k] for k in range(len(self.effects))), "random effect")
        out = self.fn(Record(self.names, natural, "parameter"), effects, group.v)
        if isinstance(out, Record):
            return out
        if hasattr(out, "keys"):
            return Record(tuple(out.keys()), tuple(out[k] for k in out.keys()), "parameter")  # noqa: SIM118
        if isinstance(out, (tuple, list)):
            if len(out) != len(self.names):
                raise ModelError(
                    f"the individual-parameter function returned {len(out)} values; return a dict with the names the "
                    f"model reads, or one value for each of {', '.join(self.names)}."
                )
            return Record(self.names, tuple(out), "parameter")
        raise ModelError(
            f"the individual-parameter function must return a dict or a tuple; it returned {type(out).__name__}."
        )


def check_names(kind: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raises ModelError for the first of `names` that is not `known`."""
    for name in names:
        if name not in known:
            raise ModelError(f"{kind} {name!r} is not a name of this model; {near_matches(name, known)}")
