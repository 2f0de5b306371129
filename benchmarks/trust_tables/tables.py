"""Tables of the hard fits: simulated ones, by curve and seed, and published ones."""

from __future__ import annotations

import csv
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from trust_tables.curves import CURVES
from trust_tables.problem import Estimates

HERE = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("JAXNLME_REFERENCE") or HERE.parent / "shared" / "reference")
FOLDERS = (
    HERE / "jaxnlme" / "data" / "tables",
    HERE / "tests" / "tables",
    REFERENCE.parent / "data",
    REFERENCE / "saemix" / "data",
)


def published(name: str) -> dict[str, np.ndarray] | None:
    """The columns of a published table, numbers where they are numbers; None where no folder has it."""
    path = next((folder / f"{name}.csv" for folder in FOLDERS if (folder / f"{name}.csv").exists()), None)
    if path is None:
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: _column([row[column] for row in rows]) for column in rows[0]}


def _column(values: list[str]) -> np.ndarray:
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return np.array(values)


@dataclasses.dataclass(frozen=True)
class Design:
    """How a curve's tables are simulated: `times` of a group, number of `groups`, true `beta`, `sds` by parameter,
    `sigma` and `psi`, the structure fitted."""

    curve: str
    times: tuple[float, ...]
    groups: int
    beta: tuple[float, ...]
    sds: dict[str, float]
    sigma: float | None = None
    family: str = "gaussian"
    psi: str = "diagonal"
    correlation: float = 0.0
    dose: float = 300.0
    cuts: tuple[float, ...] = ()

    def truth(self, **changed: Any) -> Estimates:
        """The values that simulate, as estimates."""
        sds = np.array(list((self.sds | changed.get("sds", {})).values()))
        corr = np.full((len(sds), len(sds)), changed.get("correlation", self.correlation))
        np.fill_diagonal(corr, 1.0)
        beta = [*changed.get("beta", self.beta), *self.cuts]
        return {"beta": beta, "psi": (np.outer(sds, sds) * corr).tolist(), "sigma": self.sigma, "inner": None}

    def simulate(self, seed: int, truth: Estimates | None = None) -> dict[str, np.ndarray]:
        """A table: columns g, y and those of the curve."""
        rng, curve = np.random.default_rng(seed), CURVES[self.curve]
        truth = truth or self.truth()
        values, vectors = np.linalg.eigh(np.asarray(truth["psi"]))
        factor = vectors * np.sqrt(np.maximum(values, 0.0))
        xb = np.tile(np.asarray(truth["beta"][: len(curve.parameters)], dtype=float), (self.groups, 1))
        positions = [curve.parameters.index(name) for name in self.sds]
        xb[:, positions] += rng.standard_normal((self.groups, len(positions))) @ factor.T
        shape = (self.groups, len(self.times))
        x = {"t": np.broadcast_to(np.array(self.times), shape), "dose": np.full(shape, self.dose)}
        mean = curve(xb, {name: x[name] for name in curve.columns})
        if self.family == "gaussian":
            y = mean + self.sigma * rng.standard_normal(shape)
        elif self.family == "poisson":
            y = rng.poisson(np.exp(mean)).astype(float)
        elif self.family == "bernoulli":
            y = (rng.random(shape) < 1.0 / (1.0 + np.exp(-mean))).astype(float)
        else:
            latent = mean + rng.logistic(size=shape)
            y = np.searchsorted(np.asarray(self.cuts), latent).astype(float)
        table = {"g": np.repeat(np.arange(self.groups), shape[1]), "y": y.ravel()}
        return table | {name: x[name].ravel().copy() for name in curve.columns}


_LOG = np.log
DESIGNS: dict[str, Design] = {
    "oral": Design(
        "oral", (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 24.0), 20, tuple(_LOG([1.5, 3.0, 30.0])),
        {"ka": 0.4, "cl": 0.3, "vol": 0.2}, 0.3,
    ),
    "biexponential": Design(
        "biexponential", (0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 6.0, 8.0), 20, tuple(_LOG([3.0, 2.0, 0.6, 0.25])),
        {"a1": 0.3, "k1": 0.2}, 0.05,
    ),
    "logistic": Design(
        "logistic", (100.0, 400.0, 600.0, 900.0, 1200.0, 1400.0, 1600.0), 20, (200.0, 700.0, 300.0),
        {"asym": 30.0, "mid": 60.0}, 6.0,
    ),
    "emax": Design(
        "emax", (0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0), 20, (5.0, *_LOG([30.0, 20.0])),
        {"top": 0.3, "half": 0.4}, 2.0,
    ),
    "emax, full psi": Design(
        "emax", (0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0), 20, (5.0, *_LOG([30.0, 20.0])),
        {"top": 0.3, "half": 0.4}, 2.0, psi="full", correlation=0.4,
    ),
    "circadian": Design("circadian", (6.0, 10.0, 14.0, 18.0), 20, (10.0, 3.0, 14.0), {"peak": 2.5}, 1.0),
    "line": Design(
        "line", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), 25, (10.0, 2.0), {"base": 2.0, "slope": 0.6}, 1.0,
        psi="full", correlation=0.3,
    ),
    "intercepts": Design("line", (0.0, 1.0, 2.0, 3.0, 4.0), 25, (10.0, 2.0), {"base": 2.0}, 1.0),
    "poisson": Design("line", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), 30, (1.0, -0.15), {"base": 0.5}, None, "poisson"),
    "bernoulli": Design("line", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), 30, (0.5, -0.3), {"base": 1.0}, None, "bernoulli"),
    "ordinal": Design(
        "line", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), 30, (0.0, 0.4), {"base": 1.0}, None, "ordinal", cuts=(-1.0, 0.5, 2.0)
    ),
}  # fmt: skip
