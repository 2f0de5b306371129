"""Checks that a model of dose records fits the data, while it is traced: each error is one sentence with its cure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxnlme.data.events.facts import EventFacts
from jaxnlme.errors import ModelError
from jaxnlme.pkpd.dose_parameters import DoseParameters
from jaxnlme.records import Events, Record


def events_of(v: Record, title: str) -> Events:
    """The dose records in `v`. **Raises:** ModelError where the data have none; `title` of the model."""
    events = v["events"] if "events" in v.names else None
    if not isinstance(events, Events):
        raise ModelError(
            f"{title} needs dose records, and the data have none; read them with jn.GroupedData.from_nonmem(frame)."
        )
    return events


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
    if facts.infusions and set(facts.dosed) <= {0, 1}:
        raise ModelError(
            f"{title} takes doses at once into its first compartment, and records have a RATE; remove it there, or use "
            "route='transit'."
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
    dosed = tuple(sorted({number or 1 for number in facts.dosed})) or (1,)
    for number in dosed:
        if number > len(states) or number < 0:
            numbered = ", ".join(f"{k} {name}" for k, name in enumerate(states, start=1))
            raise ModelError(
                f"a dose enters compartment {number} (CMT{facts.rows_in_words(number)}), which {title} does not have; "
                f"its compartments are {numbered}. Correct CMT, or {remedy}."
            )
    for kind, has, code in (("duration", facts.modelled_duration, -2), ("rate", facts.modelled_rate, -1)):
        if has and all(names.value(kind, number, values) is None for number in dosed):
            wanted = " or ".join(names.names(kind, dosed[0]))
            raise ModelError(
                f"records have RATE {code}, a {kind} that the model gives, and phi lacks {wanted}; add this parameter "
                f"to those of {title}, or name another one by {kind}=."
            )
    return dosed
