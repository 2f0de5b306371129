"""The differential equations of a model: right-hand side, states, and how they are solved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.errors import ModelError, some
from jaxnlme.pkpd.inputs import AbstractInput
from jaxnlme.pkpd.solver.advance import Tolerances
from jaxnlme.records import Record

States = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Equations:
    """Parts of a model that are the same for all groups.

    **Fields:** `rhs`; `with_rows`: it takes the columns of the data as a fourth argument; `states`: names; `initial`:
    None, or a function of phi; `inputs`: by position of a state the rate at which doses enter it; `control`; `title`
    of the model in messages; `absolute`: absolute tolerances of single states, by name.
    """

    rhs: Callable[..., Any]
    with_rows: bool
    states: tuple[str, ...]
    initial: Any
    inputs: tuple[tuple[int, AbstractInput], ...]
    control: Tolerances
    title: str
    absolute: tuple[tuple[str, float], ...] = ()

    def arrays(self) -> Any:
        """The arrays within the functions, of Equinox modules."""
        return eqx.filter((self.rhs, self.initial), eqx.is_array)

    def with_arrays(self, arrays: Any) -> Equations:
        """The same with other `arrays`."""
        functions = eqx.filter((self.rhs, self.initial), eqx.is_array, inverse=True)
        rhs, initial = eqx.combine(arrays, functions)
        return replace(self, rhs=rhs, initial=initial)

    def sizes(self, of_data: States) -> States:
        """The size of each state, a factor of the absolute tolerance: those of the data, but for states whose absolute
        tolerance was given."""
        given = dict(self.absolute)
        return tuple(
            jnp.asarray(given[name] / self.control.atol, size.dtype) if name in given else size
            for name, size in zip(self.states, of_data, strict=True)
        )

    def record(self, y: States) -> Record:
        """The states by name."""
        return Record(self.states, tuple(y), "state")

    def derivatives(self, t: Any, y: States, phi: Record, columns: Record) -> States:
        """dy/dt for each state. **Raises:** ModelError where the right-hand side returns something else."""
        values = self.rhs(t, self.record(y), phi, columns) if self.with_rows else self.rhs(t, self.record(y), phi)
        return self.scalars(values, "the right-hand side", y[0])

    def starts(self, phi: Record, like: Any) -> States:
        """The states before any dose. **Raises:** as `derivatives`."""
        if self.initial is None:
            return (jnp.zeros_like(like),) * len(self.states)
        values = self.initial(phi)
        if isinstance(values, Mapping) and not set(values) - {*self.states}:
            values = {name: values.get(name, 0.0) for name in self.states}
        return self.scalars(values, "initial=", like)

    def scalars(self, values: Any, what: str, like: Any) -> States:
        """`values` as one number for each state, of the type of `like`."""
        n = len(self.states)
        if isinstance(values, (Mapping, Record)):
            names = [*values.keys()]
            if set(names) != {*self.states}:
                raise ModelError(
                    f"{self.title}: {what} names the states {some(names)}; expected {some(list(self.states))}."
                )
            values = [values[name] for name in self.states]
        elif not isinstance(values, (tuple, list)):
            values = [values] if n == 1 and jnp.ndim(values) == 0 else list(jnp.asarray(values))
        if len(values) != n or any(jnp.shape(value) != () for value in values):
            shapes = [jnp.shape(value) for value in values]
            raise ModelError(
                f"{self.title}: {what} must return one number for each of the {n} states {some(list(self.states))}, as "
                f"an array ({n},), a tuple or a dictionary by name; received {len(shapes)} of shapes {shapes}."
            )
        return tuple(jnp.asarray(value, like.dtype) for value in values)
