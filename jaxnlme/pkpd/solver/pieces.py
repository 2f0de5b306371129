"""The two parts of a solution that need a solver: an interval, and a steady state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxnlme.pkpd.solver.advance import Progress, advance
from jaxnlme.pkpd.solver.equations import Equations
from jaxnlme.pkpd.solver.interval import Held, interval_field
from jaxnlme.pkpd.solver.partials import Expansion, Partials, differentiable
from jaxnlme.pkpd.solver.runge_kutta import StatePartials, States
from jaxnlme.pkpd.solver.steady_state import SteadyDose, steady_state


@dataclasses.dataclass(frozen=True, eq=False)
class Pieces:
    """The two parts of a solution that need a solver: an interval, and a steady state.

    **Fields:** `equations`; `expansion`: of the group; `varying`: parameters vary in the group, and each piece is
    expanded in its own arguments.
    """

    equations: Equations
    expansion: Expansion
    varying: bool

    def interval(
        self,
        held: Callable[..., Held],
        start: Partials,
        length: Partials,
        rates: dict[int, Partials],
        y: StatePartials,
        size: States,
        progress: Progress,
        moving: Any,
    ) -> tuple[StatePartials, Progress]:
        """The states after an interval; see `advance` and `interval_field`."""
        control = self.equations.control
        if not self.varying:
            moving = moving & ((length[0] > 0) | (len(length) > 1))
            field = interval_field(self.equations, self.expansion, held, start, length, rates)
            return advance(control, field, length[0], y, size, progress, moving)
        values = {k: rate[0] for k, rate in rates.items()}
        arguments = (held(), start[0], length[0], values, y[0], size, progress, moving)
        leaves, tree = jax.tree.flatten(arguments)

        def evaluate(expansion: Expansion) -> Partials:
            def read(*point: Any) -> tuple[Any, ...]:
                return tree.unflatten(expansion.at(*point))

            *_, size, progress, moving = read(*expansion.point)
            parts = expansion.expand_sparse(
                lambda *p: {"start": read(*p)[1], "length": read(*p)[2]} | {k: v for k, v in read(*p)[3].items()}
            )
            start, length = parts.pop("start"), parts.pop("length")
            y = expansion.dense(expansion.expand(lambda *p: read(*p)[4]))
            moving = moving & ((length[0] > 0) | (len(length) > 1))
            field = interval_field(self.equations, expansion, lambda *p: read(*p)[0], start, length, parts)
            y, progress = advance(control, field, length[0], y, size, progress, moving)
            return tuple(zip(y, expansion.dense((progress,)), strict=True))

        after, progress = differentiable(evaluate, leaves)
        return (after,), jax.lax.stop_gradient(progress)

    def steady(
        self,
        held: Callable[..., Held],
        dose: Callable[..., SteadyDose],
        y: StatePartials,
        size: States,
        infused: bool,
        constant: bool,
    ) -> StatePartials:
        """The states of a steady state; see `steady_state`."""
        equations = self.equations
        if not self.varying:
            return steady_state(equations, self.expansion, held, dose, y, size, infused, constant)
        leaves, tree = jax.tree.flatten((held(), dose(), y[0], size))

        def evaluate(expansion: Expansion) -> Partials:
            def read(*point: Any) -> tuple[Any, ...]:
                return tree.unflatten(expansion.at(*point))

            y = expansion.dense(expansion.expand(lambda *p: read(*p)[2]))
            size = read(*expansion.point)[3]
            return steady_state(
                equations, expansion, lambda *p: read(*p)[0], lambda *p: read(*p)[1], y, size, infused, constant
            )

        return (differentiable(evaluate, leaves),)
