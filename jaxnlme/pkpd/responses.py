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
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxnlme.numerics.arrays import unfused
from jaxnlme.pkpd.linear import LinearSystem
from jaxnlme.pkpd.settings import CIRCLE
from jaxnlme.pkpd.spectrum import Pair, Spectrum, Sums, When, spectrum, sums
from jaxnlme.pkpd.timeline import Actions
from jaxnlme.records import Events, Rows

# Orders of the derivatives of the amounts for which all that is needed of the doses is computed once.
SHARED = 3


def shared_sums(factors: tuple, at: Spectrum, when: When, dose: Any, always: bool = False) -> Sums:
    """What responses to the doses `dose` (actions,) and their derivatives up to the order SHARED need of them: on the
    circle, for each order what it contributes to each response of `_of_order`. **Arguments:** as for `response`."""
    of_circle = functools.partial(_around, factors, at)
    return sums(at, when, dose, SHARED + 1, lambda g: tuple(of_circle(_of_order(n, factors), g) for n in range(SHARED + 1)), always)


def _of_order(order: int, factors: tuple) -> list[tuple[int, tuple[int, ...]]]:
    """The (i, s) of derivatives of the `order` in S, P and a of responses with all s = 1 and i = 0 or 1; where a time
    is among them, up to i = 2."""
    out = []
    for raised in itertools.product(range(order + 1), repeat=len(factors)):
        if sum(raised) == order:
            most = 2 + sum(up for up, factor in zip(raised, factors, strict=True) if len(factor) == 2)
            out += [(i, tuple(1 + up for up in raised)) for i in range(most + 1)]
    return out


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def response(
    i: int, powers: tuple[int, ...], always: bool, factors: tuple, at: Spectrum, when: When, dose: Any, shared: Sums
) -> Any:
    """Y(i, s) (obs,).

    **Arguments:** `i`; `powers`: s; `always`: see `sums`; `factors`: (S, P) or (a,) of each factor; `at`: the roots of
    all, in their order; `when`; `dose` (actions,); `shared`: `shared_sums` of them.
    """
    multiplicity = [s for s, factor in zip(powers, factors, strict=True) for _ in factor]
    order = sum(powers) - len(powers)
    which = _of_order(order, factors)
    if order <= SHARED and (i, powers) in which:
        derivatives = shared.derivatives
        around = None if at.nodes is None else shared.on_circle[order][which.index((i, powers))]
    else:
        own = sums(at, when, dose, order + 1, functools.partial(_around, factors, at, [(i, powers)]), always)
        derivatives, around = own.derivatives, None if at.nodes is None else own.on_circle[0]
    total = None if around is None else jnp.where(at.close, around, 0.0)
    for k in range(len(at.poles)):
        for value, coefficient in zip(derivatives, _residue(i, multiplicity, at, k), strict=False):
            term = coefficient * value[k]
            total = term if total is None else total + term
    return unfused(total)


def _around(factors: tuple, at: Spectrum, wanted: Sequence[tuple[int, tuple[int, ...]]], g: Pair) -> Any:
    """What the circle contributes to the responses `wanted`, (i, s) each, as (wanted, obs), from g on the circle."""
    inverse = []
    for factor in factors:
        if len(factor) == 2:  # z (z - S) + P
            real, imaginary = _times(at.nodes, (at.nodes[0] - factor[0], at.nodes[1]))
            real = real + factor[1]
        else:
            real, imaginary = factor[0] - at.nodes[0], -at.nodes[1]
        square = real**2 + imaginary**2
        inverse.append((real / square, -imaginary / square))

    @functools.cache
    def weights(i: int, powers: tuple[int, ...]) -> Pair:
        if i:
            return _times(weights(i - 1, powers), at.nodes)
        for f, s in enumerate(powers):
            if s:
                return _times(weights(0, (*powers[:f], s - 1, *powers[f + 1 :])), inverse[f])
        return at.weights

    real, imaginary = (jnp.stack(part)[:, :, None] for part in zip(*(weights(*each) for each in wanted), strict=True))
    return jnp.sum(real * g[0][None] - imaginary * g[1][None], axis=1)


def _times(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


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
            of_change = shared_sums(factors, at, when, change, True)
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
        given = (factors, at, when, dose, shared_sums(*jax.lax.stop_gradient((factors, at, when, dose))))
        powers = (1,) * len(factors)
        plain, times_z = (functools.partial(response, i, powers, False, *given) for i in (0, 1))
        scale = rates["ka"] if depot else 1.0
        if depot and compartment in wanted:
            single = spectrum((rates["ka"],), {})
            absorbed = ((rates["ka"],),)
            own = (absorbed, single, when, dose, shared_sums(*jax.lax.stop_gradient((absorbed, single, when, dose))))
            add(system.state(compartment), response(0, (1,), False, *own))
        if central in wanted:
            amount = k21 * plain() if compartment > central else k21 * plain() - times_z()
            add(system.state(central), scale * amount)
        if central + 1 in wanted:
            amount = (k + k12) * plain() - times_z() if compartment > central else k12 * plain()
            add(system.state(central + 1), scale * amount)
    return [jnp.zeros(x.mask.shape) if amount is None else amount for amount in out]
