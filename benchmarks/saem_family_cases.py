"""The data sets of the SAEM families: a family, a number of groups, a design, and numbers drawn by a seed of their own.

Nothing but numbers varies between the data sets of a family with one number of groups, so that they share their
compiled programs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
from saem_family_models import FAMILIES, Family

import jaxnlme as jn

GROUPS = (14, 30, 100)
SHAPES = tuple((name, groups) for name in FAMILIES for groups in GROUPS)


@dataclasses.dataclass(frozen=True)
class Run:
    """One data set. `number` is the seed of its simulation and of SAEM."""

    number: int
    family: str
    groups: int
    design: int

    @property
    def name(self) -> str:
        """Family, groups and design in words, for a choice among runs."""
        return f"{self.family} {self.groups} groups design {self.design}"


def runs(number: int) -> Iterator[Run]:
    """The first `number` runs: every family with every number of groups, then all again with the next design."""
    for k in range(number):
        family, groups = SHAPES[k % len(SHAPES)]
        yield Run(k, family, groups, (k // len(SHAPES)) % len(FAMILIES[family].designs))


@dataclasses.dataclass(frozen=True)
class Made:
    """A run's model with the starting values of a user, its data, and the true values by reported name."""

    model: jn.NLMEModel
    data: jn.GroupedData
    truth: dict[str, float]


def make(run: Run) -> Made:
    """Data and model of a run. True values vary by 20%, the noise by a factor of two; starting values, and the starting
    SDs of outcomes that are not Gaussian, are 10 to 30% from the true ones (other SDs have the automatic starts)."""
    family, rng = FAMILIES[run.family], np.random.default_rng(run.number)
    typical = {name: family.varied(name, value, _factor(rng, 0.0, 0.2)) for name, value in family.typical.items()}
    sds = {name: value * _factor(rng, 0.0, 0.2) for name, value in family.sds.items()}
    noise = family.noise * float(np.exp(rng.uniform(-0.7, 0.3)))
    data = _simulate(run, family, typical, sds, noise, rng)
    parameters = []
    for name, value in typical.items():
        start, effect = family.varied(name, value, _factor(rng, 0.1, 0.3)), name in sds
        sd = sds[name] * _factor(rng, 0.1, 0.3) if effect and family.density else None
        parameters.append(jn.Parameter(name, start, family.transforms.get(name, "identity"), random=effect, sd=sd))
    error = jn.GroupLogLikelihood(family.density) if family.density else "constant"
    truth = typical | {f"sd({name})": value for name, value in sds.items()}
    if family.covariance == "full":
        truth[f"corr({', '.join(family.names)})"] = family.correlation
    if not family.density:
        truth["a"] = noise
    return Made(jn.NLMEModel(family.function, parameters, family.covariance, error), data, truth)


def _factor(rng: np.random.Generator, least: float, most: float) -> float:
    """One plus or minus a number between `least` and `most`."""
    return float(1.0 + rng.choice([-1.0, 1.0]) * rng.uniform(least, most))


def _simulate(
    run: Run, family: Family, typical: dict[str, float], sds: dict[str, float], noise: float, rng: np.random.Generator
) -> jn.GroupedData:
    times, names = np.array(family.designs[run.design]), family.names
    normal = rng.standard_normal((run.groups, len(names)))
    if family.correlation:
        normal[:, 1] = family.correlation * normal[:, 0] + np.sqrt(1.0 - family.correlation**2) * normal[:, 1]
    group, t = np.repeat(np.arange(run.groups), len(times)), np.tile(times, run.groups)
    predictions = []
    for k in range(run.groups):
        phi = dict(typical)
        for effect, name in zip(normal[k], names, strict=True):
            step = sds[name] * effect
            phi[name] = phi[name] * np.exp(step) if family.transforms.get(name) == "log" else phi[name] + step
        predictions.append(np.asarray(family.function(SimpleNamespace(**phi), SimpleNamespace(t=times)), float))
    mean = np.concatenate(predictions)
    y = family.draw(rng, mean) if family.draw else mean + noise * rng.standard_normal(len(mean))
    return jn.GroupedData.from_frame({"g": group, "t": t, "y": y}, "g", "y", ["t"])
