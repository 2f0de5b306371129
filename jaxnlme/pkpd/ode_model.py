"""`jn.pkpd.ode`: models given by differential equations, for any table of dose records."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.data.events.facts import EventFacts
from jaxnlme.errors import OptionError, check_whole_number, near_matches, shown, some
from jaxnlme.pkpd.checks import (
    check_compartments,
    check_inputs,
    check_records_are_rows,
    check_spread,
    dosed_compartments,
    events_of,
    facts_of,
    numbered,
)
from jaxnlme.pkpd.dose_parameters import DoseParameters, dose_parameters
from jaxnlme.pkpd.inputs import AbstractInput
from jaxnlme.pkpd.ode_output import Output, output_of
from jaxnlme.pkpd.phi_names import values_by_name
from jaxnlme.pkpd.solver.advance import Tolerances
from jaxnlme.pkpd.solver.equations import Equations
from jaxnlme.pkpd.solver.items import DoseRules
from jaxnlme.pkpd.solver.runge_kutta import tableau_of
from jaxnlme.pkpd.solver.solution import solve_group
from jaxnlme.records import Events, Record, Rows
from jaxnlme.signatures import public

_TITLE = "jn.pkpd.ode"


@public("jn.pkpd.ode")
def ode(
    rhs: Callable[..., Any],
    states: Sequence[str],
    output: str | Callable[..., Any] | None = None,
    *,
    initial: Callable[[Record], Any] | None = None,
    inputs: Mapping[Any, AbstractInput] | None = None,
    lag: str | Mapping[Any, str] | None = None,
    bioavailability: str | Mapping[Any, str] | None = None,
    duration: str | Mapping[Any, str] | None = None,
    rate: str | Mapping[Any, str] | None = None,
    overlap: int = 0,
    pending: int = 0,
    constant_infusion: str = "ends",
    solver: Any = None,
    rtol: float = 1e-8,
    atol: float | Mapping[str, float] = 1e-10,
    max_steps: int = 10_000,
) -> ODEModel:
    """Model given by differential equations, a model function f(phi, x, v) for data with dose records.

    Solved from event to event: doses, ends of infusions, resets and rows are ends of steps, so that nothing is
    interpolated. Steady states are found by Newton's method on the map over one dosing interval. Derivatives in the
    parameters, of any order, are those of the numerical solution, computed in the same steps.

    **Arguments:** `rhs(t, y, phi)` or `rhs(t, y, phi, columns)`: dy/dt, one number for each state, as an array, a
    tuple or a dictionary by name. `t`: time; `y`: the states, read as `y.central`, `y["central"]` or `y[0]`; `phi`:
    parameters, those at this time where they vary in a group; `columns`: the columns of the data at this time, as
    `columns.WT`. `states`: their names; their order is that of NONMEM's compartment numbers (CMT 1, 2, ...). `output`:
    the prediction (obs,), an expression of states, parameters and numbers, such as "central / V", or a function of (y,
    phi, x); None: the state called central, or the only one. `initial(phi)`: states before any dose, as for `rhs` (a
    dictionary may name some of them); zero by default. `inputs`: by state a function by which its doses enter, such as
    `jn.pkpd.inputs.savic()`, instead of at once (single doses without RATE); `lag`, `bioavailability`, `duration`,
    `rate`, `overlap`, `pending`, `constant_infusion`: as for `jn.pkpd.compartments`. `solver`: an adaptive Runge-Kutta
    method of diffrax, None for `diffrax.Tsit5()`; where stability limits the steps of an explicit one, a linearly
    implicit method of third order goes on (for equations stiff everywhere: `diffrax.Kvaerno5()`). `rtol`: relative
    tolerance of a step. `atol`: absolute tolerance of a step in units of the size of each state, which is its initial
    value, or the largest dose of the group where it starts at 0; or a dictionary of absolute tolerances by state, in
    the state's own unit. `max_steps`: most steps for one group; a group whose solution needs more, or fails otherwise,
    has predictions that are not finite.
    **Returns:** an ODEModel, to be used as the model function or inside one.
    **Raises:** OptionError for options that do not fit; ImportError without diffrax.

    **Example:**

    ```python
    def rates(t, y, phi):
        return {"depot": -phi.KA * y.depot, "central": phi.KA * y.depot - phi.CL / phi.V * y.central}


    print(jn.pkpd.ode(rates, ["depot", "central"], output="central / V"))
    ```
    """
    if isinstance(states, str) or not states or not all(isinstance(name, str) for name in states):
        raise OptionError(
            f"{_TITLE}: states is a list of names, such as ['depot', 'central']; received {shown(states)}."
        )
    states = tuple(states)
    if len(set(states)) < len(states):
        raise OptionError(f"{_TITLE}: states names a compartment twice: {some(list(states))}.")
    for name, value in (("rhs", rhs), *((("initial", initial),) if initial is not None else ())):
        if not callable(value):
            raise OptionError(f"{_TITLE}: {name} must be a function; received {shown(value)}.")
    if constant_infusion not in ("ends", "goes on"):
        raise OptionError(
            f"{_TITLE}: constant_infusion is 'ends' (as in NONMEM) or 'goes on'; received {shown(constant_infusion)}."
        )
    solver = _default_solver() if solver is None else solver
    tableau_of(solver)
    absolute: tuple[tuple[str, float], ...] = ()
    if isinstance(atol, Mapping):
        for name in atol:
            if name not in states:
                raise OptionError(
                    f"{_TITLE}: atol names {shown(name)}, which is no state; {near_matches(str(name), states)}"
                )
        absolute, atol = tuple((name, _positive("atol", value)) for name, value in atol.items()), 1e-10
    options = {"lag": lag, "bioavailability": bioavailability, "duration": duration, "rate": rate}
    return ODEModel(
        rhs,
        initial,
        states,
        output_of(output, states),
        _inputs(inputs, states),
        dose_parameters(_TITLE, states, options),
        check_whole_number(f"{_TITLE}: overlap", overlap, 0),
        constant_infusion == "goes on",
        solver,
        _positive("rtol", rtol),
        _positive("atol", atol),
        absolute,
        check_whole_number(f"{_TITLE}: max_steps", max_steps, 1),
        check_whole_number(f"{_TITLE}: pending", pending, 0),
    )


def _default_solver() -> Any:
    try:
        import diffrax
    except ImportError as error:
        raise ImportError("jn.pkpd.ode needs the package diffrax: pip install jaxnlme[ode].") from error
    return diffrax.Tsit5()


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise OptionError(f"{_TITLE}: {name} must be a positive number; received {shown(value)}.")
    return float(value)


def _inputs(inputs: Any, states: tuple[str, ...]) -> tuple[tuple[int, AbstractInput], ...]:
    if inputs is None:
        return ()
    if not isinstance(inputs, Mapping):
        raise OptionError(
            f"{_TITLE}: inputs is a dictionary of input functions by state, such as {{{states[0]!r}: "
            f"jn.pkpd.inputs.savic()}}; received {shown(inputs)}."
        )
    for name, value in inputs.items():
        if name not in states:
            raise OptionError(
                f"{_TITLE}: inputs names {shown(name)}, which is no state; {near_matches(str(name), states)}"
            )
        if not isinstance(value, AbstractInput):
            raise OptionError(
                f"{_TITLE}: inputs[{name!r}] must be an input function such as jn.pkpd.inputs.savic(); received "
                f"{shown(value)}."
            )
    return tuple((states.index(name), value) for name, value in inputs.items())


class ODEModel(eqx.Module):
    """A model given by differential equations; made by `jn.pkpd.ode`, and called like a model function.

    **Fields:** `rhs`, `initial`: functions, whose arrays (of an Equinox module) are parameters of the model; `states`;
    `output`; `inputs`; `dose_parameters`; `overlap`; `goes_on`; `solver`; `rtol`; `atol`; `absolute`: absolute
    tolerances by state; `max_steps`; `pending`; `spread`: compartments whose doses without a rate have the modelled
    duration; `label`: how the model was made, for messages.

    **Example:**

    ```python
    print(jn.pkpd.michaelis_menten(1, "first-order"))
    ```
    """

    rhs: Any
    initial: Any
    states: tuple[str, ...] = eqx.field(static=True)
    output: Output = eqx.field(static=True)
    inputs: tuple[tuple[int, AbstractInput], ...] = eqx.field(static=True)
    dose_parameters: DoseParameters = eqx.field(static=True)
    overlap: int = eqx.field(static=True)
    goes_on: bool = eqx.field(static=True)
    solver: Any = eqx.field(static=True)
    rtol: float = eqx.field(static=True)
    atol: float = eqx.field(static=True)
    absolute: tuple[tuple[str, float], ...] = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    pending: int = eqx.field(static=True, default=0)
    spread: tuple[int, ...] = eqx.field(static=True, default=())
    label: str = eqx.field(static=True, default="")

    @property
    def __name__(self) -> str:
        return self.label or f"ode({getattr(self.rhs, '__name__', type(self.rhs).__name__)}, {list(self.states)})"

    def __repr__(self) -> str:
        tolerances = f"rtol={self.rtol:g}, atol={dict(self.absolute) or self.atol:}"
        numerics = f"{type(self.solver).__name__}, {tolerances}, max_steps={self.max_steps}"
        return (
            f"{self._title}: {numerics}\n  states: {numbered(self.states)}\n  prediction: {self.output}\n  used where "
            f"phi has them: {self.dose_parameters.in_words(len(self.states))}"
        )

    def check_events(self, facts: EventFacts | None) -> None:
        """Check that the doses can enter the states, when the model is bound to data.

        **Arguments:** `facts` of the dose records, None without any. **Raises:** ModelError.
        """
        known = facts_of(facts, self._title)
        check_compartments(self._title, known, self.states, "add the state")
        check_inputs(self._title, known, [k + 1 for k, _ in self.inputs])

    def __call__(self, phi: Record, x: Rows, v: Record) -> Any:
        """The prediction (obs,).

        **Arguments:** `phi`: parameters, scalars or (obs,); `x`: rows of the group, with the column of time; `v`: with
        the doses, `v.events`.
        **Raises:** ModelError where the data have no dose records, phi lacks a parameter, or a dose enters a
        compartment that the model does not have.
        """
        self.output.check(self.states, phi)
        prediction = jnp.asarray(self.output(self.amounts(phi, x, v), phi, x))
        return jnp.broadcast_to(prediction, x.mask.shape) if prediction.ndim == 0 else prediction

    def amounts(self, phi: Record, x: Rows, v: Record) -> Record:
        """All states (obs,), by name. **Arguments, raises:** as for a call."""
        values = values_by_name(phi)
        events = self._events(v)
        equations = Equations(
            self.rhs,
            _takes_four(self.rhs),
            self.states,
            self.initial,
            self.inputs,
            Tolerances(tableau_of(self.solver), self.rtol, self.atol, self.max_steps),
            self._title,
            self.absolute,
        )
        names = self.dose_parameters
        dosed = dosed_compartments(self._title, events.facts, self.states, names, values, "add the state")
        check_spread(self._title, [number for number in self.spread if number in dosed], names, values)
        if any(jnp.ndim(value) for value in values.values()):
            check_records_are_rows(self._title, events.facts)
        overlap = max(events.facts.overlap, self.overlap)
        rules = DoseRules(names, dosed, overlap, self.goes_on, self.spread, self.pending)
        if not isinstance(phi, Record):
            phi = Record(tuple(phi), tuple(jnp.asarray(value) for value in phi.values()), "parameter")
        return Record(self.states, solve_group(equations, rules, phi, x, v), "state")

    def _events(self, v: Record) -> Events:
        events = events_of(v, self._title)
        check_inputs(self._title, events.facts, [k + 1 for k, _ in self.inputs])
        return events

    @property
    def _title(self) -> str:
        return f"jn.pkpd.{self.__name__}"


def _takes_four(rhs: Callable[..., Any]) -> bool:
    """True if a right-hand side takes (t, y, phi, columns). **Raises:** OptionError where it takes neither three nor
    four arguments."""
    try:
        signature = inspect.signature(rhs)
    except (TypeError, ValueError):
        return False
    for number in (3, 4):
        try:
            signature.bind(*(None,) * number)
        except TypeError:
            continue
        return number == 4
    raise OptionError(
        f"{_TITLE}: rhs takes (t, y, phi), or (t, y, phi, columns); {getattr(rhs, '__name__', 'it')} takes {signature}."
    )
