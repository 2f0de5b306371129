"""The models of the hostile study, with the true values from which its tables are simulated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def line(phi: Any, x: Any) -> Any:
    """A straight line."""
    return phi.base + phi.slope * x.t


def oral(phi: Any, x: Any) -> Any:
    """One compartment, first-order absorption."""
    ke = phi.cl / phi.vol
    return x.dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.t) - jnp.exp(-phi.ka * x.t))


def logistic(phi: Any, x: Any) -> Any:
    """Logistic growth."""
    return phi.asym / (1.0 + jnp.exp((phi.mid - x.t) / phi.scale))


def asymptotic(phi: Any, x: Any) -> Any:
    """Regression to an asymptote."""
    return phi.asym + (phi.base - phi.asym) * jnp.exp(-phi.rate * x.t)


def michaelis(phi: Any, x: Any) -> Any:
    """Michaelis and Menten's curve, in the concentration `t`."""
    return phi.top * x.t / (phi.half + x.t)


def biexponential(phi: Any, x: Any) -> Any:
    """Two exponentials."""
    return phi.a1 * jnp.exp(-phi.k1 * x.t) + phi.a2 * jnp.exp(-phi.k2 * x.t)


def counts(phi: Any, x: Any) -> Any:
    """A rate that declines."""
    return phi.base * jnp.exp(-phi.slope * x.t)


def logit(phi: Any, x: Any) -> Any:
    """The logit of a probability."""
    return phi.base + phi.slope * x.t


def poisson(y: Any, f: Any, p: Any, x: Any, v: Any) -> Any:
    """log p(y | f) of counts."""
    return y * jnp.log(f) - f - jax.scipy.special.gammaln(y + 1.0)


def bernoulli(y: Any, f: Any, p: Any, x: Any, v: Any) -> Any:
    """log p(y | f) of zeros and ones, f the logit."""
    return y * f - jnp.logaddexp(0.0, f)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A model of the study.

    **Fields:** `function`; `typical`: true typical values by name; `transforms`: those that are not "identity"; `sds`:
    true standard deviations of the random effects by name, on the transformed scale; `noise`: true residual parameter;
    `times` of a group; `units`: by parameter, the powers of the units of y, t and dose in its own; `linear`: in the
    random effects; `covariance`; `correlation` of the effects; `groups`; `error`; `outcome`: "poisson", "bernoulli" or
    "" for a Gaussian one; `mode`: values of a start near another maximum.
    """

    function: Callable[..., Any]
    typical: Mapping[str, float]
    transforms: Mapping[str, str]
    sds: Mapping[str, float]
    noise: float
    times: tuple[float, ...]
    units: Mapping[str, tuple[int, int, int]]
    linear: bool = False
    covariance: str = "diagonal"
    correlation: float = 0.0
    groups: int = 12
    error: str = "constant"
    outcome: str = ""
    mode: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that the function reads."""
        return ["t", "dose"] if self.function is oral else ["t"]

    def log_scale(self, name: str) -> bool:
        """True for a parameter with the log transform, whose standard deviation has no unit."""
        return self.transforms.get(name) == "log"


LINE: dict[str, Any] = {
    "function": line,
    "typical": {"base": 10.0, "slope": 2.0},
    "transforms": {},
    "sds": {"base": 2.0, "slope": 0.6},
    "noise": 1.0,
    "times": (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
    "units": {"base": (1, 0, 0), "slope": (1, -1, 0)},
    "linear": True,
    "mode": {"base": -10.0, "slope": -2.0},
}
CURVES: dict[str, Curve] = {
    "line": Curve(**LINE),
    "line, full psi": Curve(**LINE | {"covariance": "full", "correlation": 0.4}),
    "oral": Curve(
        oral,
        {"ka": 1.5, "cl": 3.0, "vol": 30.0},
        {"ka": "log", "cl": "log", "vol": "log"},
        {"ka": 0.4, "cl": 0.3, "vol": 0.2},
        0.3,
        (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 24.0),
        {"ka": (0, -1, 0), "cl": (-1, -1, 1), "vol": (-1, 0, 1)},
        mode={"ka": 0.1, "cl": 3.0, "vol": 2.0},
    ),
    "logistic": Curve(
        logistic,
        {"asym": 200.0, "mid": 700.0, "scale": 300.0},
        {},
        {"asym": 30.0, "mid": 60.0},
        6.0,
        (100.0, 400.0, 600.0, 900.0, 1200.0, 1400.0, 1600.0),
        {"asym": (1, 0, 0), "mid": (0, 1, 0), "scale": (0, 1, 0)},
        mode={"asym": 200.0, "mid": 700.0, "scale": -300.0},
    ),
    "asymptotic, full psi": Curve(
        asymptotic,
        {"asym": 100.0, "base": -8.0, "rate": 0.05},
        {"rate": "log"},
        {"asym": 8.0, "base": 3.0},
        1.0,
        (0.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0),
        {"asym": (1, 0, 0), "base": (1, 0, 0), "rate": (0, -1, 0)},
        covariance="full",
        correlation=0.4,
        mode={"asym": -8.0, "base": 100.0, "rate": 0.001},
    ),
    "michaelis": Curve(
        michaelis,
        {"top": 200.0, "half": 0.06},
        {"top": "log", "half": "log"},
        {"top": 0.2, "half": 0.2},
        8.0,
        (0.02, 0.04, 0.06, 0.11, 0.22, 0.56, 1.1),
        {"top": (1, 0, 0), "half": (0, 1, 0)},
        mode={"top": 2000.0, "half": 1.5},
    ),
    "biexponential": Curve(
        biexponential,
        {"a1": 3.0, "k1": 2.0, "a2": 0.6, "k2": 0.25},
        {"a1": "log", "k1": "log", "a2": "log", "k2": "log"},
        {"a1": 0.3, "k1": 0.2},
        0.1,
        (0.25, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0),
        {"a1": (1, 0, 0), "k1": (0, -1, 0), "a2": (1, 0, 0), "k2": (0, -1, 0)},
        error="proportional",
        mode={"a1": 0.6, "k1": 0.25, "a2": 3.0, "k2": 2.0},
    ),
    "poisson": Curve(
        counts,
        {"base": 3.0, "slope": 0.15},
        {"base": "log"},
        {"base": 0.4},
        0.0,
        (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        {"base": (0, 0, 0), "slope": (0, -1, 0)},
        groups=20,
        outcome="poisson",
        mode={"base": 0.3, "slope": -0.5},
    ),
    "binary": Curve(
        logit,
        {"base": 0.5, "slope": -0.3},
        {},
        {"base": 1.0},
        0.0,
        (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        {"base": (0, 0, 0), "slope": (0, -1, 0)},
        groups=20,
        outcome="bernoulli",
        mode={"base": -3.0, "slope": 1.0},
    ),
}
