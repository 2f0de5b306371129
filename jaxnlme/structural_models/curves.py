"""The curves themselves: functions of a predictor and parameters, elementwise, written with jax.numpy.

Values and all derivatives in the parameters are finite wherever the curve is, also where a formula as it is usually
written divides infinity by infinity (the tails of a logistic curve) or zero by zero (equal rate constants).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.model.safe_power import safe_power
from jaxnlme.structural_models.settings import CURVES


def logistic(x: Any, Asym: Any, xmid: Any, scal: Any) -> Any:
    """Logistic curve Asym / (1 + exp((xmid - x) / scal)); R's SSlogis.

    **Arguments:** `x`; `Asym`: the asymptote, in the unit of y; `xmid`: x at half of it; `scal`: scale of x, negative
    for a curve that decreases to zero.
    **Returns:** y, of the shape that the arguments broadcast to.
    """
    return Asym * jax.nn.sigmoid((x - xmid) / scal)


def four_parameter_logistic(x: Any, A: Any, B: Any, xmid: Any, scal: Any) -> Any:
    """Logistic curve between two asymptotes, A + (B - A) / (1 + exp((xmid - x) / scal)); R's SSfpl.

    **Arguments:** `x`; `A`, `B`: the asymptotes on the left and on the right (for scal > 0); `xmid`: x midway between
    them; `scal`: scale of x.
    **Returns:** y, of the shape that the arguments broadcast to.
    """
    return A + (B - A) * jax.nn.sigmoid((x - xmid) / scal)


def gompertz(x: Any, Asym: Any, b2: Any, b3: Any) -> Any:
    """Gompertz's growth curve Asym exp(-b2 b3^x); R's SSgompertz.

    **Arguments:** `x`; `Asym`: the asymptote; `b2`: log of Asym over the value at x = 0; `b3` > 0: factor of that
    logarithm for one unit of x.
    **Returns:** y, of the shape that the arguments broadcast to.
    """
    return Asym * jnp.exp(-b2 * jnp.power(b3, x))


def weibull_growth(x: Any, Asym: Any, Drop: Any, lrc: Any, pwr: Any) -> Any:
    """Weibull's growth curve Asym - Drop exp(-exp(lrc) x^pwr); R's SSweibull.

    **Arguments:** `x` >= 0; `Asym`: the asymptote; `Drop`: Asym less the value at x = 0; `lrc`: log of the rate
    constant; `pwr` > 0: power of x.
    **Returns:** y, of the shape that the arguments broadcast to; derivatives at x = 0 are those of the limit.
    """
    return Asym - Drop * jnp.exp(-jnp.exp(lrc) * safe_power(x, pwr))


def michaelis_menten(x: Any, Vm: Any, K: Any) -> Any:
    """Michaelis and Menten's rate Vm x / (K + x); R's SSmicmen. With a dose as x it is the Emax model.

    **Arguments:** `x` >= 0, a concentration; `Vm`: the largest rate; `K` > 0: x at half of it.
    **Returns:** y, of the shape that the arguments broadcast to.
    """
    return Vm * x / (K + x)


def asymptotic(x: Any, Asym: Any, R0: Any, lrc: Any) -> Any:
    """Exponential approach to an asymptote, Asym + (R0 - Asym) exp(-exp(lrc) x); R's SSasymp.

    **Arguments:** `x`; `Asym`: the asymptote; `R0`: the value at x = 0; `lrc`: log of the rate constant.
    **Returns:** y, of the shape that the arguments broadcast to.
    """
    return Asym + (R0 - Asym) * jnp.exp(-jnp.exp(lrc) * x)


def asymptotic_offset(x: Any, Asym: Any, lrc: Any, c0: Any) -> Any:
    """Exponential approach to an asymptote from an offset, Asym (1 - exp(-exp(lrc) (x - c0))); R's SSasympOff.

    **Arguments:** `x`; `Asym`: the asymptote; `lrc`: log of the rate constant; `c0`: x at which y is zero.
    **Returns:** y, of the shape that the arguments broadcast to.
    """
    return -Asym * jnp.expm1(-jnp.exp(lrc) * (x - c0))


def asymptotic_origin(x: Any, Asym: Any, lrc: Any) -> Any:
    """Exponential approach to an asymptote from the origin, Asym (1 - exp(-exp(lrc) x)); R's SSasympOrig.

    **Arguments:** `x`; `Asym`: the asymptote; `lrc`: log of the rate constant.
    **Returns:** y, of the shape that the arguments broadcast to.
    """
    return -Asym * jnp.expm1(-jnp.exp(lrc) * x)


def biexponential(x: Any, A1: Any, lrc1: Any, A2: Any, lrc2: Any) -> Any:
    """Sum of two exponentials, A1 exp(-exp(lrc1) x) + A2 exp(-exp(lrc2) x); R's SSbiexp.

    **Arguments:** `x`; `A1`, `A2`: their values at x = 0; `lrc1`, `lrc2`: logs of their rate constants.
    **Returns:** y, of the shape that the arguments broadcast to.
    """
    return A1 * jnp.exp(-jnp.exp(lrc1) * x) + A2 * jnp.exp(-jnp.exp(lrc2) * x)


def first_order_absorption(dose: Any, x: Any, lKe: Any, lKa: Any, lCl: Any) -> Any:
    """Concentration after a dose at x = 0, one compartment with first-order absorption and elimination,
    dose Ke Ka / (Cl (Ka - Ke)) (exp(-Ke x) - exp(-Ka x)); R's SSfol.

    **Arguments:** `dose`; `x` >= 0, the time since; `lKe`, `lKa`: logs of the rate constants of elimination and
    absorption; `lCl`: log of the clearance.
    **Returns:** y, of the shape that the arguments broadcast to; where Ka = Ke the limit, dose Ke^2 x exp(-Ke x) / Cl,
    with its derivatives.
    """
    ke, ka = jnp.exp(lKe), jnp.exp(lKa)
    return dose * jnp.exp(lKe + lKa - lCl) * difference_of_exponentials(x, ke, ka)


def difference_of_exponentials(x: Any, slow: Any, fast: Any) -> Any:
    """(exp(-slow x) - exp(-fast x)) / (fast - slow), x exp(-slow x) where the rates are equal; symmetric in the rates.

    With h = (fast - slow) x / 2 it is x exp(-(slow + fast) x / 2) sinh(h) / h. Near h = 0 the quotient is a series in
    h^2, so that value and derivatives have no division of zero by zero.
    """
    h = 0.5 * (fast - slow) * x
    near = jnp.abs(h) < CURVES.series_below
    small = jnp.where(near, h, 0.0) ** 2
    series = jnp.ones_like(small)
    for k in range(CURVES.series_terms, 0, -1):
        series = 1.0 + series * small / (2 * k * (2 * k + 1))
    by_series = jnp.exp(-0.5 * (slow + fast) * x) * series
    by_difference = (jnp.exp(-slow * x) - jnp.exp(-fast * x)) / jnp.where(near, 1.0, 2.0 * h)
    return x * jnp.where(near, by_series, by_difference)
