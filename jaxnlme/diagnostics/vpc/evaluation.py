"""Visual predictive check of observations and replicates: the statistic by bin, observed and simulated."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.vpc.cells import Cell, Cells, Observations, Rows
from jaxnlme.diagnostics.vpc.correction import Correction
from jaxnlme.diagnostics.vpc.quantiles import over_replicates
from jaxnlme.diagnostics.vpc.replicates import AbstractReplicates, SameRows
from jaxnlme.diagnostics.vpc.statistics import AbstractStatistic

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The statistics of a check.

    **Fields:** `observed` (cells, values), `simulated` (cells, values, 3), low, median and high over the replicates;
    `observed_limits` (cells, 2), `simulated_limits` (cells, 2, 3): shares below and above the limits; `y` (rows,): the
    observations as drawn, corrected, NaN beyond a limit.
    """

    observed: np.ndarray
    simulated: np.ndarray
    observed_limits: np.ndarray
    simulated_limits: np.ndarray
    y: np.ndarray


def evaluate(
    observed: Observations,
    cells: Cells,
    replicates: AbstractReplicates,
    simulated_rows: Rows,
    statistic: AbstractStatistic,
    *,
    correction: Correction | None,
    level: float,
    simulated_limits: bool,
) -> Evaluation:
    """The statistic of observations and replicates in each cell.

    **Arguments:** `simulated_rows`: facts of the simulated rows; `level` of the intervals over replicates;
    `simulated_limits`: simulated values beyond the limits of their row sort below or above all others, as observed ones
    do; False: they keep their value.
    """
    reference = _references(observed, cells) if correction is not None else np.zeros(len(cells.cells))
    code = cells.code if simulated_rows is observed.rows else cells.code_rows(simulated_rows)
    ratios = None
    if correction is not None and correction.of_variance:
        ratios = _variance_ratios(correction, replicates, simulated_rows, code, reference)

    def corrected(y: np.ndarray, rows: Rows, at: np.ndarray, cell: int) -> np.ndarray:
        if correction is None or rows.prediction is None:
            return y
        out = correction.apply(y, rows.prediction[at], reference[cell])
        return out if ratios is None else reference[cell] + (out - reference[cell]) * ratios[at]

    drawn, observed_statistic, observed_shares = np.full(observed.y.shape, np.nan), [], []
    for number, cell in enumerate(cells.cells):
        at = cell.rows
        y = corrected(observed.y[at], observed.rows, at, number)
        below, above = observed.below[at], observed.above[at]
        drawn[at] = np.where(below | above, np.nan, y)
        y = np.where(below, -np.inf, np.where(above, np.inf, y))
        observed_statistic.append(statistic.of(y[None])[0])
        observed_shares.append([below.mean(), above.mean()])
    shape = (replicates.size, len(cells.cells))
    values, shares = np.full((*shape, len(statistic.values)), np.nan), np.full((*shape, 2), np.nan)
    has_limits = observed.has_limits
    for part, cell, y, at in replicates.by_cell(code, len(cells.cells)):
        changed = corrected(y, simulated_rows, at, cell)
        if has_limits:
            below, above = y < simulated_rows.lloq[at], y > simulated_rows.uloq[at]
            counts = np.sum(~np.isnan(y), axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                shares[part, cell] = np.stack([below.sum(axis=1) / counts, above.sum(axis=1) / counts], axis=1)
            if simulated_limits:
                changed = np.where(below, -np.inf, np.where(above, np.inf, changed))
        values[part, cell] = statistic.of(changed)
    statistics = np.array(observed_statistic).reshape(len(cells.cells), len(statistic.values))
    return Evaluation(
        np.where(np.isfinite(statistics), statistics, np.nan),
        over_replicates(values, level),
        np.array(observed_shares).reshape(len(cells.cells), 2),
        over_replicates(shares, level),
        drawn,
    )


def _references(observed: Observations, cells: Cells) -> np.ndarray:
    """The median prediction of the observations of each cell."""
    assert observed.rows.prediction is not None
    return np.array([np.median(observed.rows.prediction[cell.rows]) for cell in cells.cells])


def _variance_ratios(
    correction: Correction, replicates: AbstractReplicates, rows: Rows, code: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """s_bin / s of each row; 1 where s is zero and outside all bins."""
    assert isinstance(replicates, SameRows) and rows.prediction is not None
    prediction, of_row = rows.prediction, reference[np.maximum(code, 0)]
    sd = replicates.deviations(lambda block: correction.apply(block, prediction, of_row))
    middle = np.array([np.median(sd[code == cell]) for cell in range(reference.size)])
    return np.where((code >= 0) & (sd > 0.0), middle[np.maximum(code, 0)] / np.where(sd > 0.0, sd, 1.0), 1.0)


# --- tables ---


def frames(
    observed: Observations, cells: Cells, statistic: AbstractStatistic, result: Evaluation
) -> dict[str, pd.DataFrame]:
    """The tables of a check by name of the field of Vpc: `observed`, `simulated`, `bins`, `below_limit`, `points`."""
    import pandas as pd

    def place(cell: Cell) -> dict[str, Any]:
        return observed.strata.columns(cell.stratum) | {"bin": cell.bin, "x": cell.centre}

    names = [int(v) if isinstance(v, float) and v.is_integer() else v for v in statistic.values]
    of_value = "share" if statistic.column == "category" else "value"
    lines: dict[str, list[dict[str, Any]]] = {"observed": [], "simulated": [], "bins": [], "below_limit": []}
    for k, cell in enumerate(cells.cells):
        for j, name in enumerate(names):
            at = place(cell) | {statistic.column: name}
            lines["observed"].append(at | {of_value: result.observed[k, j]})
            lines["simulated"].append(at | _interval(result.simulated[k, j]))
        lines["bins"].append(place(cell) | {"left": cell.left, "right": cell.right, "observations": cell.rows.size})
        for j, side in enumerate(("below", "above")):
            if _has_side(observed, side):
                share = {"limit": side, "share": result.observed_limits[k, j]}
                lines["below_limit"].append(place(cell) | share | _interval(result.simulated_limits[k, j]))
    tables = {name: pd.DataFrame(of_name) for name, of_name in lines.items()}
    inside = np.flatnonzero(cells.code >= 0)
    strata = observed.strata
    of_rows = {
        name: [strata.labels[s][j] for s in observed.rows.stratum[inside]] for j, name in enumerate(strata.names)
    }
    bins = [cells.cells[cell].bin for cell in cells.code[inside]]
    points = of_rows | {"bin": bins, "x": observed.rows.x[inside], "y": result.y[inside]}
    return tables | {"points": pd.DataFrame(points)}


def _has_side(observed: Observations, side: str) -> bool:
    rows = observed.rows
    if side == "below":
        return bool(observed.below.any() or np.isfinite(rows.lloq).any())
    return bool(observed.above.any() or np.isfinite(rows.uloq).any())


def _interval(values: np.ndarray) -> dict[str, float]:
    return dict(zip(("low", "median", "high"), map(float, values), strict=True))
