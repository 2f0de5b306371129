"""One fit of the list as every program and the referee read it: table, model, starts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from trust_tables.curves import CURVES, Curve

Estimates = dict[str, Any]
"""`beta` (fixed effects in the order of the curve's parameters, on the scale of the random effects; thresholds after
them), `psi` (random, random), `sigma` (Gaussian), `inner` (standard deviation of the nested level)."""


@dataclasses.dataclass(frozen=True)
class HardFit:
    """A table with a model.

    **Fields:** `name`; `hardness`, its kind; `curve`, a key of CURVES; `family`: "gaussian", "bernoulli", "poisson" or
    "ordinal"; `columns`: g, y, the curve's columns and, nested, h; `random`: parameters with an effect; `psi`:
    "diagonal" or "full"; `beta`, `sds`, `sigma`: where every program starts; `truth`: estimates from which the referee
    starts, too; `expects`: "maximum", or "none" where the likelihood has no finite or no single maximum; `words`: of
    which one must be in the message that says so; `short`: iterations of a stochastic run that is too short; `nested`:
    the standard deviation of a second level starts at this; `categories` of an ordinal response; `several_modes`: the
    referee integrates on a grid.
    """

    name: str
    hardness: str
    curve: str
    columns: dict[str, np.ndarray]
    random: tuple[str, ...]
    beta: tuple[float, ...]
    sds: tuple[float, ...]
    sigma: float | None
    truth: Estimates
    family: str = "gaussian"
    psi: str = "diagonal"
    expects: str = "maximum"
    words: str = ""
    short: tuple[int, int, int] | None = None
    nested: float | None = None
    categories: int = 0
    several_modes: bool = False

    @property
    def shape(self) -> Curve:
        """The curve."""
        return CURVES[self.curve]

    @property
    def start(self) -> Estimates:
        """The start as estimates."""
        return {
            "beta": list(self.beta),
            "psi": np.diag(np.square(self.sds)).tolist(),
            "sigma": self.sigma,
            "inner": self.nested,
        }

    def to_json(self) -> dict[str, Any]:
        """All that a program in another process needs; a missing number is None."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        columns = {
            name: [None if isinstance(v, float) and v != v else v for v in np.asarray(values).tolist()]
            for name, values in self.columns.items()
        }
        return fields | {
            "columns": columns,
            "parameters": self.shape.parameters,
            "log": self.shape.log,
            "x": self.shape.columns,
            "linear": self.shape.linear,
        }


@dataclasses.dataclass(frozen=True)
class PaddedRows:
    """The rows by group, padded to the longest: `y` and `x` (groups, rows), `mask` False where a row is padding or has
    no response or predictor, `inner` (groups, rows, units) which rows are of which unit of the nested level."""

    y: np.ndarray
    x: dict[str, np.ndarray]
    mask: np.ndarray
    inner: np.ndarray | None


def table_of(fit: HardFit) -> PaddedRows:
    """The rows of a fit by group; rows without a response or with a predictor that is no number are masked."""
    columns = {name: np.asarray(values) for name, values in fit.columns.items()}
    labels = columns["g"]
    order = list(dict.fromkeys(labels.tolist()))
    rows = [np.flatnonzero(labels == label) for label in order]
    longest = max(map(len, rows))
    take = np.array([np.concatenate([r, np.full(longest - len(r), r[-1])]) for r in rows])
    mask = np.arange(longest)[None, :] < np.array([len(r) for r in rows])[:, None]
    x = {name: columns[name].astype(float)[take] for name in fit.shape.columns}
    y = columns["y"].astype(float)[take]
    mask &= np.isfinite(y) & np.all([np.isfinite(values) for values in x.values()], axis=0)
    x = {name: np.where(mask, values, np.nanmedian(values)) for name, values in x.items()}
    inner = None
    if "h" in columns:
        units = [list(dict.fromkeys(columns["h"][r].tolist())) for r in rows]
        most = max(map(len, units))
        inner = np.zeros((*take.shape, most))
        for i, (own, r) in enumerate(zip(units, take, strict=True)):
            inner[i, np.arange(longest), [own.index(columns["h"][row]) for row in r]] = 1.0
    return PaddedRows(np.where(mask, y, 0.0), x, mask, inner)
