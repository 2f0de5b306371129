"""`jn.npc`: the numerical predictive check, observations outside their own prediction intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._columns import column_names
from jaxnlme.diagnostics.vpc.cells import Observations
from jaxnlme.diagnostics.vpc.quantiles import over_replicates, quantiles
from jaxnlme.diagnostics.vpc.reading import read_observations, read_replicates
from jaxnlme.diagnostics.vpc.replicates import AbstractReplicates, SameRows
from jaxnlme.diagnostics.vpc.settings import VPC
from jaxnlme.diagnostics.vpc.strata import check_stratify
from jaxnlme.errors import OptionError, check_level, shown
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Npc(Printable):
    """A numerical predictive check.

    **Fields:** `table`: a row for each stratum, `interval` (percent) and `side` ("below", "above"): `observations`,
    the `count` and the `share` of them outside the interval on this side, the `expected` share, and `low` and `high` of
    the shares of simulated data sets; `replicates`; `level` of `low` and `high`; `sentences`.

    **Example:**

    ```python
    print(fit.npc(replicates=200, seed=1).outside)
    ```
    """

    table: pd.DataFrame
    replicates: int
    level: float
    sentences: tuple[str, ...]

    @property
    def outside(self) -> pd.DataFrame:
        """The rows of `table` whose share is not between `low` and `high`."""
        table = self.table
        return table[(table["share"] < table["low"]) | (table["share"] > table["high"])]

    def _tables(self) -> list[Table]:
        fields = ("observations", "count", "share", "expected", "low", "high")
        keys = [name for name in self.table if name not in fields]
        header = [*keys, "count", "share %", "expected %", "low %", "high %", ""]
        rows = []
        for row, is_outside in zip(
            self.table.to_dict("records"), self.table.index.isin(self.outside.index), strict=True
        ):
            shares = [f"{100 * row[name]:.1f}" for name in fields[2:]]
            keyed = [number(row[key], 4) if key == "interval" else str(row[key]) for key in keys]
            rows.append([*keyed, str(row["count"]), *shares, "outside" if is_outside else ""])
        title = (
            f"observations outside prediction intervals (low and high: {100 * self.level:g}% of simulated data sets):"
        )
        return [Table(title, header, rows)]


@public("jn.npc")
def npc(
    observed: Any,
    simulated: Any,
    *,
    y: str,
    intervals: Sequence[float] = VPC.npc_intervals,
    level: float = 0.95,
    replicate: str | None = None,
    stratify: Any = None,
    censoring: str | None = None,
    lloq: Any = None,
    uloq: Any = None,
) -> Npc:
    """Numerical predictive check: the share of the observations below and above their k% prediction intervals, each
    interval from the simulated values of the same row, beside the share expected and the shares of the simulated data
    sets themselves, whose spread accounts for the correlation of observations of a group.

    **Arguments:** `observed`, `simulated`, `y`, `replicate`, `stratify`: as in `jn.vpc`; every replicate has the rows
    of `observed` in their order; `intervals`: k in percent, 0 for the median; `level` of the intervals of the shares;
    `censoring`, `lloq`, `uloq`: limits of quantification as in `GroupedData.from_frame`, to which observed and
    simulated responses beyond them are set.
    **Returns:** an Npc, with the data frame `table`.
    **Raises:** DataError and OptionError naming the column, rows or option, what was expected, and the remedy.
    **Source:** Lindbom, Pihlgren and Jonsson (2005), Computer Methods and Programs in Biomedicine 79, 241-257 (PsN).

    **Example:**

    ```python
    print(jn.npc(table, fit.simulate(200, 1), y="conc", intervals=(50, 90)))
    ```
    """
    check_level(level)
    specification = check_stratify(stratify)
    x = "row number"  # a check without a horizontal variable
    size = len(observed[column_names(observed)[0]])
    table = {name: observed[name] for name in column_names(observed)} | {x: np.arange(1.0, size + 1.0)}
    limits = {"censoring": censoring, "lloq": lloq, "uloq": uloq}
    seen, use = read_observations(table, x, y, None, specification, limits, None)
    names = {"x": x, "y": y, "replicate": replicate, "prediction": None, "lloq": lloq, "uloq": uloq}
    replicates, _ = read_replicates(simulated, table, use, seen.rows, seen.strata, specification, names)
    return compare_intervals(seen, replicates, check_intervals(intervals), level)


def check_intervals(intervals: Any) -> tuple[float, ...]:
    """The option `intervals` in rising order. **Raises:** OptionError for others than numbers from 0 to below 100."""
    listed = [intervals] if np.ndim(intervals) == 0 else list(intervals)
    numbers = [k for k in listed if isinstance(k, (int, float, np.number)) and not isinstance(k, bool)]
    if not listed or len(numbers) != len(listed) or not all(0.0 <= float(k) < 100.0 for k in numbers):
        raise OptionError(f"intervals must be in percent, from 0 to below 100; received {shown(intervals)}.")
    return tuple(sorted({float(k) for k in numbers}))


def compare_intervals(
    observed: Observations, replicates: AbstractReplicates, intervals: tuple[float, ...], level: float
) -> Npc:
    """The check of observations and replicates of the same rows. **Raises:** OptionError for other replicates."""
    import pandas as pd

    if not isinstance(replicates, SameRows):
        raise OptionError(
            "the numerical predictive check needs the observed rows in every replicate, in their order; simulate the "
            "observed design."
        )
    rows, size = observed.rows, observed.y.size
    lloq, uloq = rows.lloq, rows.uloq
    tails = [0.5 * (1.0 - k / 100.0) for k in intervals]
    probabilities = [*tails, *(1.0 - tail for tail in tails)]
    strata = len(observed.strata.labels)
    count = len(probabilities)
    shares, seen = np.zeros((replicates.size, strata, count)), np.zeros((strata, count))
    step = max(VPC.cells_per_block // replicates.size, 1)
    values = np.clip(observed.y, lloq, uloq)
    for start in range(0, size, step):
        part = slice(start, min(start + step, size))
        drawn = np.clip(replicates.columns(part), lloq[part], uloq[part])
        ends = quantiles(drawn.T, probabilities)
        for j in range(count):
            is_lower = j < len(tails)
            of_drawn = drawn < ends[:, j] if is_lower else drawn > ends[:, j]
            of_values = values[part] < ends[:, j] if is_lower else values[part] > ends[:, j]
            for stratum in range(strata):
                inside = rows.stratum[part] == stratum
                shares[:, stratum, j] += of_drawn[:, inside].sum(axis=1)
                seen[stratum, j] += of_values[inside].sum()
    lines = []
    for stratum in range(strata):
        total = int(np.sum(rows.stratum == stratum))
        bands = over_replicates(shares[:, stratum] / total, level)
        for k, interval in enumerate(intervals):
            for j, side in ((k, "below"), (k + len(tails), "above")):
                lines.append(
                    observed.strata.columns(stratum)
                    | {"interval": interval, "side": side, "observations": total, "count": int(seen[stratum, j])}
                    | {"share": seen[stratum, j] / total, "expected": tails[k], "low": bands[j, 0], "high": bands[j, 2]}
                )
    sentence = f"Numerical predictive check of {size} observations, {replicates.size} simulated replicates."
    return Npc(pd.DataFrame(lines), replicates.size, float(level), (sentence,))
