"""Amounts of linear compartments after doses as contour integrals, smooth where rate constants meet.

With g(z) = sum_j D_j exp(-z (t - t_j)) and F(z) = z^i / prod_f q_f(z)^s_f, where q is z^2 - S z + P or a - z,

    Y(i, s) = - (1 / 2 pi i) * the integral of F(z) g(z) dz around all roots of the q_f

is the response to the doses of compartments in a row, and all derivatives of Y are of its kind: in S s Y(i + 1, s + 1),
in P - s Y(i, s + 1), in a - s Y(i, s + 1), in time - Y(i + 1, s). So none of them is of a root of a quadratic, of a
division by a difference or of a recursion over the doses. Roots that are apart contribute their residues; around those
that are close to each other the integral is the sum over points of a circle, exact to 1e-12.

The solution of dA/dt = -K A is the integral with F = (K - z)^-1. For two compartments and q = (l1 - z)(l2 - z):

| | central | peripheral |
|---|---|---|
| from central | k21 - z | k12 |
| from peripheral | k21 | k + k12 - z |
| from the depot | ka (k21 - z) / (ka - z) | ka k12 / (ka - z) |

each over q.

**Source:** Higham (2008), Functions of Matrices, section 1.2.3; Kassam and Trefethen (2005), SIAM Journal on Scientific
Computing 26, 1214-1233 (sums over a circle where eigenvalues meet).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxnlme.numerics.arrays import unfused
from jaxnlme.pkpd.linear import LinearSystem
from jaxnlme.pkpd.settings import CIRCLE
from jaxnlme.pkpd.spectrum import Spectrum, Sums, When, spectrum, sums, where_close
from jaxnlme.pkpd.timeline import Actions
from jaxnlme.records import Events, Rows

# Derivatives of g that are computed once for all: those that second derivatives of the amounts need, and the third.
SHARED = 4


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def response(
    i: int, powers: tuple[int, ...], always: bool, factors: tuple, at: Spectrum, when: When, dose: Any, shared: Sums
) -> Any:
    """Y(i, s) (obs,).

    **Arguments:** `i`; `powers`: s; `always`: see `sums`; `factors`: (S, P) or (a,) of each factor; `at`: the roots of
    all, in their order; `when`; `dose` (actions,); `shared`: the sums of these doses.
    """
    multiplicity = [s for s, factor in zip(powers, factors, strict=True) for _ in factor]
    if max(multiplicity) > len(shared.derivatives):
        shared = sums(at, when, dose, max(multiplicity), always)
    total = None
    for k in range(len(at.poles)):
        for value, coefficient in zip(shared.derivatives, _residue(i, multiplicity, at, k), strict=False):
            term = coefficient * value[k]
            total = term if total is None else total + term
    z = at.nodes

    def around() -> Any:
        below = jnp.ones_like(z)
        for s, factor in zip(powers, factors, strict=True):
            first, *second = (jnp.asarray(value).astype(z.dtype) for value in factor)
            below = below * jax.lax.integer_pow(z * (z - first) + second[0] if second else first - z, s)
        weights = at.weights * (jax.lax.integer_pow(z, i) / below)
        real, imaginary = jnp.real(weights), jnp.imag(weights)
        return jnp.sum(
            real[:, None] * jnp.real(shared.nodes) - imaginary[:, None] * jnp.imag(shared.nodes), axis=0
        )

    return unfused(total + jnp.where(at.close, where_close(at, around, always), 0.0))


def _residue(i: int, multiplicity: Sequence[int], at: Spectrum, k: int) -> list[Any]:
    """Coefficients of g, g', ... at the root k: what they contribute to Y; zeros where it is on the circle."""
    s, x = multiplicity[k], at.poles[k]
    # Taylor series at the root of z^i and of the powers of the other factors
    series = [math.comb(i, q) * x ** (i - q) if q <= i else None for q in range(s)]
    for other, m in enumerate(multiplicity):
        if other == k:
            continue
        inverse = 1.0 / jnp.where(at.circled[k], x, at.poles[other] - x)
        factor = [math.comb(m + q - 1, q) * inverse ** (m + q) for q in range(s)]
        series = [
            sum(a * factor[q - p] for p, a in enumerate(series[: q + 1]) if a is not None) for q in range(s)
        ]
    sign = (-1.0) ** (s + 1)
    return [
        unfused(jnp.where(at.circled[k], 0.0, sign / math.factorial(n) * series[s - 1 - n])) for n in range(s)
    ]


@functools.partial(response.defjvp, symbolic_zeros=True)
def _response_rule(i: int, powers: tuple, always: bool, primals: tuple, tangents: tuple) -> tuple:
    factors, at, when, dose, shared = primals
    factors_dot, _, when_dot, dose_dot, _ = tangents
    value = response(i, powers, always, *primals)
    terms = []
    for f, (s, dots) in enumerate(zip(powers, factors_dot, strict=True)):
        raised = tuple(p + (f == g) for g, p in enumerate(powers))
        for which, dot in enumerate(dots):
            if not isinstance(dot, SymbolicZero):
                up = len(dots) == 2 and which == 0
                slope = response(i + up, raised, always, *primals)
                terms.append((s if up else -s) * slope * dot)
    if not isinstance(when_dot.rows, SymbolicZero):
        terms.append(-response(i + 1, powers, always, *primals) * when_dot.rows)
    for change, up in ((dose_dot, 0), (when_dot.actions, 1)):
        if not isinstance(change, SymbolicZero):
            change = dose * change if up else change
            of_change = sums(at, when, change, len(shared.derivatives), True)
            terms.append(response(i + up, powers, True, factors, at, when, change, of_change))
    return value, functools.reduce(jnp.add, terms) if terms else jnp.zeros_like(value)


def has_responses(system: LinearSystem, steady: Any) -> bool:
    """True where `amounts_by_responses` serves: two compartments with or without a depot, no input rates, constant
    parameters, no steady states."""
    structure = system.structure
    plain = structure.disposition == 2 and not structure.transits and not system.infused
    return plain and not system.varies and steady is None


def amounts_by_responses(
    system: LinearSystem, x: Rows, events: Events, done: Actions, added: Sequence[Any], outputs: Sequence[int]
) -> list[Any]:
    """Amounts (obs,) of the states `outputs` (positions) at the rows of the group, as `solution.amounts_at_rows`."""
    rates, central = system.rates, system.structure.central
    k, k12, k21 = rates["k"], rates["k12"], rates["k21"]
    quadratic = (k + k12 + k21, k * k21)
    mean, square = quadratic[0] / 2, ((k12 + k21 - k) / 2) ** 2 + k * k12
    fast = mean + jnp.sqrt(jax.lax.stop_gradient(jnp.maximum(square, 0.0)))
    pair = (fast, quadratic[1] / fast)
    when = When.of(x, events, done)
    # `response` has the derivatives in times and doses.
    still = jax.lax.stop_gradient(when)
    out: list[Any] = [None] * len(outputs)

    def add(to: int, amount: Any) -> None:
        for place, state in enumerate(outputs):
            if state == to:
                out[place] = amount if out[place] is None else out[place] + amount

    wanted = {system.active[state] for state in outputs}
    for compartment in system.active:
        dose = added[system.state(compartment)]
        if dose is None:
            continue
        dose = jnp.broadcast_to(dose, done.time.shape)
        depot = compartment < central
        factors = (quadratic, (rates["ka"],)) if depot else (quadratic,)
        limits = {(0, 1): CIRCLE.eigenvalues if depot else CIRCLE.apart}
        if depot:
            limits |= {(0, 2): CIRCLE.others, (1, 2): CIRCLE.others}
        at = spectrum((*pair, rates["ka"]) if depot else pair, limits)
        given = (factors, at, when, dose, sums(at, still, jax.lax.stop_gradient(dose), SHARED))
        powers = (1,) * len(factors)
        plain, times_z = (functools.partial(response, i, powers, False, *given) for i in (0, 1))
        scale = rates["ka"] if depot else 1.0
        if depot and compartment in wanted:
            single = spectrum((rates["ka"],), {})
            own = (((rates["ka"],),), single, when, dose, sums(single, still, jax.lax.stop_gradient(dose), SHARED))
            add(system.state(compartment), response(0, (1,), False, *own))
        if central in wanted:
            amount = k21 * plain() if compartment > central else k21 * plain() - times_z()
            add(system.state(central), scale * amount)
        if central + 1 in wanted:
            amount = (k + k12) * plain() - times_z() if compartment > central else k12 * plain()
            add(system.state(central + 1), scale * amount)
    return [jnp.zeros(x.mask.shape) if amount is None else amount for amount in out]
