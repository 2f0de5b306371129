"""One step of a Runge-Kutta method of diffrax, for states that carry their partial derivatives.

The stages are those of the method's tableau. The partial derivatives of a step are the steps of the partial
derivatives: an explicit stage is one evaluation of the right-hand side with its derivatives. An implicit stage is
solved by Newton's method for the values; their partial derivatives of order k solve the same linear system, order by
order, and are exact after k more iterations with the matrix at the solution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.pkpd.solver.partials import Expansion
from jaxnlme.pkpd.solver.settings import SOLVER


@dataclasses.dataclass(frozen=True, eq=False)
class Tableau:
    """Coefficients of a Runge-Kutta method: `a` (stages, stages), `b`, `error`, `c` (stages,), its order, and whether
    the last stage is the derivative at the end of the step."""

    a: np.ndarray
    b: np.ndarray
    error: np.ndarray
    c: np.ndarray
    order: int
    same_as_last: bool

    @property
    def implicit(self) -> bool:
        """True if a stage is defined by an equation."""
        return bool(np.diagonal(self.a).any())


def tableau_of(solver: Any) -> Tableau:
    """The coefficients of a diffrax solver. **Raises:** OptionError for one without pairs of formulas."""
    import diffrax

    table = getattr(solver, "tableau", None)
    if not isinstance(table, diffrax.ButcherTableau):
        raise OptionError(
            f"solver={type(solver).__name__}() has no step-size control by a pair of Runge-Kutta formulas; expected "
            "one that has, as diffrax.Tsit5() (the default), diffrax.Dopri8() for small tolerances, or "
            "diffrax.Kvaerno5() for stiff equations."
        )
    stages = len(table.b_sol)
    a = np.zeros((stages, stages))
    for i, row in enumerate(table.a_lower):
        a[i + 1, : len(row)] = row
    if table.a_diagonal is not None:
        a += np.diag(np.asarray(table.a_diagonal))
    if a[0, 0]:
        raise OptionError(
            f"solver={type(solver).__name__}(): the first stage is implicit; expected a method whose first stage is "
            "the derivative at the start of the step, as diffrax.Kvaerno5() for stiff equations."
        )
    c = np.concatenate([[0.0], np.asarray(table.c)])
    b = np.asarray(table.b_sol)
    same = bool(np.allclose(a[-1], b, atol=1e-14) and c[-1] == 1.0)
    return Tableau(a, b, np.asarray(table.b_error), c, int(solver.order(None)), same)


States = tuple[Any, ...]  # one scalar for each state: a batch of groups then computes with arrays (groups,)
StatePartials = tuple[States, ...]  # for each order, with an axis for each derivative taken


class Field:
    """A right-hand side dy/ds with its partial derivatives.

    **Arguments:** `fn(s, y, *point)`: the derivatives of the values `y` of the states.
    """

    def __init__(self, expansion: Expansion, fn: Callable[..., States]):
        self.expansion, self.fn = expansion, fn
        self._partials = jax.jit(self._expanded)  # traced once for all stages

    def __call__(self, s: Any, y: StatePartials) -> StatePartials:
        """The derivative of states `y`, with its partials."""
        return self._partials(s, y)

    def _expanded(self, s: Any, y: StatePartials) -> StatePartials:
        states = self.expansion.function(y)
        return self.expansion.expand(lambda *point: self.fn(s, states(*point), *point))

    def values(self, s: Any, y: States) -> States:
        """The derivative of the values only."""
        return self.fn(s, y, *self.expansion.point)

    def jacobian(self, s: Any, y: States) -> Any:
        """The Jacobian (states, states) of the values."""
        _, push = jax.linearize(lambda y: self.values(s, y), y)
        ones = [tuple(jnp.where(i == k, jnp.ones_like(v), 0.0) for i, v in enumerate(y)) for k in range(len(y))]
        return jnp.stack([jnp.stack(push(one)) for one in ones], axis=-1)


def step(tableau: Tableau, field: Field, s: Any, h: Any, y: StatePartials, first: StatePartials) -> tuple[Any, ...]:
    """One step from `s` to `s + h`.

    **Arguments:** `y`, `first`: states and right-hand side at `s`.
    **Returns:** the states, the estimate of the error of their values (no partials), and the right-hand side at the
    end.
    """
    ks = [first]
    for i in range(1, len(tableau.b)):
        start = plus(y, h, combination(tableau.a[i, :i], ks))
        at = s + tableau.c[i] * h
        ks.append(_implicit_stage(field, at, start, tableau.a[i, i] * h) if tableau.a[i, i] else field(at, start))
    new = start if tableau.same_as_last and not tableau.implicit else plus(y, h, combination(tableau.b, ks))
    error = tuple(h * e for e in combination(tableau.error, [k[0] for k in ks]))
    return new, error, ks[-1] if tableau.same_as_last else field(s + h, new)


def _implicit_stage(field: Field, s: Any, start: StatePartials, h: Any) -> StatePartials:
    """The right-hand side at the state y = start + h field(s, y)."""
    identity = jnp.eye(len(start[0]), dtype=start[0][0].dtype)
    base = jnp.stack(start[0])

    def matrix(values: Any) -> Any:
        return identity - h * field.jacobian(s, tuple(values))

    def improve(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        values, _, iteration = state
        move = jnp.linalg.solve(matrix(values), base + h * jnp.stack(field.values(s, tuple(values))) - values)
        change = jnp.max(jnp.abs(move) / (jnp.abs(values) + jnp.abs(move) + jnp.finfo(move.dtype).tiny))
        return values + move, change, iteration + 1

    def unfinished(state: tuple[Any, Any, Any]) -> Any:
        return (state[1] > SOLVER.newton_tolerance) & (state[2] < SOLVER.stage_iterations)

    values, change, _ = jax.lax.while_loop(unfinished, improve, (base, jnp.asarray(jnp.inf, base.dtype), 0))
    values = jnp.where(change <= SOLVER.stage_tolerance, values, jnp.nan)
    inverse = jnp.linalg.inv(matrix(values))
    y = (tuple(values), *start[1:])
    for _ in range(field.expansion.order):
        slope = field(s, y)
        parts = [jnp.stack(a) + h * jnp.stack(k) - jnp.stack(b) for a, k, b in zip(start, slope, y, strict=True)]
        y = tuple(tuple(jnp.stack(b) + jnp.tensordot(inverse, part, 1)) for b, part in zip(y, parts, strict=True))
    return field(s, y)


def combination(weights: np.ndarray, trees: list[Any]) -> Any:
    """The sum of trees with constant weights, without those of weight zero."""
    used = [(float(w), tree) for w, tree in zip(weights, trees, strict=True) if w]
    return jax.tree.map(
        lambda *leaves: sum(w * leaf for (w, _), leaf in zip(used, leaves, strict=True)), *(t for _, t in used)
    )


def plus(y: Any, h: Any, slope: Any) -> Any:
    """y + h slope, for trees."""
    return jax.tree.map(lambda a, b: a + h * b, y, slope)
