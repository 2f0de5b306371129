"""Savic's transit model: absorption through N transit compartments, N a real number.

A dose D that arrives at time 0 enters the depot at the rate D g(s), g the gamma density with shape N + 1 and rate ktr =
(N + 1) / MTT. The amount in a compartment is the integral over s from 0 to t of D g(s) Phi(t - s), Phi its amount for
one unit in the depot. It is computed by Gauss and Legendre's rule in v = (s / S)^(1 / p), which is smooth where g is
not; S is t, or a time after which less than 1e-16 of the dose is on its way. Values and all derivatives are those of
the integral, to about 1e-12.

**Source:** Savic, Jonker, Kerbusch and Karlsson (2007), J Pharmacokinet Pharmacodyn 34, 711-726.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from jaxnlme.pkpd.doses import Doses
from jaxnlme.pkpd.linear import LinearSystem
from jaxnlme.pkpd.settings import SAVIC
from jaxnlme.pkpd.timeline import segments_of_rows
from jaxnlme.records import Events, Rows


def arrived(x: Rows, events: Events, doses: Doses, share: Any) -> tuple[Any, Any]:
    """Time (obs, k) since the arrival of each dose, and its amount, zero where it has not arrived or was cancelled by a
    reset. **Arguments:** `share`: 1 for the doses that count, () or (k,)."""
    time, segment = x[events.facts.time], segments_of_rows(x, events)
    arrival = events.time if doses.lag is None else events.time + doses.lag
    at = jnp.arange(time.shape[0])
    since = time[:, None] - arrival[None, :]
    here = (segment[:, None] == events.segment[None, :]) & (events.rows_before[None, :] <= at[:, None])
    amount = doses.bolus + jnp.where((doses.rate > 0) & (share > 0), jnp.nan, 0.0) if doses.infused else doses.bolus
    return since, jnp.where(here & (since >= 0), (share * amount)[None, :], 0.0)


def transit_amounts(
    system: LinearSystem, shape: Any, mean_time: Any, since: Any, dose: Any, outputs: Sequence[int]
) -> list[Any]:
    """Amounts (obs,) in the states `outputs` (positions) of doses that go through transit compartments into the depot.

    **Arguments:** `shape`: N; `mean_time`: MTT; `since` (obs, k): time since the arrival of each dose; `dose` (obs, k):
    its amount, zero where it has not arrived.
    """
    nodes, weights = np.polynomial.legendre.leggauss(SAVIC.nodes)
    v, weights = (nodes + 1) / 2, weights / 2
    u = v**SAVIC.power
    on_its_way = since > 0
    t = jnp.where(on_its_way, since, 1.0)
    a = jnp.broadcast_to(shape + 1.0, t.shape[-1:])
    rate = a / mean_time
    last = jax.lax.stop_gradient((a + SAVIC.deviations * jnp.sqrt(a) + SAVIC.tail) / rate)
    end = jnp.where(t < last[None, :], t, last[None, :])
    s = end[..., None] * u[None, None, :]
    # g(s) ds = exp(a log(ktr s) - ktr s - log Gamma(a)) ds / s, and ds / s = p dv / v
    a, rate = a[None, :, None], rate[None, :, None]
    density = jnp.exp(a * jnp.log(rate * s) - rate * s - gammaln(a))
    density = density * (SAVIC.power * weights / v)[None, None, :]
    entries = system.transition(t[..., None] - s)
    depot = system.state(system.structure.central - 1)
    amount = jnp.where(on_its_way, dose, 0.0)
    return [jnp.sum(amount * jnp.sum(density * entries[i, depot], axis=-1), axis=-1) for i in outputs]
