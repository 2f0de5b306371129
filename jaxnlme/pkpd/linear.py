"""Linear compartments: how amounts and constant input rates at one time give the amounts at a later one.

dA/dt = K A + R with constant R is a linear system for (A, R): states are the compartments, then one input rate for each
compartment that infusions enter. Entries that are zero by structure are absent everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.numerics.written_out import Entries
from jaxnlme.pkpd.closed_forms import OneCompartment, TwoCompartments
from jaxnlme.pkpd.divided_differences import difference_2
from jaxnlme.pkpd.exponential import exponential
from jaxnlme.pkpd.structure import Structure


@dataclass(frozen=True)
class LinearSystem:
    """Compartments with the values of their rate constants.

    **Fields:** `structure`; `rates`: rate constants by name, k of elimination from the central compartment, those of
    `structure.links`, each () or (points,); `active`: positions of the compartments that receive something;
    `infused`: positions of those that have an input rate.
    """

    structure: Structure
    rates: dict[str, Any]
    active: tuple[int, ...]
    infused: tuple[int, ...]

    @property
    def varies(self) -> bool:
        """True where a rate constant is not a scalar."""
        return any(jnp.ndim(rate) > 0 for rate in self.rates.values())

    def with_rates(self, change: Callable[[Any], Any]) -> LinearSystem:
        """The same system with `change` of each rate constant that is not a scalar."""
        rates = {name: change(rate) if jnp.ndim(rate) else rate for name, rate in self.rates.items()}
        return replace(self, rates=rates)

    @property
    def size(self) -> int:
        """Number of states: active compartments, then input rates."""
        return len(self.active) + len(self.infused)

    def state(self, compartment: int) -> int:
        """Position of a compartment among the states."""
        return self.active.index(compartment)

    def input(self, compartment: int) -> int:
        """Position of a compartment's input rate among the states."""
        return len(self.active) + self.infused.index(compartment)

    def generator(self) -> Entries:
        """The matrix K of the active compartments by entries."""
        out: Entries = {}

        def add(at: tuple[int, int], value: Any) -> None:
            out[at] = out[at] + value if at in out else value

        for to, origin, name in self.structure.links:
            if origin in self.active:
                rate = self.rates[name]
                add((self.state(to), self.state(origin)), rate)
                add((self.state(origin), self.state(origin)), -rate)
        central = self.state(self.structure.central)
        add((central, central), -self.rates["k"])
        return out

    def transition(self, time: Any) -> Entries:
        """exp of the system's matrix times `time` (points,), by entries (points,) over states.

        Entry (i, j) of compartments: the amount in i after `time` for one unit in j. Entry (i, j) with an input rate j:
        the amount in i after an input of rate one into its compartment for `time`.
        """
        return self._by_closed_form(time) if self.has_closed_form else self._by_matrix(time)

    @property
    def has_closed_form(self) -> bool:
        """True where transitions are elementary functions; others are matrix exponentials."""
        s = self.structure
        depot_infused = s.depot and s.central - 1 in self.infused
        return not (s.transits or s.disposition > 2 or (s.disposition == 2 and depot_infused))

    def _by_closed_form(self, t: Any) -> Entries:
        s, rates = self.structure, self.rates
        c = s.central
        one, two = OneCompartment(rates, t), TwoCompartments(rates, t) if s.disposition == 2 else None
        out: Entries = {}

        def put(origin: int, into: int, amounts: Sequence[Any]) -> None:
            """Amounts of the central and the peripheral compartment, for one unit of the state `origin`."""
            for to, amount in zip(range(c, len(s.states)), amounts[into : into + s.disposition], strict=True):
                out[self.state(to), origin] = amount

        for compartment in self.active:
            j = self.state(compartment)
            if compartment < c:
                out[j, j] = jnp.exp(-rates["ka"] * t)
                inflow = one.after(rates["ka"]) if two is None else two.after(rates["ka"])
                put(j, 0, [rates["ka"] * amount for amount in inflow])
            else:
                put(j, 2 * (compartment - c), one.from_central() if two is None else two.amounts())
        for compartment in self.infused:
            j = self.input(compartment)
            out[j, j] = jnp.ones_like(t)
            if compartment < c:
                out[self.state(compartment), j] = difference_2(t, rates["ka"], 0.0)
                put(j, 0, [rates["ka"] * amount for amount in one.after_two(rates["ka"], 0.0)])
            else:
                put(j, 2 * (compartment - c), one.after(0.0) if two is None else two.after(0.0))
        return out

    def _by_matrix(self, time: Any) -> Entries:
        generator = self.generator()
        shape = jnp.broadcast_shapes(jnp.shape(time), *(jnp.shape(value) for value in generator.values()))
        dtype = jnp.result_type(time, *generator.values())
        time = jnp.broadcast_to(time, shape)
        # Input rates are counted in multiples of a number of the size of the rate constants.
        scale = jax.lax.stop_gradient(sum(self.rates.values()))
        n = self.size
        rows = [[jnp.zeros(shape, dtype) for _ in range(n)] for _ in range(n)]
        for (i, j), value in generator.items():
            rows[i][j] = jnp.broadcast_to(value, shape)
        for compartment in self.infused:
            rows[self.state(compartment)][self.input(compartment)] = jnp.broadcast_to(scale, shape)
        matrix = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
        result = exponential(matrix, time)
        out: Entries = {}
        for i, j in self.pattern():
            out[i, j] = result[..., i, j] if j < len(self.active) or i == j else result[..., i, j] / scale
        return out

    def pattern(self) -> tuple[tuple[int, int], ...]:
        """Entries of `transition` that are not zero by structure."""
        out = []
        for j, compartment in enumerate(self.active):
            out += [(self.state(to), j) for to in self.structure.reachable((compartment,))]
        for compartment in self.infused:
            j = self.input(compartment)
            out += [(self.state(to), j) for to in self.structure.reachable((compartment,))] + [(j, j)]
        return tuple(out)


def apply(entries: Entries, vector: Sequence[Any], outputs: Sequence[int]) -> list[Any]:
    """The entries at `outputs` of the product of a matrix and a vector; None in the vector is a structural zero."""
    out = []
    for i in outputs:
        terms = [value * vector[j] for (row, j), value in entries.items() if row == i and vector[j] is not None]
        out.append(sum(terms[1:], start=terms[0]) if terms else jnp.zeros(()))
    return out


def solve(matrix: Entries, right: Sequence[Any], n: int) -> list[Any]:
    """The solution of a linear system of n equations by elimination without exchange of rows.

    This is stable where columns are diagonally dominant, as for I - exp(K t) and for -K.
    """
    a = {at: value for at, value in matrix.items() if at[0] < n and at[1] < n}
    b = list(right)
    for k in range(n):
        for i in range(k + 1, n):
            if (i, k) not in a:
                continue
            factor = a[i, k] / a[k, k]
            for j in range(k + 1, n):
                if (k, j) in a:
                    a[i, j] = a[i, j] - factor * a[k, j] if (i, j) in a else -factor * a[k, j]
            b[i] = b[i] - factor * b[k]
    out: list[Any] = [None] * n
    for k in reversed(range(n)):
        value = b[k]
        for j in range(k + 1, n):
            if (k, j) in a:
                value = value - a[k, j] * out[j]
        out[k] = value / a[k, k]
    return out
