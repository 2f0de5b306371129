"""`jn.pkpd.compartments`: linear models of one to three compartments for any table of dose records."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.data.events.facts import EventFacts
from jaxnlme.errors import ModelError, OptionError, check_whole_number, near_matches, shown
from jaxnlme.pkpd.checks import (
    check_compartments,
    check_gamma_doses,
    check_records_are_rows,
    dosed_compartments,
    events_of,
    facts_of,
    numbered,
)
from jaxnlme.pkpd.dose_parameters import DoseParameters, dose_parameters
from jaxnlme.pkpd.doses import read_doses
from jaxnlme.pkpd.linear import LinearSystem
from jaxnlme.pkpd.parametrisations import Parametrisation, parametrisation
from jaxnlme.pkpd.phi_names import first_of, missing_parameters, values_by_name
from jaxnlme.pkpd.responses import amounts_by_responses, has_responses
from jaxnlme.pkpd.savic import arrived, transit_amounts
from jaxnlme.pkpd.solution import amounts_at_rows, amounts_by_steps, impulses, sum_over_actions, superposed
from jaxnlme.pkpd.steady_state import steady_amounts
from jaxnlme.pkpd.structure import Structure
from jaxnlme.pkpd.timeline import actions, in_order, steady_states
from jaxnlme.records import Record, Rows
from jaxnlme.signatures import public


@dataclass(frozen=True)
class Route:
    """Absorption and what is known of doses: `depot`, `chain` (of transit compartments), `parameters` (each with its
    names in phi), `spread`: doses without a rate into the first compartment have the modelled duration, and `gamma`:
    the first compartment is reached through a real number of transit compartments."""

    depot: bool = False
    chain: bool = False
    parameters: tuple[tuple[str, ...], ...] = ()
    spread: bool = False
    gamma: bool = False


_KA = ("KA",)
ROUTES = {
    "bolus": Route(),
    "infusion": Route(),
    "first-order": Route(depot=True, parameters=(_KA,)),
    "zero-order": Route(spread=True),
    "zero then first": Route(depot=True, parameters=(_KA,), spread=True),
    "transit": Route(depot=True, chain=True, parameters=(_KA, ("MTT", "KTR"))),
    "savic transit": Route(depot=True, parameters=(_KA, ("N", "NN"), ("MTT",)), gamma=True),
}


@public("jn.pkpd.compartments")
def compartments(
    number: int,
    route: str = "bolus",
    parameters: str | Sequence[str] | None = None,
    *,
    transits: int | None = None,
    lag: str | Mapping[Any, str] | None = None,
    bioavailability: str | Mapping[Any, str] | None = None,
    duration: str | Mapping[Any, str] | None = None,
    rate: str | Mapping[Any, str] | None = None,
    overlap: int = 0,
    pending: int = 0,
    constant_infusion: str = "ends",
) -> CompartmentModel:
    """Linear model of one to three compartments, a model function f(phi, x, v) for data with dose records.

    The amounts A follow dA/dt = K A + R between dose records: R are the input rates of infusions, K holds the rate
    constants. Elimination is from the central compartment, in whose volume the concentration is predicted.

    **Arguments:** `number`: 1, 2 or 3, the central and the peripheral compartments; `route`: "bolus" and "infusion"
    (doses enter the central compartment, at once or with the RATE of their record), "first-order" (they enter a depot,
    from which KA carries them), "zero-order" (into the central compartment, for the duration D1), "zero then first"
    (into the depot for the duration D1, then KA), "transit" (a chain of `transits` + 1 compartments with the rate
    constant (`transits` + 1) / MTT, then the depot), "savic transit" (the same with a real number N of transit
    compartments: a gamma density); `parameters`: names of the parameters of distribution and
    elimination, such as "CL V Q V2", "k k12 k21 V" or "alpha beta A B" (`parametrisations`; default: clearances and
    volumes); `transits`: number of transit compartments for that route; `lag`, `bioavailability`, `duration`, `rate`:
    the parameter with this meaning for doses into the first compartment, or a dictionary of parameters by compartment
    (number or name). By default those called LAG1 (ALAG1, TLAG1), F1, D1 and R1 for compartment 1 and so on are used
    where phi has them, and LAG and F for compartment 1; `overlap`: most infusions of one steady-state record that run
    at one time, where modelled durations or bioavailability make them more than the records tell; `pending`: most doses
    of one steady-state record that are given before it and arrive after it, where a lag may be longer than II (a lag of
    up to (`pending` + 1) II); more of either are refused at the starting values and NaN at others; `constant_infusion`:
    "ends" or "goes on", what an infusion at constant rate in steady state (AMT 0, RATE > 0, II 0, SS 1) does after its
    record; in NONMEM it ends.
    **Returns:** a CompartmentModel, to be used as the model function or inside one.
    **Raises:** OptionError for unknown routes, parameters or options.

    **Example:**

    ```python
    doses = jn.GroupedData.from_nonmem(jn.datasets.theophylline_records())
    v = jn.Parameter("v", 32.0, "log", random=True)
    pk = jn.NLMEModel(jn.pkpd.compartments(1, "first-order", "CL V"), [ka, cl, v])
    ```
    """
    if number not in (1, 2, 3) or isinstance(number, bool):
        raise OptionError(f"jn.pkpd.compartments: the number of compartments is 1, 2 or 3; received {shown(number)}.")
    title = f"jn.pkpd.compartments({number}, {route!r})"
    if not isinstance(route, str) or _route_key(route) not in map(_route_key, ROUTES):
        raise OptionError(f"jn.pkpd.compartments: route {shown(route)} is unknown; {near_matches(str(route), ROUTES)}")
    route = next(name for name in ROUTES if _route_key(name) == _route_key(route))
    chain = 0
    if ROUTES[route].chain:
        chain = 1 + check_whole_number(f"{title}: transits", transits, 0, "the number of transit compartments")
    elif transits is not None:
        raise OptionError(f"{title}: transits={shown(transits)} is only for route='transit'.")
    if constant_infusion not in ("ends", "goes on"):
        raise OptionError(
            f"{title}: constant_infusion is 'ends' (as in NONMEM) or 'goes on'; received {shown(constant_infusion)}."
        )
    structure = Structure(int(number), ROUTES[route].depot, chain)
    options = {"lag": lag, "bioavailability": bioavailability, "duration": duration, "rate": rate}
    return CompartmentModel(
        structure,
        route,
        parametrisation(number, parameters),
        dose_parameters(title, structure.states, options),
        check_whole_number(f"{title}: overlap", overlap, 0),
        constant_infusion == "goes on",
        check_whole_number(f"{title}: pending", pending, 0),
    )


def _route_key(route: str) -> str:
    return route.lower().replace("-", " ").replace("_", " ")


@dataclass(frozen=True, repr=False)
class CompartmentModel:
    """A linear compartment model; made by `jn.pkpd.compartments`, and called like a model function.

    **Fields:** `structure`: the compartments; `route`; `parametrisation`; `dose_parameters`; `overlap`; `goes_on`;
    `pending`.

    **Example:**

    ```python
    print(jn.pkpd.compartments(2, "first-order", "CL V Q V2"))
    ```
    """

    structure: Structure
    route: str
    parametrisation: Parametrisation
    dose_parameters: DoseParameters
    overlap: int
    goes_on: bool
    pending: int = 0

    @property
    def __name__(self) -> str:
        return f"compartments({self.structure.disposition}, {self.route!r}, {str(self.parametrisation)!r})"

    def __repr__(self) -> str:
        acting = self.dose_parameters.in_words(len(self.states))
        return (
            f"jn.pkpd.{self.__name__}\n  compartments: {numbered(self.states)}\n  parameters: "
            f"{' '.join(self.parameters)}\n  used where phi has them: {acting}"
        )

    def check_events(self, facts: EventFacts | None) -> None:
        """Check that the model has the compartments that receive doses, when it is bound to data.

        **Arguments:** `facts` of the dose records, None without any. **Raises:** ModelError.
        """
        title = f"jn.pkpd.{self.__name__}"
        check_compartments(title, facts_of(facts, title), self.states, "choose another route")

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the compartments, in the order of their numbers (CMT 1, 2, ...)."""
        return self.structure.states

    @property
    def parameters(self) -> tuple[str, ...]:
        """Parameters that phi must have, each by its first name."""
        return tuple(names[0] for names in self._needed)

    @property
    def _needed(self) -> tuple[tuple[str, ...], ...]:
        needed = (*self.parametrisation.names, *ROUTES[self.route].parameters)
        return (*needed, self.dose_parameters.names("duration", 1)) if ROUTES[self.route].spread else needed

    def check(self, names: Sequence[str]) -> None:
        """Check that parameters of these `names` are all that the model needs.

        **Raises:** ModelError with the names that it needs.
        """
        self._check(dict.fromkeys(name.upper() for name in names))

    def _check(self, values: Mapping[str, Any]) -> None:
        if any(first_of(names, values) is None for names in self._needed):
            others = (
                "Other parametrisations are chosen by parameters=, such as 'k V'; lag times (LAG1), bioavailabilities "
                "(F1), modelled durations (D1) and rates (R1) are used where they are there."
            )
            raise ModelError(missing_parameters(f"jn.pkpd.{self.__name__}", self._needed, values, others))

    def __call__(self, phi: Record, x: Rows, v: Record) -> Any:
        """Concentration (obs,) in the central compartment.

        **Arguments:** `phi`: parameters, scalars or (obs,); `x`: rows of the group, with the column of time; `v`: with
        the doses, `v.events`.
        **Raises:** ModelError where the data have no dose records, phi lacks a parameter, or a dose enters a
        compartment that the model does not have.
        """
        amounts, volume, _ = self._solve(phi, x, v, (self.structure.central,))
        return amounts[0] / volume

    def amounts(self, phi: Record, x: Rows, v: Record) -> Record:
        """Amounts (obs,) in all compartments, by name. **Arguments, raises:** as for a call."""
        everything = range(len(self.states))
        return Record(self.states, tuple(self._solve(phi, x, v, everything)[0]), "compartment")

    def concentrations(self, phi: Record, x: Rows, v: Record) -> Record:
        """Concentrations (obs,) in the central and the peripheral compartments, by name. Peripheral volumes are
        V k12 / k21, with those of the rate constants. **Arguments, raises:** as for a call."""
        central = self.structure.central
        names = self.states[central:]
        amounts, volume, rates = self._solve(phi, x, v, range(central, len(self.states)))
        volumes = [volume] + [volume * rates[f"k1{k}"] / rates[f"k{k}1"] for k in range(2, len(names) + 1)]
        return Record(names, tuple(a / b for a, b in zip(amounts, volumes, strict=True)), "compartment")

    def _rates(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Rate constants by name, and the central volume."""
        found = [values[first_of(names, values) or ""] for names in self.parametrisation.names]
        rates, volume = self.parametrisation.rates(found)
        if self.structure.depot:
            rates["ka"] = values["KA"]
        if self.structure.transits:
            rates["ktr"] = self.structure.transits / values["MTT"] if "MTT" in values else values["KTR"]
        return rates, volume

    def _solve(self, phi: Record, x: Rows, v: Record, outputs: Sequence[int]) -> tuple[list[Any], Any, dict[str, Any]]:
        """Amounts (obs,) in the compartments `outputs` (positions), the central volume, and the rate constants."""
        title = f"jn.pkpd.{self.__name__}"
        route, values = ROUTES[self.route], values_by_name(phi)
        self._check(values)
        events = events_of(v, title)
        rates, volume = self._rates(values)
        dosed = dosed_compartments(
            title, events.facts, self.states, self.dose_parameters, values, "choose another route"
        )

        def at_records(value: Any) -> Any:
            """A value at the records of doses (k,), where it varies in the group."""
            if value is None or jnp.ndim(value) == 0:
                return value
            check_records_are_rows(title, events.facts)
            return value[events.row.astype(int)]

        def of_dose(kind: str, number: int) -> Any:
            return at_records(self.dose_parameters.value(kind, number, values))

        infused = events.facts.infusions or (route.spread and 1 in dosed)
        of_doses = [of_dose(kind, number) for kind in ("lag", "bioavailability") for number in dosed]
        responses = has_responses(self.structure, events.facts, [*rates.values(), *of_doses])
        responses = responses and not infused and not route.gamma

        def of_read(kind: str, number: int) -> Any:
            value = None if responses and kind == "bioavailability" else of_dose(kind, number)
            return jax.lax.stop_gradient(value) if responses and value is not None else value

        doses = read_doses(events, of_read, 1, dosed, (1,) if route.spread else ())
        positions = tuple(number - 1 for number in dosed)
        active = self.structure.reachable(positions)
        system = LinearSystem(self.structure, rates, active, positions if doses.infused else ())
        number = jnp.where(events.compartment == 0, 1, events.compartment)
        into = {p: 1.0 if len(positions) == 1 else (number == p + 1).astype(float) for p in positions}
        wanted = [system.state(p) for p in outputs if p in active]
        if route.gamma and 0 in positions:
            check_gamma_doses(title, events.facts, system.varies)
            shape, mean_time = (at_records(values[first_of(names, values) or ""]) for names in route.parameters[1:])
            share = into.pop(0)
            found = transit_amounts(system, shape, mean_time, *arrived(x, events, doses, share), wanted)
        else:
            found = [jnp.zeros(x.mask.shape) for _ in wanted]
        if into:
            steady = steady_states(events, doses, self.pending) if events.facts.steady_state else None
            # Without a lag the record's own dose counts in `overlap`; a bioavailability may lengthen the earlier ones.
            scaled = any(self.dose_parameters.value("bioavailability", n, values) is not None for n in dosed)
            overlap = max(events.facts.overlap, self.overlap) - (doses.lag is None and not scaled)
            options = {"overlap": max(overlap, 0), "pending": self.pending, "goes_on": self.goes_on}
            done = actions(events, doses, steady, **options)
            if system.varies:
                check_records_are_rows(title, events.facts)
                solve = amounts_by_steps
            elif superposed(x.mask.shape[0], done.time.shape[0]):
                solve = sum_over_actions
            else:
                solve, done = amounts_at_rows, in_order(done)
            if responses:
                solve = functools.partial(amounts_by_responses, of_dose=lambda kind, p: of_dose(kind, p + 1))
            amounts = None if steady is None else steady_amounts(system.with_rates(at_records), doses, steady, into)
            others = solve(system, x, events, done, impulses(system, done, into, amounts), wanted)
            found = [a + b for a, b in zip(found, others, strict=True)] if route.gamma else others
        by_position = dict(zip((p for p in outputs if p in active), found, strict=True))
        zero = jnp.zeros(x.mask.shape)
        return [by_position.get(p, zero) for p in outputs], volume, rates
