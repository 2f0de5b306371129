"""Simulated problems on which SAEM is tested: every residual error with one and two random effects, counts and binary
outcomes, and a three-compartment infusion sampled over ten half-lives, with starting values a factor of three from the
truth.

Data are drawn by numpy from a seed of their own, so that they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxnlme as jn
from tests.estimators.em.saem_problems import Case
from tests.problems import binary, poisson

# ---- every residual error: an exponential decay from a at rate k


def decline(phi, x):
    """An exponential decay."""
    return phi.a0 * jnp.exp(-phi.k * x.t)


GROUPS = 50
TIMES = np.array([0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0])
DECLINE = {"a0": 20.0, "k": 0.4}
SDS = {"a0": 0.3, "k": 0.3}

# name: (the model with automatic starts, its true parameters). Predictions fall from about 20 to 1.
ERRORS: dict[str, tuple[Callable[..., Any], dict[str, float]]] = {
    "constant": (jn.error.constant, {"a": 1.0}),
    "proportional": (jn.error.proportional, {"b": 0.15}),
    "combined": (jn.error.combined, {"a": 0.3, "b": 0.1}),
    "combined_variance": (jn.error.combined_variance, {"a": 0.4, "b": 0.12}),
    "power": (jn.error.power, {"b": 0.2, "c": 0.7}),
    "constant_power": (jn.error.constant_power, {"a": 0.2, "b": 0.05, "c": 1.3}),
    "exponential": (jn.error.exponential, {"a": 0.15}),
}


def residual(name: str, effects: int) -> Case:
    """The decay with a residual error of `ERRORS`; `effects`: 1 (a0) or 2 (a0 and k, independent)."""
    factory, truth = ERRORS[name]
    rng = np.random.default_rng([71, list(ERRORS).index(name), effects])
    shift = {p: SDS[p] * rng.standard_normal(GROUPS) for p in list(DECLINE)[:effects]}
    a0, k = (DECLINE[p] * np.exp(shift.get(p, np.zeros(GROUPS))) for p in DECLINE)
    group, t = np.repeat(np.arange(GROUPS), len(TIMES)), np.tile(TIMES, GROUPS)
    f = a0[group] * np.exp(-k[group] * t)
    noise = rng.standard_normal(len(t))
    if name == "exponential":
        y = f * np.exp(truth["a"] * noise)
    else:
        y = f + _sd(name, f, **truth) * noise
    parameters = [
        jn.Parameter("a0", 10.0, "log", random=True),
        jn.Parameter("k", 0.8, "log", random=effects > 1),
    ]
    model = jn.NLMEModel(decline, parameters, error=factory())
    truth = DECLINE | {f"sd({p})": SDS[p] for p in shift} | truth
    data = jn.GroupedData.from_arrays(y, group, {"t": t})
    return Case(f"decline_{name}_{effects}", model, data, ("focei",), 9, truth=truth)


def _sd(name: str, f: np.ndarray, a: float = 0.0, b: float = 0.0, c: float = 1.0) -> np.ndarray:
    """Residual SD (rows,), an independent implementation in numpy."""
    return np.sqrt(a**2 + (b * f) ** 2) if name == "combined_variance" else a + b * f**c


# ---- outcomes without Gaussian moments: a predictor linear in time


def predictor(phi, x):
    """A linear predictor."""
    return phi.level + phi.trend * x.t


VISITS = np.linspace(-1.0, 1.0, 12)
# name: (density, true level and trend, SDs of their effects, numpy's draw at a predictor)
DISCRETE: dict[str, tuple[Callable, dict[str, float], dict[str, float], Callable]] = {
    "counts": (poisson, {"level": 1.2, "trend": -0.5}, {"level": 0.6, "trend": 0.4}, lambda r, f: r.poisson(np.exp(f))),
    "binary": (
        binary,
        {"level": -0.5, "trend": 1.0},
        {"level": 1.5, "trend": 1.2},
        lambda r, f: r.random(len(f)) < 1.0 / (1.0 + np.exp(-f)),
    ),
}


def discrete(name: str, effects: int) -> Case:
    """Counts or zeros and ones of 60 groups at 12 visits; `effects`: 1 (the level) or 2 (correlated)."""
    density, typical, sds, draw = DISCRETE[name]
    groups = 60
    rng = np.random.default_rng([72, list(DISCRETE).index(name), effects])
    correlation = -0.4
    first, second = rng.standard_normal((2, groups))
    second = correlation * first + np.sqrt(1.0 - correlation**2) * second
    level = typical["level"] + sds["level"] * first
    trend = typical["trend"] + (sds["trend"] * second if effects > 1 else np.zeros(groups))
    group, t = np.repeat(np.arange(groups), len(VISITS)), np.tile(VISITS, groups)
    y = draw(rng, level[group] + trend[group] * t).astype(float)
    parameters = [
        jn.Parameter("level", 0.5, random=True, sd=1.0),
        jn.Parameter("trend", 0.1, random=effects > 1, sd=1.0 if effects > 1 else None),
    ]
    covariance = "full" if effects > 1 else "diagonal"
    model = jn.NLMEModel(predictor, parameters, covariance, jn.GroupLogLikelihood(density))
    truth = typical | {f"sd({p})": sds[p] for p in list(sds)[:effects]}
    truth |= {"corr(level, trend)": correlation} if effects > 1 else {}
    data = jn.GroupedData.from_arrays(y, group, {"t": t})
    return Case(f"{name}_{effects}", model, data, ("laplace",), 15, truth=truth)


# ---- three compartments


def infusion(phi, x, v):
    """Concentration in the central of three compartments: v.dose into it over v.duration, at a constant rate.

    The rates of decay are the roots of l^3 - s l^2 + p l - q, real and positive, by the trigonometric formula for the
    largest two (the smallest may be a thousandth of them, and would be lost in their rounding) and q = l1 l2 l3 for the
    third. An infusion is the difference of two that never end, written so that no large terms cancel.

    **Source:** Dubois, Bertrand and Mentré (2011), Mathematical expressions of the pharmacokinetic and pharmacodynamic
    models implemented in the PFIM software, section on three compartments.
    """
    k10, k12, k13 = phi.CL / phi.V1, phi.Q2 / phi.V1, phi.Q3 / phi.V1
    k21, k31 = phi.Q2 / phi.V2, phi.Q3 / phi.V3
    s = k10 + k12 + k13 + k21 + k31
    p = k10 * k21 + k10 * k31 + k21 * k31 + k21 * k13 + k31 * k12
    q = k10 * k21 * k31
    third = s / 3.0
    radius = jnp.sqrt(third**2 - p / 3.0)
    cosine = (third**3 - third * p / 2.0 + q / 2.0) / radius**3
    angle = jnp.arccos(jnp.clip(cosine, -1.0 + 1e-12, 1.0 - 1e-12)) / 3.0
    largest = third + 2.0 * radius * jnp.cos(angle)
    middle = third + 2.0 * radius * jnp.cos(angle - 2.0 * jnp.pi / 3.0)
    rates = jnp.stack([largest, middle, q / (largest * middle)])
    coefficients = (k21 - rates) * (k31 - rates) / ((jnp.roll(rates, -1) - rates) * (jnp.roll(rates, -2) - rates))
    infusion_time, time_after = jnp.minimum(x.time, v.duration), jnp.maximum(x.time - v.duration, 0.0)
    decay = -jnp.expm1(-jnp.outer(infusion_time, rates)) * jnp.exp(-jnp.outer(time_after, rates))
    return v.dose / (v.duration * phi.V1) * (decay @ (coefficients / rates))


# Fentanyl (l, l/min), Shafer et al. (1990), Anesthesiology 73, 1091-1102: half-lives of 1, 19 and 475 minutes.
FENTANYL = {"CL": 0.505, "V1": 6.09, "Q2": 2.87, "V2": 28.1, "Q3": 1.37, "V3": 228.0}
SUBJECTS, CV, SIGMA = 120, 0.3, 2.0
DOSE, DURATION = 500_000.0, 60.0  # ng, min: concentrations in ng/l fall from 4,700 to about half of sigma
SAMPLES = np.concatenate(
    [
        [2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 61.0, 62.0, 64.0, 67.0, 70.0, 75.0, 80.0, 90.0, 105.0, 120.0, 150.0, 180.0],
        [240.0, 300.0, 420.0, 600.0, 840.0, 1200.0, 1680.0, 2160.0, 2640.0, 3120.0, 3600.0, 4080.0, 4800.0],
    ]
)
# Three up, three down; Q2 / V2 stays above Q3 / V3, so that the two outer compartments keep their names.
FACTORS = {"CL": 1 / 3, "V1": 3.0, "Q2": 3.0, "V2": 1 / 3, "Q3": 1 / 3, "V3": 3.0}


def three_compartments() -> Case:
    """The infusion in 120 subjects, log-normal effects of 30% on all six parameters, constant error of SD 2."""
    rng = np.random.default_rng(73)
    sd = np.sqrt(np.log1p(CV**2))
    drawn = np.array(list(FENTANYL.values())) * np.exp(sd * rng.standard_normal((SUBJECTS, 6)))
    group, time = np.repeat(np.arange(SUBJECTS), len(SAMPLES)), np.tile(SAMPLES, SUBJECTS)
    curves = [infusion_by_eigenvectors(dict(zip(FENTANYL, values, strict=True)), SAMPLES) for values in drawn]
    y = np.concatenate(curves) + SIGMA * rng.standard_normal(len(time))
    parameters = [jn.Parameter(p, FENTANYL[p] * FACTORS[p], "log", random=True) for p in FENTANYL]
    design = {"dose": np.full(SUBJECTS, DOSE), "duration": np.full(SUBJECTS, DURATION)}
    data = jn.GroupedData.from_arrays(y, group, {"time": time}, design)
    truth = FENTANYL | {f"sd({p})": float(sd) for p in FENTANYL} | {"a": SIGMA}
    model = jn.NLMEModel(infusion, parameters)
    return Case("three_compartment_infusion", model, data, ("focei", "laplace"), None, truth, truth=truth)


def infusion_by_eigenvectors(phi: dict[str, float], time: np.ndarray) -> np.ndarray:
    """`infusion` (times,) by diagonalising the rate matrix, in numpy: symmetric in amounts over root volumes."""
    volumes = np.array([phi["V1"], phi["V2"], phi["V3"]])
    flows = np.zeros((3, 3))
    flows[0, 1] = flows[1, 0] = phi["Q2"]
    flows[0, 2] = flows[2, 0] = phi["Q3"]
    outflow = flows.sum(1) + np.array([phi["CL"], 0.0, 0.0])
    rates, vectors = np.linalg.eigh((np.diag(outflow) - flows) / np.sqrt(np.outer(volumes, volumes)))
    infusion_time, time_after = np.minimum(time, DURATION)[:, None], np.maximum(time - DURATION, 0.0)[:, None]
    amounts = -np.expm1(-rates * infusion_time) / rates * np.exp(-rates * time_after)
    return DOSE / DURATION / volumes[0] * amounts @ vectors[0] ** 2


def cases() -> dict[str, Callable[[], Case]]:
    """Functions that make every simulated problem, by name."""
    out: dict[str, Callable[[], Case]] = {}
    for effects in (1, 2):
        for name in ERRORS:
            out[f"decline_{name}_{effects}"] = lambda name=name, effects=effects: residual(name, effects)
        for name in DISCRETE:
            out[f"{name}_{effects}"] = lambda name=name, effects=effects: discrete(name, effects)
    return out | {"three_compartment_infusion": three_compartments}
