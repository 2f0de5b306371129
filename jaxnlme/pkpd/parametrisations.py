"""Parametrisations of linear compartments: clearances and volumes, rate constants, or exponents and coefficients.

| compartments | names | meaning |
|---|---|---|
| 1 | CL V | clearance, volume |
| 1 | k V | rate constant of elimination, volume |
| 2 | CL V Q V2 | clearance, central volume, clearance between compartments, peripheral volume |
| 2 | CL V Q VSS | volume at steady state, V + V2, in the place of the peripheral volume |
| 2 | k k12 k21 V | rate constants of elimination, from 1 (central) to 2 and back; central volume |
| 2 | alpha beta A B | concentration A exp(-alpha t) + B exp(-beta t) after a unit dose into the central compartment |
| 2 | alpha beta k21 V | exponents, rate constant from 2 to 1, central volume |
| 3 | CL V1 Q2 V2 Q3 V3 | as with two, for both peripheral compartments |
| 3 | k k12 k21 k13 k31 V | rate constants; central volume |
| 3 | alpha beta gamma A B C | concentration after a unit dose, a sum of three exponentials |

**Source:** Gibaldi and Perrier (1982), Pharmacokinetics, 2nd edition, chapter 2 and appendix B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxnlme.errors import OptionError, shown

# Other spellings: a name between bars is read as the first one of its group.
_CL, _K = "CL", "K|KE|KEL|K10"
_V = "V|V1|VC"
_ONE = (f"{_CL} {_V}", f"{_K} {_V}")
_TWO = (
    f"{_CL} {_V} Q|Q2 V2|VP|VP1",
    f"{_CL} V2 Q V3",
    f"{_CL} {_V} Q VSS",
    f"{_K} K12 K21 {_V}",
    "K|K20 K23 K32 V2|V",
    "ALPHA BETA A B",
    f"ALPHA BETA K21 {_V}",
)
_THREE = (
    f"{_CL} {_V} Q2|Q1 V2|VP1 Q3 V3|VP2",
    f"{_CL} {_V} Q1 VP1 Q2 VP2",
    f"{_CL} V2 Q3 V3 Q4 V4",
    f"{_K} K12 K21 K13 K31 {_V}",
    "K|K20 K23 K32 K24 K42 V2|V",
    "ALPHA BETA GAMMA A B C",
)
_PATTERNS = {1: _ONE, 2: _TWO, 3: _THREE}


@dataclass(frozen=True)
class Parametrisation:
    """One of the parametrisations.

    **Fields:** `names`: for each parameter the names it may have in phi, upper case; `kind`: what they are:
    "clearance", "steady" (with VSS), "constants", "exponents" (with coefficients), "hybrid" (exponents, k21 and V).
    """

    names: tuple[tuple[str, ...], ...]
    kind: str

    def rates(self, values: Sequence[Any]) -> tuple[dict[str, Any], Any]:
        """Rate constants k, k12, k21, k13, k31 by name, and the central volume. **Arguments:** `values` in order."""
        return _RATES[self.kind](*values)

    def __str__(self) -> str:
        return " ".join(alternatives[0] for alternatives in self.names)


def parametrisation(compartments: int, text: str | Sequence[str] | None) -> Parametrisation:
    """The Parametrisation with the names in `text`, such as "CL V Q V2"; None: clearances and volumes.

    **Raises:** OptionError for other names.
    """
    patterns = _PATTERNS[compartments]
    if text is None:
        return _parsed(patterns[0])
    if not (isinstance(text, str) or (isinstance(text, Sequence) and all(isinstance(name, str) for name in text))):
        raise OptionError(
            f"jn.pkpd.compartments: parameters must be names, such as {_known(1)[0]!r}; received {shown(text)}."
        )
    listed = text.replace(",", " ").split() if isinstance(text, str) else [*text]
    for pattern in patterns:
        candidate = _parsed(pattern)
        chosen = _assigned(candidate.names, [name.upper() for name in listed])
        if chosen is not None:
            return Parametrisation(tuple((name,) for name in chosen), candidate.kind)
    known = ", ".join(map(repr, _known(compartments)))
    raise OptionError(
        f"jn.pkpd.compartments({compartments}): parameters={' '.join(listed)!r} are not the parameters of a model with "
        f"{compartments} compartment{'s' * (compartments > 1)}; expected one of {known} "
        "(parameters of the absorption, lag times and bioavailabilities are not listed there)."
    )


def _known(compartments: int) -> list[str]:
    return [str(_parsed(pattern)) for pattern in _PATTERNS[compartments]]


def _parsed(pattern: str) -> Parametrisation:
    names = tuple(tuple(part.split("|")) for part in pattern.split())
    first = {alternatives[0] for alternatives in names}
    if "VSS" in first:
        kind = "steady"
    elif "ALPHA" in first:
        kind = "exponents" if "A" in first else "hybrid"
    else:
        kind = "clearance" if "CL" in first else "constants"
    return Parametrisation(names, kind)


def _assigned(names: Sequence[Sequence[str]], listed: Sequence[str]) -> list[str] | None:
    """The listed name of each parameter; None unless each has exactly one and none is over."""
    if len(listed) != len(names):
        return None
    chosen: list[str] = []
    for alternatives in names:
        found = [name for name in listed if name in alternatives and name not in chosen]
        if len(found) != 1:
            return None
        chosen += found
    return chosen


def _clearance(cl: Any, v: Any, *peripheral: Any) -> tuple[dict[str, Any], Any]:
    rates = {"k": cl / v}
    for number, (q, volume) in enumerate(zip(peripheral[::2], peripheral[1::2], strict=True), start=2):
        rates |= {f"k1{number}": q / v, f"k{number}1": q / volume}
    return rates, v


def _steady(cl: Any, v: Any, q: Any, vss: Any) -> tuple[dict[str, Any], Any]:
    return _clearance(cl, v, q, vss - v)


def _constants(k: Any, *rest: Any) -> tuple[dict[str, Any], Any]:
    *between, v = rest
    return {"k": k, **dict(zip(("k12", "k21", "k13", "k31"), between, strict=False))}, v


def _hybrid(alpha: Any, beta: Any, k21: Any, v: Any) -> tuple[dict[str, Any], Any]:
    k = alpha * beta / k21
    return {"k": k, "k12": alpha + beta - k21 - k, "k21": k21}, v


def _exponents(*values: Any) -> tuple[dict[str, Any], Any]:
    """Rate constants of A exp(-alpha t) + B exp(-beta t) [+ C exp(-gamma t)].

    Its Laplace transform is (s + k21) [(s + k31)] / (V (s + alpha)(s + beta)[(s + gamma)]).
    """
    n = len(values) // 2
    poles, coefficients = values[:n], values[n:]
    total = sum(coefficients)
    if n == 2:
        (alpha, beta), (a, b) = poles, coefficients
        return _hybrid(alpha, beta, (a * beta + b * alpha) / total, 1 / total)
    (alpha, beta, gamma), (a, b, c) = poles, coefficients
    half_sum = (a * (beta + gamma) + b * (alpha + gamma) + c * (alpha + beta)) / total / 2
    product = (a * beta * gamma + b * alpha * gamma + c * alpha * beta) / total
    root = jnp.sqrt(half_sum**2 - product)
    k21, k31 = half_sum + root, half_sum - root
    k = alpha * beta * gamma / product
    outward = alpha + beta + gamma - k - 2 * half_sum  # k12 + k13
    pairs = alpha * beta + alpha * gamma + beta * gamma - 2 * half_sum * k - product  # k12 k31 + k13 k21
    k12 = (outward * k21 - pairs) / (2 * root)
    return {"k": k, "k12": k12, "k21": k21, "k13": outward - k12, "k31": k31}, 1 / total


_RATES: Mapping[str, Callable[..., tuple[dict[str, Any], Any]]] = {
    "clearance": _clearance,
    "steady": _steady,
    "constants": _constants,
    "hybrid": _hybrid,
    "exponents": _exponents,
}
