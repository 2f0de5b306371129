"""Steady states of linear compartments in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxnlme.numerics.written_out import Entries
from jaxnlme.pkpd.doses import Doses
from jaxnlme.pkpd.linear import LinearSystem, apply, solve
from jaxnlme.pkpd.timeline import SteadyState


def steady_amounts(system: LinearSystem, doses: Doses, steady: SteadyState, into: dict[int, Any]) -> list[Any]:
    """Amounts (k,) of the active compartments, and the input rates, at the records that begin in steady state.

    With Phi(t) = exp(K t), J(t) the integral of Phi from 0 to t, M = (I - Phi(II))^-1 and r the time since the last
    dose arrived, boluses D give Phi(r) M D. An infusion at constant rate R gives - K^-1 R. Infusions of rate R for a
    duration d, of which n are not over, the last other one having ended a time p = r + n II - d ago, give

        - n K^-1 R + K^-1 M (Phi(r) - Phi(p)) R = - n K^-1 R + Phi(min(r, p)) M J(|r - p|) R sign(r - p),

    and an input rate n R, which the timeline takes back as they end.

    **Arguments:** `system`, with rate constants () or (k,); `doses`, `steady` (k,); `into`: by compartment (position) 1
    where it is that of the dose, () or (k,).
    **Returns:** (k,) for each state of the system.
    **Source:** geometric series of single doses; Gibaldi and Perrier (1982), Pharmacokinetics, chapter 3.
    """
    n = len(system.active)
    nothing: list[Any] = [None] * system.size
    dose, input_ = [*nothing], [*nothing]
    for compartment, share in into.items():
        dose[system.state(compartment)] = share * doses.bolus
        if doses.infused:
            input_[system.input(compartment)] = share * doses.rate
    since = steady.since
    if doses.infused:
        ended = since + steady.running * steady.interval - doses.duration
        later = since >= ended
        since = jnp.where(later, ended, since)
        sign = jnp.where(later, 1.0, -1.0)
        length = sign * (steady.since - ended)
        running = apply(system.transition(jnp.where(steady.constant, 0.0, length)), input_, range(n))
        dose = [_plus(a, sign * b) for a, b in zip(dose, running, strict=False)] + nothing[n:]
    total = _sum_of_past(system.transition(steady.interval), dose, n)
    amounts = apply(system.transition(since), [*total, *nothing[n:]], range(n))
    rates: list[Any] = [jnp.zeros_like(since)] * (system.size - n)
    if doses.infused:
        count = jnp.where(steady.constant, 1.0, steady.running)
        minus = {at: -value for at, value in system.generator().items()}
        right = [jnp.zeros_like(since)] * n
        for compartment, share in into.items():
            right[system.state(compartment)] = share * count * doses.rate
            rates[system.infused.index(compartment)] = share * steady.running * doses.rate
        amounts = [a + b for a, b in zip(amounts, solve(minus, right, n), strict=True)]
    return amounts + rates


def _sum_of_past(period: Entries, dose: Sequence[Any], n: int) -> list[Any]:
    """(I - Phi)^-1 times a dose: the sum of Phi^k for k = 0, 1, ..."""
    some = next(value for value in dose if value is not None)
    matrix = {at: -value for at, value in period.items() if at[0] < n and at[1] < n}
    for k in range(n):
        matrix[k, k] = 1.0 + matrix[k, k]
    return solve(matrix, [jnp.zeros_like(some) if value is None else value for value in dose[:n]], n)


def _plus(a: Any, b: Any) -> Any:
    return b if a is None else a + b
