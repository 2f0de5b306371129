"""Observations of a check, and the bins of each stratum that they fall into."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.diagnostics.vpc.bins import boundaries_of, centre_of, codes_of
from jaxnlme.diagnostics.vpc.strata import Strata


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Rows of observations, or of simulated responses.

    **Fields:** `x`; `stratum`: its number; `lloq`, `uloq`: limits of quantification, -inf and inf where there is none;
    `prediction`: of the population, None where it is not needed; each (rows,).
    """

    x: np.ndarray
    stratum: np.ndarray
    lloq: np.ndarray
    uloq: np.ndarray
    prediction: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Observations:
    """The observations of a check.

    **Fields:** `rows`; `y`; `below`, `above`: true for responses below or above a limit; each (rows,). `strata`;
    `group` (rows,): codes of the groups, None where unknown; `names`: of x, y and the group.
    """

    rows: Rows
    y: np.ndarray
    below: np.ndarray
    above: np.ndarray
    strata: Strata
    group: np.ndarray | None
    names: tuple[str, str, str | None]

    @property
    def has_limits(self) -> bool:
        """True where a row has a limit, or is beyond one."""
        rows = self.rows
        return bool(
            np.isfinite(rows.lloq).any() or np.isfinite(rows.uloq).any() or self.below.any() or self.above.any()
        )


@dataclasses.dataclass(frozen=True)
class Cell:
    """A bin of a stratum with observations. **Fields:** `bin`: its number from 1 on; `centre`: where it is drawn."""

    stratum: int
    bin: int
    left: float
    right: float
    centre: float
    rows: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Bins by stratum. **Fields:** `cells`; `boundaries`: of each stratum; `code` (rows,): the number of the cell of
    each observation, -1 outside all bins."""

    cells: list[Cell]
    boundaries: list[np.ndarray]
    code: np.ndarray

    def code_rows(self, rows: Rows) -> np.ndarray:
        """The number (rows,) of the cell of other rows, -1 for none."""
        out = np.full(rows.x.shape, -1)
        number = {(cell.stratum, cell.bin): k for k, cell in enumerate(self.cells)}
        for stratum, boundaries in enumerate(self.boundaries):
            at = np.flatnonzero(rows.stratum == stratum)
            bins = codes_of(rows.x[at], boundaries)
            out[at] = [number.get((stratum, b + 1), -1) for b in bins]
        return out


def cells_of(observed: Observations, rule: Any, count: int | None, centre: str) -> Cells:
    """The bins of each stratum, by a rule for the observations of this stratum, or boundaries for all."""
    rows, strata = observed.rows, observed.strata
    cells: list[Cell] = []
    boundaries: list[np.ndarray] = []
    code = np.full(rows.x.shape, -1)
    for stratum in range(len(strata.labels)):
        at = np.flatnonzero(rows.stratum == stratum)
        x = rows.x[at]
        per_group = None
        if observed.group is not None:
            per_group = float(np.median(np.unique(observed.group[at], return_counts=True)[1]))
        limits = boundaries_of(x, rule, count, per_group)
        bins = codes_of(x, limits)
        for b in np.unique(bins[bins >= 0]):
            inside = at[bins == b]
            middle = centre_of(rows.x[inside], float(limits[b]), float(limits[b + 1]), centre)
            code[inside] = len(cells)
            cells.append(Cell(stratum, int(b) + 1, float(limits[b]), float(limits[b + 1]), middle, inside))
        boundaries.append(limits)
    return Cells(cells, boundaries, code)
