"""Doses of one group with the parameters that act on them: bioavailability, lag time, modelled rate and duration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.records import Events


class Doses(eqx.Module):
    """Effects of the rows (k,) of `v.events`, in their order.

    **Fields:** `bolus` (k,): amount that enters at once, on arrival; `rate`, `duration` (k,): of an infusion that
    begins on arrival, zero for others; `lag` (k,): delay of the arrival, None where no dose has one; `infused`: whether
    any dose may be an infusion. Resets and padding are doses of zero.
    """

    bolus: Any
    rate: Any
    duration: Any
    lag: Any
    infused: bool = eqx.field(static=True)


def read_doses(
    events: Events, of_dose: Callable[[str, int], Any], first: int, dosed: tuple[int, ...], spread: tuple[int, ...] = ()
) -> Doses:
    """The doses of a group.

    **Arguments:** `of_dose(kind, compartment)`: the value, () or (k,), of "lag", "bioavailability", "rate" or
    "duration" of doses into a compartment (NONMEM's number), None where there is none; `first`: the compartment of
    records that name none; `dosed`: compartments that receive doses (numbers); `spread`: those whose doses without a
    rate have the modelled duration.
    **Returns:** Doses. The caller has checked that modelled rates and durations are there.
    """
    facts = events.facts
    number = jnp.where(events.compartment == 0, first, events.compartment)

    def by_compartment(kind: str, default: float) -> Any:
        values = {c: of_dose(kind, c) for c in dosed}
        if all(value is None for value in values.values()):
            return None
        out = jnp.full(events.amount.shape, default)
        for c, value in values.items():
            if value is not None:
                out = jnp.where(number == c, value, out)
        return out

    bioavailability, lag = by_compartment("bioavailability", 1.0), by_compartment("lag", 0.0)
    amount = events.amount if bioavailability is None else events.amount * bioavailability
    if lag is not None:
        lag = jnp.where(events.reset > 0, 0.0, lag)
    zero = jnp.zeros_like(amount)
    spread = tuple(c for c in spread if c in dosed)
    if not (facts.infusions or spread):
        return Doses(amount, zero, zero, lag, False)
    given = events.rate > 0
    rate = jnp.where(given, events.rate, 0.0)
    duration = amount / jnp.where(given, events.rate, 1.0)
    duration = jnp.where(given, duration, 0.0)
    if facts.modelled_rate:
        modelled = (events.rate == -1) & (amount > 0)
        r = jnp.where(modelled, by_compartment("rate", jnp.nan), 1.0)
        rate, duration = jnp.where(modelled, r, rate), jnp.where(modelled, amount / r, duration)
    if facts.modelled_duration or spread:
        modelled = events.rate == -2
        for c in spread:
            modelled = modelled | ((events.rate == 0) & (number == c))
        d = by_compartment("duration", jnp.nan)
        modelled = modelled & (amount > 0) & ~(d <= 0)  # a duration of zero is a bolus, one that phi lacks is NaN
        safe = jnp.where(modelled, d, 1.0)
        rate, duration = jnp.where(modelled, amount / safe, rate), jnp.where(modelled, d, duration)
    return Doses(jnp.where(rate > 0, zero, amount), rate, duration, lag, True)
