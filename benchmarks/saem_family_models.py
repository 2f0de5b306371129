"""The models of the SAEM families: curves of three or four parameters of which one has a random effect, and ordinal
grades, zeros and ones and counts with two, each with true values and designs.

The designs of a family have the same number of rows: some inform every parameter, others leave estimates strongly
correlated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hostile_models import bernoulli, logistic
from hostile_models import logit as linear_predictor


def asymptotic(phi: Any, x: Any) -> Any:
    """Regression to an asymptote, in the logarithm of the rate."""
    return phi.asym + (phi.r0 - phi.asym) * jnp.exp(-jnp.exp(phi.lrc) * x.t)


def gompertz(phi: Any, x: Any) -> Any:
    """Gompertz's curve of growth."""
    return phi.asym * jnp.exp(-phi.b2 * phi.b3**x.t)


def michaelis(phi: Any, x: Any) -> Any:
    """Michaelis and Menten's curve above a base, in the concentration `t`."""
    return phi.base + phi.top * x.t / (phi.half + x.t)


def emax(phi: Any, x: Any) -> Any:
    """The sigmoid Emax model, in the dose `t`, zero included."""
    positive = x.t > 0.0
    power = jnp.where(positive, (jnp.where(positive, x.t, 1.0) / phi.ed50) ** phi.hill, 0.0)
    return phi.e0 + phi.emax * power / (1.0 + power)


def cumulative_logits(phi: Any, x: Any) -> Any:
    """Proportional odds: the logits (rows, 4) of P(y <= 1) to P(y <= 4)."""
    return jnp.cumsum(jnp.stack([phi.a1, phi.a2, phi.a3, phi.a4]))[None, :] + phi.slope * x.t[:, None]


def grade(y: Any, f: Any, p: Any, x: Any, v: Any) -> Any:
    """log p(y | f) of grades 1 to 5, f their cumulative logits (rows, 4)."""
    k, log_sigmoid = y.astype(int), jax.nn.log_sigmoid
    upper = jnp.where(k == 5, 0.0, jnp.take_along_axis(f, jnp.clip(k - 1, 0, 3)[:, None], 1)[:, 0])
    lower = jnp.where(k == 1, 0.0, jnp.take_along_axis(f, jnp.clip(k - 2, 0, 3)[:, None], 1)[:, 0])
    inner = (k > 1) & (k < 5)
    gap = jnp.where(inner, upper - lower, 1.0)
    between = log_sigmoid(upper) + log_sigmoid(-lower) + jnp.log(-jnp.expm1(-gap))
    return jnp.where(inner, between, jnp.where(k == 1, log_sigmoid(upper), log_sigmoid(-lower)))


def count(y: Any, f: Any, p: Any, x: Any, v: Any) -> Any:
    """log p(y | f) of counts, f the logarithm of their mean."""
    return y * f - jnp.exp(f) - jax.scipy.special.gammaln(y + 1.0)


def draw_grades(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """Grades at cumulative logits (rows, 4)."""
    return 1.0 + (rng.uniform(size=len(logits))[:, None] > 1.0 / (1.0 + np.exp(-logits))).sum(1)


def draw_binary(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """Zeros and ones at logits (rows,)."""
    return (rng.uniform(size=len(logits)) < 1.0 / (1.0 + np.exp(-logits))).astype(float)


def draw_counts(rng: np.random.Generator, logarithms: np.ndarray) -> np.ndarray:
    """Counts at logarithms of their means (rows,)."""
    return rng.poisson(np.exp(logarithms)).astype(float)


@dataclasses.dataclass(frozen=True)
class Family:
    """A model of the study.

    **Fields:** `function`; `typical`: typical values by name, about which the true ones are drawn; `transforms`: those
    that are not "identity"; `sds`: standard deviations of the random effects by name, on the transformed scale;
    `designs`: the times of a group, all of one length; `noise`: residual standard deviation; `density`, `draw`: of
    outcomes that are not Gaussian; `covariance`; `correlation` of the effects; `scales`: "log" for a parameter that is
    the logarithm of a positive one, "power" for one between zero and one (others are multiplied when they are varied).
    """

    function: Callable[..., Any]
    typical: Mapping[str, float]
    transforms: Mapping[str, str]
    sds: Mapping[str, float]
    designs: tuple[tuple[float, ...], ...]
    noise: float = 0.0
    density: Callable[..., Any] | None = None
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray] | None = None
    covariance: str = "diagonal"
    correlation: float = 0.0
    scales: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def varied(self, name: str, value: float, factor: float) -> float:
        """A value of the parameter `name` changed by a factor, on its own scale."""
        scale = self.scales.get(name)
        return value + np.log(factor) if scale == "log" else value**factor if scale == "power" else value * factor

    @property
    def names(self) -> list[str]:
        """The names of the random effects."""
        return list(self.sds)


def scaled(times: tuple[float, ...], *factors: float) -> tuple[tuple[float, ...], ...]:
    """Designs that are multiples of one."""
    return tuple(tuple(factor * time for time in times) for factor in factors)


LOGISTIC: dict[str, Any] = {
    "function": logistic,
    "typical": {"asym": 200.0, "mid": 700.0, "scale": 300.0},
    "transforms": {},
    "designs": scaled((100.0, 400.0, 600.0, 900.0, 1200.0, 1400.0, 1600.0), 1.0, 0.6, 0.4, 0.25),
}
EMAX: dict[str, Any] = {
    "function": emax,
    "typical": {"e0": 10.0, "emax": 60.0, "ed50": 8.0, "hill": 1.5},
    "transforms": {"ed50": "log", "hill": "log"},
    "designs": scaled((0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), 0.4, 0.2, 0.12, 0.08),
}
LEVEL: dict[str, Any] = {"function": linear_predictor, "designs": scaled((-1.0, -0.6, -0.2, 0.2, 0.6, 1.0), 1.0, 2.0)}
FAMILIES: dict[str, Family] = {
    "asymptotic": Family(
        asymptotic,
        {"asym": 100.0, "r0": -8.0, "lrc": float(np.log(0.15))},
        {},
        {"asym": 6.0},
        scaled((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), 9.0, 6.0, 3.0, 1.5),
        1.5,
        scales={"lrc": "log"},
    ),
    "gompertz": Family(
        gompertz,
        {"asym": 100.0, "b2": 2.5, "b3": 0.9},
        {},
        {"asym": 8.0},
        scaled((0.0, 1.0, 3.0, 5.0, 8.0, 10.0), 1.8, 1.2, 0.7, 0.5),
        2.0,
        scales={"b3": "power"},
    ),
    "logistic": Family(**LOGISTIC, sds={"asym": 30.0}, noise=6.0),
    "logistic, mid": Family(**LOGISTIC, sds={"mid": 90.0}, noise=6.0),
    "michaelis": Family(
        michaelis,
        {"base": 20.0, "top": 200.0, "half": 0.06},
        {"half": "log"},
        {"top": 15.0},
        scaled((0.0, 0.02, 0.04, 0.06, 0.11, 0.22, 0.56), 0.5, 0.15, 0.07, 0.04),
        6.0,
    ),
    "emax": Family(**EMAX, sds={"emax": 12.0}, noise=2.0),
    "emax, ed50": Family(**EMAX, sds={"ed50": 0.4}, noise=2.0),
    "ordinal": Family(
        cumulative_logits,
        {"a1": -12.0, "a2": 5.0, "a3": 7.0, "a4": 10.0, "slope": 0.7},
        {"a2": "log", "a3": "log", "a4": "log", "slope": "log"},
        {"a1": 11.0, "slope": 0.6},
        scaled((0.0, 3.0, 6.0, 10.0), 1.0, 0.5),
        density=grade,
        draw=draw_grades,
    ),
    "binary": Family(
        **LEVEL,
        typical={"base": -0.5, "slope": 1.0},
        transforms={},
        sds={"base": 1.5, "slope": 1.2},
        density=bernoulli,
        draw=draw_binary,
    ),
    "counts": Family(
        **LEVEL,
        typical={"base": 1.2, "slope": -0.5},
        transforms={},
        sds={"base": 0.6, "slope": 0.4},
        density=count,
        draw=draw_counts,
        covariance="full",
        correlation=-0.4,
    ),
}
