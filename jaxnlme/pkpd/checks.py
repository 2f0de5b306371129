"""Checks that a model of dose records fits the data, while it is traced: each error is one sentence with its cure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.core import Tracer

from jaxnlme.data.events.facts import EventFacts
from jaxnlme.errors import ModelError
from jaxnlme.pkpd.dose_parameters import DoseParameters
from jaxnlme.records import Events, Record


def events_of(v: Record, title: str) -> Events:
    """The dose records in `v`. **Raises:** ModelError where the data have none; `title` of the model."""
    events = v["events"] if "events" in v.names else None
    facts_of(events.facts if isinstance(events, Events) else None, title)
    assert isinstance(events, Events)
    return events


def facts_of(facts: EventFacts | None, title: str) -> EventFacts:
    """`facts` of the dose records. **Raises:** ModelError where there are none."""
    if facts is None:
        raise ModelError(
            f"{title} needs dose records, and the data have none; read them with jn.GroupedData.from_nonmem(frame)."
        )
    return facts


def refuse_known(bad: Any, sentence: Callable[[int], str]) -> None:
    """Refuse what parameters make impossible, where they are numbers; inside a compiled program it is NaN.

    **Arguments:** `bad` (k,): true where it is; `sentence` on the first of them.
    **Raises:** ModelError.
    """
    if not isinstance(bad, Tracer) and np.any(bad):
        raise ModelError(sentence(int(np.argmax(bad))))


def check_records_are_rows(title: str, facts: EventFacts) -> None:
    """Check that parameters which vary within a group are known at the records of doses. **Raises:** ModelError."""
    if not facts.rows_are_records:
        raise ModelError(
            f"parameters of {title} vary within the groups, and the records of doses are no rows of the data, so that "
            "their values at the doses are not known; read the table with jn.GroupedData.from_nonmem(frame), with the "
            "columns that vary among its covariates."
        )


def check_gamma_doses(title: str, facts: EventFacts, varies: bool) -> None:
    """Check that all doses are sums of single ones that go through transit compartments. **Raises:** ModelError."""
    if facts.steady_state:
        raise ModelError(
            f"{title} has no steady state in closed form, and records have SS {facts.steady_state[0]}; write the doses "
            "before the first observation out by ADDL and II, or use route='transit' with whole compartments."
        )
    if varies:
        raise ModelError(
            f"rate constants of {title} vary within the groups; the gamma density of its absorption needs constant CL, "
            "V and KA (MTT, N, F and LAG may vary from dose to dose). Use route='transit' with whole compartments."
        )
    if facts.infuses(1):
        raise ModelError(
            f"{title} takes doses at once into its first compartment, and records have a RATE; remove it there, or use "
            "route='transit'."
        )


def check_inputs(title: str, facts: EventFacts, numbers: Sequence[int]) -> None:
    """Check that doses into compartments `numbers`, which enter by an input function, are single ones given at once.

    **Raises:** ModelError for steady states and infusions.
    """
    if facts.steady_state and numbers:
        raise ModelError(
            f"{title} has doses that enter by an input function (inputs=), for which records that begin in steady "
            f"state (SS {facts.steady_state[0]}) are not possible: give the doses before by ADDL and II."
        )
    infused = [number for number in numbers if facts.infuses(number)]
    if infused:
        raise ModelError(
            f"{title} has doses that enter compartment {infused[0]} by an input function (inputs=), and records of "
            "infusions (RATE) into it, which would not pass through that function: set RATE to 0 there, or write the "
            "absorption as states of the model (a chain of transit compartments)."
        )


def check_compartments(title: str, facts: EventFacts, states: Sequence[str], remedy: str) -> tuple[int, ...]:
    """Numbers of the compartments that receive doses. **Arguments:** as below. **Raises:** ModelError for those that
    are not there."""
    dosed = tuple(sorted({number or 1 for number in facts.dosed})) or (1,)
    for number in dosed:
        if number > len(states) or number < 0:
            raise ModelError(
                f"a dose enters compartment {number} (CMT{facts.rows_in_words(number)}), which {title} does not have; "
                f"its compartments are {numbered(states)}. Correct CMT, or {remedy}."
            )
    return dosed


def numbered(states: Sequence[str]) -> str:
    """Compartments with NONMEM's numbers: "1 depot, 2 central"."""
    return ", ".join(f"{k} {name}" for k, name in enumerate(states, start=1))


def check_spread(title: str, dosed: Sequence[int], names: DoseParameters, values: Mapping[str, Any]) -> None:
    """Check that phi has the durations of doses into the compartments `dosed`, over which the route spreads them.

    **Raises:** ModelError.
    """
    for number in dosed:
        if names.value("duration", number, values) is None:
            raise ModelError(
                f"{title} spreads doses over a duration, and phi lacks {' or '.join(names.names('duration', number))}: "
                "add this parameter, or name another one by duration=."
            )


def dosed_compartments(
    title: str, facts: EventFacts, states: Sequence[str], names: DoseParameters, values: Mapping[str, Any], remedy: str
) -> tuple[int, ...]:
    """Numbers of the compartments that receive doses.

    **Arguments:** `title` of the model; `states`: names of its compartments; `names` of the parameters of doses;
    `values` of parameters by name in upper case; `remedy`: what else than CMT may be corrected, for the message.
    **Raises:** ModelError for compartments that are not there, and where the parameters of modelled rates and durations
    are lacking.
    """
    dosed = check_compartments(title, facts, states, remedy)
    for kind, has, code in (("duration", facts.modelled_duration, -2), ("rate", facts.modelled_rate, -1)):
        if has and all(names.value(kind, number, values) is None for number in dosed):
            wanted = " or ".join(names.names(kind, dosed[0]))
            raise ModelError(
                f"records have RATE {code}, a {kind} that the model gives, and phi lacks {wanted}; add this parameter "
                f"to those of {title}, or name another one by {kind}=."
            )
    return dosed
