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
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxnlme.data.events.facts import EventFacts
from jaxnlme.numerics.arrays import unfused
from jaxnlme.pkpd.linear import LinearSystem
from jaxnlme.pkpd.settings import CIRCLE
from jaxnlme.pkpd.spectrum import DoseSums, DoseTimes, Pair, Spectrum, dose_sums, spectrum
from jaxnlme.pkpd.structure import Structure
from jaxnlme.pkpd.timeline import Actions
from jaxnlme.records import Events, Rows

# Orders of the derivatives of the amounts for which all that is needed of the doses is computed once.
SHARED = 3


def shared_sums(factors: tuple, at: Spectrum, when: DoseTimes, dose: Any, always: bool = False) -> DoseSums:
    """The DoseSums that responses to the doses `dose` (actions,) and their derivatives up to the order SHARED need: on
    the circle, for each order what it contributes to each response of `_of_order`. **Arguments:** as for `response`."""
    of_circle = functools.partial(_around, factors, at)
    return dose_sums(
        at,
        when,
        dose,
        SHARED + 1,
        lambda g: tuple(of_circle(_of_order(n, factors), g) for n in range(SHARED + 1)),
        always,
    )


def _of_order(order: int, factors: tuple) -> list[tuple[int, tuple[int, ...]]]:
    """The (i, s) of derivatives of the `order` of responses with all s = 1 and i = 0 or 1, in S, P, a and times."""
    out = []
    for raised in itertools.product(range(order + 1), repeat=len(factors)):
        in_times = order - sum(raised)
        if in_times >= 0:
            most = 1 + sum(up for up, factor in zip(raised, factors, strict=True) if len(factor) == 2) + in_times
            out += [(i, tuple(1 + up for up in raised)) for i in range(most if in_times else 0, most + 1)]
    return out


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def response(
    i: int,
    powers: tuple[int, ...],
    always: bool,
    factors: tuple,
    at: Spectrum,
    when: DoseTimes,
    dose: Any,
    shared: DoseSums,
) -> Any:
    """Y(i, s) (obs,).

    **Arguments:** `i`; `powers`: s; `always`: see `dose_sums`; `factors`: (S, P) or (a,) of each factor; `at`: the
    roots of all, in their order; `when`; `dose` (actions,); `shared`: `shared_sums` of them.
    """
    multiplicity = [s for s, factor in zip(powers, factors, strict=True) for _ in factor]
    found = [n for n in range(SHARED + 1) if (i, powers) in _of_order(n, factors)]
    if found:
        derivatives, place = shared.derivatives, _of_order(found[0], factors).index((i, powers))
        around = None if at.nodes is None else shared.on_circle[found[0]][place]
    else:
        own = dose_sums(
            at, when, dose, max(multiplicity), functools.partial(_around, factors, at, [(i, powers)]), always
        )
        derivatives, around = own.derivatives, None if at.nodes is None else own.on_circle[0]
    total = None if around is None else jnp.where(at.close, around, 0.0)
    for k in range(len(at.poles)):
        for value, coefficient in zip(derivatives, _residue(i, multiplicity, at, k), strict=False):
            if coefficient is None:
                continue
            term = coefficient * value[k]
            total = term if total is None else total + term
    return total if always else unfused(total)  # `unfused` cannot be transposed


def _around(factors: tuple, at: Spectrum, wanted: Sequence[tuple[int, tuple[int, ...]]], g: Pair) -> Any:
    """Contributions (wanted, obs) of the circle to the responses `wanted`, (i, s) each, from g on the circle."""
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
    """Coefficients of g, g', ... at the root k: what they contribute to Y. Zeros where it is within the circle, None
    where the coefficient is zero by structure."""
    s, x = multiplicity[k], at.poles[k]
    # Taylor series at the root of z^i and of the powers of the other factors
    series = [math.comb(i, q) * x ** (i - q) if q <= i else None for q in range(s)]
    for other, m in enumerate(multiplicity):
        if other == k:
            continue
        inverse = 1.0 / jnp.where(at.circled[k], x, at.poles[other] - x)
        factor = [math.comb(m + q - 1, q) * inverse ** (m + q) for q in range(s)]
        products = [[a * factor[q - p] for p, a in enumerate(series[: q + 1]) if a is not None] for q in range(s)]
        series = [functools.reduce(jnp.add, terms) if terms else None for terms in products]
    sign = (-1.0) ** (s + 1)
    out: list[Any] = []
    for n, value in enumerate(reversed(series)):
        scaled = None if value is None else sign / math.factorial(n) * value
        out.append(None if scaled is None else unfused(jnp.where(at.circled[k], 0.0, scaled)))
    return out


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


def has_responses(structure: Structure, facts: EventFacts, values: Sequence[Any]) -> bool:
    """True where `amounts_by_responses` serves, without infusions: two compartments with or without a depot, no steady
    states, constant parameters. **Arguments:** `values`: rate constants, lags and bioavailabilities, None for none."""
    constant = all(value is None or jnp.ndim(value) == 0 for value in values)
    return structure.disposition == 2 and not structure.transits and constant and not facts.steady_state


def amounts_by_responses(
    system: LinearSystem,
    x: Rows,
    events: Events,
    done: Actions,
    added: Sequence[Any],
    outputs: Sequence[int],
    of_dose: Callable[[str, int], Any],
) -> list[Any]:
    """Amounts (obs,) of the states `outputs` (positions) at the rows of the group, as `solution.amounts_at_rows`.

    **Arguments:** `done`, `added`: of doses without bioavailabilities, and with lags that are constant for
    differentiation; `of_dose(kind, compartment)`: "lag" or "bioavailability" of doses into a compartment (position), ()
    or None: what it does to the derivatives is added here.
    """
    rates, central = system.rates, system.structure.central
    k, k12, k21 = rates["k"], rates["k12"], rates["k21"]
    quadratic = (k + k12 + k21, k * k21)
    square = ((k12 + k21 - k) / 2) ** 2 + k * k12
    fast = quadratic[0] / 2 + jnp.sqrt(jax.lax.stop_gradient(jnp.maximum(square, 0.0)))
    pair = (fast, quadratic[1] / fast)
    out: list[Any] = [jnp.zeros(x.mask.shape)] * len(outputs)
    for compartment, dose in zip(system.active, added, strict=False):
        if dose is None:
            continue
        scale, lag = (of_dose(kind, compartment) for kind in ("bioavailability", "lag"))
        scale = 1.0 if scale is None else scale
        when = DoseTimes.of(x, events, done, 0.0 if lag is None else lag)

        def of(
            factors: tuple, poles: tuple, closest: dict, when: DoseTimes = when, dose: Any = dose
        ) -> Callable[[int], Any]:
            """Responses to these doses with all powers 1, by i."""
            at = spectrum(poles, closest)
            given = (factors, at, when, jnp.broadcast_to(dose, done.time.shape))
            given = (*given, shared_sums(*jax.lax.stop_gradient(given)))
            return lambda i: response(i, (1,) * len(factors), False, *given)

        if compartment < central:
            ka = rates["ka"]
            others = {(0, 1): CIRCLE.eigenvalues, (0, 2): CIRCLE.others, (1, 2): CIRCLE.others}
            y = of((quadratic, (ka,)), (*pair, ka), others)
            amounts = {
                central - 1: lambda ka=ka, of=of: of(((ka,),), (ka,), {})(0),
                central: lambda y=y, ka=ka: ka * (k21 * y(0) - y(1)),
                central + 1: lambda y=y, ka=ka: ka * k12 * y(0),
            }
        else:
            y = of((quadratic,), pair, {(0, 1): CIRCLE.apart})
            if compartment == central:
                amounts = {central: lambda y=y: k21 * y(0) - y(1), central + 1: lambda y=y: k12 * y(0)}
            else:
                amounts = {central: lambda y=y: k21 * y(0), central + 1: lambda y=y: (k + k12) * y(0) - y(1)}
        for place, state in enumerate(outputs):
            if system.active[state] in amounts:
                out[place] = out[place] + scale * amounts[system.active[state]]()
    return out
