"""The judgement of a fit's answers: how far each is below the maximum of what it maximises, and its outcome.

'Right' is within LIMIT (a stochastic program: STOCHASTIC) log-likelihood units of the highest value known of the
function that the program maximises: over the estimates of all programs and the referee's own climbs from the best of
them and, of the exact likelihood, from the values that simulated the table. For Lindstrom and Bates' alternation, which
maximises no one function, right is a fixed point: with the model linearised at the estimates, no others are higher by
more than LIMIT; and no other program's fixed point is higher than that.
"""

from __future__ import annotations

import math
import re
from typing import Any

from trust_tables.exact_likelihood import HardFitLikelihood, finite
from trust_tables.maxima import alternation, maximum
from trust_tables.problem import Estimates, HardFit
from trust_tables.programs import Program

LIMIT, STOCHASTIC = 0.05, 0.1
PUBLISHED = "published"
RIGHT, WRONG, UNSURE, HONEST, CRASH = (
    "converged and right", "converged and wrong", "not converged though right", "honest failure", "crash",
)  # fmt: skip
OUTCOMES = (RIGHT, WRONG, UNSURE, HONEST, CRASH)
# Exceptions that surface from a program's own arithmetic or indexing: they name nothing that a user could change.
UNHANDLED = (
    "LinAlgError", "ZeroDivisionError", "IndexError", "KeyError", "TypeError", "AttributeError", "OverflowError",
    "AssertionError", "UnboundLocalError", "RecursionError", "PanicException",
)  # fmt: skip
LIBRARY_RAISES = ("/numpy/", "/scipy/", "<frozen")


def estimates_of(answer: dict[str, Any]) -> Estimates | None:
    """The estimates of an answer; None where it has none."""
    if "beta" not in answer or any(value is None for value in answer["beta"]):
        return None
    estimates = {key: answer.get(key) for key in ("beta", "psi", "sigma", "inner")}
    try:
        return estimates if finite(estimates) else None
    except (TypeError, ValueError):
        return None


def crashed(answer: dict[str, Any]) -> bool:
    """A process that died or hung, or an exception that no message of the program stands for."""
    if "crash" in answer:
        return True
    if "error" not in answer or "trace" not in answer:
        return False
    if answer["error"].split(":")[0] in UNHANDLED:
        return True
    files = re.findall(r'File "([^"]+)"', answer["trace"])
    return bool(files) and any(part in files[-1] for part in LIBRARY_RAISES)


def says_so(fit: HardFit, answer: dict[str, Any]) -> bool:
    """Whether a message names that there is no single or no finite maximum."""
    text = " ".join([*answer.get("messages", []), answer.get("error", "")])
    return re.search(fit.words, text, flags=re.IGNORECASE) is not None


def judged(
    fit: HardFit, answers: dict[Program, dict[str, Any]], known: dict[str, float] | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """For each program's name `value`, `below` (the maximum of its function), `below_exact` (the exact maximum) and
    `outcome`; and the maxima by function. Those `known` are climbed to no more."""
    known = known or {}
    referee = HardFitLikelihood(fit)
    found = {program: estimates_of(answer) for program, answer in answers.items()}
    compared = fit.hardness == PUBLISHED  # the table of accuracy: by the exact likelihood only
    kinds = {program: "exact" if compared else program.kind(fit) or "exact" for program in answers}
    exact = {p: _value(referee, e, "exact") for p, e in found.items()}
    tops = {"exact": _top(referee, "exact", exact, found, known)}
    values, below = dict(exact), {p: tops["exact"] - exact[p] for p in found}
    for kind in ("laplace", "focei"):
        if any(kinds[p] == kind for p in found):
            of_kind = {p: _value(referee, e, kind) for p, e in found.items()}
            tops[kind] = _top(referee, kind, of_kind, found, known)
            for p in found:
                if kinds[p] == kind:
                    values[p], below[p] = of_kind[p], tops[kind] - of_kind[p]
    alternating = {
        p: alternation(HardFitLikelihood(fit), e) if e is not None else (-math.inf, math.inf)
        for p, e in found.items()
        if kinds[p] == "alternation"
    }
    points = [value for value, gain in alternating.values() if gain <= LIMIT]
    for p, (value, gain) in alternating.items():
        values[p], below[p] = value, max(gain, max(points, default=-math.inf) - value)
    rows = {}
    for p, answer in answers.items():
        limit = STOCHASTIC if p.stochastic else LIMIT
        within = below[p] <= limit
        rows[p.name] = {
            "value": _number(values[p]),
            "below": _number(below[p]),
            "below_exact": _number(tops["exact"] - exact[p]),
            "outcome": outcome(fit, answer, within),
        }
    return rows, {kind: top for kind, top in tops.items() if math.isfinite(top)}


def outcome(fit: HardFit, answer: dict[str, Any], within: bool) -> str:
    """The column of the table in which an answer counts."""
    if crashed(answer):
        return CRASH
    converged = "error" not in answer and bool(answer.get("converged"))
    if fit.expects == "none":
        if says_so(fit, answer):
            return RIGHT
        return WRONG if converged else HONEST
    if converged:
        return RIGHT if within else WRONG
    return UNSURE if "error" not in answer and within else HONEST


def local_gain(fit: HardFit, answer: dict[str, Any], program: Program) -> float | None:
    """How much higher the referee climbs from the estimates of an answer, in the function that the program maximises:
    nothing at a local maximum. None without estimates."""
    estimates, kind = estimates_of(answer), program.kind(fit) or "exact"
    if estimates is None:
        return None
    if kind == "alternation":
        return _number(alternation(HardFitLikelihood(fit), estimates)[1])
    referee = HardFitLikelihood(fit)
    return _number(maximum(referee, kind, [estimates])[1] - _value(referee, estimates, kind))


def _value(referee: HardFitLikelihood, estimates: Estimates | None, kind: str) -> float:
    if estimates is None:
        return -math.inf
    value = referee.log_likelihood(estimates, kind)
    return value if math.isfinite(value) else -math.inf


def _top(
    referee: HardFitLikelihood,
    kind: str,
    values: dict[Program, float],
    found: dict[Program, Estimates | None],
    known: dict[str, float],
) -> float:
    """The highest value known of a function."""
    if kind in known:
        return max(known[kind], *values.values())
    simulated = kind == "exact" and referee.fit.hardness != PUBLISHED
    starts = [dict(referee.fit.truth)] if simulated else []
    best = max(values, key=lambda p: values[p], default=None)
    if best is not None and (estimates := found[best]) is not None:
        starts.insert(0, estimates)
    return max(*(maximum(referee, kind, starts)[1:] if starts else ()), *values.values(), -math.inf)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
