"""The cases of the hostile study: models, difficulties of the data or of the starts, methods.

Every model has one shape of data (groups x rows) whatever the difficulty: with few groups, or with one observation in a
group, the other responses are empty. Nothing but numbers varies, and each pair of model and method compiles once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from hostile_models import CURVES, Curve, bernoulli, poisson

import jaxnlme as jn

METHODS: dict[str, tuple[Any, bool]] = {
    "fo": ("fo", False),
    "foce": ("foce", False),
    "focei": ("focei", False),
    "laplace": ("laplace", False),
    "agq": (jn.AGQ(3), False),
    "lme": ("lme", False),
    "relme": ("relme", False),
    "fo, restricted": ("fo", True),
    "focei, restricted": ("focei", True),
    "laplace, restricted": ("laplace", True),
    "saem": (jn.SAEM(iterations=(40, 40, 20), max_iterations=1500), False),
}
PAIRS: tuple[tuple[str, str], ...] = (
    ("line", "focei"),
    ("line, full psi", "lme"),
    ("oral", "focei"),
    ("logistic", "lme"),
    ("line", "relme"),
    ("biexponential", "foce"),
    ("poisson", "laplace"),
    ("asymptotic, full psi", "fo"),
    ("michaelis", "laplace"),
    ("line, full psi", "focei, restricted"),
    ("oral", "lme"),
    ("binary", "agq"),
    ("asymptotic, full psi", "lme"),
    ("logistic", "relme"),
    ("biexponential", "focei"),
    ("line", "lme"),
    ("logistic", "laplace"),
    ("asymptotic, full psi", "focei"),
    ("line", "laplace, restricted"),
    ("oral", "saem"),
    ("michaelis", "lme"),
    ("michaelis", "agq"),
    ("oral", "fo"),
    ("line, full psi", "fo, restricted"),
    ("biexponential", "lme"),
    ("oral", "laplace"),
    ("line, full psi", "focei"),
    ("logistic", "focei"),
    ("oral", "relme"),
    ("logistic", "focei, restricted"),
    ("line, full psi", "saem"),
    ("line, full psi", "relme"),
    ("asymptotic, full psi", "relme"),
    ("poisson", "agq"),
    ("binary", "laplace"),
    ("michaelis", "focei"),
    ("biexponential", "laplace"),
    ("biexponential", "fo"),
    ("oral", "agq"),
)
"""Models with their methods, in an order in which every method comes early."""
UNITS, SDS, TYPICAL, ZERO, CORRELATED = "units", "starting SDs", "typical values", "zero variance", "correlated"
OUTLIER, SINGLES, TIMES, EXACT, FEW = "outlying group", "single rows", "equal times", "tiny noise", "four groups"
CONSTANT, MODE, MIXED = "constant group", "other mode", "several"
DIFFICULTIES = (UNITS, SDS, TYPICAL, ZERO, CORRELATED, OUTLIER, SINGLES, TIMES, EXACT, FEW, CONSTANT, MODE, MIXED)
SAEM_DIFFICULTIES = (UNITS, SDS, ZERO, OUTLIER, FEW, MODE)


@dataclasses.dataclass(frozen=True)
class Case:
    """One table with one method, fitted from several starts. The seed of the simulation is `number`."""

    number: int
    model: str
    method: str
    difficulty: str


def cases(replicates: int) -> Iterator[Case]:
    """All cases: every pair of model and method with every difficulty, then all again; one pair after the other, as
    each compiles its programs at its first fit."""
    number = 0
    for _ in range(replicates):
        for model, method in PAIRS:
            for difficulty in SAEM_DIFFICULTIES if method == "saem" else DIFFICULTIES:
                yield Case(number, model, method, difficulty)
                number += 1


@dataclasses.dataclass(frozen=True)
class Made:
    """A case's numbers: `model`, `data`, `starts` by name, each values by reported name; `spreads`: a large standard
    deviation for each effect."""

    model: jn.NLMEModel
    data: jn.GroupedData
    starts: dict[str, dict[str, float]]
    spreads: dict[str, float]


def make(case: Case) -> Made:
    """Table, model and starts of a case: at the truth, and a hostile one; where the difficulty is of the data, the
    second start is off by up to a factor of 2 (typical values) or 10 (standard deviations)."""
    curve, rng = CURVES[case.model], np.random.default_rng(case.number)
    difficulties = {case.difficulty}
    if case.difficulty == MIXED:
        difficulties = set(rng.choice(DIFFICULTIES[:-1], 3, replace=False).tolist())
    response, times, dose = _simulate(curve, difficulties, rng)
    size = 10.0 ** rng.uniform(-6.0, 6.0, 3) if UNITS in difficulties else np.ones(3)
    if curve.outcome:
        size[0] = 1.0
    factors = {name: float(np.prod(size ** np.array(powers))) for name, powers in curve.units.items()}
    frame = {"g": np.repeat(np.arange(curve.groups), len(curve.times)), "y": (response * size[0]).ravel()}
    frame |= {"t": (times * size[1]).ravel(), "dose": np.full(response.size, dose * size[2])}
    data = jn.GroupedData.from_frame(frame, "g", "y", curve.columns)
    typical = {name: value * factors[name] for name, value in curve.typical.items()}
    sds = {name: sd * (1.0 if curve.log_scale(name) else abs(factors[name])) for name, sd in curve.sds.items()}
    noise = {} if curve.outcome else {"b": curve.noise} if curve.error != "constant" else {"a": curve.noise * size[0]}
    truth = _start(typical, sds, noise)
    hostile = _hostile(curve, difficulties, rng, typical, sds, noise, factors)
    spreads = {n: 3.0 if curve.log_scale(n) else 3.0 * max(abs(typical[n]), sds[n]) for n in sds}
    parameters = [
        jn.Parameter(name, value, curve.transforms.get(name, "identity"), random=name in sds)
        for name, value in typical.items()
    ]
    outcomes = {"poisson": poisson, "bernoulli": bernoulli}
    error: Any = jn.GroupLogLikelihood(outcomes[curve.outcome]) if curve.outcome else curve.error
    model = jn.NLMEModel(curve.function, parameters, curve.covariance, error)
    return Made(model, data, {"truth": truth, "hostile": hostile}, spreads)


def _simulate(curve: Curve, difficulties: set[str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Responses and times (groups, rows) in the first units, and the dose."""
    shape = (curve.groups, len(curve.times))
    times, dose = np.broadcast_to(np.array(curve.times), shape).copy(), 300.0
    if TIMES in difficulties:
        times = times[:, [1, 1, 1, 3, 3, 6, 6]]
    names = list(curve.sds)
    scale = np.array([curve.sds[name] for name in names])
    if ZERO in difficulties:
        scale[rng.integers(len(names))] = 0.0
    correlation = np.full((len(names), len(names)), 1.0 if CORRELATED in difficulties else curve.correlation)
    np.fill_diagonal(correlation, 1.0)
    values, vectors = np.linalg.eigh(correlation)
    effects = rng.standard_normal((curve.groups, len(names))) * np.sqrt(np.maximum(values, 0.0)) @ vectors.T * scale
    if OUTLIER in difficulties:
        effects[1] += 6.0 * scale * rng.choice([-1.0, 1.0], len(names))
    phi: dict[str, Any] = {name: np.full((curve.groups, 1), value) for name, value in curve.typical.items()}
    for k, name in enumerate(names):
        step = effects[:, k : k + 1]
        phi[name] = phi[name] * np.exp(step) if curve.log_scale(name) else phi[name] + step
    mean = np.asarray(curve.function(_Record(phi), _Record({"t": times, "dose": dose})))
    if curve.outcome == "poisson":
        response = rng.poisson(np.minimum(mean, 1e6)).astype(float)
    elif curve.outcome:
        response = (rng.random(shape) < 1.0 / (1.0 + np.exp(-mean))).astype(float)
    else:
        noise = curve.noise * (1e-4 if EXACT in difficulties else 1.0) * (1.0 if curve.error == "constant" else mean)
        response = mean + noise * rng.standard_normal(shape)
    if CONSTANT in difficulties:
        response[2] = np.round(np.mean(response[2]), 0 if curve.outcome else 12)
    if SINGLES in difficulties:
        rows = rng.integers(shape[1], size=curve.groups // 2)
        keep = np.arange(shape[1])[None, :] == rows[:, None]
        response[: curve.groups // 2] = np.where(keep, response[: curve.groups // 2], np.nan)
    if FEW in difficulties:
        response[4:] = np.nan
    return response, times, dose


class _Record:
    """Columns as attributes."""

    def __init__(self, columns: Mapping[str, Any]):
        self.__dict__.update(columns)


def _hostile(
    curve: Curve,
    difficulties: set[str],
    rng: np.random.Generator,
    typical: dict[str, float],
    sds: dict[str, float],
    noise: dict[str, float],
    factors: dict[str, float],
) -> dict[str, float]:
    """The second start of a case."""
    typical, sds, noise = dict(typical), dict(sds), dict(noise)
    if MODE in difficulties:
        typical = {name: curve.mode[name] * factors[name] for name in typical}
    far = 10.0 if TYPICAL in difficulties else 1.0 if MODE in difficulties or SDS in difficulties else 2.0
    for name in typical:
        typical[name] *= far ** rng.uniform(-1.0, 1.0)
    low, high = (-4.0, 4.0 if curve.linear else 1.0) if SDS in difficulties else (-1.0, 1.0)
    for values in (sds, noise):
        for name in values:
            values[name] *= 10.0 ** rng.uniform(low, high)
    return _start(typical, sds, noise)


def _start(typical: dict[str, float], sds: dict[str, float], noise: dict[str, float]) -> dict[str, float]:
    """Values by the names that a fit reports."""
    return {**typical, **{f"sd({name})": value for name, value in sds.items()}, **noise}
